"""Follows an instance until it ranks rightly, or until it is clear that it will not."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace

from deploy.vast import instance as vast_instance
from deploy.vast.desk import Desk
from deploy.vast.endpoint import TIMEOUT_S, Endpoint, Proof
from deploy.vast.errors import DeployError, HostFailed, NotYet
from deploy.vast.instance import STARTING, WAITING, Address, Instance, Said

# Of the time for all: so long may nothing change of a running instance. Before that, an image is
# fetched and unpacked, of which Vast.ai may tell nothing for long.
STALL = 0.5
DEARER = 1.05  # than agreed, at most: an instance's price is not rounded as an offer's is
# Opens the way to an instance: where it is reached, None while nothing leads there. Raises NotYet.
Way = Callable[[Instance], AbstractContextManager[Address | None]]


@dataclass
class Follower:
    """What is followed, and what it is given.

    `earlier` is the run of its start script that its log had before it was started again;
    `most` is the agreed price. `is_seen`, `is_running`, `hourly` and `heard` are what there was to
    see and to hear of it so far.
    """

    desk: Desk
    instance: int
    way: Way
    key: str = field(repr=False)
    program: bytes = field(repr=False)
    timeout_s: float
    earlier: str = ""
    most: float = math.inf
    is_seen: bool = False
    is_running: bool = False
    hourly: float = 0.0
    heard: Said | None = None

    def until_ready(self) -> Proof:
        """Returns when it has ranked four passages rightly. Raises HostFailed."""
        began = changed = self.desk.clock()
        before = ""
        while True:
            state = self._look()
            if isinstance(state, Proof):
                return state
            now = self.desk.clock()
            if state != before:
                self.desk.show(f"[{_minutes(now - began)}] {state}")
                before, changed = state, now
            if now - began > self.timeout_s:
                raise HostFailed(f"not ready after {_minutes(now - began)} min; last: {state}")
            if self.is_running and now - changed > self.timeout_s * STALL:
                raise HostFailed(f"stalled for {_minutes(now - changed)} min; last: {state}")
            self.desk.pace.wait("poll")

    def _look(self) -> str | Proof:
        """What there is to see now, in words; or that it ranks."""
        instance = self.desk.vast.show(self.instance)
        if instance is None and self.is_seen:
            raise HostFailed("it is gone: Vast.ai or its host has ended it")
        if instance is None:
            return "created: Vast.ai does not show it yet"
        self.is_seen, self.hourly = True, instance.hourly
        self.is_running = instance.status == "running"
        if instance.hourly > self.most * DEARER:
            raise HostFailed(f"it costs ${instance.hourly:.3f} an hour, more than was agreed")
        if reason := vast_instance.failure(instance):
            raise HostFailed(reason + self._last_words())
        if not self.is_running:
            return f"{instance.status or 'created'}: {instance.message or 'no word yet'}"[:200]
        heard = self._hear()
        if heard.fingerprint is None or heard.run == self.earlier:
            return "running: its start script has not begun"
        if heard.ended is not None:
            raise HostFailed(f"its server ended with status {heard.ended}: {heard.last_line}")
        if heard.step not in (WAITING, STARTING):
            return f"running: {heard.step or 'begins'}"
        try:
            return self._ask(instance, heard, heard.fingerprint)
        except NotYet as error:
            return f"running: {error}"

    def _hear(self) -> Said:
        """What its start script says. What it said first is kept, since a log shows the last lines
        alone, and strangers may fill them."""
        heard = vast_instance.said(self.desk.vast.logs(self.instance))
        if heard.fingerprint is None and self.heard is not None:
            step = heard.step or self.heard.step
            heard = replace(
                heard, fingerprint=self.heard.fingerprint, run=self.heard.run, step=step
            )
        if heard.clock and not (self.heard and self.heard.clock):
            self.desk.show(f"warning: it will not end itself by --ttl: {heard.clock}")
        if heard.fingerprint is not None:
            self.heard = heard
        return heard

    def _ask(self, instance: Instance, heard: Said, fingerprint: str) -> str | Proof:
        """The same, of an instance that itself can be asked. Raises NotYet and HostFailed."""
        with self.way(instance) as address:
            if address is None:
                return "running, but nothing leads to its port yet"
            patience = min(TIMEOUT_S, self.timeout_s / 10)
            endpoint = Endpoint(address, fingerprint, self.key, patience)
            if heard.step == WAITING:
                endpoint.send_program(self.program)
                return "running: has our program"
            phase = endpoint.phase()
            return f"running: {phase}" if phase else endpoint.verify()

    def _last_words(self) -> str:
        with suppress(DeployError):  # what is known is enough
            if words := vast_instance.said(self.desk.vast.logs(self.instance)).last_line:
                return f"; its log ends: {words}"
        return ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"

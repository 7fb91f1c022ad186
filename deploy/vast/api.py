"""The only file that talks to Vast.ai: its SDK, paced, with its faults mapped once.

A call that only asks, or that may be made twice without harm, is tried again after a fault. The
creation of an instance is not: it is made once, and whatever comes of it, the instances that bear
its label tell what was done.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from vastai import VastAI

from deploy.vast.errors import Gone, HostFailed, NoKey, Unclear, VastFault
from deploy.vast.faults import Again, mapped
from deploy.vast.instance import Instance, from_row
from deploy.vast.offers import Offer
from deploy.vast.plan import Clause, Request, query

T = TypeVar("T")
MOST_OFFERS = 64  # Vast.ai counts the rows that an account looks at in a day
TIMEOUT_S = 60.0  # of one request
# Seconds between two calls of a kind, as Vast.ai asks for; `look` and `poll` are ours.
INTERVALS: Mapping[str, float] = {
    "search": 6,
    "create": 4.5,
    "show": 2,
    "list": 2,
    "logs": 3,
    "change": 3,
    "destroy": 3,
    "keys": 2,
    "look": 4,
    "poll": 3,
}
PAGE = 25  # instances in one answer, at most
TRIES = 6  # of one call; the pauses between them double
LOOKS, GONE_LOOKS = 4, 15  # for an instance that may show late, or be slow to go

# The SDK speaks of its own affairs at INFO, and of ours nowhere.
logging.getLogger("vastai").setLevel(logging.WARNING)


@dataclass
class Pace:
    """How calls are spaced: none sooner than its interval after the last of its kind.

    `clock` and `sleep` are in seconds.
    """

    intervals: Mapping[str, float] = field(default_factory=lambda: INTERVALS)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _last: dict[str, float] = field(default_factory=dict)

    def wait(self, kind: str, more: float = 0) -> None:
        """Returns when a call of this kind may be made, `more` seconds later than usual."""
        due = self._last.get(kind, float("-inf")) + self.intervals[kind] + more
        self.sleep(max(0.0, due - self.clock()))
        self._last[kind] = self.clock()


class Vast:
    """An account of Vast.ai. Its methods raise NoKey, QuotaExhausted and VastFault."""

    def __init__(
        self,
        key: str | None = None,
        server: str | None = None,
        *,
        pace: Pace,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`key` and `server` None: where the SDK looks for them. Raises NoKey."""
        try:  # one try: the SDK's own tries would create twice, and wait too short a time
            self._sdk = VastAI(api_key=key, server_url=server, retry=1)
        except RuntimeError as error:
            raise NoKey(
                "no Vast.ai key: take one from your account's page and put it into VAST_API_KEY, or"
                " into the file ~/.config/vastai/vast_api_key (chmod 600)"
            ) from error
        self._sdk.client.timeout = timeout_s
        self._pace = pace

    def search(self, requirements: Sequence[Clause], disk_gib: float) -> list[Offer]:
        """The cheapest offers that meet every requirement, priced with so much disk."""
        found = self._call(
            "search",
            lambda: self._sdk.search_offers(
                query=query(requirements), order="dph_total", limit=MOST_OFFERS, storage=disk_gib
            ),
        )
        return [offer for offer in found if isinstance(offer, Mapping)]

    def create(self, offer: int, request: Request) -> int:
        """Rents an offer: the new instance's id.

        Raises Gone when another offer may do, NoCredit when none will, and Unclear when nobody
        knows what was done: `find` tells.
        """
        answer = self._call(
            "create",
            lambda: self._sdk.create_instance(offer, **request.arguments()),
            may_repeat=False,
        )
        answer = answer if isinstance(answer, Mapping) else {}
        created = answer.get("new_contract")
        if not isinstance(created, int) or not answer.get("success"):
            # Not all of it, which may have the instance's own key.
            said = {key: answer.get(key) for key in ("success", "error", "msg")}
            raise Unclear(f"Vast.ai answered {said}")
        return created

    def find(self, label: str) -> list[Instance]:
        """The instances that bear a label, looked for several times: a new one may show late."""
        for _ in range(LOOKS):
            self._pace.wait("look")
            if found := [one for one in self.instances() if one.label == label]:
                return found
        return []

    def instances(self) -> list[Instance]:
        """All instances of the account. Page by page: the SDK asks for all pages at once, which is
        too often, and trips over a row in which something is null."""
        found: list[Instance] = []
        asked: dict[str, object] = {"order_by": [{"col": "id", "dir": "asc"}], "limit": PAGE}
        more = True
        while more:
            page = self._call("list", partial(self._sdk.show_instances_v1, dict(asked)))
            found += [from_row(row) for row in page.get("instances") or ()]
            asked["after_token"] = more = page.get("next_token")
        return found

    def show(self, instance: int) -> Instance | None:
        """One instance; None when there is none of that id."""

        def ask() -> Mapping[str, object] | None:
            answer = self._sdk.client.get(f"/instances/{instance}/", query_args={"owner": "me"})
            answer.raise_for_status()
            row: Mapping[str, object] | None = answer.json()["instances"]
            return row

        try:
            row = self._call("show", ask)
        except Gone:
            return None
        return None if row is None else from_row(row)

    def logs(self, instance: int, tail: int = 400) -> str:
        """The last lines of an instance's log; empty while there are none."""

        def ask() -> object:
            with suppress(TimeoutError):  # not ready yet, as the SDK has it
                return self._sdk.logs(instance, tail=str(tail))
            return ""

        with suppress(Gone):
            text = self._call("logs", ask)
            return text if isinstance(text, str) else ""
        return ""

    def start(self, instance: int) -> None:
        """Raises HostFailed when its machine is not free any more."""
        answer = self._call("change", lambda: self._sdk.start_instance(instance))
        if not answer.get("success"):
            raise HostFailed(f"Vast.ai does not start it: {answer.get('msg') or answer}")

    def stop(self, instance: int) -> None:
        self._call("change", lambda: self._sdk.stop_instance(instance))

    def destroy(self, instance: int) -> None:
        """Destroys an instance and returns when it is gone. Raises VastFault if it stays."""
        with suppress(Gone):
            self._call("destroy", lambda: self._sdk.destroy_instance(instance))
        for _ in range(GONE_LOOKS):
            if self.show(instance) is None:
                return
        raise VastFault(f"instance {instance} is still there after it was destroyed")

    def has_ssh_key(self) -> bool:
        """Whether the account has a key with which one may log into its instances."""
        return bool(self._call("keys", self._sdk.show_ssh_keys))

    def _call(self, kind: str, call: Callable[[], T], *, may_repeat: bool = True) -> T:
        """The result of one call, tried again where that does no harm.

        Too many requests (429) were not heeded, so that any call may be made again.
        """
        pause, fault = self._pace.intervals[kind], Again("")
        for tried in range(TRIES):
            self._pace.wait(kind, max(pause, fault.after) if tried else 0)
            pause *= 2 if tried else 1
            try:
                return call()
            except Exception as error:  # of requests, or of the SDK over what it did not expect
                found = mapped(error, may_repeat=may_repeat)
                if not isinstance(found, Again):
                    raise found from error
                fault = found
        raise VastFault(f"Vast.ai fails after {TRIES} tries: {fault}")

"""The only file that talks to Vast.ai: its SDK, paced, with its faults mapped once.

A call that only asks, or that may be made twice without harm, is tried again after a fault. The
creation of an instance is not: it is made once, and whatever comes of it, the instances that bear
its label tell what was done.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import requests
from vastai import VastAI

from deploy.vast.errors import (
    DeployError,
    Gone,
    HostFailed,
    NoCredit,
    NoKey,
    QuotaExhausted,
    Unclear,
    VastFault,
)
from deploy.vast.instance import Instance, from_row
from deploy.vast.offers import Offer
from deploy.vast.plan import LABEL, Clause, Request, query

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
_CREDIT = re.compile(r"insufficient_credit|\bcredits?\b", re.IGNORECASE)
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
        created = answer.get("new_contract") if isinstance(answer, Mapping) else None
        if not isinstance(created, int) or not answer.get("success"):
            raise Unclear(f"Vast.ai answered {str(answer)[:300]!r}")
        return created

    def find(self, label: str) -> list[Instance]:
        """The instances that bear a label, looked for several times: a new one may show late."""
        for _ in range(LOOKS):
            self._pace.wait("look")
            if found := [one for one in self.instances() if one.label == label]:
                return found
        return []

    def instances(self) -> list[Instance]:
        """All instances of the account."""
        return [from_row(row) for row in self._call("list", self._sdk.show_instances)]

    def ours(self) -> list[Instance]:
        """The instances that this program has created."""
        return [one for one in self.instances() if one.label.startswith(LABEL)]

    def show(self, instance: int) -> Instance | None:
        """One instance; None when there is none of that id."""
        try:
            row = self._call("show", lambda: self._sdk.show_instance(instance))
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
        pause = self._pace.intervals[kind]
        self._pace.wait(kind)
        for _ in range(TRIES):
            try:
                return call()
            except Exception as error:  # of requests, or of the SDK over what it did not expect
                fault = mapped(error, may_repeat=may_repeat)
                if not isinstance(fault, _Again):
                    raise fault from error
            self._pace.wait(kind, max(pause, fault.after))
            pause *= 2
        raise VastFault(f"Vast.ai fails after {TRIES} tries: {fault}")


class _Again(Exception):
    """A fault that may pass, and the seconds that Vast.ai asks to wait."""

    def __init__(self, words: str, after: float = 0) -> None:
        super().__init__(words)
        self.after = after


def mapped(error: Exception, *, may_repeat: bool) -> DeployError | _Again:
    """Our exception for one of the SDK's. No other place knows of those."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refusal(error.response, may_repeat=may_repeat)
    words = f"{type(error).__name__}: {error}"
    if not may_repeat:
        return Unclear(f"its answer was lost ({words[:200]})")
    return _Again(words[:200])


def _refusal(answer: requests.Response, *, may_repeat: bool) -> DeployError | _Again:
    code, words = _said(answer)
    status = answer.status_code
    if status == 429:
        after = _seconds(answer.headers.get("retry-after", ""))
        if code == "search_quota_exceeded" or after > 600:
            hours = f", in about {after / 3600:.1f} hours" if after else ""
            return QuotaExhausted(f"Vast.ai's quota is used up ({words}): try again later{hours}")
        return _Again(words, after)
    if status in (401, 403):
        return NoKey(f"Vast.ai refuses the key ({words}): check VAST_API_KEY and what it may do")
    if _CREDIT.search(f"{code} {words}"):
        return NoCredit(f"Vast.ai: {words}: add credit to the account")
    if status in (404, 409, 410) or code.startswith("no_such"):
        return Gone(words)
    if status >= 500:
        return _Again(words) if may_repeat else Unclear(f"Vast.ai answered {status}: {words}")
    return VastFault(f"Vast.ai refuses this ({status}): {words}")


def _said(answer: requests.Response) -> tuple[str, str]:
    """The code and the words of a refusal, which may be JSON or plain text."""
    try:
        body = answer.json()
        return str(body.get("error") or ""), str(body.get("msg") or body.get("error") or body)[:300]
    except (ValueError, AttributeError):
        return "", answer.text.strip()[:300] or answer.reason or "no words"


def _seconds(text: str) -> float:
    return float(text) if text.strip().isdigit() else 0.0

"""The account: how calls are spaced and repeated, and what becomes of the SDK's exceptions."""

import json

import pytest
import requests

from deploy.vast import errors
from deploy.vast.api import INTERVALS, TRIES, Pace, Vast, mapped
from deploy.vast.errors import (
    DeployError,
    Gone,
    NoCredit,
    NoKey,
    QuotaExhausted,
    Unclear,
    VastFault,
)


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def pace(self) -> Pace:
        return Pace(clock=lambda: self.now, sleep=self.sleep)


def answer(status: int, body: object = "", **headers: str) -> requests.HTTPError:
    """What the SDK raises for an answer."""
    response = requests.Response()
    response.status_code = status
    response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return requests.HTTPError(response=response)


class Sdk:
    """Raises or returns one thing after another, whatever it is asked."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes, self.calls = list(outcomes), 0

    def __call__(self) -> object:
        self.calls += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def vast(clock: Clock) -> Vast:
    return Vast("key", "http://127.0.0.1:9", pace=clock.pace())


def test_calls_of_a_kind_keep_their_distance():
    clock = Clock()
    pace = clock.pace()
    pace.wait("show")
    pace.wait("create")
    assert sum(clock.slept) == 0
    pace.wait("show")
    assert sum(clock.slept) == INTERVALS["show"] == 2
    clock.now += 10
    pace.wait("show")
    assert sum(clock.slept) == 2
    assert INTERVALS["create"] >= 4.5 and INTERVALS["destroy"] >= 3 and INTERVALS["search"] >= 6


def test_too_many_requests_are_waited_for_as_long_as_it_says():
    clock = Clock()
    sdk = Sdk(answer(429, "API requests too frequent", retry_after="40"), "done")
    assert vast(clock)._call("show", sdk) == "done"
    assert sum(clock.slept) >= 40


def test_pauses_grow_and_end():
    clock = Clock()
    sdk = Sdk(requests.ConnectionError("no route"))
    with pytest.raises(VastFault, match=f"after {TRIES} tries: ConnectionError: no route"):
        vast(clock)._call("show", sdk)
    assert sdk.calls == TRIES
    pauses = [seconds for seconds in clock.slept if seconds]
    assert pauses == sorted(pauses) and pauses[-1] > 8 * pauses[0] and sum(pauses) < 300


@pytest.mark.parametrize(
    "outcome",
    [
        requests.ConnectionError("reset"),
        requests.Timeout("slow"),
        answer(500, {"msg": "oops"}),
        answer(502, "<html>bad gateway</html>"),
        KeyError("new_contract"),
        requests.exceptions.JSONDecodeError("no JSON", "", 0),
    ],
    ids=repr,
)
def test_a_creation_is_asked_for_once_when_its_answer_is_lost(outcome: Exception):
    sdk = Sdk(outcome)
    with pytest.raises(Unclear):
        vast(Clock())._call("create", sdk, may_repeat=False)
    assert sdk.calls == 1


def test_a_creation_that_was_not_heeded_is_asked_for_again():
    sdk = Sdk(answer(429, "API requests too frequent"), {"success": True, "new_contract": 7})
    assert vast(Clock())._call("create", sdk, may_repeat=False) == {
        "success": True,
        "new_contract": 7,
    }


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answer(401, {"error": "auth", "msg": "Invalid API key"}), NoKey, "check VAST_API_KEY"),
        (answer(403, "no"), NoKey, "what it may do"),
        (answer(404, {"error": "no_such_ask", "msg": "no such ask"}), Gone, "no such ask"),
        (answer(410, {"error": "gone"}), Gone, "gone"),
        (answer(400, {"error": "no_such_instance", "msg": "x"}), Gone, "x"),
        (answer(409, {"msg": "already rented"}), Gone, "already rented"),
        (answer(400, {"error": "insufficient_credit", "msg": "low"}), NoCredit, "add credit"),
        (answer(400, {"msg": "Your account lacks credit; see billing"}), NoCredit, "add credit"),
        (answer(400, {"msg": "invalid docker credentials"}), VastFault, "refuses this \\(400\\)"),
        (answer(429, {"error": "search_quota_exceeded"}), QuotaExhausted, "try again later"),
        (answer(429, "slow down", retry_after="7200"), QuotaExhausted, "about 2.0 hours"),
        (answer(400, [1, 2]), VastFault, "1, 2"),
        (answer(400, ""), VastFault, "no words"),
    ],
)
def test_refusals_are_told_apart(error: Exception, kind: type[DeployError], words: str):
    for may_repeat in (True, False):
        fault = mapped(error, may_repeat=may_repeat)
        assert type(fault) is kind
        with pytest.raises(kind, match=words):
            raise fault


def foreign() -> list[Exception]:
    """Every exception of requests, and what the SDK does to answers that it does not expect."""
    kinds = [
        kind
        for kind in vars(requests.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
    ]
    made = []
    for kind in kinds:
        more = ("", 0) if issubclass(kind, ValueError) and "JSON" in kind.__name__ else ()
        made.append(kind("words", *more))
    return [
        *made,
        KeyError("x"),
        TypeError("x"),
        AttributeError("x"),
        ValueError("x"),
        OSError("x"),
    ]


@pytest.mark.parametrize("error", foreign(), ids=lambda error: type(error).__name__)
def test_no_foreign_exception_gets_through(error: Exception):
    for may_repeat, call in ((True, "show"), (False, "create")):
        with pytest.raises(DeployError):
            vast(Clock())._call(call, Sdk(error), may_repeat=may_repeat)


def test_an_answer_without_a_contract_is_unclear():
    account = vast(Clock())
    for body in ({"success": False, "new_contract": 5}, {"success": True}, [], None, "<html>"):
        account._sdk.create_instance = lambda *_, body=body, **__: body
        request = type("Request", (), {"arguments": staticmethod(dict)})
        with pytest.raises(Unclear, match=r"Vast\.ai answered"):
            account.create(1, request)


def test_every_error_is_in_the_tree():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_no_key_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name, value in (("VAST_API_KEY", ""), ("HOME", tmp_path), ("XDG_CONFIG_HOME", tmp_path)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(NoKey, match="put it into VAST_API_KEY"):
        Vast(pace=Clock().pace())

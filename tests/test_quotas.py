"""Quotas of keys: what is counted, what is told when one is used up, and when it is free again."""

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serve.auth import Key, Quota
from serve.errors import QuotaExceeded, TooLarge
from serve.quotas import MOST_RETRY_AFTER_S, Quotas, until_free
from tests.bodies import ASKING, Asking
from tests.harness import Server, write_config
from tests.test_gateway_errors import check

# Windows of a day: none ends while these tests run, but for a bad moment in 86,400 seconds.
FILE = """
few few-key requests=3/day
pinger pinger-key requests=3/day
fewer fewer-key requests=2/day
scarce scarce-key pairs=3/day
narrow narrow-key pairs=5/day
both both-key requests=100/day pairs=4/day
agent agent-key requests=1000/day pairs=4/day
quick quick-key requests=1/second
free free-key
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("quotas")
    (work / "keys").write_text(FILE)
    with Server(write_config(work), work, "--api-key-file", str(work / "keys")) as server:
        yield server.until_ready()
    assert "Traceback" not in server.text()


def rerank(server: Server, who: str, passages: int = 1, path: str = "/rerank") -> requests.Response:
    body = {"query": "q", "passages": ["a"] * passages}
    return server.post(path, body, {"x-api-key": f"{who}-key"})


def refused(answer: requests.Response, *words: str) -> int:
    """Seconds after which an answer asks to come again."""
    assert answer.status_code == 429, answer.text
    assert answer.json()["error"]["type"] == "quota_exceeded"
    for word in words:
        assert word in answer.json()["message"]
    return int(answer.headers["retry-after"])


def test_requests_are_counted_whatever_becomes_of_them(server: Server):
    assert rerank(server, "few").ok
    wrong = server.post("/v2/rerank", {"query": "q"}, {"x-api-key": "few-key"})
    assert wrong.status_code == 400
    assert rerank(server, "few", path="/v1/rerank").ok
    after = refused(rerank(server, "few"), "key 'few'", "requests=3/day", "raise the quota")
    assert after == MOST_RETRY_AFTER_S
    for path in ("/v1/models", "/metrics", "/info"):  # score nothing
        assert server.get(path, {"x-api-key": "few-key"}).ok


@pytest.mark.parametrize("asking", ASKING, ids=str)
def test_every_api_is_told(server: Server, asking: Asking):
    body = asking.make("q", ["a", "b"])

    def ask(who: str) -> requests.Response:
        return server.post(asking.path, body, {**asking.headers, "authorization": f"{who}-key"})

    for _ in range(3):
        by_requests, by_pairs = ask("fewer"), ask("scarce")
    check(by_requests, asking, 429, "key 'fewer'", "requests=2/day", "try again in 3600 s")
    told = check(by_pairs, asking, 429, "key 'scarce'", "pairs=3/day", "try again in 3600 s")
    assert by_requests.headers["retry-after"] == by_pairs.headers["retry-after"] == "3600"
    if asking.dialect == "tei":
        assert told["error_type"] == "Overloaded"


def test_pairs_are_counted_before_the_model_is_asked(server: Server):
    assert rerank(server, "narrow", 3).ok
    refused(rerank(server, "narrow", 3), "key 'narrow'", "pairs=5/day")
    assert rerank(server, "narrow", 2).ok  # nothing was taken for the one before
    refused(rerank(server, "narrow", 1))
    assert rerank(server, "narrow", 0).json() == []
    asked = server.post("/rerank", {"query": "!die", "passages": ["a"]}, {"api-key": "narrow-key"})
    refused(asked)
    assert rerank(server, "free").ok  # it did not come to the engine


def test_what_no_quota_could_hold_is_too_large(server: Server):
    answer = rerank(server, "both", 5)
    assert answer.status_code == 413 and "retry-after" not in answer.headers
    assert answer.json()["error"]["type"] == "too_large"
    for word in ("5 pairs", "key 'both'", "pairs=4/day", "several requests", "raise the quota"):
        assert word in answer.json()["message"]
    assert rerank(server, "both", 4).ok


def test_a_key_without_quotas_has_none(server: Server):
    for _ in range(5):
        assert rerank(server, "free", 50).ok


def message(id: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def test_an_agent_is_told_too(server: Server):
    headers = {"x-api-key": "agent-key", "accept": "application/json, text/event-stream"}
    arguments = {"query": "q", "passages": ["a", "b", "c"]}
    call = message(1, "tools/call", name="rerank", arguments=arguments)
    first, second = (server.post("/mcp", call, headers).json()["result"] for _ in range(2))
    assert not first["isError"]
    assert second["isError"] and "pairs=4/day" in second["content"][0]["text"]


def test_messages_of_agents_are_requests(server: Server):
    for _ in range(4):
        answer = server.post("/mcp", message(7, "ping"), {"x-api-key": "pinger-key"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "3600"
    assert answer.json()["jsonrpc"] == "2.0"
    assert "requests=3/day" in answer.json()["error"]["message"]


def test_who_comes_again_when_told_to_is_let_in(server: Server):
    for _ in range(3):
        for _ in range(500):
            answer = rerank(server, "quick")
            if not answer.ok:
                break
        after = refused(answer, "requests=1/second")
        assert f"try again in {after} s" in answer.json()["message"]
        assert 1 <= after <= 2
        time.sleep(after)
        assert rerank(server, "quick").ok


# -- counting ------------------------------------------------------------------------------------


def key(name: str, **quotas: int) -> Key:
    return Key(name, name.encode(), {what: Quota(most, "day") for what, most in quotas.items()})


def test_counts_go_by_name_and_outlive_a_key_that_is_read_anew():
    async def run() -> None:
        quotas = Quotas()
        await quotas.charge(None, "pairs", 10**9)
        await quotas.charge(key("a"), "pairs", 10**9)
        await quotas.charge(key("a", pairs=5), "pairs", 4)
        await quotas.charge(key("b", pairs=5), "pairs", 5)
        await quotas.charge(key("a", requests=1, pairs=5), "requests", 1)
        with pytest.raises(QuotaExceeded, match="'a' has used up its quota, pairs=5/day"):
            await quotas.charge(key("a", pairs=5), "pairs", 2)
        await quotas.charge(key("a", pairs=7), "pairs", 3)  # its quota was raised
        with pytest.raises(QuotaExceeded):
            await quotas.charge(key("a", pairs=7), "pairs", 1)
        with pytest.raises(TooLarge):
            await quotas.charge(key("a", pairs=5), "pairs", 6)

    asyncio.run(run())


def test_requests_at_once_get_no_more_than_there_is():
    async def run() -> list[object]:
        quotas, one = Quotas(), key("a", pairs=10)
        charges = (quotas.charge(one, "pairs", 3) for _ in range(20))
        return await asyncio.gather(*charges, return_exceptions=True)

    answers = asyncio.run(run())
    assert answers.count(None) == 3
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 17


def used(quota: Quota, before: int, now: int, left_s: float) -> int:
    """What counts as used, as the package has it."""
    return math.floor(before * left_s / quota.seconds + now)


counts = st.integers(0, 10**6)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(st.integers(1, 10**6), st.data())
def test_the_wait_is_as_long_as_it_must_be(most: int, data: st.DataObject):
    quota = Quota(most, "minute")
    amount = data.draw(st.integers(1, most))
    before, now = data.draw(st.integers(0, most)), data.draw(st.integers(0, most))
    left_s = data.draw(st.floats(0.001, quota.seconds))
    assume(used(quota, before, now, left_s) + amount > most)
    wait_s = until_free(quota, amount, before, now, left_s)
    assert 0 <= wait_s < 2 * quota.seconds

    def is_free(after_s: float) -> bool:
        if after_s < left_s:
            return used(quota, before, now, left_s - after_s) + amount <= most
        into_next_s = after_s - left_s
        return used(quota, now, 0, quota.seconds - into_next_s) + amount <= most

    assert is_free(wait_s + 0.001)
    assert wait_s < 0.001 or not is_free(wait_s - 0.001)

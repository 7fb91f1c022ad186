"""One tree of errors from three SDKs, and when a request is sent again."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import cohere
import cohere.core
import cohere.errors
import httpx
import openai
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from clients import errors
from clients.address import told
from clients.cohere_client import CohereReranker, from_cohere, mapped
from clients.errors import (
    BadAnswer,
    BadRequest,
    NotFound,
    Overloaded,
    Refused,
    RerankError,
    ServerFault,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unreachable,
    refusal,
    retry_after,
    why,
)
from clients.httpx_errors import from_httpx
from clients.openai_client import AsyncOpenAIReranker, OpenAIReranker, from_openai
from clients.requests_client import RerankClient, from_requests
from clients.reranker import Reranker
from clients.retry import NEVER, Clock, Retry
from tests.scripted import Answer, Scripted, ranking, refusing
from tests.test_clients import ALL, each

NOW = 1_700_000_000.0
URL = "http://host"


def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for child in kind.__subclasses__():
        yield from below(child)


def bare(kind: type[Any]) -> Any:
    """An exception as its SDK might raise it, whatever its constructor wants."""
    error = kind.__new__(kind)
    Exception.__init__(error, "words of the SDK")
    error.__dict__.update(partial=0, expected=1, length=b"")  # which some words are made of
    return error


def response(status: int) -> httpx.Response:
    request = httpx.Request("POST", URL)
    return httpx.Response(status, json={"message": "no"}, request=request)


# -- no exception of an SDK is missed --------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(below(openai.OpenAIError)), key=str))
def test_every_exception_of_openai_is_mapped(kind: type[openai.OpenAIError]):
    error = bare(kind)
    if issubclass(kind, openai.APIStatusError):
        error.status_code = getattr(kind, "status_code", 500)
        error.status_code = error.status_code if isinstance(error.status_code, int) else 500
        error.response = response(error.status_code)
    ours = from_openai(error, URL, now=NOW)
    assert isinstance(ours, RerankError) and type(ours) is not RerankError
    if issubclass(kind, openai.APIStatusError):
        assert isinstance(ours, Refused) and ours.status == error.status_code
    if issubclass(kind, openai.APITimeoutError):
        assert isinstance(ours, TimedOut)


COHERE = {
    kind
    for module in (cohere, cohere.core, cohere.errors)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, Exception)
} | set(below(cohere.core.ApiError))


@pytest.mark.parametrize("kind", sorted(COHERE, key=str))
def test_every_exception_of_cohere_is_mapped(kind: type[Exception]):
    error = kind(body={"message": "no"}) if issubclass(kind, cohere.core.ApiError) else bare(kind)
    with pytest.raises(RerankError) as caught, mapped(URL, Clock(now=lambda: NOW)):
        raise error
    assert type(caught.value) is not RerankError
    status = getattr(error, "status_code", None)
    if status is not None:
        assert isinstance(caught.value, Refused) and caught.value.status == status


HTTPX = {
    kind for kind in vars(httpx).values() if inspect.isclass(kind) and issubclass(kind, Exception)
}


@pytest.mark.parametrize("kind", sorted(HTTPX, key=str))
def test_every_exception_of_httpx_is_mapped(kind: type[Exception]):
    ours = from_httpx(bare(kind), URL)
    assert isinstance(ours, Unreachable | TimedOut | BadAnswer)
    assert isinstance(ours, TimedOut) == (
        issubclass(kind, httpx.TimeoutException) and kind is not httpx.ConnectTimeout
    )
    with pytest.raises(type(ours)), mapped(URL, Clock()):  # as it comes through an SDK
        raise bare(kind)


REQUESTS = set(below(requests.RequestException)) | set(below(urllib3.exceptions.HTTPError))


@pytest.mark.parametrize("kind", sorted(REQUESTS, key=str))
def test_every_exception_of_requests_is_mapped(kind: type[Exception]):
    ours = from_requests(bare(kind), URL)
    assert isinstance(ours, Unreachable | TimedOut | BadAnswer)
    if issubclass(kind, requests.RequestException):
        waited = issubclass(kind, requests.Timeout) and kind is not requests.ConnectTimeout
        assert isinstance(ours, TimedOut) == waited


def test_every_kind_is_in_the_drawn_tree_and_in_the_package():
    import clients

    for kind in set(below(RerankError)):
        if kind.__module__ == errors.__name__:
            assert kind.__name__ in (errors.__doc__ or "")
            assert kind.__name__ in clients.__all__


# -- what an answer means --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (200, BadAnswer, False),
        (301, NotFound, False),
        (400, BadRequest, False),
        (401, Unauthorized, False),
        (403, Unauthorized, False),
        (404, NotFound, False),
        (405, NotFound, False),
        (413, TooLarge, False),
        (422, BadRequest, False),
        (429, Overloaded, True),
        (500, ServerFault, False),
        (502, ServerFault, True),
        (503, Unavailable, True),
        (504, ServerFault, False),
    ],
)
def test_the_kind_of_each_status(status: int, kind: type[RerankError], again: bool):
    error = refusal(status, "", {}, now=NOW)
    assert (type(error), error.again) == (kind, again)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"error": {"message": "m", "param": "p"}, "message": "m", "detail": "m"}, "m", "p"),
        (b'{"error": {"message": "m", "param": null}}', "m", None),
        ('{"message": "m"}', "m", None),
        ({"detail": "m"}, "m", None),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc": ["body"]}]', None),
        ({"error": "m"}, "m", None),
        ("<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>", None),
        (b"\xff", "\ufffd", None),
        ("", "no reason given", None),
        ({}, "{}", None),
        ([1], "[1]", None),
    ],
)
def test_what_an_error_body_says(body: object, message: str, param: str | None):
    error = refusal(400, body, {}, now=NOW)
    assert isinstance(error, BadRequest)
    assert (error.message, error.param, str(error)) == (message, param, f"400: {message}")


def test_an_engines_fault_is_no_proxys():
    """The same status, and another reason: it would be the same fault again."""
    for code, again in (("engine_fault", False), ("else", True), (None, True)):
        error = refusal(502, {"error": {"message": "m", "type": code}}, {}, now=NOW)
        assert isinstance(error, ServerFault) and (error.again, error.code) == (again, code)


@given(
    st.integers(100, 599),
    st.one_of(st.none(), st.text(), st.binary(), st.dictionaries(st.text(), st.text())),
    st.dictionaries(st.sampled_from(["Retry-After", "DATE", "location"]), st.text()),
)
def test_no_answer_is_too_odd(status: int, body: object, headers: dict[str, str]):
    assert isinstance(refusal(status, body, headers, now=NOW), RerankError)


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        (None, None, None),
        ("5", None, 5),
        ("0.5", None, 0.5),
        ("-3", None, 0),
        ("nan", None, None),
        ("inf", None, None),
        ("soon", None, None),
        (formatdate(NOW + 7, usegmt=True), None, 7),
        (formatdate(NOW - 7, usegmt=True), None, 0),
        # The server's own clock goes an hour ahead of ours.
        (formatdate(NOW + 3607, usegmt=True), formatdate(NOW + 3600, usegmt=True), 7),
        (formatdate(NOW + 7, usegmt=True), "nonsense", 7),
    ],
)
def test_retry_after(header: str | None, date: str | None, seconds: float | None):
    assert retry_after(header, date, now=NOW) == seconds


# -- the policy ------------------------------------------------------------------------------------


def failed(again: bool = True, after: float | None = None) -> RerankError:
    error = Unreachable("gone", again=again)
    error.retry_after = after
    return error


@given(
    st.integers(1, 2000),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.one_of(st.none(), st.floats(0, 1e9)),
)
def test_pauses_are_bounded(tried: int, spent: float, dice: float, after: float | None):
    retry = Retry(tries=1000, first_s=0.5, cap_s=30, budget_s=120)
    pause = retry.pause(failed(after=after), tried, spent, dice)
    if pause is None:
        assert tried >= 1000 or spent + 30.5 >= 120 or spent + (after or 0) > 119
    else:
        assert pause >= 0 and spent + pause <= 120 and tried < 1000
        assert pause <= 30 if after is None else after <= pause <= after + 0.5


def test_pauses_grow():
    retry = Retry(tries=9)
    pauses = [retry.pause(failed(), tried, 0, 1.0) for tried in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, None]
    assert retry.pause(failed(), 1, 0, 0.0) == 0.25
    assert retry.pause(failed(again=False), 1, 0, 0.0) is None
    assert NEVER.pause(failed(), 1, 0, 0.0) is None


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"cap_s": -1}, {"budget_s": -1}, {"first_s": -1}])
def test_a_policy_that_is_none(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="Retry"):
        Retry(**wrong)


# -- over HTTP -------------------------------------------------------------------------------------


class Patient:
    """A client's clock and sleep: time passes by its sleeping alone."""

    def __init__(self, make: Callable[..., Reranker]) -> None:
        self.slept: list[float] = []
        self.time = 0.0
        self.is_async = make is ALL["async"]

    @property
    def seams(self) -> dict[str, Any]:
        clock = Clock(monotonic=lambda: self.time, now=lambda: NOW, dice=lambda: 0.0)
        return {"clock": clock, "sleep": self._asleep if self.is_async else self._sleep}

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    async def _asleep(self, seconds: float) -> None:
        self._sleep(seconds)


@each
def test_a_body_that_stalls_or_breaks_off(make: Callable[..., Reranker]):
    """The first is a time-out and asked once; the second a broken connection, and asked again."""
    half = (200, {"content-length": "99"}, b'{"results": [')
    patient = Patient(make)
    with Scripted([half]) as server, make(server.url, timeout_s=0.3, **patient.seams) as client:
        with pytest.raises(TimedOut):
            client.rerank("q", ["a"])
        assert len(server.bodies) == 1 and not patient.slept
    broken = (200, {"content-length": "99", "connection": "close"}, b'{"results": [')
    with Scripted([broken]) as server, make(server.url, **patient.seams) as client:
        assert client.rerank("q", ["a"])
        assert len(server.bodies) == 2 and patient.slept == [0.25]


@each
def test_a_busy_server_is_asked_again(make: Callable[..., Reranker]):
    """Each fault once, then the right answer: four requests, three pauses as they were told, also
    beyond the cap of our own."""
    faults = [refusing(429, Retry_After="3"), refusing(503, Retry_After="60"), refusing(502)]
    patient = Patient(make)
    retry = Retry(cap_s=20)
    with Scripted(faults) as server, make(server.url, retry=retry, **patient.seams) as client:
        assert len(client.rerank("q", ["a", "b"])) == 2
        assert server.asked == {("q", "a"): 4, ("q", "b"): 4}
    assert patient.slept == [3, 60, 1]


@pytest.mark.parametrize(("seconds", "budget_s"), [("121", 120), ("1e300", float("inf"))])
@each
def test_a_server_that_asks_for_more_than_the_budget_is_given_up(
    make: Callable[..., Reranker], seconds: str, budget_s: float
):
    """Neither asked too early nor waited for; nor is what the system cannot wait for."""
    patient = Patient(make)
    with (
        Scripted([refusing(429, Retry_After=seconds)]) as server,
        make(server.url, retry=Retry(budget_s=budget_s), **patient.seams) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.rerank("q", ["a"])
    assert caught.value.retry_after == float(seconds)
    assert len(server.bodies) == 1 and not patient.slept


@each
def test_a_date_to_come_again(make: Callable[..., Reranker]):
    """The server's clock goes an hour ahead of ours, and says so."""
    patient = Patient(make)
    then, now = (formatdate(NOW + 3600 + seconds, usegmt=True) for seconds in (9, 0))
    faults = [refusing(429, Retry_After=then, Date=now)]
    with Scripted(faults) as server, make(server.url, **patient.seams) as client:
        client.rerank("q", ["a"])
    assert patient.slept == [9]


@each
def test_tries_and_budget_end(make: Callable[..., Reranker]):
    for retry, tries in (
        (Retry(tries=3), 3),
        (Retry(tries=99, first_s=2, budget_s=20), 5),  # pauses of 1, 2, 4, 8, and 16 is too long
    ):
        patient = Patient(make)
        with (
            Scripted([refusing(503, "full")] * 50) as server,
            make(server.url, retry=retry, **patient.seams) as client,
            pytest.raises(Unavailable, match="full"),
        ):
            client.score("q", ["a"])
        assert len(server.bodies) == tries
        assert sum(patient.slept) <= retry.budget_s


@each
def test_what_is_not_asked_again(make: Callable[..., Reranker]):
    """Neither our policy nor any SDK's own sends these twice."""
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 422, 500, 501, 504):
        patient = Patient(make)
        with (
            Scripted([refusing(status)] * 9) as server,
            make(server.url, **patient.seams) as client,
        ):
            with pytest.raises(Refused) as caught:
                client.rerank("q", ["a"])
            assert (caught.value.status, caught.value.param) == (status, "p")
            assert len(server.bodies) == 1 and not patient.slept


@each
def test_a_redirect_is_told_and_not_followed(make: Callable[..., Reranker]):
    for status in (301, 302, 307, 308):
        with Scripted([refusing(status, Location="https://else")]) as server:
            with make(server.url) as client, pytest.raises(NotFound, match="https://else"):
                client.rerank("q", ["a"])
            assert len(server.bodies) == 1


@each
def test_a_connection_that_breaks_is_tried_again(make: Callable[..., Reranker]):
    patient = Patient(make)
    with Scripted([(0, {}, b"")] * 2) as server, make(server.url, **patient.seams) as client:
        assert client.rerank("q", ["a"])
        assert len(server.bodies) == 3
    assert patient.slept == [0.25, 0.5]


@each
def test_nobody_there_is_told_in_a_few_words(make: Callable[..., Reranker]):
    """Those of the system, and no objects of an SDK."""
    for url in ("http://127.0.0.1:9", "https://127.0.0.1:9"):
        with make(url, retry=NEVER) as client, pytest.raises(Unreachable) as caught:
            client.rerank("q", ["a"])
        words = str(caught.value)
        assert words.startswith(f"{url} cannot be reached: ") and len(words) < 100
        assert "onnect" in words and "object at" not in words and "Pool" not in words


def test_why_is_the_systems_own_word():
    """And not of what its caller was at."""
    refused = ConnectionRefusedError(111, "Connection refused")
    assert why(requests.ConnectionError(urllib3.exceptions.ProtocolError("x", refused))) == (
        "Connection refused"
    )
    assert why(TimeoutError()) == "TimeoutError" and why(TimeoutError("timed out")) == "timed out"
    assert why(ValueError("odd")) == "odd" and why(ValueError()) == "ValueError"
    try:
        try:
            raise FileNotFoundError(2, "No such file")
        except OSError:
            raise ValueError("a wrong address") from None
    except ValueError as error:
        assert why(error) == "a wrong address"
    looping = ValueError("round")
    looping.__cause__ = looping
    assert why(looping) == "round"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unreachable("http://h cannot be reached: no"), "http://h cannot be reached: no: start it"),
        (Unreachable("http://h: a wrong key", again=False), "http://h: a wrong key"),
        (refusal(400, "odd", {}, now=NOW), "http://h/v1/: 400: odd"),
        (
            refusal(429, "full", {"retry-after": "900"}, now=NOW),
            "http://h/v1/: 429: full (it asks to come again after 900 s)",
        ),
    ],
)
def test_what_a_command_line_says(error: RerankError, words: str):
    said = told(error, "http://h/v1/")
    assert said.startswith(words) and said.count("http://h") == 1


@each
def test_nobody_there_is_tried_again(make: Callable[..., Reranker]):
    patient = Patient(make)
    with make("http://127.0.0.1:9", **patient.seams) as client, pytest.raises(Unreachable):
        client.rerank("q", ["a"])
    assert patient.slept == [0.25, 0.5, 1]


@each
def test_a_slow_server_is_asked_once(make: Callable[..., Reranker]):
    """A time-out is no reason to send it all again: the server may be at work on it."""
    patient = Patient(make)
    with Scripted() as server:
        server.gate.clear()
        with make(server.url, timeout_s=0.3, **patient.seams) as client:
            with pytest.raises(TimedOut):
                client.rerank("q", ["a"])
            assert len(server.bodies) == 1 and not patient.slept
            server.gate.set()


TWO = b'{"results": [{"index": 0, "relevance_score": 0.5}, {"index": 1, "relevance_score": %s}]}'
ODD: list[Answer] = [
    (200, {}, b"<html>"),
    (200, {}, b""),
    (200, {}, b"[]"),
    (200, {}, b"[0.5, 0.5]"),
    (200, {}, b"null"),
    (200, {}, b"{}"),
    (200, {}, b'{"results": null}'),
    (200, {}, b'{"results": {"0": 1}}'),
    (200, {}, b'{"results": [1, 2]}'),
    (200, {}, b'{"results": []}'),
    (200, {}, TWO % b"NaN"),
    (200, {}, TWO % b"1e999"),
    (200, {}, TWO % (b"9" * 400)),
    (200, {}, TWO % b"null"),
    (200, {}, TWO % b'"0.5"'),
    (200, {}, TWO % b"true"),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1', b'"index": 0')),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1', b'"index": 2')),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1', b'"index": -1')),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1', b'"index": 1.5')),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1', b'"index": true')),
    (200, {}, (TWO % b"0.5").replace(b'"index": 1, ', b"")),
    (200, {"x-rerank-truncated": "0,x"}, TWO % b"0.5"),
    (200, {}, b"[" * 100_000),
]


@pytest.mark.parametrize("answer", ODD, ids=lambda answer: repr(answer[2][-45:]))
@each
def test_an_answer_that_is_no_ranking_is_never_one(make: Callable[..., Reranker], answer: Answer):
    with Scripted([answer]) as server, make(server.url) as client, pytest.raises(BadAnswer):
        client.rerank("q", ["a", "b"])


@each
def test_fewer_results_than_asked_for(make: Callable[..., Reranker]):
    for top_n, sent in ((None, 1), (2, 1), (2, 3), (9, 2)):
        answer = ranking({"query": "q", "documents": ["a", "b", "c"], "top_n": sent})
        with (
            Scripted([answer]) as server,
            make(server.url) as client,
            pytest.raises(BadAnswer),
        ):
            client.rerank("q", ["a", "b", "c"], top_n=top_n)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"index": 0, "score": 0.5}]}',
        b'{"data": [{"index": 0, "score": 0.5}, {"index": 0, "score": 0.5}]}',
        b'{"data": [{"index": 0, "score": 0.5}, {"index": 1, "score": NaN}]}',
        b'{"data": [{"index": 0, "score": 0.5}, {"index": 1}]}',
        b'{"scores": [0.5, 0.5]}',
    ],
)
def test_an_answer_that_is_no_scores(body: bytes):
    for name in ("requests", "openai", "async"):
        with (
            Scripted([(200, {}, body)]) as server,
            ALL[name](server.url) as client,
            pytest.raises(BadAnswer),
        ):
            client.score("q", ["a", "b"])


def test_a_server_without_a_list_of_models():
    with (
        Scripted(models=[]) as server,
        RerankClient(server.url) as client,
        pytest.raises(NotFound),
    ):
        client.models()


def test_the_list_of_models_is_asked_for_again():
    patient = Patient(RerankClient)
    with RerankClient("http://127.0.0.1:9", **patient.seams) as client, pytest.raises(Unreachable):
        client.models()
    assert len(patient.slept) == 3


def test_many_at_once_with_the_async_client():
    async def ask(url: str) -> list[int]:
        async with AsyncOpenAIReranker(url) as client:
            answers = [client.rerank(f"q{i}", ["a"] * (i + 1)) for i in range(30)]
            return [len(answer) for answer in await asyncio.gather(*answers)]

    with Scripted() as server:
        assert asyncio.run(ask(server.url)) == list(range(1, 31))


def test_from_cohere_without_a_status():
    error = cohere.core.ApiError(body="no token")
    assert isinstance(from_cohere(error, URL, now=NOW), Unreachable)


@pytest.mark.parametrize("key", ["secret\n", "sec\rret"])
def test_a_key_that_cannot_be_sent_is_not_shown(key: str):
    with RerankClient("http://127.0.0.1:9", api_key=key) as client:
        with pytest.raises(Unreachable, match="line break") as caught:
            client.score("q", ["a"])
        assert not caught.value.again and "sec" not in str(caught.value)


def test_a_key_goes_as_the_system_gave_it():
    with Scripted() as server, RerankClient(server.url, api_key="\udcff") as client:
        assert len(client.score("q", ["a"])) == 1


def test_an_error_body_is_read_as_utf8():
    """Not as what its bytes look like."""
    answer = 400, {}, b'{"error": {"message": "na\xffve"}}'
    with (
        Scripted([answer]) as server,
        RerankClient(server.url) as client,
        pytest.raises(BadRequest, match="400: na\ufffdve"),
    ):
        client.score("q", ["a"])


def test_a_number_beyond_all_bounds_is_a_bad_answer():
    answer = 200, {}, b"[" + b"9" * 5000 + b"]"
    with (
        Scripted([answer]) as server,
        RerankClient(server.url) as client,
        pytest.raises(BadAnswer),
    ):
        client.score("q", ["a"])


@pytest.mark.parametrize("seconds", [0, -1, 1e300, float("inf"), float("nan")])
def test_a_wait_that_is_none(seconds: float):
    """The system cannot wait so long; its own words for that are an OverflowError."""
    for kind in (RerankClient, OpenAIReranker, AsyncOpenAIReranker, CohereReranker):
        with pytest.raises(ValueError, match="timeout_s must be"):
            kind("http://127.0.0.1:9", timeout_s=seconds)

"""The same passages get the same scores in every API, to the last digit, from the real vLLM."""

from collections.abc import Mapping

import pytest
import requests

from clients.examples import EIGHT_PASSAGES, QUERY
from serve import dialects
from tests.bodies import ASKING, MORE, Asking
from tests.harness import Server

pytestmark = pytest.mark.vllm

PASSAGES = [
    *EIGHT_PASSAGES,
    "",
    " ",
    "深度学习 🙂 \u2028",
    "[SEP] </s>",
    EIGHT_PASSAGES[0],
    "x " * 900,
]
EVERYONE = pytest.mark.parametrize("asking", [*ASKING, *MORE], ids=str)


def ask(server: Server, asking: Asking, query: str = QUERY, **more: object) -> requests.Response:
    body = {**asking.make(query, PASSAGES), **more}
    answer = requests.post(server.url + asking.path, json=body, headers=asking.headers, timeout=120)
    assert answer.ok, answer.text
    return answer


@pytest.fixture(scope="module")
def scores(minilm_server: Server) -> Mapping[int, float]:
    return dict(enumerate(minilm_server.rerank(QUERY, PASSAGES)))


@pytest.fixture(scope="module")
def raw(minilm_server: Server) -> Mapping[int, float]:
    asking = ASKING[0]
    assert asking.dialect == "simple"
    return asking.read(ask(minilm_server, asking, use_activation=False).json())


def test_all_dialects_are_asked():
    assert {asking.dialect for asking in ASKING} == {dialect.name for dialect in dialects.DIALECTS}


def test_raw_values_are_what_the_scores_are_made_of(
    scores: Mapping[int, float], raw: Mapping[int, float]
):
    assert {index: (1 + value) / 2 for index, value in raw.items()} == scores
    assert scores[0] == scores[len(EIGHT_PASSAGES) + 4]


@EVERYONE
def test_the_same_scores(
    minilm_server: Server,
    asking: Asking,
    scores: Mapping[int, float],
    raw: Mapping[int, float],
):
    answer = ask(minilm_server, asking)
    assert asking.read(answer.json()) == (raw if asking.is_raw else scores)
    assert answer.headers["x-rerank-truncated"] == str(len(PASSAGES) - 1)


HARMLESS = {  # what clients send whether it means something or not
    "truncate_prompt_tokens": "-1",
    "max_tokens_per_doc": 4096,
    "max_tokens_per_query": 0,
    "max_chunks_per_doc": 1,
    "priority": 3.0,
    "user": "someone",
    "cache_salt": "",
    "padding": "do_not_pad",
    "truncation_side": "Right",
    "instruction": None,
    "chat_template_kwargs": {},
    "mm_processor_kwargs": None,
    "use_llm": "false",
    "use_activation": "",
    "kwargs": "{}",
    "return_len": "true",
}


@EVERYONE
def test_what_clients_send_beside_does_not_matter(
    minilm_server: Server,
    asking: Asking,
    scores: Mapping[int, float],
    raw: Mapping[int, float],
):
    answer = ask(minilm_server, asking, **HARMLESS)
    assert asking.read(answer.json()) == (raw if asking.is_raw else scores)


@EVERYONE
def test_the_same_raw_values(minilm_server: Server, asking: Asking, raw: Mapping[int, float]):
    answer = ask(minilm_server, asking, use_activation=False)
    assert asking.read(answer.json()) == raw


@EVERYONE
def test_raw_scores_and_the_order(minilm_server: Server, asking: Asking, raw: Mapping[int, float]):
    """What is ranked comes best first, of equals the first; `raw_score` is beside it."""
    answer = ask(minilm_server, asking).json()
    found = asking.read(answer)
    if asking.dialect not in ("simple", "vllm-score"):
        assert list(found) == sorted(raw, key=lambda index: (-raw[index], index))
    items = answer.get("results", answer.get("data", [])) if isinstance(answer, dict) else []
    for item in items:
        if "raw_score" in item:
            assert item["raw_score"] == raw[item["index"]]
    if asking.dialect.startswith(("cohere", "vllm", "infinity")):
        assert all("raw_score" in item for item in items)


@EVERYONE
def test_each_by_itself_scores_as_among_the_others(
    minilm_server: Server, asking: Asking, scores: Mapping[int, float], raw: Mapping[int, float]
):
    expected = raw if asking.is_raw else scores
    for index in (0, 10, 13):
        body = asking.make(QUERY, [PASSAGES[index]])
        answer = requests.post(
            minilm_server.url + asking.path, json=body, headers=asking.headers, timeout=120
        )
        assert asking.read(answer.json()) == {0: expected[index]}

"""The whole server over the real vLLM, against what `transformers` computes on the same weights."""

import random
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cohere
import httpx
import openai
import pytest
import requests

from clients.__main__ import CLIENTS
from clients.examples import EIGHT_PASSAGES, FOUR_PASSAGES, QUERY
from serve.chunks import parts
from serve.lengths import Lengths, TokenLimits
from serve.specials import Specials
from serve.tokens import load
from tests.harness import (
    PROMISES_BITS,
    ROOT,
    Server,
    alive,
    same_logits,
    same_scores,
)
from tests.readers import sigmoid
from tests.tiny_models import MAX_TOKENS, random_text

pytestmark = pytest.mark.vllm

TOLERANCE = 1e-5  # float32
PAIRS = 200


def random_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs of every kind: empty, one word, unicode, and longer than the model on either side."""
    source = random.Random(7)
    lengths = (0, 1, 3, 10, 40, 400)
    return [
        (random_text(source, source.choice(lengths)), random_text(source, source.choice(lengths)))
        for _ in range(count)
    ]


def reference_logits(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The model's own logits, one pair at a time, cut as it was trained: the longer text first."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    logits = []
    for query, passage in pairs:
        inputs = tokenizer(
            query, passage, truncation="longest_first", max_length=MAX_TOKENS, return_tensors="pt"
        )
        with torch.no_grad():
            logits.append(model(**inputs).logits.item())
    return logits


def test_scores_equal_those_of_transformers(
    xlm_roberta_server: Server, tiny_xlm_roberta: Path, record_property
):
    pairs = random_pairs(PAIRS)
    queries, passages = [list(side) for side in zip(*pairs, strict=True)]
    body = {"queries": queries, "documents": passages}
    answer = xlm_roberta_server.post("/score", body)
    raw = xlm_roberta_server.post("/score", {**body, "use_activation": False})
    assert answer.ok, answer.text
    logits = reference_logits(tiny_xlm_roberta, pairs)
    scores = [item["score"] for item in answer.json()["data"]]
    score_error = max(abs(s - sigmoid(x)) for s, x in zip(scores, logits, strict=True))
    values = [item["score"] for item in raw.json()["data"]]
    logit_error = max(abs(v - x) for v, x in zip(values, logits, strict=True))
    words = f"{PAIRS} pairs: max |score difference| {score_error:.2e}, logits {logit_error:.2e}"
    record_property("measured", f"cross-encoder: {words}")
    assert max(logits) - min(logits) > 3, "the model is too flat to prove anything"
    assert score_error <= TOLERANCE
    assert logit_error <= 10 * TOLERANCE


def test_the_simple_route_gives_the_same_scores(xlm_roberta_server: Server):
    pairs = random_pairs(20)
    query, passages = pairs[0][0], [passage for _, passage in pairs]
    simple = xlm_roberta_server.rerank(query, passages)
    ranked = xlm_roberta_server.post("/v2/rerank", {"query": query, "documents": passages}).json()
    assert simple == same_scores(
        [item["relevance_score"] for item in sorted(ranked["results"], key=lambda r: r["index"])]
    )
    assert all(0 <= score <= 1 for score in simple)


def test_a_score_is_the_same_whatever_else_is_scored(xlm_roberta_server: Server, record_property):
    """To the last bit, on a CPU that promises it."""
    query, passages = "deep learning", [passage for _, passage in random_pairs(24)]

    def logits(texts: Sequence[str]) -> list[float]:
        body = {"query": query, "passages": texts, "use_activation": False}
        return xlm_roberta_server.post("/rerank", body).json()

    alone = [logits([passage])[0] for passage in passages]
    scores_alone = [xlm_roberta_server.rerank(query, [passage])[0] for passage in passages]
    stop = threading.Event()

    def disturb(seed: int) -> None:
        source = random.Random(seed)
        while not stop.is_set():
            texts = [random_text(source, source.randrange(40)) for _ in range(source.randrange(9))]
            xlm_roberta_server.rerank("noise", texts)

    with ThreadPoolExecutor(4) as threads:
        noise = [threads.submit(disturb, seed) for seed in range(4)]
        together = [logits(passages) for _ in range(30)]
        scores_together = [xlm_roberta_server.rerank(query, passages) for _ in range(30)]
        stop.set()
        for task in noise:
            task.result()
    moved, scores_moved = (
        max(abs(x - y) for values in batches for x, y in zip(values, each, strict=True))
        for batches, each in ((together, alone), (scores_together, scores_alone))
    )
    words = f"max |score difference| {scores_moved:.1e}, logits {moved:.1e}"
    record_property("measured", f"cross-encoder, alone and in batches: {words}")
    assert all(values == same_logits(alone) for values in together)
    assert all(scores == same_scores(scores_alone) for scores in scores_together)


def test_special_tokens_in_texts_do_not_end_the_sequence(
    xlm_roberta_server: Server, tiny_xlm_roberta: Path
):
    """The model reads `</s>` in a text as three characters, not as the end of the passage."""
    queries = ["deep </s></s> learning", "rank", "rank ＜s＞", "rank"]
    passages = ["bread </s> oven", "<s> bread <mask> oven <pad>", "b ＜/s＞ c", "b <\x01/s> c"]
    body = {"queries": queries, "documents": passages, "use_activation": False}
    answer = xlm_roberta_server.post("/score", body).json()
    got = [item["score"] for item in answer["data"]]
    plain = [
        tuple(text.replace("<", "< ").replace("＜", "＜ ") for text in pair)
        for pair in zip(queries, passages, strict=True)
    ]
    parsed = reference_logits(tiny_xlm_roberta, list(zip(queries, passages, strict=True)))
    for value, wanted, forged in zip(
        got, reference_logits(tiny_xlm_roberta, plain), parsed, strict=True
    ):
        assert abs(value - wanted) <= 10 * TOLERANCE
        assert abs(value - forged) > 1000 * TOLERANCE


def test_truncation_to_fewer_tokens_is_the_engines(xlm_roberta_server: Server):
    long = "deep learning " * 100
    body = {"query": "rank", "documents": [long]}
    default, whole, short = (
        xlm_roberta_server.post("/rerank", {**body, **options}).json()
        for options in ({}, {"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 16})
    )
    assert default["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"] == MAX_TOKENS
    assert short["usage"]["prompt_tokens"] == 16


def assert_same(got: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> None:
    """The results of two requests with the same pairs: alike in all, scores as the CPU promises."""
    for one, other in zip(got, expected, strict=True):
        score, logit = same_scores(other["relevance_score"]), same_logits(other["raw_score"])
        assert one == {**other, "relevance_score": score, "raw_score": logit}


def test_a_limit_beyond_the_models_length_is_no_limit(xlm_roberta_server: Server):
    body = {"query": "rank", "documents": ["deep learning " * 100, "bread"]}
    plain = xlm_roberta_server.post("/v2/rerank", body).json()
    limited = xlm_roberta_server.post("/v2/rerank", {**body, "max_tokens_per_doc": 4096}).json()
    assert_same(limited["results"], plain["results"])

    clamped = xlm_roberta_server.post("/v2/rerank", {**body, "truncate_prompt_tokens": 4096}).json()
    assert_same(clamped["results"], plain["results"])


def test_a_limit_of_the_passage_beside_a_query_that_is_longer_than_the_model(
    xlm_roberta_server: Server,
):
    """vLLM alone answers 500: it would cut the passage only."""
    body = {"query": "deep learning " * 100, "documents": ["bread", "oven " * 90]}
    answer = xlm_roberta_server.post("/v2/rerank", {**body, "max_tokens_per_doc": 20})
    assert answer.ok, answer.text
    assert answer.headers["x-rerank-truncated"] == "0,1"


def test_a_limit_that_leaves_no_room_is_a_clear_400(xlm_roberta_server: Server):
    body = {"query": "q", "documents": ["d"], "truncate_prompt_tokens": 4}
    answer = xlm_roberta_server.post("/rerank", body)
    assert answer.status_code == 400
    assert "leaves no room" in answer.json()["message"]


def test_the_side_that_is_cut(xlm_roberta_server: Server):
    """vLLM takes `right` for "without the last special token", which changes the score."""
    body = {"query": "rank", "documents": ["deep learning " * 100]}
    plain, right, left = (
        xlm_roberta_server.post("/rerank", {**body, **options})
        for options in ({}, {"truncation_side": "right"}, {"truncation_side": "left"})
    )
    assert plain.json()["results"] == right.json()["results"]
    assert left.status_code == 400
    assert "truncation_side" in left.json()["message"]


@pytest.mark.parametrize("priority", [5, -5])
def test_any_priority_is_taken(xlm_roberta_server: Server, priority: int):
    body = {"query": "rank", "documents": ["deep learning", "bread"]}
    plain = xlm_roberta_server.post("/v2/rerank", body).json()
    urgent = xlm_roberta_server.post("/v2/rerank", {**body, "priority": priority})
    assert urgent.ok
    assert_same(urgent.json()["results"], plain["results"])


def test_what_the_engine_refuses_is_a_clear_400(xlm_roberta_server: Server):
    body = {"query": "q", "documents": ["d"], "mm_processor_kwargs": {"size": 1}}
    answer = xlm_roberta_server.post("/rerank", body)
    assert answer.status_code == 400
    assert "mm_processor_kwargs" in answer.json()["message"]
    assert "Traceback" not in answer.text


# -- long documents ------------------------------------------------------------------------------

NEEDLE = "Deep learning is a subset of machine learning that uses neural networks."
LONG = "The weather is nice today, and bread is in the oven. " * 60 + NEEDLE


def raw_scores(server: Server, body: dict[str, object]) -> dict[int, float]:
    answer = server.post("/v2/rerank", body)
    assert answer.ok, answer.text
    return {item["index"]: item["raw_score"] for item in answer.json()["results"]}


def test_a_long_documents_best_part_gives_its_score(minilm_server: Server):
    body = {"query": QUERY, "documents": ["I like pizza", LONG]}
    cut = minilm_server.post("/v2/rerank", body)
    parts = minilm_server.post("/v2/rerank", {**body, "max_chunks_per_doc": 10})
    assert cut.headers["x-rerank-truncated"] == "1"
    assert "x-rerank-truncated" not in parts.headers
    low = {item["index"]: item for item in cut.json()["results"]}
    best, other = parts.json()["results"]
    assert (best["index"], other["index"]) == (1, 0)
    assert "chunk" not in other and other["raw_score"] == low[0]["raw_score"]
    chunk = best["chunk"]
    assert chunk["index"] == chunk["count"] - 1 and chunk["count"] > 2
    text = LONG[chunk["start"] : chunk["end"]]
    assert NEEDLE in text
    assert best["raw_score"] > low[1]["raw_score"] + 0.2
    assert best["raw_score"] == raw_scores(minilm_server, {**body, "documents": [text]})[0]
    assert best["document"]["text"] == LONG


def test_parts_that_do_not_suffice_are_told(minilm_server: Server):
    body = {"query": QUERY, "documents": ["I like pizza", LONG], "max_chunks_per_doc": 2}
    answer = minilm_server.post("/v2/rerank", body)
    assert answer.headers["x-rerank-truncated"] == "1"
    item = next(item for item in answer.json()["results"] if item["index"] == 1)
    assert item["chunk"]["count"] == 2
    whole = {"query": QUERY, "texts": ["a", LONG], "truncate": False}
    refused = minilm_server.post("/rerank", whole)
    assert refused.status_code == 400
    assert "texts[1] has" in refused.json()["error"]


@pytest.mark.parametrize(
    "options", [{}, {"max_tokens_per_doc": 30}, {"truncate_prompt_tokens": 64}], ids=str
)
def test_the_parts_of_pairs(
    xlm_roberta_server: Server, tiny_xlm_roberta: Path, options: dict[str, object]
):
    """Each with its own query, special tokens in the text, and by all that limits a passage: the
    value is the highest of what the parts get alone, to the last digit where the CPU can."""
    tokenizer = load(tiny_xlm_roberta / "tokenizer.json")
    lengths, specials = Lengths(tokenizer, is_pair=True), Specials.of(tokenizer)
    limits = TokenLimits.of({"truncate_prompt_tokens": -1, **options}, MAX_TOKENS)
    long = "deep </s> learning 東京 naïve " * 40
    queries = ["rank", "weather " * 5, "bread", "rank " * 300]
    documents = [long, long, "a short one </s>", "oven " * 100]
    body = {"queries": queries, "documents": documents, "max_chunks_per_doc": 50, **options}
    answer = xlm_roberta_server.post("/score", {**body, "use_activation": False})
    assert answer.ok, answer.text
    assert answer.headers["x-rerank-truncated"] == "3"  # whose query is cut
    for item, query, document in zip(answer.json()["data"], queries, documents, strict=True):
        room = int(lengths.room(lengths.count([query])[0], limits))
        spans = [(p.start, p.end) for p in parts(document, room, 50, lengths, specials.neutral)]
        texts = [document[start:end] for start, end in spans]
        alone = raw_scores(xlm_roberta_server, {"query": query, "documents": texts, **options})
        highest = same_logits(max(alone.values()))
        best = [index for index in sorted(alone) if alone[index] == highest]
        assert item["score"] == highest
        if len(spans) > 1:
            index = item["chunk"]["index"]
            assert index == best[0] if PROMISES_BITS else index in best
            start, end = spans[index]
            chunk = {"index": index, "count": len(spans), "start": start, "end": end}
            assert item["chunk"] == chunk


def test_parts_count_as_pairs(minilm_server: Server):
    body = {
        "query": "q",
        "documents": [f"{n} deep learning " * 20_000 for n in range(20)],
        "max_tokens_per_doc": 20,
    }
    answer = minilm_server.post("/v2/rerank", {**body, "max_chunks_per_doc": 100_000})
    assert answer.status_code == 413
    assert "lower max_chunks_per_doc" in answer.json()["message"]


@pytest.mark.parametrize("passages", [FOUR_PASSAGES, EIGHT_PASSAGES], ids=["four", "eight"])
def test_the_three_clients_agree_to_the_last_digit(minilm_server: Server, passages: Sequence[str]):
    answers = []
    for make in CLIENTS.values():
        with make(minilm_server.url) as client:
            answers.append(client.rerank(QUERY, passages))
    assert answers[0] == answers[1] == answers[2]
    assert [item.score for item in sorted(answers[0], key=lambda item: item.index)] == (
        minilm_server.rerank(QUERY, passages)
    )
    assert answers[0][0].index == 0  # the definition answers the question best


def test_the_default_model_scores_cosines_of_the_reference(minilm_server: Server):
    import torch
    from transformers import AutoModel, AutoTokenizer

    from serve import shelf, weights

    folder = weights.locate(shelf.find("minilm"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(text: str) -> torch.Tensor:
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)

    passages = [*EIGHT_PASSAGES, "", "naïve 東京 🙂", "deep learning " * 300]
    expected = [(1 + float(embed(QUERY) @ embed(passage))) / 2 for passage in passages]
    got = minilm_server.rerank(QUERY, passages)
    error = max(abs(a - b) for a, b in zip(expected, got, strict=True))
    print(f"\n{len(passages)} cosines: max |score difference| {error:.2e}")
    assert error <= TOLERANCE


def test_the_examples_run(minilm_server: Server):
    for name in ("four", "eight"):
        command = [sys.executable, "-m", f"clients.examples.{name}_passages"]
        done = subprocess.run(
            [*command, "--url", minilm_server.url], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "requests, openai, cohere agree to the last digit" in done.stdout


@pytest.mark.parametrize(("kind", "version"), [(cohere.Client, "1"), (cohere.ClientV2, "2")])
def test_coheres_own_clients(minilm_server: Server, kind: type, version: str):
    with httpx.Client() as http:
        client = kind("sk-fake-key", base_url=minilm_server.url, httpx_client=http)
        answer = client.rerank(model="minilm", query=QUERY, documents=list(FOUR_PASSAGES), top_n=2)
    assert [item.index for item in answer.results] == [0, 2]
    scores = minilm_server.rerank(QUERY, FOUR_PASSAGES)
    assert [item.relevance_score for item in answer.results] == [scores[0], scores[2]]
    assert answer.meta.api_version.version == version


def test_the_openai_sdk_lists_the_models(minilm_server: Server):
    with openai.OpenAI(base_url=f"{minilm_server.url}/v1", api_key="none") as sdk:
        assert next(iter(sdk.models.list())).id == "minilm"


def test_requests_post_to_score(minilm_server: Server):
    body = {"model": "minilm", "text_1": QUERY, "text_2": list(FOUR_PASSAGES)}
    answer = requests.post(f"{minilm_server.url}/score", json=body, timeout=60)
    assert answer.status_code == 200
    scores = [item["score"] for item in answer.json()["data"]]
    assert scores == minilm_server.rerank(QUERY, FOUR_PASSAGES)


def test_nothing_of_vllm_answers_http_on_a_tcp_port(minilm_server: Server):
    """torch's own rendezvous sockets exist; they are on loopback and speak no HTTP."""
    processes = minilm_server.descendants()
    listing = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout
    for line in listing.splitlines():
        address = line.split()[3]
        if processes & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}:
            assert address.startswith("127.0.0.1:"), line
            with pytest.raises(requests.RequestException):
                requests.get(f"http://{address}/health", timeout=2)


def test_the_engines_files_are_private(minilm_server: Server):
    for folder in (minilm_server.run_dir, *minilm_server.run_dir.iterdir()):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_model_that_is_no_cross_encoder_is_not_taken_for_one(tmp_path: Path):
    from serve import shelf, weights

    folder = weights.locate(shelf.find("minilm"))
    config = tmp_path / "wrong.yaml"
    config.write_text(
        f"model: {folder}\nnames: [wrong]\nscore: logit\n"
        "cpu: {vllm: {dtype: float32, enforce-eager: true}}\n"
    )
    with Server(config, tmp_path, vllm=None) as server:
        assert server.wait(240) == 1
    assert "write `score: cosine`" in server.text()


def test_a_model_that_vllm_cannot_load_is_one_clear_line(tmp_path: Path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "bert"}')
    config = tmp_path / "bad.yaml"
    config.write_text(f"model: {weights}\nnames: [bad]\n")
    with Server(config, tmp_path, vllm=None) as server:
        left = server.descendants()
        assert server.wait(120) == 1
    last = server.text().strip().splitlines()[-1]
    assert last.startswith("error: bad: vLLM did not start: "), server.text()
    assert "its log:" in last
    assert not alive(left)


def test_an_option_that_vllm_does_not_know_is_one_clear_line(
    tmp_path: Path, tiny_xlm_roberta: Path
):
    config = tmp_path / "bad.yaml"
    config.write_text(f"model: {tiny_xlm_roberta}\nnames: [bad]\nvllm: {{no-such-option: 3}}\n")
    with Server(config, tmp_path, vllm=None) as server:
        assert server.wait(120) == 1
    assert "unrecognized arguments: --no-such-option" in server.text().splitlines()[-1]
    assert "correct `vllm:`" in server.text().splitlines()[-1]

"""One question in every API: what its clients send, and how they read the answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Make = Callable[[str, Sequence[str]], dict[str, Any]]


@dataclass(frozen=True)
class Asking:
    """A way to ask: `make` gives the body for a query and passages, `read` the scores of an answer
    by the passages' index; `texts` is the field that holds the passages. NIM's are raw values."""

    dialect: str
    path: str
    texts: str
    make: Make
    read: Callable[[Any], Mapping[int, float]]
    headers: Mapping[str, str] = field(default_factory=dict)
    is_raw: bool = False

    def __str__(self) -> str:
        return f"{self.dialect}{self.path}"


def _by_index(items: Sequence[Mapping[str, Any]], score: str) -> Mapping[int, float]:
    assert len({item["index"] for item in items}) == len(items)
    return {item["index"]: item[score] for item in items}


def _documents(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": list(passages)}


def _objects(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "documents": [{"text": passage} for passage in passages]}


def _voyage(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {**_documents(query, passages), "top_k": None, "truncation": True}


def _simple(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "passages": list(passages), "use_llm": False}


def _nim(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": {"text": query}, "passages": [{"text": passage} for passage in passages]}


def _tei(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "texts": list(passages)}


def _input(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"query": query, "input": list(passages)}


def _pinecone(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {**_objects(query, passages), "parameters": {"truncate": "END"}}


def _sides(left: str, right: str) -> Make:
    return lambda query, passages: {left: query, right: list(passages)}


def _pairs(query: str, passages: Sequence[str]) -> dict[str, Any]:
    return {"queries": [query] * len(passages), "documents": list(passages)}


def _results(answer: Any) -> Mapping[int, float]:
    return _by_index(answer["results"], "relevance_score")


def _data(answer: Any) -> Mapping[int, float]:
    return _by_index(answer["data"], "score")


def _voyages(answer: Any) -> Mapping[int, float]:
    assert _by_index(answer["data"], "relevance_score") == _results(answer)
    return _results(answer)


def _plain(answer: Any) -> Mapping[int, float]:
    return dict(enumerate(answer))


def _items(answer: Any) -> Mapping[int, float]:
    return _by_index(answer, "score")


def _logits(answer: Any) -> Mapping[int, float]:
    return _by_index(answer["rankings"], "logit")


PINECONE = {"x-pinecone-api-version": "2025-01"}
RETRIEVAL = "/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking"

# One of each dialect.
ASKING = (
    Asking("simple", "/rerank", "passages", _simple, _plain),
    Asking("nim", "/v1/ranking", "passages", _nim, _logits, is_raw=True),
    Asking("tei", "/rerank", "texts", _tei, _items),
    Asking("voyage", "/v1/rerank", "documents", _voyage, _voyages),
    Asking("pinecone", "/rerank", "documents", _pinecone, _data),
    Asking("mixedbread", "/v1/reranking", "input", _input, _data),
    Asking("infinity", "/infinity/rerank", "documents", _documents, _results),
    Asking("cohere-v1", "/v1/rerank", "documents", _documents, _results),
    Asking("cohere-v2", "/v2/rerank", "documents", _documents, _results),
    Asking("vllm-rerank", "/rerank", "documents", _documents, _results),
    Asking("vllm-score", "/score", "text_2", _sides("text_1", "text_2"), _data),
)
# Other paths that clients produce, and other bodies.
MORE = (
    *(
        Asking(
            "cohere-v2" if "v2" in path else "cohere-v1", path, "documents", _documents, _results
        )
        for path in (
            "/v1/v1/rerank",
            "/v1/v2/rerank",
            "/v2/v1/rerank",
            "/v1/rerank/",
            "//v2/rerank",
        )
    ),
    *(
        Asking("vllm-rerank", path, "documents", _objects, _results)
        for path in ("//rerank", "/rerank/", "//rerank//")
    ),
    *(Asking("simple", path, "passages", _simple, _plain) for path in ("//rerank/", "/v1/rerank")),
    *(
        Asking("vllm-score", path, "data_2", _sides("data_1", "data_2"), _data)
        for path in ("/v1/score", "/v1/score/", "//score", "/v1/v1/score")
    ),
    Asking("vllm-score", "/v1/score", "documents", _pairs, _data),
    Asking("vllm-score", "/score", "items", _sides("queries", "items"), _data),
    *(
        Asking("nim", path, "passages", _nim, _logits, is_raw=True)
        for path in ("/ranking", "/v1/rerank", "/rerank", RETRIEVAL, "/v1/v1/ranking")
    ),
    Asking("mixedbread", "/reranking/", "input", _input, _data),
    Asking("pinecone", "/rerank", "documents", _objects, _data, PINECONE),
    Asking("voyage", "/rerank", "documents", _voyage, _voyages),
    Asking("tei", "/rerank/", "texts", _tei, _items),
)

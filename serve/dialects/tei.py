"""Hugging Face's Text Embeddings Inference: `texts`, and a bare list as the answer."""

from collections.abc import Mapping

from serve.dialects import schemas
from serve.dialects.base import Body, Dialect, Doc, render_error
from serve.dialects.fields import boolean, count, not_empty, string_or_document, text, texts
from serve.dialects.options import common, refuse_left
from serve.errors import RequestError
from serve.rerank import RerankRequest, RerankResult

INFO_PATH = "/info"
_ERROR_TYPES: Mapping[int, str] = {
    400: "Validation",
    413: "Validation",
    429: "Overloaded",
    502: "Backend",
    503: "Unhealthy",
    504: "Backend",
}


def parse(body: Body) -> RerankRequest:
    passages = texts(body, "texts", read=string_or_document)
    not_empty(passages, "texts")
    refuse_left(body, "truncation_direction")
    return RerankRequest(
        queries=[text(body, "query")],
        passages=passages,
        fields=("query", "texts"),
        top_n=count(body, "top_n", "top_k"),  # not TEI's own, but clients of many APIs send it
        is_ranked=True,
        echo=boolean(body, "return_text", default=False),
        **common(body),
    )


def render(request: RerankRequest, result: RerankResult) -> object:
    items: list[dict[str, object]] = [
        {"index": index, "score": result.scores[index]} for index in result.ranking
    ]
    if request.echo:
        for item, index in zip(items, result.ranking, strict=True):
            item["text"] = request.passages[index]
    return items


def render_tei_error(error: RequestError, id: str) -> dict[str, object]:
    """Its clients read `error` as a string."""
    kind = _ERROR_TYPES.get(error.status, error.code)
    return {**render_error(error, id), "error": error.message, "error_type": kind}


def info(
    name: str,
    *,
    revision: str | None,
    max_input_length: int | None,
    dtype: object,
    passages: int,
    pairs: int,
) -> dict[str, object]:
    """The body of `/info` for the model `name`: tokens of an input, passages of a request, and
    pairs in flight are what it may be asked for at most."""
    return {
        "model_id": name,
        "model_sha": revision,
        "model_dtype": dtype,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_concurrent_requests": pairs,
        **({"max_input_length": max_input_length} if max_input_length else {}),  # never null
        "max_client_batch_size": passages,
        "auto_truncate": True,
    }


DOC = Doc(
    title="Text Embeddings Inference",
    about="Texts in `texts`; a bare list comes back, best first. In its errors, `error`"
    " is a string.",
    fields={
        "query": schemas.QUERY,
        "texts": schemas.TEXTS,
        "return_text": schemas.echo(False, "the texts"),
        "truncation_direction": schemas.word(
            "Right", description="Which end of an over-long text is cut; `Left` is refused (400)."
        ),
        "top_n": schemas.TOP_N,
        "top_k": schemas.TOP_K,
        **schemas.COMMON,
    },
    required=[("query", "texts")],
    answer=schemas.listed(
        schemas.obj(
            {"index": schemas.INDEX, "score": schemas.SCORE, "text": schemas.typed("string")},
            optional="text",
        )
    ),
    example={"query": schemas.QUESTION, "texts": schemas.PASSAGES, "return_text": True},
    error=schemas.obj(
        {
            **schemas.ERROR_FIELDS,
            "error": schemas.typed("string", "What is wrong and what to do."),
            "error_type": schemas.typed("string", "The kind of error, in TEI's word for it."),
        }
    ),
)
DIALECT = Dialect("tei", ("/rerank",), "texts", parse, render, render_tei_error, doc=DOC)

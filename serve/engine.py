"""The only file that talks HTTP to vLLM: one engine on its Unix socket, its errors mapped once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httptools
import orjson

from serve.connection import Answer, Connections
from serve.errors import DeadlineExceeded, EngineFault, InvalidRequest, RequestError, Unavailable
from serve.lengths import PASSAGE_SHARE
from serve.rerank import RawScores, RerankRequest, check_raw
from serve.spec import LLM_LIMITS, Model
from serve.texts import TEXT_OPTIONS

if TYPE_CHECKING:
    from serve.traces import Tracing

HEALTH_TIMEOUT_S = 10.0
METRICS_TIMEOUT_S = 2.0
RETRY_AFTER_S = 5
SEE_LOG = "The engine's own log says more; the server's names it."

_CUTTING = ("truncate_prompt_tokens", *LLM_LIMITS)  # the fields that have vLLM cut a text
_SPECIALS = 8  # more special tokens than around any model's pair
_TOKENS_PER_BYTE = 6  # at most: three bytes (U+FDFA) may become eighteen tokens


def encode(request: RerankRequest) -> bytes:
    """The body that asks vLLM's `/score` for the raw values of `request`'s pairs.

    `request.options` are what `options` gives.
    """
    body = {
        **request.options,
        "queries": request.queries[0] if len(request.queries) == 1 else request.queries,
        "documents": request.passages,
        "use_activation": False,
    }
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"An option of the body is not usable: {error}.") from error


def options(
    request: RerankRequest, model: Model, max_model_len: int | None, *, may_cut: bool = True
) -> dict[str, object]:
    """vLLM's request fields: the model's own, over them what the client asked for and may have.

    A token limit beyond the model's length means "no limit" (vLLM refuses it). An LLM reranker's
    prompt ends with its instruction, so nothing may cut the prompt as a whole. If not `may_cut`,
    vLLM is told to refuse a text that is too long. Raises InvalidRequest.
    """
    if model.template is None:
        _refuse_instruction(request.options)
    fields = {**model.request, **request.options}
    whole = fields.get("truncate_prompt_tokens")
    if isinstance(whole, int) and max_model_len and whole > max_model_len:
        fields["truncate_prompt_tokens"] = -1
    _clamp_limits(fields, model, max_model_len)
    if model.llm and fields.pop("truncate_prompt_tokens", -1) != -1:
        raise InvalidRequest(
            "truncate_prompt_tokens would cut this model's instruction: use max_tokens_per_doc"
            " and max_tokens_per_query, or -1.",
            param="truncate_prompt_tokens",
        )
    if not may_cut:
        return {name: value for name, value in fields.items() if name not in _CUTTING}
    if model.score.of == "logit" and not model.llm:
        _leave_room(fields, request.queries, max_model_len)
    return fields


def _clamp_limits(fields: dict[str, object], model: Model, max_model_len: int | None) -> None:
    """Takes limits for one text that are beyond the model's own for those."""
    for name in LLM_LIMITS:
        most = model.request.get(name) if model.llm else (max_model_len or 0) - 1
        value = fields.get(name)
        if not isinstance(value, int) or not isinstance(most, int) or most <= 0:
            continue
        if value > most or (model.llm and value == 0):
            fields[name] = most if model.llm else 0


def _leave_room(
    fields: dict[str, object], queries: Sequence[str], max_model_len: int | None
) -> None:
    """With max_tokens_per_doc, vLLM cuts a pair's passage alone, and fails where its query leaves
    no room: so a long query gets a limit too, which leaves a passage its share of the pair."""
    whole = fields.get("truncate_prompt_tokens")
    whole = max_model_len if whole == -1 else whole
    if not fields.get("max_tokens_per_doc") or not isinstance(whole, int):
        return
    most = max(1, int(whole * (1 - PASSAGE_SHARE)) - _SPECIALS)
    if any(_TOKENS_PER_BYTE * len(query.encode("utf-8", "replace")) > most for query in queries):
        asked = fields.get("max_tokens_per_query")
        fields["max_tokens_per_query"] = (
            min(most, asked) if isinstance(asked, int) and asked else most
        )


def _refuse_instruction(asked: Mapping[str, object]) -> None:
    """Raises InvalidRequest for what only a prompt template would read."""
    for name in TEXT_OPTIONS:
        if asked.get(name):
            raise InvalidRequest(
                f"{name}: this model has no prompt that reads it: leave it out, or ask an LLM"
                " reranker.",
                param=name,
            )


def decode(body: bytes, pairs: int) -> RawScores:
    """The raw values in an answer of `/score`. Raises EngineFault for anything else."""
    try:
        answer = orjson.loads(body)
        values = [item["score"] for item in answer["data"]]
        tokens = int(answer["usage"]["prompt_tokens"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise EngineFault(f"The engine's answer is not a list of scores. {SEE_LOG}") from error
    return RawScores(check_raw(values, pairs), tokens)


def error_of(status: int, body: bytes) -> RequestError:
    """Our exception for vLLM's error answer: its 4xx concern the request, all else the engine."""
    message = _message_of(body)
    if "maximum context length" in message:
        message += (
            " Shorten `instruction` or the texts, let texts be cut, or lower max_tokens_per_query"
            " or max_tokens_per_doc."
        )
    if 400 <= status < 500:
        return InvalidRequest(f"The engine refused the request: {message}")
    if status == 503:
        return Unavailable(
            "The engine is too busy or stopping: try again.", retry_after=RETRY_AFTER_S
        )
    return Unavailable(
        f"The engine failed with status {status}: {message}. {SEE_LOG}", retry_after=RETRY_AFTER_S
    )


def _message_of(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
        error = answer.get("error") or answer.get("detail")
        return str(error.get("message") if isinstance(error, Mapping) else error)
    except (orjson.JSONDecodeError, AttributeError):
        return "(no message)"


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Maps what a connection raises to our exceptions. No other place knows of it."""
    try:
        yield
    except TimeoutError as error:  # an OSError too, so it comes first
        raise DeadlineExceeded("The engine did not answer in time.") from error
    except OSError as error:
        raise Unavailable(
            "The engine is not reachable: try again.", retry_after=RETRY_AFTER_S
        ) from error
    except httptools.HttpParserError as error:
        raise EngineFault(f"The engine's answer is not HTTP. {SEE_LOG}") from error


class Engine:
    """A vLLM server on a Unix socket."""

    def __init__(self, socket: str, tracing: "Tracing | None" = None) -> None:
        self._connections = Connections(socket)
        self._socket = socket
        self._tracing = tracing

    async def score(self, body: bytes, pairs: int) -> RawScores:
        """The raw values of an encoded request, however long it takes: whoever cancels this
        cancels the engine's work too. Raises RequestError."""
        if self._tracing is None:
            return await self._score(body, pairs)
        with self._tracing.turn(self._socket, pairs) as headers:
            return await self._score(body, pairs, headers)

    async def _score(self, body: bytes, pairs: int, headers: str = "") -> RawScores:
        status, answer = await self._send("POST", "/score", body, timeout_s=None, headers=headers)
        if status != 200:
            raise error_of(status, answer)
        return decode(answer, pairs)

    async def metrics(self) -> str:
        """What the engine tells Prometheus. Raises RequestError."""
        status, answer = await self._send("GET", "/metrics", timeout_s=METRICS_TIMEOUT_S)
        if status != 200:
            raise error_of(status, answer)
        return answer.decode(errors="replace")

    async def is_healthy(self) -> bool:
        """Whether the engine says that it is up (which does not prove a forward pass)."""
        try:
            status, _ = await self._send("GET", "/health", timeout_s=HEALTH_TIMEOUT_S)
        except RequestError:
            return False
        return status == 200

    async def has_route(self, path: str) -> bool:
        """Whether vLLM offers `path` for this model, which tells what kind of model it took."""
        status, _ = await self._send("POST", path, b"{}", timeout_s=HEALTH_TIMEOUT_S)
        return status != 404

    async def max_model_len(self) -> int | None:
        """The longest input in tokens, as vLLM took it from its flags and the model's files."""
        status, answer = await self._send("GET", "/v1/models", timeout_s=HEALTH_TIMEOUT_S)
        try:
            length = orjson.loads(answer)["data"][0]["max_model_len"] if status == 200 else None
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return None
        return length if isinstance(length, int) else None

    async def version(self) -> str:
        """What the engine says of its program; nothing, if it does not say."""
        status, answer = await self._send("GET", "/version", timeout_s=HEALTH_TIMEOUT_S)
        return answer.decode(errors="replace") if status == 200 else ""

    def close(self) -> None:
        self._connections.close()

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        timeout_s: float | None,
        headers: str = "",
    ) -> Answer:
        with mapped_errors():
            return await self._connections.send(
                method, path, body, timeout_s=timeout_s, headers=headers
            )

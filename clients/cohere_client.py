"""Cohere's SDK: `ClientV2` with this server as its base URL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Unpack

import cohere
import cohere.core
import httpx
import pydantic

from clients import pin
from clients.errors import BadAnswer, BadRequest, RerankError, Unreachable, refusal
from clients.httpx_errors import from_httpx
from clients.reranker import Reranker
from clients.retry import Clock
from clients.wire import CUT_HEADER, Answer, Options, in_order, score_body

NO_KEY = "none"  # the SDK wants one; a server without keys does not look
DEFAULT_MODEL = ""  # the SDK wants a name; an empty one asks for the server's default
SDK_FIELDS = ("model", "query", "documents", "top_n", "max_tokens_per_doc")
BELOW = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    httpx.CookieConflict,
    UnicodeError,
)


class CohereReranker(Reranker):
    """A connection through this SDK, as `Reranker` describes."""

    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        with mapped(base_url, self._clock):
            # Ours, since the SDK cannot close its own.
            self._http = httpx.Client(timeout=timeout_s, verify=pin.trust(fingerprint))
            self._client = cohere.ClientV2(
                api_key or NO_KEY, base_url=base_url, timeout=timeout_s, httpx_client=self._http
            )

    def send(self, path: str, body: dict[str, object]) -> Answer:
        """Posts to /v2/rerank, the only route that the SDK has."""
        known: dict[str, Any] = {name: body[name] for name in SDK_FIELDS if name in body}
        more = {name: value for name, value in body.items() if name not in SDK_FIELDS}
        with mapped(self.base_url, self._clock):
            answer = self._client.with_raw_response.rerank(
                **{"model": DEFAULT_MODEL, **known},
                request_options={"max_retries": 0, "additional_body_parameters": more},
            )
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(_content(answer), headers.get(CUT_HEADER, ""))

    def score(self, query: str, passages: Sequence[str], **options: Unpack[Options]) -> list[float]:
        """As of `Reranker`, from a whole ranking."""
        score_body(query, passages, options)  # takes the same arguments as of the others
        ranking = self.rerank(query, passages, **options)
        if any(item.stage for item in ranking):
            raise BadRequest(
                "a cascade gives a ranking and no plain scores: name one of its models",
                status=400,
                param="model",
            )
        return in_order(ranking)

    def close(self) -> None:
        self._http.close()


def _content(answer: Any) -> object:
    """The JSON itself: the SDK's own reading takes 1.5 and true for whole numbers."""
    response = getattr(answer, "response", None)  # since version 7
    if response is not None:
        return response.json()
    data = answer.data
    return data.model_dump() if isinstance(data, pydantic.BaseModel) else data


@contextmanager
def mapped(url: str, clock: Clock) -> Iterator[None]:
    """Maps what the SDK raises to our exceptions. No other place knows of it."""
    try:
        yield
    except cohere.core.ApiError as error:
        raise from_cohere(error, url, now=clock.now()) from error
    except BELOW as error:
        raise from_httpx(error, url) from error
    except Exception as error:  # its reading of an answer that it did not expect
        raise BadAnswer(f"{url} answers what Cohere's SDK cannot read: {error}") from error


def from_cohere(error: cohere.core.ApiError, url: str, *, now: float) -> RerankError:
    """Our exception for one of the SDK's."""
    if error.status_code is None:  # never sent
        return Unreachable(f"{url} cannot be reached: {error.body}", again=False)
    return refusal(error.status_code, error.body, error.headers or {}, now=now)

"""The OpenAI SDK, sync and async: its client posts to `/rerank` and `/score`."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai

from clients import pin
from clients.errors import BadAnswer, RerankError, TimedOut, refusal
from clients.httpx_errors import from_httpx
from clients.reranker import AsyncReranker, Reranker
from clients.retry import Clock
from clients.wire import CUT_HEADER, Answer

# The SDK went from httpx to httpx2; every version of it takes a client of httpx, and then answers
# and fails in its words. Ours also follows no redirects: a redirected POST would become a GET.
NO_KEY = "none"  # the SDK wants one; a server without keys does not look


class OpenAIReranker(Reranker):
    """A connection through this SDK, as `Reranker` describes."""

    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        with mapped(base_url, self._clock):
            http = httpx.Client(timeout=timeout_s, verify=pin.trust(fingerprint))
            self._client = openai.OpenAI(
                base_url=base_url + "/v1",
                api_key=api_key or NO_KEY,
                timeout=timeout_s,
                max_retries=0,  # ours: the SDK sends again what timed out
                http_client=http,  # type: ignore[arg-type,unused-ignore]
            )

    def send(self, path: str, body: dict[str, object]) -> Answer:
        with mapped(self.base_url, self._clock):
            return _read(self._client.post(path, body=body, cast_to=httpx.Response))

    def close(self) -> None:
        self._client.close()


class AsyncOpenAIReranker(AsyncReranker):
    """A connection through this SDK's async client, as `AsyncReranker` describes."""

    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        with mapped(base_url, self._clock):
            http = httpx.AsyncClient(timeout=timeout_s, verify=pin.trust(fingerprint))
            self._client = openai.AsyncOpenAI(
                base_url=base_url + "/v1",
                api_key=api_key or NO_KEY,
                timeout=timeout_s,
                max_retries=0,
                http_client=http,  # type: ignore[arg-type,unused-ignore]
            )

    async def send(self, path: str, body: dict[str, object]) -> Answer:
        with mapped(self.base_url, self._clock):
            return _read(await self._client.post(path, body=body, cast_to=httpx.Response))

    async def aclose(self) -> None:
        await self._client.close()


@contextmanager
def mapped(url: str, clock: Clock) -> Iterator[None]:
    """Maps what the SDK raises to our exceptions. No other place knows of it."""
    try:
        yield
    except RerankError:
        raise
    except Exception as error:  # of the SDK, of httpx, or of the httpx2 inside some of its versions
        raise from_openai(error, url, now=clock.now()) from error


def from_openai(error: Exception, url: str, *, now: float) -> RerankError:
    """Our exception for one of the SDK's, or of what is below it."""
    if isinstance(error, openai.APIStatusError):
        answer = error.response
        return refusal(error.status_code, answer.text, answer.headers, now=now)
    if isinstance(error, openai.APIResponseValidationError):
        return BadAnswer(f"the answer is not a ranking: {error}")
    if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        return from_httpx(error.__cause__, url)
    if isinstance(error, openai.APITimeoutError):
        return TimedOut(f"{url} gave no answer in time")
    return from_httpx(error, url)


def _read(response: httpx.Response) -> Answer:
    try:
        return Answer(response.json(), response.headers.get(CUT_HEADER, ""))
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is no JSON: is it a rerank server? ({error})") from error

"""Maps httpx's exceptions, which come through Cohere's and OpenAI's SDK alike, to ours."""

import httpx

from clients.errors import BadAnswer, RerankError, TimedOut, Unreachable, is_tls_refusal, why

LOST = (  # nothing was sent, or the answer broke off: the server is not at work on it any more
    httpx.ConnectTimeout,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


def from_httpx(error: BaseException, url: str) -> RerankError:
    """Our exception for one of httpx', or of what is below it."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"{url} gave no answer in time")
    if isinstance(error, httpx.DecodingError):
        return BadAnswer(f"{url} answers what cannot be decoded: {error}")
    again = isinstance(error, LOST) and not is_tls_refusal(error)
    return Unreachable(f"{url} cannot be reached: {why(error)}", again=again)

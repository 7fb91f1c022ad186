"""The client that needs `requests` alone."""

import ssl
from typing import Any

import requests
import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from clients import pin
from clients.errors import (
    BadAnswer,
    RerankError,
    TimedOut,
    Unreachable,
    is_tls_refusal,
    refusal,
    why,
)
from clients.reranker import Reranker
from clients.retry import with_retries
from clients.wire import CUT_HEADER, Answer

# requests' own are OSErrors, but not all from below it are wrapped; odd hosts are ValueErrors.
FOREIGN = (OSError, ValueError, urllib3.exceptions.HTTPError)
_HOPELESS = (  # the address, a header or a certificate is at fault, and stays so
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidHeader,
    requests.exceptions.URLRequired,
)


def session(fingerprint: str | None) -> requests.Session:
    """One that speaks with the server of this certificate alone; without it, with any as usual."""
    http = requests.Session()
    if fingerprint is not None:
        http.adapters.clear()  # nothing is sent in the clear, whatever asks for it
        http.mount("https://", _Pinned(fingerprint))
    return http


class RerankClient(Reranker):
    """A connection through `requests`, as `Reranker` describes."""

    def connect(
        self, base_url: str, api_key: str | None, timeout_s: float, fingerprint: str | None
    ) -> None:
        self._url, self._timeout_s = base_url, timeout_s
        self._http = session(fingerprint)
        if api_key:
            self._http.auth = _Bearer(api_key)

    def send(self, path: str, body: dict[str, object]) -> Answer:
        return self._request("POST", "/v1" + path, body)

    def models(self) -> list[dict[str, object]]:
        """The entries of GET /v1/models: one for each name that `model` may hold.

        Each has its `id` and what the model is; one with `cascade` gives no plain scores. Raises
        RerankError.
        """
        answer = with_retries(
            lambda: self._request("GET", "/v1/models", None), self._retry, self._clock, self._sleep
        )
        entries = answer.body.get("data") if isinstance(answer.body, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise BadAnswer("/v1/models answers no list of models: is it a rerank server?")
        return entries

    def close(self) -> None:
        self._http.close()

    def _request(self, method: str, path: str, body: object) -> Answer:
        try:
            answer = self._http.request(
                method,
                self._url + path,
                json=body,
                timeout=self._timeout_s,
                allow_redirects=False,  # a redirected POST would become a GET
            )
        except FOREIGN as error:
            raise from_requests(error, self._url) from error
        if answer.status_code == 200:
            return Answer(_json(answer, self._url), answer.headers.get(CUT_HEADER, ""))
        # The bytes, since `text` guesses at their encoding, and takes long over many.
        now = self._clock.now()
        raise refusal(answer.status_code, answer.content, answer.headers, now=now)


class _Bearer(requests.auth.AuthBase):
    """Sends the key. A header alone would yield to a ~/.netrc that names the host."""

    def __init__(self, key: str) -> None:
        self._token = b"Bearer " + key.encode(errors="surrogateescape")  # as the system gave it

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if set(self._token) & set(b"\r\n"):  # http.client's own words would show the key
            raise requests.exceptions.InvalidHeader("the API key has a line break in it")
        request.headers["authorization"] = self._token  # type: ignore[assignment]  # as is
        return request


class _Pinned(requests.adapters.HTTPAdapter):
    """Connections by `pin.context`, directly and through proxies' tunnels."""

    def __init__(self, fingerprint: str) -> None:
        # The second one checks the same again; without it urllib3 warns of a check that it misses.
        self._pool: dict[str, Any] = {
            "ssl_context": pin.context(fingerprint),
            "assert_fingerprint": fingerprint.removeprefix("sha256:"),
        }
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **named: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **named, **self._pool)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        if proxy.lower().startswith("https:"):  # it has a certificate of its own, signed as usual
            named["proxy_ssl_context"] = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
        return super().proxy_manager_for(proxy, **named, **self._pool)

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        # No authority counts, those of REQUESTS_CA_BUNDLE neither, which Session makes of False.
        return super().send(*arguments, **{**named, "verify": False})


def _json(answer: requests.Response, url: str) -> object:
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"{url} answers no JSON: is it a rerank server? ({error})") from error


def from_requests(error: Exception, url: str) -> RerankError:
    """Our exception for one of requests', or of what is below it."""
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return BadAnswer(f"{url} answers what cannot be decoded: {error}")
    # A body that stalls is a ConnectionError around urllib3's time-out.
    stalled = any(isinstance(part, urllib3.exceptions.ReadTimeoutError) for part in error.args)
    is_connect = isinstance(error, requests.ConnectTimeout)
    if (isinstance(error, requests.Timeout) or stalled) and not is_connect:
        return TimedOut(f"{url} gave no answer in time")
    lost = isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError)
    hopeless = isinstance(error, _HOPELESS) or is_tls_refusal(error)
    again = (lost or is_connect) and not hopeless
    return Unreachable(f"{url} cannot be reached: {why(error)}", again=again)

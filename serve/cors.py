"""Web pages of other origins: which of them may use this server, as browsers ask (CORS)."""

import re
from collections.abc import Collection, Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from serve.dialects.base import render_error
from serve.errors import ConfigError, Forbidden
from serve.headers import CACHED, REQUEST_ID, TRUNCATED
from serve.messages import json_response

OPTION, ANY = "--cors-origin", "*"
METHODS = ("GET", "HEAD", "POST")
EXPOSED = (REQUEST_ID, TRUNCATED, CACHED, "retry-after")  # which a page could not read else

_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?")
_IMPLIED = {"http": ":80", "https": ":443"}  # ports that no browser writes


def origins(given: Iterable[str], *, has_keys: bool) -> frozenset[str]:
    """The origins, as browsers write them. Raises ConfigError for what could be none."""
    return frozenset(_origin(one.lower(), has_keys=has_keys) for one in given)


def _origin(given: str, *, has_keys: bool) -> str:
    if given == ANY:
        if has_keys:
            return ANY  # a page must know a key
        raise ConfigError(
            f"{OPTION} {ANY}: any web page that anyone of your network opens could use this server,"
            " which needs no key: name the pages' origins, or give it keys (--api-key-file)"
        )
    found = _ORIGIN.fullmatch(given)
    if not found:
        raise ConfigError(
            f"{OPTION} {given}: an origin is a scheme, a host (in ASCII) and a port if it has one,"
            " with no path and no slash behind: https://app.example.com, http://localhost:3000"
        )
    if found[2] and found[2] == _IMPLIED.get(found["scheme"]):
        raise ConfigError(f"{OPTION} {given}: browsers leave out {found[2]}: leave it out here too")
    return given


class Cors(CORSMiddleware):
    """Starlette's, but that a page of an origin that is not allowed is told so in our own form.

    A page may send any header, as the SDKs that run in one do; no cookie is of any use here.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed,
            allow_methods=METHODS,
            allow_headers=["*"],
            allow_private_network=True,  # where browsers ask before a page reaches a local address
            expose_headers=EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to what a browser asks ahead of a request; it sends no key with that."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        error = Forbidden(
            f"No page of {request_headers['origin']} may send this: `serve up {OPTION} ORIGIN`"
            f" allows an origin, and {', '.join(METHODS)}."
        )
        return json_response(render_error(error, ""), error.status, {"vary": "Origin"})

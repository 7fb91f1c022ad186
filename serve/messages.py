"""HTTP in and out: a request's body and id, a response of JSON."""

import random
import re
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve.dialects.base import Body
from serve.errors import InvalidRequest, TooLarge
from serve.exchange import Exchange
from serve.headers import REQUEST_ID

Handler = Callable[[Exchange], Awaitable[Response]]
_FIT_FOR_A_LOG = re.compile(r"[\x21-\x7e]{1,128}")


async def read_body(request: Request, most: int) -> Body:
    """The JSON object of a request's body, refused before it is read whole when it has more than
    `most` bytes. Raises TooLarge and InvalidRequest."""
    too_large = (
        f"The body is longer than {most} bytes: send fewer passages, or raise"
        " `limits: {body_bytes: …}`."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise TooLarge(too_large, param="body")
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > most:
            raise TooLarge(too_large, param="body")
    try:
        body = orjson.loads(received)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", param="body") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", param="body")
    return body


def request_id(request: Request) -> str:
    """The client's own id, if it is fit to be written into a log, else a new one."""
    given = request.headers.get(REQUEST_ID, "")
    return given if _FIT_FOR_A_LOG.fullmatch(given) else f"{random.getrandbits(128):032x}"


def json_response(
    body: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    content = orjson.dumps(body)
    return Response(content, status_code, {"content-type": "application/json", **(headers or {})})

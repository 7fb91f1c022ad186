"""What is known of a pair that was scored, and how that is written down for other servers."""

import math

import orjson

from serve.rerank import Chunk

# Its raw value; and, of one that was not read whole, whether it was cut and the part of it that
# won.
Known = float | tuple[float, bool, Chunk | None]

MOST_BYTES = 256  # of what `encode` gives


def encode(known: Known) -> bytes:
    """As JSON, whose numbers are exact: read again, a float is the same to the last bit."""
    return orjson.dumps(known)


def decode(text: bytes | None) -> Known | None:
    """What a text says; nothing, if it is not of `encode`, whoever has written it."""
    if text is None or len(text) > MOST_BYTES:
        return None
    try:
        match orjson.loads(text):
            case float(value) if math.isfinite(value):
                return value
            case [float(value), bool(is_cut), part] if math.isfinite(value):
                return value, is_cut, None if part is None else _chunk(**part)
    except (TypeError, ValueError):
        pass
    return None


def _chunk(*, index: object, count: object, start: object, end: object) -> Chunk:
    """The part of a passage that these tell of. Raises ValueError if there is none like it."""
    numbers = [number for number in (index, count, start, end) if type(number) is int]
    if len(numbers) < 4 or not (0 <= numbers[0] < numbers[1] and 0 <= numbers[2] <= numbers[3]):
        raise ValueError("no part of a passage")
    return Chunk(*numbers)

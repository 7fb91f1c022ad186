"""Pure: the one form of a path, from all that clients make of it."""

import re

_SLASHES = re.compile("/{2,}")
_VERSIONS = re.compile("^(?:/v[12])+(?=/v[12](/|$))")
_RETRIEVAL = re.compile("^/v1/retrieval/.+/reranking$")  # NVIDIA's, with the model's name in it


def normal(path: str) -> str:
    """`path` as routes have it: one slash at a time, none at its end, one version before the rest.

    Clients add a path of their own to a base URL that has its end already: `/v1/v1/rerank`,
    `/v1/v2/rerank`, `//rerank`, `/rerank/`. The last version counts.
    """
    path = _SLASHES.sub("/", path).rstrip("/") or "/"
    return _RETRIEVAL.sub("/v1/ranking", _VERSIONS.sub("", path))

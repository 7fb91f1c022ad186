"""Paths as clients make them, and the one form that routes have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import dialects
from serve.paths import normal
from serve.telling import CLUSTER_PATH, MODELS_PATH, OPEN_PATHS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/rerank", "/rerank"),
        ("//rerank", "/rerank"),
        ("/rerank/", "/rerank"),
        ("///rerank//", "/rerank"),
        ("/v1/rerank/", "/v1/rerank"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v1/rerank", "/v1/rerank"),
        ("/v1//v1/v1/rerank", "/v1/rerank"),
        ("/v1/v1/score/", "/v1/score"),
        ("/v1/v1", "/v1"),
        ("/v1/v1/", "/v1"),
        ("/v1/v1/models/org/name", "/v1/models/org/name"),
        ("/v1/models/v1/v2/x", "/v1/models/v1/v2/x"),
        ("/v3/v1/rerank", "/v3/v1/rerank"),
        ("/v1/v1rerank", "/v1/v1rerank"),
        ("/v11/v1/rerank", "/v11/v1/rerank"),
        ("/V1/v1/rerank", "/V1/v1/rerank"),
        ("/v1/retrieval/nvidia/reranking", "/v1/ranking"),
        ("/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking/", "/v1/ranking"),
        ("/v1/v1/retrieval/nvidia/reranking", "/v1/ranking"),
        ("/v1/retrieval/reranking", "/v1/retrieval/reranking"),
        ("/v1/retrieval/nvidia/reranking/x", "/v1/retrieval/nvidia/reranking/x"),
        # Nothing is resolved: such a path has no route, and is open to nobody.
        ("/health/../rerank", "/health/../rerank"),
        ("/./rerank", "/./rerank"),
        ("/health;/metrics", "/health;/metrics"),
        ("/RERANK", "/RERANK"),
        ("/ rerank", "/ rerank"),
        ("/\\rerank", "/\\rerank"),
    ],
)
def test_normal(path: str, expected: str):
    assert normal(path) == expected


def test_routes_are_in_their_normal_form():
    for path in {*dialects.by_path(), *OPEN_PATHS, CLUSTER_PATH, MODELS_PATH}:
        assert normal(path) == path


pieces = st.sampled_from(
    ["", "v1", "v2", "rerank", "score", "..", ".", "models", "retrieval", "reranking", "a", "\n"]
)
paths = st.lists(pieces, max_size=7).map(lambda found: "/" + "/".join(found)) | st.text(max_size=9)


@given(paths)
def test_the_normal_form_is_one(path: str):
    found = normal(path)
    assert normal(found) == found
    assert "//" not in found
    assert found == "/" or not found.endswith("/")


@given(paths, st.integers(1, 3), st.integers(0, 3))
def test_slashes_do_not_count(path: str, within: int, after: int):
    path = "/" + path
    assert normal(path.replace("/", "/" * within) + "/" * after) == normal(path)


@given(paths, st.sampled_from(["/v1/", "/v2/"]))
def test_a_version_before_a_version_does_not_count(path: str, version: str):
    path = version + path
    assert normal("/v1" + path) == normal("/v2" + path) == normal(path)

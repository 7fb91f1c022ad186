"""Routes over HTTP: the paths of real clients, keys on each of them, and what tells of models."""

import http.client

import pytest

from serve import page
from serve.telling import OPEN_PATHS
from tests.bodies import ASKING, MORE, Asking
from tests.fake_vllm import logit
from tests.harness import KEY, Server
from tests.readers import sigmoid

PASSAGES = ["one", "two", "three", "two"]


def send(server: Server, method: str, path: str, key: str = "") -> tuple[int, bytes]:
    """Asks for a path as it is: an HTTP client that knows better would mend it."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connection.request(method, path, body=b"{}" if method == "POST" else None, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize("asking", [*ASKING, *MORE], ids=str)
def test_every_path_of_every_client(fake_server: Server, asking: Asking):
    answer = fake_server.post(asking.path, asking.make("q", PASSAGES), asking.headers)
    raw = [logit("q", passage) for passage in PASSAGES]
    expected = raw if asking.is_raw else [sigmoid(value) for value in raw]
    assert asking.read(answer.json()) == dict(enumerate(expected))


CLOSED = [
    *(
        "/metrics",
        "//metrics",
        "/metrics/",
        "///metrics//",
        "/%2Fmetrics",
        "/%6Detrics",
        "/metrics?",
    ),
    *(
        "/v1/models",
        "/v1/v1/models",
        "//v1/models",
        "/v1/models/",
        "/v1/models/fake",
        "/v2/v1/models",
    ),
    *(
        "/v1/models/org/fake",
        "/v1/models/org%2Ffake",
        "/info",
        "//info",
        "/info/",
        "/v1/models?health",
    ),
]
TRICKS = [
    *("/health/../metrics", "/health/..%2Fmetrics", "/health/%2e%2e/metrics", "/health;/metrics"),
    *("/health/..//rerank", "/./metrics", "/health%00/metrics", "/health%3F/metrics", "/v1/health"),
    *("/HEALTH", "/health/live/x", "/page/../metrics", "/metrics%20", "/health\\..\\metrics", "/x"),
    *("/v1/cluster/auth/../../models", "/v1/v1/cluster/authx", "/openapi.json/../metrics"),
]


@pytest.mark.parametrize("path", CLOSED)
def test_no_spelling_of_a_path_goes_without_a_key(keyed_server: Server, path: str):
    assert send(keyed_server, "GET", path)[0] == 401
    assert send(keyed_server, "HEAD", path)[0] == 401
    assert send(keyed_server, "POST", path)[0] == 401
    assert send(keyed_server, "GET", path, KEY)[0] == 200


@pytest.mark.parametrize("path", TRICKS)
def test_nothing_is_behind_a_trick(keyed_server: Server, path: str):
    for method in ("GET", "POST", "HEAD"):
        assert send(keyed_server, method, path)[0] == 401
        assert send(keyed_server, method, path, KEY)[0] == 404


@pytest.mark.parametrize("asking", [*ASKING, *MORE], ids=str)
def test_every_scoring_path_needs_its_key(keyed_server: Server, asking: Asking):
    assert send(keyed_server, "POST", asking.path)[0] == 401
    assert send(keyed_server, "GET", asking.path)[0] == 401
    assert send(keyed_server, "POST", asking.path, KEY)[0] == 400


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_open_paths_tell_nothing_and_need_no_key(keyed_server: Server, path: str):
    for spelling in (path, path + "/", "/" + path):
        status, body = send(keyed_server, "GET", spelling)
        assert status == 200
        assert KEY.encode() not in body


def test_what_is_open_is_listed_here():
    others = {"/health", "/health/live", "/health/ready", "/v1/cluster/auth"}
    described = {"/docs", "/openapi.json"}
    assert others | page.PATHS <= OPEN_PATHS <= others | page.PATHS | described


def test_xinferences_client_learns_whether_to_send_its_key(
    keyed_server: Server, fake_server: Server
):
    for server, needed in ((keyed_server, True), (fake_server, False)):
        for path in ("/v1/cluster/auth", "/v1/cluster/auth/", "/v1/v1/cluster/auth"):
            answer = server.get(path)
            assert (answer.status_code, answer.json()) == (200, {"auth": needed})


def test_info_is_teis(fake_server: Server):
    for path in ("/info", "/info/", "//info"):
        told = fake_server.get(path).json()
        assert set(told) >= {"model_id", "model_sha", "model_dtype"}
        assert told.get("max_input_length", 1) > 0  # Dify reads it as a number, if it is there
        assert told["model_id"] == "fake"
        assert list(told["model_type"]) == ["reranker"]
        assert told["model_type"]["reranker"]["id2label"] == {"0": "LABEL_0"}
        assert told["max_client_batch_size"] == 100
        assert told["max_concurrent_requests"] == 20_000
        assert told["auto_truncate"] is True


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/fake", "fake"),
        ("/v1/models/FAKE", "FAKE"),
        ("/v1/models/org/fake", "org/fake"),
        ("/v1/models/org%2Ffake", "org/fake"),
        ("/v1/models/org//fake/", "org/fake"),
        ("/v1/v1/models/org/fake", "org/fake"),
        ("/v1/models/default", "fake"),
        ("/v1/models/default/not-specified", "fake"),
    ],
)
def test_one_model(fake_server: Server, path: str, name: str):
    answer = fake_server.get(path)
    told = answer.json()
    assert answer.status_code == 200
    assert (told["id"], told["model_name"], told["root"]) == (name, name, "fake")
    assert (told["object"], told["model_type"]) == ("model", "rerank")
    assert told["default"] and told["ready"] and not told["llm"]


def test_one_model_is_as_in_the_list(fake_server: Server):
    listed = fake_server.get("/v1/models").json()
    assert listed["object"] == "list"
    for model in listed["data"]:
        assert fake_server.get(f"/v1/models/{model['id']}").json() == model


@pytest.mark.parametrize(
    "name", ["gpt", "org", "fake/x", "org/fake/x", "%20", "%ff", "..", "fake%00"]
)
def test_no_such_model(fake_server: Server, name: str):
    status, body = send(fake_server, "GET", f"/v1/models/{name}")
    assert status == 404
    assert b"served: fake, org/fake" in body


@pytest.mark.parametrize(
    "model", ["default", "default/not-specified", "", None, "fake", "ORG/FAKE"]
)
def test_names_that_mean_the_default(fake_server: Server, model: str | None):
    body = {"query": "q", "documents": PASSAGES, "model": model}
    answer = fake_server.post("/rerank", body).json()
    assert answer["model"] == ("ORG/FAKE" if model == "ORG/FAKE" else "fake")


def test_absolute_targets_and_queries_do_not_matter(fake_server: Server):
    for target in ("/health?x=/metrics", f"{fake_server.url}/health", "/health#x"):
        assert send(fake_server, "GET", target)[0] == 200

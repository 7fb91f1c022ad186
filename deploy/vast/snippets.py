"""Pure: what to paste once an instance runs."""

import json
import shlex
from dataclasses import dataclass

from clients.examples import FOUR_PASSAGES, QUERY

BODY = {"query": QUERY, "passages": FOUR_PASSAGES[:2]}


@dataclass(frozen=True)
class Access:
    """Where an endpoint is and what opens it. Paths are of this machine."""

    url: str
    model: str
    fingerprint: str
    certificate: str
    key_file: str
    header_file: str


def curl(access: Access) -> str:
    """The simple route; the key stays in its file, since arguments are for all to see."""
    trust = shlex.join(["--cacert", access.certificate, "-H", f"@{access.header_file}"])
    rest = shlex.join([f"{access.url}/rerank", "-d", json.dumps(BODY)])
    return f"curl -s {trust} -H 'content-type: application/json' {rest}"


def requests(access: Access) -> str:
    return f"""\
import pathlib, requests

key = pathlib.Path({access.key_file!r}).read_text()
answer = requests.post(
    {f"{access.url}/rerank"!r},
    json={BODY!r},
    headers={{"authorization": f"Bearer {{key}}"}},
    verify={access.certificate!r},
    timeout=60,
)
print(answer.json())"""


def cohere(access: Access) -> str:
    return f"""\
import pathlib, ssl, cohere, httpx

key = pathlib.Path({access.key_file!r}).read_text()
trust = ssl.create_default_context(cafile={access.certificate!r})
client = cohere.ClientV2(
    key, base_url={access.url!r}, httpx_client=httpx.Client(verify=trust, timeout=60)
)
answer = client.rerank(
    model={access.model!r}, query={QUERY!r}, documents={list(FOUR_PASSAGES[:2])!r}
)
for result in answer.results:
    print(result.relevance_score, result.index)"""


def ours(access: Access) -> str:
    return f"""\
import pathlib
from clients import RerankClient

key = pathlib.Path({access.key_file!r}).read_text()
with RerankClient(
    {access.url!r},
    api_key=key,
    fingerprint={access.fingerprint!r},
) as client:
    print(client.score({QUERY!r}, {list(FOUR_PASSAGES[:2])!r}))"""


ALL = {
    "curl": curl,
    "requests": requests,
    "Cohere (pip install cohere)": cohere,
    "our own client, from this folder": ours,
}


def text(access: Access) -> str:
    """All of them, each under its name."""
    return "\n\n".join(f"# {name}\n{snippet(access)}" for name, snippet in ALL.items())

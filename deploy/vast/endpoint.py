"""The only file that talks to an instance: over TLS, and to the pinned certificate alone."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from clients import Ranked, RerankClient, RerankError, Retry, Unavailable, Unreachable, pin
from clients.errors import TimedOut
from clients.examples import FOUR_PASSAGES, QUERY
from deploy.vast.errors import HostFailed, NotYet
from deploy.vast.instance import Address

TIMEOUT_S = 20.0
SCORE_TIMEOUT_S = 120.0  # the first score of a model may be slow
ANOTHER = "it shows another certificate than its log tells of"
APART = ({0, 2}, {1, 3})  # of the four passages: what answers the query, and what does not


@dataclass(frozen=True)
class Proof:
    """An endpoint that has ranked rightly. `certificate` is PEM; `is_named` tells whether the
    address is in it, without which the clients of others do not trust it."""

    url: str
    fingerprint: str
    certificate: str
    is_named: bool


class Endpoint:
    """An instance at `address` whose certificate has `fingerprint`, asked with an API key.

    `timeout_s` bounds each wait.
    """

    def __init__(
        self, address: Address, fingerprint: str, key: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.address, self.fingerprint, self._key = address, fingerprint, key
        self._timeout_s = timeout_s
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"https://{host}:{address[1]}"

    def send_program(self, content: bytes) -> None:
        """Gives the instance our program, which it waits for. Raises NotYet and HostFailed."""
        status, _ = self._ask("PUT", "/program", content, {"x-api-key": self._key})
        if status == 404:  # of the gateway: its log lags behind, and the program is there
            raise NotYet("it has our program")
        if status != 204:
            raise HostFailed(f"it does not take the program: {self.url} answers {status}")

    def phase(self) -> str:
        """What the gateway is doing; empty when it is ready. Raises NotYet and HostFailed."""
        status, body = self._ask("GET", "/health/ready")
        if status == 200:
            return ""
        try:
            models = json.loads(body)["models"]
            return ", ".join(f"{m['name']}: {_progress(m['replicas'][0])}" for m in models)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise NotYet(f"{self.url} answers {status}") from error

    def verify(self) -> "Proof":
        """Ranks four passages, with the key and without. Raises NotYet and HostFailed.

        What does not answer the query must come behind what does, and who has no key must get
        nothing.
        """
        body = json.dumps({"query": QUERY, "passages": FOUR_PASSAGES}).encode()
        status, _ = self._ask("POST", "/rerank", body, {"content-type": "application/json"})
        if status != 401:
            raise HostFailed(f"who has no key is answered {status} and not 401")
        order = [item.index for item in self._rank()]
        if (set(order[:2]), set(order[2:])) != APART or order[0] != 0:
            raise HostFailed(f"it ranks wrongly: four passages came in the order {order}")
        pem = self._certificate()
        return Proof(self.url, self.fingerprint, pem, self._is_named(pem))

    def _certificate(self) -> str:
        """The instance's certificate as PEM. Raises NotYet; HostFailed when it is another one."""
        try:
            der = pin.certificate_of(*self.address, timeout_s=self._timeout_s)
        except RerankError as error:
            raise NotYet(str(error)) from error
        if pin.fingerprint_of(der) != self.fingerprint:
            raise HostFailed(ANOTHER)
        return ssl.DER_cert_to_PEM_cert(der)

    def _is_named(self, pem: str) -> bool:
        try:
            self._ask("GET", "/health/live", context=ssl.create_default_context(cadata=pem))
        except (NotYet, HostFailed):
            return False
        return True

    def _rank(self) -> list[Ranked]:
        client = RerankClient(
            self.url,
            api_key=self._key,
            fingerprint=self.fingerprint,
            timeout_s=SCORE_TIMEOUT_S,
            retry=Retry(tries=1),
        )
        try:
            with client:
                return client.rerank(QUERY, FOUR_PASSAGES)
        except (Unavailable, Unreachable, TimedOut) as error:
            raise NotYet(str(error)) from error
        except RerankError as error:
            raise HostFailed(f"a first ranking fails: {error}") from error

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        connection = http.client.HTTPSConnection(
            *self.address, timeout=self._timeout_s, context=context or pin.context(self.fingerprint)
        )
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            with connection.getresponse() as answer:
                return answer.status, answer.read(1 << 20)
        except ssl.SSLCertVerificationError as error:
            raise HostFailed(ANOTHER) from error
        except (OSError, http.client.HTTPException) as error:
            words = str(error) or type(error).__name__
            raise NotYet(f"{self.url} does not answer yet ({words})") from error
        finally:
            connection.close()


def _progress(replica: Mapping[str, object]) -> str:
    """`downloading 1.2 GB`, `loading 40 %`, of one engine."""
    words = str(replica.get("phase"))
    if isinstance(size := replica.get("bytes"), int) and size:
        words += f" {size / 1e9:.1f} GB"
    elif isinstance(percent := replica.get("percent"), int):
        words += f" {percent} %"
    return words

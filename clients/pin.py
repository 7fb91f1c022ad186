"""Trust in one very certificate, by its fingerprint: its SHA-256, as the server's keeper tells it.

No authority, host name or date counts then, so that a certificate that a server made for itself is
good enough, and nobody else's is, whoever signed it.
"""

import hashlib
import re
import socket
import ssl
import time

from clients.errors import RerankError, TimedOut, Unreachable, is_tls_refusal, why

_WRITTEN = re.compile(  # ours, bare, or as `openssl x509 -fingerprint -sha256` prints it
    "(?:sha256(?::| fingerprint=))?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.ASCII | re.IGNORECASE
)


def parse(fingerprint: str) -> str:
    """The normal form, `sha256:` and 64 hex digits. Raises ValueError."""
    found = _WRITTEN.fullmatch(fingerprint.strip())
    if not found:
        raise ValueError(
            f"a fingerprint is sha256: and 64 hex digits, not {fingerprint!r}: take what `openssl"
            " x509 -noout -fingerprint -sha256 -in CERTIFICATE` prints on the server"
        )
    return "sha256:" + found[1].replace(":", "").lower()


def check(base_url: str, fingerprint: str | None) -> str | None:
    """The normal form of a fingerprint for `base_url`. Raises ValueError."""
    if fingerprint is not None and not base_url.lower().startswith("https://"):
        raise ValueError(f"a fingerprint goes with an https:// address alone, not {base_url!r}")
    return None if fingerprint is None else parse(fingerprint)


def fingerprint_of(der: bytes) -> str:
    """The normal form of a certificate's fingerprint."""
    return "sha256:" + hashlib.sha256(der).hexdigest()


def trust(fingerprint: str | None) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`: this certificate alone; without one, what it trusts anyway."""
    return True if fingerprint is None else context(fingerprint)


def context(fingerprint: str) -> ssl.SSLContext:
    """TLS to the server with this certificate: a handshake with any other fails, as with one that
    no authority signed, and nothing is sent. Raises ValueError.

    The check is a part of the handshake itself, so that whoever wraps a socket by this context (a
    pool, a proxy's tunnel, asyncio) cannot pass it by.
    """
    expected = parse(fingerprint)

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _compare(expected, self.getpeercert(binary_form=True))

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _compare(expected, self.getpeercert(binary_form=True))

    made = _without_trust()
    made.sslsocket_class, made.sslobject_class = Socket, Object
    return made


def _compare(expected: str, der: bytes | None) -> None:
    came = fingerprint_of(der) if der else "none at all"
    if came != expected:
        raise ssl.SSLCertVerificationError(
            1,
            f"its certificate is not the expected one, so nothing was sent (fingerprint expected:"
            f" {expected}, came: {came}): if the server got a new certificate, look up its"
            " fingerprint on the server itself and give that; if not, something else answers there",
        )


def _without_trust() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def certificate_of(host: str, port: int, timeout_s: float) -> bytes:
    """The certificate (DER) that a server shows, whoever it is: nothing is checked or sent.

    `timeout_s` bounds it all, but for the look-up of a name. Raises TimedOut and Unreachable.
    """
    until = time.monotonic() + timeout_s
    try:
        with _connect(host, port, until) as plain:
            plain.settimeout(_left(until))  # of the whole handshake
            with _without_trust().wrap_socket(plain, server_hostname=host) as tls:
                der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ssl.SSLError(1, "it shows no certificate")
        return der
    except (OSError, ValueError) as error:  # a host that cannot be one is a ValueError
        raise _ours(error, f"{host}:{port}") from error


def _connect(host: str, port: int, until: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    failed = OSError("it has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_left(until))
            plain.connect(address)
            return plain
        except OSError as error:
            plain.close()
            failed = error
    raise failed


def _left(until: float) -> float:
    """Seconds until then. Raises TimeoutError if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _ours(error: Exception, where: str) -> RerankError:
    if isinstance(error, TimeoutError):
        return TimedOut(f"{where} showed no certificate in time")
    again = isinstance(error, OSError) and not is_tls_refusal(error)
    return Unreachable(f"{where} cannot be reached: {why(error)}", again=again)

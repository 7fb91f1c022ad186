"""TLS of the gateway: one certificate and its key, read before anything starts, and anew later."""

import ssl
from pathlib import Path

from serve.errors import ConfigError

CERTIFICATE, KEY = "--tls-certificate", "--tls-key"
# What OpenSSL says of a key that another certificate has; the second one, if of another kind.
_OF_ANOTHER = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED", "KEY_TYPE_MISMATCH")


def context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What the gateway speaks TLS by, 1.2 or newer; None without files. Raises ConfigError.

    Both are PEM; behind the server's own certificate may follow those that it was signed by.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = (CERTIFICATE, KEY) if certificate is None else (KEY, CERTIFICATE)
        raise ConfigError(f"{given} goes with {missing}: give both, or neither for plain HTTP")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.sslobject_class = Connection
    try:
        made.load_cert_chain(certificate, key, password=lambda: _refuse_passphrase(key))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(_why(certificate, key, error)) from error
    return made


def reload(live: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """From now on `live` answers new connections with what the files hold now. Raises ConfigError,
    and then nothing has changed.

    They are loaded into a context of their own, which each handshake is then given: in `live`
    itself, a certificate of another kind (RSA, EC) would stand beside the old one, and a file that
    changes between two reads would leave it with half of each.
    """
    for option, path in ((CERTIFICATE, certificate), (KEY, key)):
        try:
            is_pipe = path.is_fifo()
        except OSError as error:  # of a folder that may not be entered
            raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from error
        if is_pipe:
            raise ConfigError(f"{option} {path}: a pipe cannot be read again: give a file")
    renewed = context(certificate, key)

    def hand_over(connection: ssl.SSLObject, name: str | None, asked: ssl.SSLContext) -> None:
        assert renewed is not None
        connection.context = renewed

    live.sni_callback = hand_over  # called for clients that name no server, too


class Connection(ssl.SSLObject):
    """One that can be closed as TCP is: it says goodbye and, unless it `waits`, goes.

    To wait for the other's goodbye lets an answer be read by who is still sending (a body that is
    too large), but who idles in a pool reads none, and would hold up a stop.
    """

    waits = True
    has_parted = False

    def unwrap(self) -> None:
        self.has_parted = True
        try:
            super().unwrap()
        except ssl.SSLWantReadError:  # ours is written, theirs has not come
            if self.waits:
                raise


def _refuse_passphrase(key: Path) -> str:
    """In place of OpenSSL's prompt, which a server without a terminal would wait at for ever."""
    raise ConfigError(
        f"{KEY} {key}: it is encrypted: give one without a passphrase, as `openssl pkey -in {key}"
        " -out NEW` writes it"
    )


def _why(certificate: Path, key: Path, error: OSError) -> str:
    """What is wrong with the two files, which OpenSSL tells of neither by name."""
    for option, path, mark, wanted in (
        (CERTIFICATE, certificate, b"CERTIFICATE-----", "certificate"),
        (KEY, key, b"PRIVATE KEY-----", "private key"),
    ):
        try:
            found = path.is_fifo() or mark in path.read_bytes()  # a pipe would be waited at
        except OSError as unread:
            return f"{option} {path} cannot be read: {unread.strerror}; give a file in PEM"
        if not found:
            return f"{option} {path}: no {wanted} in PEM is in it: give the file that has it"
    if not isinstance(error, ssl.SSLError):  # of pipes, which cannot be read again
        return f"{CERTIFICATE} {certificate}, {KEY} {key}: no certificate in PEM with its key"
    reason = error.reason
    if reason in _OF_ANOTHER:
        return f"{KEY} {key}: it is not the key of {certificate}: give the one that is"
    said = f"OpenSSL says {reason.lower().replace('_', ' ')!r}" if reason else "it is damaged"
    at_fault = f"{CERTIFICATE} {certificate}" if reason or _damaged(certificate) else f"{KEY} {key}"
    return f"{at_fault}: {said}: make certificate and key anew"


def _damaged(certificate: Path) -> bool:
    """Whether OpenSSL cannot read the certificate, whatever its key is."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except (OSError, ValueError):
        return True
    return False

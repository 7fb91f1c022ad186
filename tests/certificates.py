"""Certificates as people make them, by the `openssl` command."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")
LONG_AGO = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")


@dataclass(frozen=True)
class Certificate:
    """Two files in PEM."""

    pem: Path
    key: Path

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.pem.read_text())

    @property
    def printed(self) -> str:
        """The fingerprint as openssl prints it: AB:CD:…"""
        line = openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", self.pem)
        return line.strip().partition("=")[2]

    @property
    def fingerprint(self) -> str:
        return "sha256:" + self.printed.replace(":", "").lower()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of `serve up`."""
        return ("--tls-certificate", str(self.pem), "--tls-key", str(self.key))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem, self.key)
        return context


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def self_signed(
    folder: Path, name: str, *, of: str = "IP:127.0.0.1", kind: tuple[str, ...] = EC
) -> Certificate:
    """One for the host `of`, as the README has it made."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    names = ("-subj", "/CN=rerank-serve", "-addext", f"subjectAltName={of}")
    files = ("-keyout", made.key, "-out", made.pem)
    openssl("req", "-x509", *kind, "-nodes", "-days", "30", *names, *files)
    return made


def expired(folder: Path) -> Certificate:
    """One that was good for a day in 2020. (`req` makes none such.)"""
    made = Certificate(folder / "expired.pem", folder / "expired.key")
    request, config = folder / "expired.csr", folder / "ca.cnf"
    openssl("req", "-new", *EC, "-nodes", "-subj", "/CN=x", "-keyout", made.key, "-out", request)
    (folder / "index").touch()
    config.write_text(
        "[ca]\ndefault_ca=c\n[c]\ndefault_md=sha256\nrand_serial=yes\npolicy=p\n"
        f"database={folder}/index\nnew_certs_dir={folder}\n[p]\ncommonName=optional\n"
    )
    files = ("-keyfile", made.key, "-in", request, "-out", made.pem)
    openssl("ca", "-config", config, "-batch", "-selfsign", "-notext", *LONG_AGO, *files)
    return made

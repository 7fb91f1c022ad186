"""The way to an instance that opens no port but SSH's: the `ssh` of this machine."""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from deploy.vast.errors import DeployError, NotYet
from deploy.vast.instance import Address

LOOPBACK = "127.0.0.1"
OPEN_WITHIN_S = 30.0


@dataclass(frozen=True)
class Login:
    """How to log into an instance, and which of its ports is wanted here."""

    outside: Address  # of its SSH server
    port: int  # inside
    local: int
    known_hosts: Path
    identity: Path | None = None  # a private key; unset: what ssh finds itself

    def command(self) -> list[str]:
        """The command that holds the tunnel. The first host key is believed: whoever stood between
        would still lack the certificate that is pinned inside."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": "15",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self.known_hosts),
            **({"IdentitiesOnly": "yes"} if self.identity else {}),
        }
        return [
            "ssh",
            "-N",
            *(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
            *(["-i", str(self.identity)] if self.identity else []),
            *("-L", f"{LOOPBACK}:{self.local}:{LOOPBACK}:{self.port}"),
            *("-p", str(self.outside[1]), f"root@{self.outside[0]}"),
        ]


class Tunnel:
    """Use as a context manager: open when it is entered. Raises NotYet when it cannot be."""

    def __init__(self, login: Login) -> None:
        if shutil.which("ssh") is None:
            raise DeployError("there is no `ssh` here: install it (Debian: openssh-client)")
        self._login = login

    def __enter__(self) -> "Tunnel":
        self._child = subprocess.Popen(
            self._login.command(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is ours to handle
        )
        try:
            deadline = time.monotonic() + OPEN_WITHIN_S
            while is_free(self._login.local):
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise NotYet("no tunnel through SSH")
                time.sleep(0.1)
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, NotYet):
                raise NotYet(f"{error}: {self._words or 'no answer'}") from error
            raise
        return self

    def wait(self) -> str:
        """Returns when the tunnel has ended by itself, with what ssh said."""
        self._words = self._child.communicate()[1].decode(errors="replace").strip()
        return self._words

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.terminate()
        said = self._child.communicate()[1].decode(errors="replace").strip().splitlines()
        self._words = said[-1] if said else ""


def free_port() -> int:
    """A port of this machine that nobody holds."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody holds a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0

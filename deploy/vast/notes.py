"""What this machine keeps of a deployment, so that it can be used, started again and ended.

ROOT/LABEL/deployment.json   what it is
ROOT/LABEL/key               the API key, for nobody but this user
ROOT/LABEL/authorization     the same as a header, for `curl -H @FILE`
ROOT/LABEL/certificate.pem   the instance's certificate, once it is known
ROOT/LABEL/program.tgz       what the instance was given, and is given again if it has lost it
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from deploy.vast.errors import DeployError
from deploy.vast.plan import is_label


@dataclass(frozen=True)
class Deployment:
    """One instance as this machine knows it. `until` is in seconds since 1970."""

    label: str
    model: str  # what clients may call it
    port: int  # inside the instance
    timeout_s: float  # for a start
    hourly: float  # dollars
    local_port: int | None = None  # of the tunnel through SSH, if that is the way to it
    identity: str | None = None  # the private key for it; unset: what ssh finds itself
    until: float | None = None
    instance: int | None = None
    fingerprint: str | None = None
    run: str = ""  # of its start script, the last that was ready


class Notes:
    """The folder of all deployments. Raises DeployError when it cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, deployment: Deployment, key: str, program: bytes) -> None:
        """Writes down a deployment, before anything of it exists."""
        folder = self.folder(deployment.label)
        with _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write(deployment)
        _write(folder / "key", key.encode())
        _write(folder / "authorization", f"Authorization: Bearer {key}\n".encode())
        _write(folder / "program.tgz", program)

    def write(self, deployment: Deployment, **changes: object) -> Deployment:
        """Writes down what has changed, and gives the whole."""
        changed = replace(deployment, **changes)  # type: ignore[arg-type]  # its own fields
        text = json.dumps(asdict(changed), indent=1)
        _write(self.folder(changed.label) / "deployment.json", text.encode())
        return changed

    def certificate(self, label: str, pem: str) -> Path:
        """Writes down an instance's certificate."""
        path = self.folder(label) / "certificate.pem"
        _write(path, pem.encode())
        return path

    def folder(self, label: str) -> Path:
        """Raises DeployError for what is no label of ours, and so no name of a folder."""
        if not is_label(label):
            raise DeployError(f"{label!r} is no label of this program's: nothing was done with it")
        return self.root / label

    def key(self, label: str) -> str:
        """Raises DeployError."""
        return self._read(label, "key").decode()

    def program(self, label: str) -> bytes:
        """Raises DeployError."""
        return self._read(label, "program.tgz")

    def _read(self, label: str, name: str) -> bytes:
        path = self.folder(label) / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise DeployError(f"{path} cannot be read ({error.strerror}): it is gone") from error

    def all(self) -> Iterator[Deployment]:
        """What was begun here and not forgotten. Passes over what cannot be read."""
        for file in sorted(self.root.glob("*/deployment.json")):
            try:
                found = Deployment(**json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                continue
            if found.label == file.parent.name:
                yield found

    def forget(self, label: str) -> None:
        """Removes what is kept of an instance that is gone."""
        shutil.rmtree(self.folder(label), ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """The whole file or none of it, and nobody else's to read at any moment."""
    new = path.with_name(path.name + ".new")
    with _told(path):
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(
            f"{path} cannot be written ({error.strerror}): make it yours, or set XDG_STATE_HOME to"
            " another folder"
        ) from error

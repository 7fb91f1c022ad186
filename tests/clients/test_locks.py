"""The environments of the clients are exact, and come from whatever registry is configured."""

import json
import re
from pathlib import Path

import pytest

from deploy.install import requirements
from tests.clients.environments import LOCKS, NODE


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_version_is_exact(lock: Path):
    pins = requirements(lock)
    assert pins and all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)


def test_node_packages_are_exact_and_name_no_registry():
    packages = json.loads((NODE / "package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert "resolved" not in package
        assert not name or (package["version"] and package["integrity"])

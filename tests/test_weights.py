"""Models on this machine: where they are, whether they are whole, whether they fit."""

import hashlib
from pathlib import Path

import pytest

from serve import machine, weights
from serve.errors import ConfigError, StartError
from serve.shelf import find
from serve.spec import Model


def test_the_embedded_model_is_the_official_file():
    model = find("minilm")
    folder = weights.locate(model)
    assert model.sha256
    weights.verify(folder, model.sha256)


def test_a_hub_id_is_passed_on():
    assert weights.locate(Model(model="org/name", names=("m",))) == "org/name"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("package:no_such_package/model", "'no_such_package' is not installed; `make install`"),
        ("package:../etc", "is not installed"),
        ("package:yaml/nowhere", "no config.json"),
        ("/no/such/folder", "no config.json in /no/such/folder"),
    ],
)
def test_what_is_not_there(model: str, words: str):
    with pytest.raises(ConfigError, match=words):
        weights.locate(Model(model=model, names=("m",)))


def test_digests(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    good = hashlib.sha256(b"weights").hexdigest()
    weights.verify(str(tmp_path), {"a": good.upper()})
    with pytest.raises(ConfigError, match="install the model again"):
        weights.verify(str(tmp_path), {"a": "0" * 64})
    with pytest.raises(ConfigError, match="b cannot be read"):
        weights.verify(str(tmp_path), {"b": good})


def test_a_download_is_seen_in_the_hubs_cache(tmp_path: Path):
    model = Model(model="org/name", names=("m",))
    blobs = tmp_path / "hub" / "models--org--name" / "blobs"
    environment = {"HF_HOME": str(tmp_path)}
    assert weights.bytes_downloading(model, environment) is None
    blobs.mkdir(parents=True)
    (blobs / "done").write_bytes(b"12345")
    assert weights.bytes_downloading(model, environment) is None
    (blobs / "part.abc.incomplete").write_bytes(b"123")
    assert weights.bytes_downloading(model, environment) == 8
    assert weights.bytes_downloading(model, {"HF_HUB_CACHE": str(tmp_path / "hub")}) == 8
    assert weights.bytes_downloading(model, {"HF_HUB_CACHE": "/nowhere"}) is None


def test_memory(tmp_path: Path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 999 kB\nMemAvailable:    3145728 kB\n")
    free = machine.available_memory_gib(meminfo)
    assert free == 3.0
    machine.check_memory({"m": 3}, free)
    machine.check_memory({"m": 3.5}, None)
    words = r"1 \(a\) \+ 2\.5 \(b\) = 3\.5 GiB are needed and 3\.0 GiB are free"
    with pytest.raises(StartError, match=words):
        machine.check_memory({"a": 1, "b": 2.5}, free)
    assert machine.available_memory_gib(tmp_path / "none") is None
    meminfo.write_text("MemTotal: 999 kB\n")
    assert machine.available_memory_gib(meminfo) is None


def test_the_device_is_what_vllm_was_installed_for():
    assert machine.device() in ("cpu", "gpu")

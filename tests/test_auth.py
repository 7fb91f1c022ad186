"""API keys."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.auth import Keys, read_keys
from serve.errors import ConfigError, Unauthorized


def accepts(keys: Keys, **headers: str) -> bool:
    try:
        keys.check({name.replace("_", "-"): value for name, value in headers.items()})
    except Unauthorized:
        return False
    return True


def test_without_keys_everyone_may():
    assert not Keys()
    assert accepts(Keys())
    assert accepts(Keys(), authorization="Bearer ")


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"authorization": "Bearer one"}, True),
        ({"authorization": "BEARER  two "}, True),
        ({"authorization": "two"}, True),
        ({"authorization": "Bearer", "x_api_key": "two"}, True),
        ({"x_api_key": "two"}, True),
        ({"api_key": "one"}, True),
        ({}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Basic one"}, False),
        ({"authorization": "Bearer One"}, False),
        ({"authorization": "Bearer onetwo"}, False),
        ({"api_key": "\udcff"}, False),
    ],
)
def test_check(headers: dict[str, str], good: bool):
    assert accepts(Keys(["one", "two"]), **headers) is good


def test_a_digest_stands_for_its_key_and_is_none_itself():
    digest = "sha256:" + hashlib.sha256(b"one").hexdigest()
    keys = Keys([digest])
    assert accepts(keys, x_api_key="one")
    assert not accepts(keys, x_api_key=digest)


@given(st.text(min_size=1), st.text(min_size=1))
def test_only_the_key_itself_fits(key: str, other: str):
    keys = Keys([key])
    assert accepts(keys, x_api_key=on_the_wire(key))
    assert accepts(keys, x_api_key=on_the_wire(other)) == (other == key)


def on_the_wire(key: str) -> str:
    """A header as ASGI servers give it: UTF-8 bytes, each taken for one character."""
    return key.encode().decode("latin-1")


def test_the_keys_are_not_kept(tmp_path: Path):
    assert "secret" not in repr(vars(Keys(["secret"])))


def test_read_keys(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# a comment\n one \n\ntwo\n")
    assert read_keys(file) == ["one", "two"]
    file.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no key"):
        read_keys(file)
    file.write_text("good\nsha256:zzz\n")
    with pytest.raises(ConfigError, match=r"keys:2: `sha256:` needs the 64 hex digits"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path)

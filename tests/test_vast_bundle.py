"""Our program as the file that an instance is given: what is in it, and that it runs by itself."""

import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploy.vast import bundle
from serve import stack_yaml
from serve.errors import ConfigError
from tests.harness import ROOT

PRIVATE = """.env keys.txt configs/keys.txt configs/api-keys configs/id_ed25519 serve/key.pem
    serve/.env serve/__pycache__/spec.cpython-311.pyc serve/__pycache__/x.py configs/x.json
    serve/page/keys.txt tests/conftest.py deploy/vast/state.json deploy/lock/cpu.txt""".split()
NEEDED = """serve/__main__.py serve/dialects/__init__.py serve/page/index.html serve/page/page.svg
    configs/minilm.yaml configs/templates/qwen3-reranker.jinja deploy/lock/gateway.txt""".split()


def build(wanted: Path | str, root: Path = ROOT) -> bundle.Bundle:
    return bundle.build(str(wanted), stack_yaml.find(str(wanted)), root)


def unpack(made: bundle.Bundle, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def names(made: bundle.Bundle) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        return archive.getnames()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the program is made from, which nobody else changes."""
    copy = tmp_path_factory.mktemp("checkout")
    for part in ("serve", "configs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "deploy" / "lock").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "lock" / "gateway.txt", copy / "deploy" / "lock")
    return copy


# -------------------------------------------------------------------------------------- the program


def test_the_same_files_make_the_same_bytes(checkout: Path, tmp_path: Path):
    first = build("minilm", checkout)
    assert build("minilm", checkout) == first
    assert names(first) == sorted(names(first))
    assert first.content[4:8] == bytes(4)  # the time in gzip's own head
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    for number, path in enumerate(sorted(copy.rglob("*"), reverse=True)):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (number, number))
    assert build("minilm", copy) == first
    (copy / "serve" / "spec.py").write_text("")
    assert build("minilm", copy).digest != first.digest


def test_only_the_program_is_in_it(checkout: Path, tmp_path: Path):
    clean = build("minilm", checkout)
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    for name in PRIVATE:
        file = copy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret")
    assert names(build("minilm", copy)) == names(clean)
    assert set(NEEDED) <= set(names(clean))
    assert {name.split("/")[0] for name in names(clean)} == {"serve", "configs", "deploy"}


def test_nothing_of_this_machine_is_in_it():
    made = build("minilm")
    with tarfile.open(fileobj=io.BytesIO(made.content)) as archive:
        about = {(e.uid, e.gid, e.uname, e.gname, e.mtime, e.mode) for e in archive}
    assert about == {(0, 0, "", "", 0, 0o644)}
    assert made.model == "minilm" and len(made.content) < 500_000


# Prints what it has loaded from elsewhere, but for the installed packages.
ALONE = """
import runpy, sys
sys.argv = ["serve", "check", "minilm", "--device", "gpu"]
try:
    runpy.run_module("serve", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
files = [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]
print([f for f in files if f.startswith(%r) and not f.startswith(sys.prefix)])
"""


def test_it_runs_by_itself(tmp_path: Path):
    folder = unpack(build("minilm"), tmp_path / "program")
    done = subprocess.run(
        [sys.executable, "-c", ALONE % str(ROOT)],
        cwd=folder,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["minilm: good, on a GPU", "[]"]


# ------------------------------------------------------------------------------ a YAML of one's own

LLM = """\
model: org/llm
names: [mine]
llm: true
request: {max_tokens_per_query: 4, max_tokens_per_doc: 5}
vllm: {chat-template: %s}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a stack and what it names."""
    folder = tmp_path / "my own"
    (folder / "deep" / "prompts").mkdir(parents=True)
    (folder / "x").mkdir()
    (folder / "llm.yml").write_text(LLM % "prompt.jinja")
    (folder / "prompt.jinja").write_text("{{ query }}")
    (folder / "deep" / "llm.yaml").write_text(LLM.replace("mine", "deep") % "./prompts/p.j2")
    (folder / "deep" / "prompts" / "p.j2").write_text("deep")
    (folder / "unused.yaml").write_text("model: org/unused\n")
    (folder / "stack.yaml").write_text(
        "models:\n  minilm: {}\n  mine: {config: ./llm.yml}\n  deep: {config: x/../deep/llm.yaml}\n"
        "  both: {cascade: {first: minilm, then: mine, keep: 3}}\nllm: mine\n"
    )
    return folder


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("llm.yml", {"llm.yml", "prompt.jinja"}),
        (
            "stack.yaml",
            {"stack.yaml", "llm.yml", "prompt.jinja", "deep/llm.yaml", "deep/prompts/p.j2"},
        ),
        ("unused.yaml", {"unused.yaml"}),
    ],
)
def test_a_yaml_is_packed_with_what_it_names(
    own: Path, name: str, packed: set[str], monkeypatch: pytest.MonkeyPatch
):
    here = stack_yaml.find(str(own / name))
    made = build(own / name)
    assert made.model == f"model/{name}"
    assert {n.removeprefix("model/") for n in names(made) if n.startswith("model/")} == packed
    there = unpack(made, own.parent / "program")
    shutil.move(own, own.parent / "gone")
    monkeypatch.chdir(there)
    found = stack_yaml.find(made.model, there / "configs")
    assert placeless(found, there / "model") == placeless(here, own)


def placeless(stack: object, folder: Path) -> str:
    return repr(stack).replace(str(folder), "<folder>")


def test_a_yaml_may_be_a_link(own: Path, tmp_path: Path):
    """As in a folder that is mounted from elsewhere: what it names lies beside the link."""
    links = tmp_path / "links"
    links.mkdir()
    shutil.move(own / "prompt.jinja", own / "kept-elsewhere")
    (links / "mine.yaml").symlink_to(own / "llm.yml")
    (links / "prompt.jinja").symlink_to(own / "kept-elsewhere")
    made = build(links / "mine.yaml")
    assert {"model/mine.yaml", "model/prompt.jinja"} <= set(names(made))
    there = unpack(made, tmp_path / "program")
    assert (there / "model" / "prompt.jinja").read_text() == "{{ query }}"


def test_a_yaml_may_lie_in_configs():
    made = build(ROOT / "configs" / "qwen3-reranker-0.6b.yaml")
    assert made.model == "model/qwen3-reranker-0.6b.yaml"
    assert "model/templates/qwen3-reranker.jinja" in names(made)


@pytest.mark.parametrize("text", ["~/own.yaml", "own.yaml", "./own.yaml"])
def test_a_path_as_people_write_it(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.yaml").write_text("model: org/name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build(text).model == "model/own.yaml"


# -------------------------------------------------------------------------------------- what is not

OUTSIDE = "is outside of {folder}: put it beside the YAML, and name it from there"


@pytest.mark.parametrize(
    "place",
    [
        "../prompt.jinja",
        "deep/../../prompt.jinja",
        "{tmp}/prompt.jinja",
        "{own}/prompt.jinja",  # which the instance would look for there
        "../my own/prompt.jinja",
        "~/prompt.jinja",
    ],
)
def test_a_file_elsewhere(own: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(own / "prompt.jinja", tmp_path / "prompt.jinja")
    place = place.format(tmp=tmp_path, own=own)
    (own / "llm.yml").write_text(LLM % f"'{place}'")
    for wanted in ("llm.yml", "stack.yaml"):
        with pytest.raises(ConfigError) as caught:
            build(own / wanted)
        assert str(caught.value) == f"{place} {OUTSIDE.format(folder=own)}"


def test_a_stack_with_a_yaml_elsewhere(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (own / "deep" / "stack.yaml").write_text("models: {mine: {config: ../llm.yml}}\n")
    with pytest.raises(ConfigError, match=r"^\.\./llm\.yml is outside of .*/deep: put it beside"):
        build(own / "deep" / "stack.yaml")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.j2").write_text("x")
    (own / "deep" / "llm.yaml").write_text(LLM.replace("mine", "deep") % "~/p.j2")
    with pytest.raises(ConfigError, match=r"^~/p\.j2 is outside of .*/my own: put it beside"):
        build(own / "stack.yaml")


@pytest.mark.parametrize("wanted", ["weights", "local.yaml", "stack.yaml"])
def test_weights_are_not_sent(wanted: str, tmp_path: Path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    (tmp_path / "local.yaml").write_text("model: ./weights\n")
    (tmp_path / "stack.yaml").write_text("models: {minilm: {}, local: {config: local.yaml}}\n")
    with pytest.raises(ConfigError, match="weights are not sent to an instance: put the model on"):
        build(tmp_path / wanted)


BROKEN = {
    "nothing": None,
    "not YAML": b"model: [a\n",
    "not text": b"model: \xff\xfe\n",
    "empty": b"",
    "a folder": "folder",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read(content: bytes | str | None, tmp_path: Path):
    """The stack is another: whoever calls may have read it long ago."""
    path = tmp_path / "own.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"own\.yaml"):
        bundle.build(str(path), stack_yaml.find("minilm"))


@pytest.mark.parametrize(
    "text",
    [
        "env: {A: 2024-13-45}",  # no date, to YAML's own constructor
        "env: {A: !!python/object:os.system x}",
        "env: &a {A: *a}",
        'env: {A: "a\\0.yaml"}',
        "env: {A: %s.yaml}" % ("x" * 5000),
        "env: {[a]: b.yaml}",
        "env: {A: folder.yaml}",
        "env: {A: missing.yaml}",
        "env: {A: own.yaml}",
    ],
)
def test_odd_texts_do_no_harm(text: str, tmp_path: Path):
    """Whatever YAML allows; what serves them says what is wrong with them."""
    (tmp_path / "own.yaml").write_text(f"model: org/name\n{text}\n")
    (tmp_path / "folder.yaml").mkdir()
    made = bundle.build(str(tmp_path / "own.yaml"), stack_yaml.find("minilm"))
    assert [name for name in names(made) if name.startswith("model/")] == ["model/own.yaml"]


def test_nobodys_home(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("model: org/name\nenv: {A: ~nobody-at-all/x.yaml}\n")
    for wanted in (tmp_path / "own.yaml", "~nobody-at-all/own.yaml"):
        with pytest.raises(ConfigError, match="~nobody-at-all"):
            bundle.build(str(wanted), stack_yaml.find("minilm"))


def test_a_name_that_is_too_long(own: Path):
    deep = own.joinpath(*["x" * 99] * 4)
    deep.mkdir(parents=True)
    (deep / "p.jinja").write_text("x")
    (own / "llm.yml").write_text(LLM % (deep / "p.jinja").relative_to(own))
    with pytest.raises(ConfigError, match=r"llm\.yml: cannot be packed: name is too long"):
        build(own / "llm.yml")


def test_a_bundle_may_be_so_large(own: Path):
    content = random.Random(1).randbytes(bundle.MOST_BYTES)
    (own / "prompt.jinja").write_bytes(content[: bundle.MOST_BYTES // 2])
    assert len(build(own / "llm.yml").content) < bundle.MOST_BYTES
    (own / "prompt.jinja").write_bytes(content)
    with pytest.raises(ConfigError, match=r"llm\.yml: comes to \d{7} bytes, too many to send"):
        build(own / "llm.yml")


def test_a_program_without_its_lock(checkout: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    (copy / "deploy" / "lock" / "gateway.txt").unlink()
    with pytest.raises(ConfigError, match=r"minilm: cannot be packed: .*gateway\.txt"):
        build("minilm", copy)

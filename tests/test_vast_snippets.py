"""What people paste, and what they type: snippets, the plain recipe, the command's options."""

import ast
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.vast import plan, recipe, snippets
from deploy.vast.options import parser_for, seconds
from serve import argv, stack_yaml
from serve.errors import ConfigError
from tests.certificates import Certificate, self_signed
from tests.fake_vast import FakeVast, offer
from tests.harness import KEY, ROOT, Server, write_config

Snippet = Callable[[snippets.Access], str]
GOLDEN = Path(__file__).parent / "golden" / "vast" / "recipe-bge-reranker-base.txt"


# ------------------------------------------------------------------------------------ the snippets

ODD = """it's "new" $(touch x) \\ `ü`"""
ACCESS = snippets.Access(
    url="https://203.0.113.7:41610",
    model=f"a {ODD}",
    fingerprint="sha256:" + "ab" * 32,
    certificate=f"/c {ODD}/certificate.pem",
    key_file=f"/k {ODD}/key",
    header_file=f"/h {ODD}/authorization",
)


def test_curl_is_read_as_it_is_meant():
    text = snippets.curl(ACCESS)
    bash("-n", "-c", text)
    words = shlex.split(text)
    assert words[:2] == ["curl", "-s"]
    assert {ACCESS.certificate, f"@{ACCESS.header_file}", f"{ACCESS.url}/rerank"} <= set(words)
    assert json.loads(words[-1]) == {
        "query": "What is Deep Learning?",
        "passages": list(snippets.FOUR_PASSAGES[:2]),
    }


def test_an_address_in_brackets_is_no_pattern():
    """Which some shells would take it for."""
    text = snippets.curl(replace(ACCESS, url="https://[2001:db8::1]:443"))
    assert " 'https://[2001:db8::1]:443/rerank' " in text


@pytest.mark.parametrize(
    ("snippet", "constants"),
    [
        (snippets.requests, {ACCESS.key_file, ACCESS.certificate, f"{ACCESS.url}/rerank"}),
        (snippets.cohere, {ACCESS.key_file, ACCESS.certificate, ACCESS.url, ACCESS.model}),
        (snippets.ours, {ACCESS.key_file, ACCESS.url, ACCESS.fingerprint}),
    ],
)
def test_python_is_read_as_it_is_meant(snippet: Snippet, constants: set[str]):
    tree = ast.parse(snippet(ACCESS))
    found = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert constants <= {value for value in found if isinstance(value, str)}


def test_all_of_them_are_shown():
    text = snippets.text(ACCESS)
    assert [line[2:] for line in text.splitlines() if line.startswith("# ")] == list(snippets.ALL)
    assert all(snippet(ACCESS) in text for snippet in snippets.ALL.values())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("odd") / """it's "new" $x"""
    folder.mkdir()
    return self_signed(folder, "certificate")


@pytest.fixture(scope="module")
def access(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[snippets.Access]:
    """A real endpoint with a key, and files as `deploy/vast/notes.py` writes them."""
    work, folder = tmp_path_factory.mktemp("serve"), certificate.pem.parent
    (folder / "key").write_text(KEY)
    (folder / "authorization").write_text(f"Authorization: Bearer {KEY}\n")
    env = {"RERANK_API_KEY": KEY, "FAKE_SCORES": "shared"}
    with Server(
        write_config(work), work, *certificate.arguments, env=env, trusting=certificate.pem
    ) as server:
        yield snippets.Access(
            url=server.until_ready().url,
            model="fake",
            fingerprint=certificate.fingerprint,
            certificate=str(certificate.pem),
            key_file=str(folder / "key"),
            header_file=str(folder / "authorization"),
        )


@pytest.mark.parametrize("snippet", snippets.ALL.values())
def test_each_ranks(snippet: Snippet, access: snippets.Access):
    shell = ["bash"] if snippet is snippets.curl else [sys.executable]
    command = [*shell, "-c", snippet(access)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if snippet is snippets.cohere:
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [index for _, index in lines] == ["0", "1"]
        high, low = (float(score) for score, _ in lines)
    else:
        high, low = ast.literal_eval(done.stdout)
    assert 0 < low < high < 1


def bash(*arguments: str) -> None:
    done = subprocess.run(["bash", *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -------------------------------------------------------------------------------- the plain recipe


def recipe_for(wanted: str) -> str:
    stack = stack_yaml.find(wanted)
    return recipe.recipe(stack, plan.needs_of(stack))


def test_golden_recipe():
    assert recipe_for("bge-reranker-base") + "\n" == GOLDEN.read_text()
    bash("-n", str(GOLDEN))


ENV = """\
model: org/name
env: {VLLM_LOGGING_LEVEL: DEBUG, NUMBER: 1, A: 'b=c,d'}
vllm: {runner: pooling, hf-overrides: {"it's": [1, "a b"]}}
"""


@pytest.mark.parametrize("wanted", ["bge-reranker-base", "own.yaml"])
def test_the_recipe_does_what_it_says(wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pasted into a shell with Vast.ai's own program, and no `pip`."""
    (tmp_path / "own.yaml").write_text(ENV)
    (tmp_path / "pip").symlink_to("/bin/true")
    monkeypatch.chdir(tmp_path)
    text = recipe_for(wanted).replace("INSTANCE_ID=…", "INSTANCE_ID=2")
    text = text.replace("destroy instance …", "destroy instance 31000001")
    programs = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"
    with FakeVast(tmp_path / "vast", delay=0.05) as fake:
        fake.offers([offer(id=1, gpu_ram=8192), offer(id=2)])
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            env={"VAST_URL": fake.url, "VAST_API_KEY": fake.key, "PATH": programs, "HOME": "."},
            input="y\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        asked = [each for each in fake.journal() if each.get("endpoint") in ("search", "create")]
        assert [each["status"] for each in asked] == [200, 200]
        assert fake.instances() == []  # destroyed, and created:
        [body] = [line for line in fake.journal_text().splitlines() if '"client_id"' in line]
    model = stack_yaml.find(wanted).models[0]
    sent = json.loads(body)
    assert sent["args"] == argv.plain(model)
    assert sent["env"] == {"-p 8000:8000": "1"} | {k: str(v) for k, v in model.env.items()}
    assert (sent["image"], sent["disk"]) == (f"vllm/vllm-openai:{plan.VLLM_TAG}", 40)
    assert (sent["runtype"], sent["onstart"]) == ("args", None)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            "rerank-server",
            "serves one model: name one of bge-reranker-v2-m3, bge-reranker-v2-gemma",
        ),
        ("qwen3-reranker-0.6b", "needs its prompt template, which the plain recipe cannot bring"),
        (
            "minilm",
            "needs weights in a package, which the plain recipe cannot bring: leave --print-",
        ),
        ("local.yaml", "needs weights in a folder, which the plain recipe cannot bring"),
        ("env.yaml", "env.A: the plain recipe cannot bring 'x y'"),
        ("cuda.yaml", "there is no image of vLLM v"),
    ],
)
def test_what_the_recipe_cannot_bring(
    wanted: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local.yaml").write_text("model: ./weights\n")
    (tmp_path / "env.yaml").write_text("model: org/name\nenv: {A: x y}\n")
    (tmp_path / "cuda.yaml").write_text("model: org/name\nhardware: {cuda: 12.1}\n")
    with pytest.raises(ConfigError) as caught:
        recipe_for(wanted)
    assert words in str(caught.value)


# -------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", 45),
        ("90m", 5400),
        ("4h", 14400),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d2h3m4s", 93784),
    ],
)
def test_times(text: str, expected: float):
    assert seconds(text) == expected


WRONG_TIMES = [
    "",
    "4",
    "h",
    "4 h",
    "4H",
    "-4h",
    "0s",
    "4h!",
    "1h30",
    "4w",
    "1e3s",
    ".5h",
    "nan",
    "inf",
]
WRONG_TIMES += ["1" * 400 + "d", "٣h"]
WRONG_COUNTS = ["", "0", "-1", "65536", "1.5", "x", "٣", "1_0"]
WRONG_PRICES = ["", "0", "-1", "1000", "nan", "inf", "x", "$1", "0,35"]
WRONG = [
    *(("--ttl", text, "is no time: write 4h, 90m, 1h30m or 2d") for text in WRONG_TIMES),
    ("--timeout", "20", "is no time: write"),
    *(("--tries", text, "must be a number from 1 to 65535") for text in WRONG_COUNTS),
    ("--port", "0", "must be a number from"),
    ("--local-port", "x", "must be a number from"),
    *(("--max-price", text, "is no price in dollars: write 0.35") for text in WRONG_PRICES),
    ("--max-waste", "x", "is no price in dollars"),
]


def parse(*arguments: str):
    verbs = {name: parse for name in ("up", "list", "status", "logs")}
    return parser_for(verbs, "words").parse_args(["vast", *arguments])


@pytest.mark.parametrize(("option", "text", "words"), WRONG)
def test_a_wrong_value_is_told(
    option: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        parse("up", f"{option}={text}")
    assert caught.value.code == 2
    assert f"argument {option}: {text!r} {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["up", "a", "b"], ["up", "--fast"], ["list", "x"], ["logs", "--tail=0"]],
)
def test_a_wrong_command_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_defaults_and_all_options():
    plain = parse("up")
    assert (plain.model, plain.port, plain.tries, plain.max_waste) == ("minilm", 8443, 3, 1.0)
    assert (plain.max_price, plain.ttl, plain.timeout) == (None, None, None)
    words = "--max-price 0.35 --ttl 1h30m --tunnel --local-port 9 --ssh-key k --port 9000"
    words += " --api-key-file f --hf-token --timeout 5m --tries 1 --max-waste 2 --yes --dry-run"
    found = parse("up", "org/name", *words.split())
    assert (found.model, found.max_price, found.ttl, found.timeout) == ("org/name", 0.35, 5400, 300)
    assert (found.tunnel, found.local_port, found.port) == (True, 9, 9000)
    assert (found.ssh_key, found.api_key_file) == (Path("k"), Path("f"))
    assert (found.hf_token, found.yes, found.dry_run, found.max_waste) == (True, True, True, 2)
    assert (parse("status").name, parse("logs", "x", "--tail", "5").tail) == (None, 5)


@given(st.from_regex(r"\A([0-9]{1,9}[smhd]){1,4}\Z"))
def test_a_time_is_a_positive_number(text: str):
    try:
        assert 0 < seconds(text) < math.inf
    except Exception as error:
        assert "is no time" in str(error)

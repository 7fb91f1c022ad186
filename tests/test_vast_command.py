"""`python -m deploy vast` as it is typed: what it prints, how it exits, what interrupts leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_vast import FakeVast, offer
from tests.harness import ROOT, wait_until
from tests.vast_site import Site, free_port, quick_host, real_host

GUIDE_MODEL = "bge-reranker-base"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A Vast.ai with two good offers."""
    with FakeVast(tmp_path / "vast", delay=0.05, container_env=quick_host(tmp_path)) as fake:
        fake.offers([offer(id=1, machine_id=11, dph_total=0.1), offer(id=2, machine_id=12)])
        yield Site(fake, tmp_path)


def up(*more: str) -> tuple[str, ...]:
    return ("up", "minilm", "--yes", "--timeout", "30s", "--port", str(free_port()), *more)


def test_from_a_key_to_an_endpoint_whose_snippets_work_when_pasted(site: Site):
    status, out, err = site.run(*up("--ttl", "2h"))
    assert status == 0, err
    assert "$0.100 an hour" in out and "deploy vast destroy rerank-serve-minilm-" in out
    pasted = re.split(r"^# (.+)$", out, flags=re.MULTILINE)
    snippets = dict(zip(pasted[1::2], pasted[2::2], strict=True))
    assert list(snippets) == [
        "curl",
        "requests",
        "Cohere (pip install cohere)",
        "our own client, from this folder",
    ]
    for name, snippet in snippets.items():
        shell = ["bash", "-c"] if name == "curl" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, snippet], cwd=ROOT, env=site.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, (name, done.stderr)
        assert len(re.findall(r"\d\.\d+", done.stdout)) >= 2, (name, done.stdout)

    status, out, err = site.run("list")
    assert status == 0 and "1 instances, $0.100 an hour" in out and "120 min" in out
    status, out, err = site.run("status")
    assert status == 0 and "ready, https://127.0.0.1:" in out
    status, out, err = site.run("logs", "--tail", "50")
    assert status == 0 and "rerank-serve: starting" in out
    status, out, err = site.run("destroy")
    assert status == 0 and "is destroyed" in err
    assert site.alive() == {} and list(site.notes.all()) == []
    status, out, err = site.run("status")
    assert status == 1 and err.startswith("error: there are 0: name one of")


def test_nothing_secret_is_in_arguments_logs_or_requests(site: Site):
    status, _, err = site.run(*up("--hf-token"), RERANK_API_KEY="my-key", HF_TOKEN="hf_secret")
    assert status == 0, err
    assert "the host of the instance can read HF_TOKEN" in err
    (row,) = site.fake.instances()
    for pid in row["pids"]:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
        assert "my-key" not in arguments + environment and "hf_secret" not in arguments
    seen = site.fake.log(row["id"]) + site.fake.journal_text() + err
    assert "my-key" not in seen and site.fake.key not in seen
    for file in site.notes.root.rglob("*"):
        assert file.stat().st_mode & 0o077 == 0, file
    status, _, err = site.run("destroy", str(row["id"]))
    assert status == 0, err


def test_a_dry_run_prints_the_plan_and_rents_nothing(site: Site):
    status, out, err = site.run(
        "up", GUIDE_MODEL, "--dry-run", "--ttl", "4h", "--hf-token",
        RERANK_API_KEY="my-key", HF_TOKEN="hf_secret",
    )  # fmt: skip
    assert status == 0, err
    assert "nothing was rented" in out
    request = json.loads(out[out.index("{") : out.index("\nscript:")])
    assert request["image"] == "vllm/vllm-openai:v0.32.0" and request["disk"] == 40
    assert request["env"]["RERANK_API_KEY"] == request["env"]["HF_TOKEN"] == "[redacted]"
    assert "hf_secret" not in out + err and "my-key" not in out + err
    assert "→  1 " in out and "compute_cap >= 750 gpu_ram >= 15 num_gpus = 1" in out
    assert {event["endpoint"] for event in site.fake.journal()} == {"search"}
    assert list(site.notes.all()) == []


def test_a_dry_run_needs_no_key(site: Site):
    status, out, err = site.run("up", GUIDE_MODEL, "--dry-run", VAST_API_KEY="")
    assert status == 0, err
    assert "offers:  not searched: no Vast.ai key" in out and '"RERANK_BUNDLE"' in out


def test_the_plain_recipe_is_printed_with_its_warning(site: Site):
    status, out, err = site.run("up", GUIDE_MODEL, "--print-cli", VAST_API_KEY="")
    assert status == 0, err
    assert out.startswith("# WARNING.") and "no key: /score, /rerank" in out
    assert "--image vllm/vllm-openai:v0.32.0 --env '-p 8000:8000' --disk 40 --args --model" in out
    assert site.fake.journal() == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("up", "no-such-model", "--dry-run"), 2, "no model 'no-such-model'"),
        (("up", "rerank-server", "--print-cli"), 2, "the plain recipe serves one model"),
        (("up", "bge-reranker-v2-gemma", "--print-cli"), 2, "its prompt template"),
        (("up", "./", "--dry-run"), 2, "is a folder of this machine"),
        (("up", "--ttl", "soon"), 2, "write 4h, 90m, 1h30m or 2d"),
        (("up", "--max-price", "0"), 2, "is no price in dollars"),
        (("up", "--hf-token"), 2, "--hf-token sends $HF_TOKEN, which is not set"),
        (("up", "--api-key-file", "/no/such/file"), 2, "/no/such/file cannot be read"),
        (("up", "minilm"), 1, "Nobody is here to ask: give --yes or --max-price X"),
        (("up", "--tunnel", "--yes"), 1, "--tunnel needs an SSH key in the Vast.ai account"),
        (("destroy", "12"), 1, "0 instances are 12"),
        (("tunnel",), 1, "there are 0"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    site: Site, arguments: tuple[str, ...], status: int, words: str
):
    got, _, err = site.run(*arguments)
    assert got == status and words in err and "Traceback" not in err
    assert site.creates() == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"VAST_API_KEY": ""}, "put it into VAST_API_KEY"),
        ({"VAST_API_KEY": "wrong"}, "Vast.ai refuses the key"),
        ({"VAST_API_KEY": "secret\nkey"}, "has a character that no key can have"),
        ({"RERANK_API_KEY": "clé"}, "is not plain ASCII"),
        ({"VAST_URL": "http://127.0.0.1:9"}, "Vast.ai fails after 6 tries"),
        ({"XDG_STATE_HOME": "/proc/nothing"}, "set XDG_STATE_HOME to another folder"),
    ],
)
def test_an_account_or_machine_that_cannot_be_used(
    site: Site, environment: dict[str, str], words: str
):
    status, _, err = site.run(*up(), **environment)
    assert status in (1, 2) and words in err.splitlines()[-1] and "Traceback" not in err
    assert site.alive() == {} and "secret" not in err


def test_no_machine_fits(site: Site):
    site.fake.offers([offer(id=n, machine_id=n, gpu_ram=12000) for n in (1, 2)])
    status, _, err = site.run("up", GUIDE_MODEL, "--yes")
    assert status == 1
    assert err.splitlines()[-1] == (
        "error: none of 2 offers fits; ruled out by a GPU with 15 GB: 2; without «a GPU with 15"
        " GB» 2 would do"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("point", ["renting offer", "instance 3", "running: has our program"])
def test_an_interrupt_leaves_nothing(site: Site, point: str, number: signal.Signals):
    process = site.start(*up())
    lines = []
    for line in process.stderr:
        lines.append(line)
        if point in line:
            process.send_signal(number)
            break
    _, rest = process.communicate(timeout=60)
    err = "".join(lines) + rest
    assert process.returncode == 130, err
    assert site.alive() == {} and "Traceback" not in err
    last, noted = err.splitlines()[-1], list(site.notes.all())
    if noted:  # Vast.ai was being asked, so that one may show yet: it is named
        assert (
            f"look once more with `.venv/bin/python -m deploy vast destroy {noted[0].label}`"
            in last
        )
    else:
        assert last == "interrupted: nothing of it is left running but what is named above"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_that_come_together_leave_nothing(site: Site, second: signal.Signals):
    process = site.start(*up())
    err = ""
    for line in process.stderr:
        err += line
        if "instance 3" in line:
            process.send_signal(signal.SIGINT)
            process.send_signal(second)
            break
    err += process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert site.alive() == {} and "Traceback" not in err


def test_an_interrupt_while_vast_ai_is_creating_leaves_nothing(site: Site):
    site.fake.fault("create_lost_slow", seconds=3)
    process = site.start(*up())
    wait_until(lambda: site.alive(), 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert site.alive() == {}, err


def test_a_second_interrupt_names_what_it_leaves(site: Site):
    site.fake.fault("hang", endpoint="destroy", seconds=60)
    process = site.start(*up())
    err = ""
    for line in process.stderr:
        err += line
        if "instance 3" in line:
            process.send_signal(signal.SIGINT)
            wait_until(lambda: any(e["kind"] == "request" for e in site.fake.journal()), 20)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
        if "interrupt once more" in line:
            process.send_signal(signal.SIGINT)
            break
    err += process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    (number,) = site.alive()
    assert f"destroy {number}`" in err.splitlines()[-1] and "Traceback" not in err
    site.fake.heal()
    status, _, err = site.run("destroy", str(number))
    assert status == 0 and site.alive() == {}, err


def test_a_launcher_that_is_killed_leaves_what_list_shows(site: Site):
    process = site.start(*up())
    for line in process.stderr:
        if "instance 3" in line:
            process.kill()
            break
    process.communicate(timeout=60)
    (label,) = site.alive().values()
    status, out, _ = site.run("list")
    assert status == 0 and label in out
    status, _, err = site.run("destroy", label)
    assert status == 0 and site.alive() == {}, err


def test_an_instance_ends_itself(site: Site):
    status, _, err = site.run(*up("--ttl", "8s"))
    assert status == 0, err
    wait_until(lambda: destructions(site), 40)
    (asked,) = destructions(site)
    assert asked["by"] == asked["instance"]  # with its own key
    assert site.alive() == {}


def port_of(fake: FakeVast) -> str:
    """A port that somebody holds."""
    return fake.url.rpartition(":")[2]


def destructions(site: Site) -> list[dict]:
    return [event for event in site.fake.journal() if event.get("endpoint") == "destroy"]


def test_make_deploy(site: Site):
    make = ["make", "-s", "deploy", f"MODEL={GUIDE_MODEL}", "ARGS=--dry-run", f"VENV={sys.prefix}"]
    environment = site.environment(PYTHON=sys.executable) | {
        name: value for name, value in os.environ.items() if name.startswith("PIP_")
    }
    done = subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nothing was rented" in done.stdout


@pytest.mark.vllm
def test_a_deployment_ends_in_real_scores_over_pinned_tls(
    site: Site, record_property: Callable[[str, object], None]
):
    """The very start script, with everything to install, the gateway and the real vLLM."""
    site.fake.set(container_env=real_host())
    site.fake.fault("exits", machine=11)
    began = time.monotonic()
    port = str(free_port())
    status, out, err = site.run("up", "minilm", "--yes", "--timeout", "8m", "--port", port)
    assert status == 0, err
    record_property("measured", f"deployment, real vLLM: {time.monotonic() - began:.0f} s")
    assert "machine 11 failed: its status is exited" in err and "minilm: warming up" in err
    (deployment,) = site.notes.all()
    key_file = site.notes.folder(deployment.label) / "key"
    url = re.search(r"https://\S+", out)[0]
    verify = [sys.executable, "-m", "clients.verify", "minilm", "--url", url]
    pinned = [*verify, "--fingerprint", deployment.fingerprint, "--api-key-file", str(key_file)]
    done = subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pinned[pinned.index(deployment.fingerprint)] = "sha256:" + "0" * 64
    done = subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3 and "certificate is not the expected one" in done.stderr
    assert site.fake.most_alive() == 1
    status, _, err = site.run("destroy")
    assert status == 0 and site.alive() == {}, err


@pytest.mark.skipif(not FakeVast.has_sshd, reason="no sshd (Debian: openssh-server)")
def test_a_tunnel_is_the_only_way_in(site: Site, tmp_path: Path):
    identity = tmp_path / "id"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(identity)]
    subprocess.run(make, check=True)
    site.fake.set(ssh_keys=[identity.with_suffix(".pub").read_text()])
    status, out, err = site.run(*up("--tunnel", "--ssh-key", str(identity)))
    assert status == 0, err
    (row,) = site.fake.instances()
    assert list(row["ports"]) == ["22/tcp"]
    (deployment,) = site.notes.all()
    assert "It is reached while this runs: .venv/bin/python -m deploy vast tunnel" in out
    holder = site.start("tunnel")
    assert "until you interrupt this" in holder.stderr.readline()
    curl = re.search(r"^curl .+$", out, re.MULTILINE)[0]
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True)
    assert len(json.loads(done.stdout)) == 2, done.stderr
    holder.send_signal(signal.SIGINT)
    holder.communicate(timeout=30)
    assert holder.returncode == 130
    taken = site.run(
        *up("--tunnel", "--ssh-key", str(identity), "--local-port", port_of(site.fake))
    )
    assert taken[0] == 2 and "is in use here: choose another" in taken[2]
    done = subprocess.run(["bash", "-c", curl], capture_output=True, text=True)
    assert done.returncode == 7  # nothing listens any more
    assert "ready, through its tunnel" in site.run("status")[1]
    status, _, err = site.run("destroy", deployment.label)
    assert status == 0 and site.alive() == {}, err

"""The set-up: what it says when the machine lacks something, and that it goes on afterwards."""

import ast
import ensurepip
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import install
from deploy.install import InstallError, explain, find_python
from tests.harness import ROOT


def stub(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_python_that_is_fit_is_found(tmp_path: Path):
    old = stub(tmp_path, "python3", "echo '(3, 8)'")
    new = stub(tmp_path, "python3.12", "echo '(3, 12)'")
    assert find_python([old, "no-such-python", new]) == new
    assert find_python(install.CANDIDATES)


def test_no_python_that_is_fit_is_one_clear_line(tmp_path: Path):
    old = stub(tmp_path, "python3", "echo '(3, 8)'")
    broken = stub(tmp_path, "python3.11", "exit 127")
    with pytest.raises(InstallError) as error:
        find_python([old, broken])
    assert "Python 3.11, 3.12 or 3.13 is needed" in str(error.value)
    assert "(3, 8)" in str(error.value) and "name it with PYTHON=" in str(error.value)


def test_a_python_without_venv_is_told_apart(tmp_path: Path):
    bare = stub(tmp_path, "python3", "echo \"No module named 'ensurepip'\" >&2; exit 1")
    with pytest.raises(InstallError, match="apt install python3-venv"):
        find_python([bare])


def test_no_space(tmp_path: Path):
    lock = tmp_path / "gpu.txt"
    lock.write_text("six==1.17.0\n")
    with pytest.raises(InstallError, match=r"GiB are free in .* put the environment elsewhere"):
        install.install(tmp_path / "venv", [lock], disk_gib=1e9)
    assert not (tmp_path / "venv").exists()


def test_no_registry_is_one_clear_line_and_a_second_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lock, venv = tmp_path / "gpu.txt", tmp_path / "venv"
    lock.write_text("# nothing but\nno-such-package-here==1.0\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(InstallError, match="the package registry cannot be reached") as error:
        install.install(venv, [lock], disk_gib=0)
    assert str(venv / "install.log") in str(error.value)
    assert "no-such-package-here" in (venv / "install.log").read_text()
    assert not install.is_installed(venv, lock)

    lock.write_text(f"pip=={ensurepip.version()}\n")  # which is there already
    install.install(venv, [lock], disk_gib=0)
    assert install.is_installed(venv, lock)
    capsys.readouterr()
    install.install(venv, [lock], disk_gib=1e9)  # has nothing to do, so it says nothing
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for x==1", "no such version for this Python"),
        ("WARNING: Retrying: NewConnectionError('x')", "cannot be reached"),
        ("ERROR: something else", "ERROR: something else"),
    ],
)
def test_what_pip_says_is_explained(line: str, words: str):
    assert words in explain(["Collecting x", line])


def test_the_locks_hold_exact_versions():
    for lock in sorted(install.LOCKS.glob("*.txt")):
        names = []
        for line in install.requirements(lock):
            name, _, version = line.partition("==")
            assert version, f"{lock.name}: {line}"
            names.append(name.lower())
        assert len(set(names)) == len(names)
    cpu = (install.LOCKS / "cpu.txt").read_text()
    assert not any(f"\n{name}==" in cpu for name in ("torchvision", "torchaudio", "torchcodec"))


def versions(name: str) -> dict[str, str]:
    pins = (line.split("==") for line in install.requirements(install.LOCKS / f"{name}.txt"))
    return {package.lower().replace("_", "-"): version for package, version in pins}


@pytest.mark.parametrize("name", ["dev", "deploy", "gateway"])
def test_the_locks_agree(name: str):
    cpu, others = versions("cpu"), versions("dev")
    for package, version in versions(name).items():
        assert cpu.get(package, version) == others.get(package, version) == version, package


def test_what_deploy_needs_is_enough_for_it(tmp_path: Path):
    venv = tmp_path / "venv"
    install.install(venv, [install.LOCKS / "deploy.txt"], disk_gib=0.1)
    for option, words in (("--print-cli", "--args --model BAAI"), ("--dry-run", "not searched")):
        command = [venv / "bin" / "python", "-m", "deploy", "vast", "up", "bge-reranker-base"]
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [*command, option], cwd=ROOT, env=home, capture_output=True, text=True
        )
        assert done.returncode == 0 and words in done.stdout, done.stderr


def test_any_python_from_3_7_can_read_it():
    source = (ROOT / "deploy" / "install.py").read_text()
    ast.parse(source, feature_version=(3, 7))


def test_make_help_lists_the_verbs():
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    for verb in ("install", "serve", "stop", "argv", "check", "test", "bench"):
        assert f"make {verb}" in listed.stdout


def test_make_argv_prints_the_command():
    command = ["make", "-s", "argv", "MODEL=bge-reranker-v2-m3", f"VENV={sys.prefix}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not install.is_installed(Path(sys.prefix), install.LOCKS / f"{install.device()}.txt"):
        pytest.skip("these tests do not run in an environment that the Makefile made")
    assert "--model BAAI/bge-reranker-v2-m3 --revision" in done.stdout, done.stderr

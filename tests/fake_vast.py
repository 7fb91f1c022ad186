"""A program that answers like Vast.ai's REST API; what it rents out are processes on this machine.

`python tests/fake_vast.py --state DIR` prints its base URL and serves until it is ended; with it
end its instances, whatever ends it. Tests use the class `FakeVast`, at the end of this file, which
speaks to it by `/_control/…`; its method `fault` lists the faults.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import math
import operator
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib import parse, request

SETTINGS: dict[str, Any] = {
    "delay": 0.2,  # seconds before each next status of an instance
    "grace": 10.0,  # seconds between TERM and KILL when one is stopped
    "intervals": {},  # endpoint: least seconds between two of its requests with the same key
    "retry_after": None,  # what a 429 for these says in its header
    "container_env": {},  # variables of every instance, over all others
    "ssh_keys": [],  # the account's public keys
    "stopped_status": "exited",  # actual_status of a stopped instance; the docs say "stopped"
}
INHERITED = re.compile(r"PATH|PIP_\w+|SSL_CERT_\w+|(REQUESTS|CURL)_CA_BUNDLE")
ROUTES = (
    ("POST", r"/api/v0/bundles/?", "search"),
    ("PUT", r"/api/v0/asks/(\d+)/?", "create"),
    ("GET", r"/api/v0/instances/(\d+)/?", "show"),
    ("GET", r"/api/v1/instances/?", "list"),
    ("PUT", r"/api/v0/instances/(\d+)/?", "update"),  # by its body: start, stop or label
    ("DELETE", r"/api/v0/instances/(\d+)/?", "destroy"),
    ("PUT", r"/api/v0/instances/request_logs/(\d+)/?", "logs"),
    ("GET", r"/api/v0/ssh/?", "ssh_keys"),
    ("GET", r"/api/v0/users/current/?", "user"),
)
OWN_KEY_MAY = ("show", "start", "stop", "label", "destroy")  # an instance's own key, on itself
SELECTORS = ("endpoint", "offer", "machine", "instance")
STATUSES = ["created", "loading", "running"]
OUTCOMES = {  # fault of an instance: the status in which it ends up; none of them runs anything
    **{"stuck_loading": "loading", "status_error": "created", "exits": "exited"},
    **{"offline": "offline", "frozen": "frozen"},
    **dict.fromkeys(("no_ports", "dead_port", "refused_port"), "running"),
}
OCI = "Error response from daemon: failed to create task for container: OCI runtime create failed"
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl(2)


class Answer(NamedTuple):
    status: int | None  # None: the connection is closed instead
    body: Any = ""  # text is sent as plain text, anything else as JSON
    headers: Mapping[str, str] = {}
    delay: float = 0.0


class Refused(Exception):
    def __init__(self, status: int, error: str, msg: str, **more: object) -> None:
        self.answer = Answer(status, {"success": False, "error": error, "msg": msg, **more})


def contain(doomed: list[str], command: list[str]) -> int:
    """What a container's runtime does: when `command` ends, all that it has started ends too.

    TERM goes to the command alone. A byte on standard input kills everything; the end of it, as
    when the fake dies, also removes the directories `doomed`.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(_SUBREAPER, 1)  # orphans stay below this process
    os.environ.pop("LC_CTYPE", None)  # of Python's own making
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=lambda: prctl(_PDEATHSIG, signal.SIGKILL)
    )
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child.pid, signal.SIGTERM))
    abandoned = threading.Event()

    def listen() -> None:
        while os.read(0, 1):
            kill_below(os.getpid())
        abandoned.set()
        kill_below(os.getpid())
        for path in doomed:
            shutil.rmtree(path, ignore_errors=True)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pid, status = os.wait()
    while pid != child.pid:
        pid, status = os.wait()
    kill_below(os.getpid())
    if abandoned.is_set():
        listener.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def kill_below(pid: int) -> None:
    while found := descendants(pid):
        for each in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """The processes below `pid` that run."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


class Port:
    """A mapped TCP port: listens at `outer`, a random one, and forwards to `inner`."""

    def __init__(self, inner: int, kind: str = "") -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.outer = self.socket.getsockname()[1]
        self.inner = inner if inner < 70000 else self.outer  # an identity port
        self.held: list[socket.socket] = []  # connections to which nobody answers
        if self.inner == self.outer:
            self.socket.close()  # the instance itself listens there
        elif kind != "refused_port":
            self.socket.listen(64)
            take = self.held.append if kind == "dead_port" else self._forward
            threading.Thread(target=self._accept, args=(take,), daemon=True).start()

    def _accept(self, take: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                take(self.socket.accept()[0])

    def _forward(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.inner))
        except OSError:  # a reset, as near to a refusal as can be after accepting
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return client.close()
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes up accept()
        for each in (self.socket, *self.held):
            each.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Passes on what comes, and then the end of it. Whoever lets go of a socket last closes it."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Instance:
    """One rented machine. Its status moves in a thread of its own, one for each start."""

    def __init__(self, vast: "Vast", number: int, offer: dict, request: dict) -> None:
        self.vast, self.number, self.offer, self.request = vast, number, offer, request
        self.key, self.began = secrets.token_hex(32), time.time()
        self.label, self.env = request.get("label"), request.get("env") or {}
        self.runtype = runtype(request)
        self.visible_at = 0.0  # not shown before
        self.changed: dict[str, object] = {}  # by tests, over what the row would say
        self.status: str | None = None
        self.message, self.intended, self.outcome = "", "running", ""
        self.ports: dict[int, Port] = {}  # by the inner port asked for; 0: Vast's SSH proxy
        self.process: subprocess.Popen[bytes] | None = None
        self.thread: threading.Thread | None = None
        self.lock = threading.RLock()
        self.log = vast.state / f"{number}.log"  # outlives the instance, for whoever asks why
        self.folder, self.run_home = vast.state / str(number), vast.homes / str(number)
        for folder in (self.folder / "home", self.folder / "ssh", self.run_home):
            folder.mkdir(parents=True)
        self.launch()

    def place(self) -> dict:
        machine = self.offer["machine_id"]
        return {"offer": self.offer["id"], "machine": machine, "instance": self.number}

    def launch(self) -> None:
        self.stopped = threading.Event()
        self.outcome = next((name for name in OUTCOMES if self.vast.fault(name, self.place())), "")
        final = OUTCOMES.get(self.outcome, "running")
        ahead = [*STATUSES, final]
        ahead = ahead[: ahead.index(final) + 1]
        self.thread = threading.Thread(
            target=self._live, args=(ahead, self.stopped, self.thread), daemon=True
        )
        self.thread.start()

    def _live(
        self, ahead: list[str], stopped: threading.Event, before: threading.Thread | None
    ) -> None:
        if before:
            before.join()
        for status in ahead:
            if stopped.wait(self.vast.settings["delay"]):
                return
            with self.lock:
                if not stopped.is_set():
                    self._enter(status)
        if process := self.process:
            code = process.wait()
            asked = stopped.is_set()
            self.vast.note("ended", code=code, by_itself=not asked, **self.place())
            with self.lock:
                self._halted(self.vast.settings["stopped_status"] if asked else "exited")

    def _enter(self, status: str) -> None:
        self.status = status
        if status == "loading":
            self.message = "4c7d45f7c63c: Pull complete\n"
        elif status == "created" and self.outcome == "status_error":
            self.message = f"{OCI}: nvidia-container-cli: device error: unknown device\n"
        elif status == "running":
            self.message = f"success, running {self.request.get('image')}/{self.runtype}\n"
            self._map_ports()
            if not self.outcome:
                self._start_process()
        elif status in OUTCOMES.values():
            self._halted(status)

    def _halted(self, status: str) -> None:
        self.status = status
        while self.ports:
            self.ports.popitem()[1].close()
        if self.process:
            self.process.stdin.close()
            self.process = None

    def _map_ports(self) -> None:
        wishes = [re.fullmatch(r"-p \d+:(\d+)(/tcp)?", key) for key in self.env]
        inner = {int(wish[1]): int(wish[1]) for wish in wishes if wish}
        if "ssh" in self.runtype:
            inner |= dict.fromkeys((0, 22), free_port())
        self.ports = {wish: Port(there, self.outcome) for wish, there in inner.items()}

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if INHERITED.fullmatch(k)}
        given = {k: str(v) for k, v in self.env.items() if not k.startswith("-")}
        own = {
            "CONTAINER_ID": str(self.number),
            "CONTAINER_API_KEY": self.key,
            "VAST_CONTAINERLABEL": f"C.{self.number}",
            "PUBLIC_IPADDR": "127.0.0.1",
            "VAST_URL": self.vast.url,
            "HOME": str(self.folder / "home"),
            "RERANK_HOME": str(self.run_home),
        }
        own |= {f"VAST_TCP_PORT_{wish}": str(p.outer) for wish, p in self.ports.items() if wish}
        return {**inherited, **given, **own, **self.vast.settings["container_env"]}

    def _command(self) -> list[str]:
        onstart, args = self.request.get("onstart"), self.request.get("args") or []
        if "ssh" not in self.runtype:
            return [*filter(None, [onstart]), *args]
        folder, keys = self.folder / "ssh", self.vast.settings["ssh_keys"]
        config = SSHD_CONFIG.format(port=self.ports[22].inner, folder=folder)
        (folder / "config").write_text(config)
        (folder / "authorized_keys").write_text("\n".join(keys) + "\n")
        if not (folder / "host_key").exists():
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"]
            subprocess.run(keygen, check=True)
        with contextlib.suppress(OSError):
            Path("/run/sshd").mkdir(exist_ok=True)  # without it sshd does not start as root
        script = f'{SSHD} -D -e -f {folder}/config & bash -c "$0"; wait'
        return ["bash", "-c", script, onstart or "true"]

    def _start_process(self) -> None:
        environment, command = self._environment(), self._command()
        if not command or not shutil.which(command[0], path=environment.get("PATH")):
            self.status = "created"
            self.message = f"{OCI}: exec: {command[:1]}: executable file not found in $PATH\n"
            return
        doomed = [str(self.folder), str(self.run_home), "--"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", __file__, "--contain", *doomed, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder / "home",
                env=environment,
                start_new_session=True,
            )
        self.vast.note("started", **self.place())

    def start(self) -> None:
        with self.lock:
            self.intended = "running"
            if self.stopped.is_set() or self.status == "exited":
                self.launch()

    def stop(self) -> None:
        with self.lock:
            self.intended = "stopped"
            self.stopped.set()
            if self.process:
                self.process.terminate()
                threading.Thread(target=self._kill_later, args=(self.process,), daemon=True).start()
            else:
                self._halted(self.vast.settings["stopped_status"])

    def _kill_later(self, process: "subprocess.Popen[bytes]") -> None:
        try:
            process.wait(self.vast.settings["grace"])
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError, ValueError):  # it has ended just now
                os.write(process.stdin.fileno(), b"!")

    def destroy(self) -> None:
        with self.lock:
            self.stopped.set()
            process = self.process
            self._halted("exited")
        if process:
            process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for folder in (self.folder, self.run_home):
            shutil.rmtree(folder, ignore_errors=True)

    def row(self) -> dict:
        """What Vast shows of it."""
        shown = self.status == "running" and self.outcome != "no_ports"
        ports = {
            f"{port.outer if port.inner == port.outer else wish}/tcp": [
                {"HostIp": host, "HostPort": str(port.outer)} for host in ("0.0.0.0", "::")
            ]
            for wish, port in list(self.ports.items())
            if wish and shown
        }
        proxy = self.ports.get(0)
        row = {
            "id": self.number,
            "actual_status": self.status,
            **dict.fromkeys(("intended_status", "cur_state", "next_state"), self.intended),
            "status_msg": self.message,
            "label": self.label,
            "ports": ports or None,
            "public_ipaddr": "127.0.0.1\n",
            "ssh_host": proxy and "127.0.0.1",
            "ssh_port": proxy and proxy.outer,
            "extra_env": [[key, value] for key, value in self.env.items()],
            "onstart": self.request.get("onstart"),
            "image_uuid": self.request.get("image"),
            "image_args": self.request.get("args") or [],
            "image_runtype": self.runtype,
            "disk_space": self.request.get("disk"),
            "start_date": self.began,
        }
        return self.offer | row | self.changed


class Vast:
    """The account: its offers, instances and faults. A method `api_…` for each endpoint."""

    def __init__(self, state: Path, key: str) -> None:
        self.state, self.key, self.url = state, key, ""
        self.homes = Path(tempfile.mkdtemp(prefix="rv-"))  # short, as Unix sockets need it
        (state / "homes").symlink_to(self.homes)
        self.settings = dict(SETTINGS)
        self.offers: dict[int, dict] = {}
        self.instances: dict[int, Instance] = {}
        self.faults: list[dict] = []
        self.logs: dict[str, list[Answer]] = {}  # answers to come, by path
        self.asked: dict[tuple[int, str], float] = {}
        self.numbers = itertools.count(31000001)
        self.lock = threading.RLock()

    def note(self, kind: str, **facts: object) -> None:
        with self.lock, (self.state / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps({"time": time.time(), "kind": kind, **facts}) + "\n")

    def fault(self, name: str, place: dict) -> dict | None:
        """The first fault of this name that is meant for this place; one of its times is used."""
        with self.lock:
            for fault in self.faults:
                aimed = all(fault[key] == place.get(key) for key in SELECTORS if key in fault)
                if fault["name"] == name and aimed and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None

    def who(self, header: str) -> int | None:
        """0: the account; an instance's number, by its own key; None: nobody."""
        keys = {each.key: each.number for each in list(self.instances.values())} | {self.key: 0}
        return keys.get(header[7:]) if header.startswith("Bearer ") else None

    def answer(self, who: int | None, place: dict, body: dict, query: dict) -> Answer:
        endpoint = place["endpoint"]
        if who is None:
            return Refused(401, "auth_error", "Invalid user key").answer
        if who and not (place["id"] == who and endpoint in OWN_KEY_MAY):
            return Refused(403, "forbidden", "This key is for its own instance only").answer
        if early := self.early(who, place):
            return early
        try:
            answer = getattr(self, f"api_{endpoint}")(place, body, query)
        except Refused as refused:
            return refused.answer
        lost = self.fault("lost_response", place)
        return Answer(None, delay=lost.get("seconds", 0)) if lost else answer

    def early(self, who: int, place: dict) -> Answer | None:
        """What is answered before anything is done."""
        endpoint, now = place["endpoint"], time.monotonic()
        if hang := self.fault("hang", place):
            return Answer(None, delay=hang.get("seconds", 3600))
        limited = self.fault("rate_limited", place)
        least = self.settings["intervals"].get(endpoint, 0)
        if limited or now - self.asked.get((who, endpoint), -math.inf) < least:
            wait = (limited or self.settings).get("retry_after")
            headers = {} if wait is None else {"Retry-After": str(wait)}
            return Answer(429, "API requests too frequent", headers)
        self.asked[who, endpoint] = now
        if endpoint == "search" and (quota := self.fault("search_quota", place)):
            spent = Refused(429, "search_quota_exceeded", "Daily search quota exceeded").answer
            return spent._replace(headers={"Retry-After": str(quota.get("retry_after", 40000))})
        failing = self.fault("api_500", place) or self.fault(f"{endpoint}_fails", place)
        return Answer(failing.get("status", 500), "Internal Server Error") if failing else None

    def find(self, place: dict) -> Instance:
        if instance := self.instances.get(place["id"]):
            return instance
        raise Refused(404, "no_such_instance", f"Instance {place['id']} not found.")

    def api_user(self, *_: object) -> Answer:
        return Answer(200, {"id": 1, "email": "me@example.com", "credit": 25.0, "balance": 0})

    def api_ssh_keys(self, *_: object) -> Answer:
        keys = enumerate(self.settings["ssh_keys"], 1)
        return Answer(200, [{"id": n, "user_id": 1, "public_key": key} for n, key in keys])

    def free_offers(self) -> dict[int, dict]:
        rented = {each.offer["id"] for each in list(self.instances.values())}
        return {number: each for number, each in self.offers.items() if number not in rented}

    def api_search(self, place: dict, body: dict, query: dict) -> Answer:
        asides = ("order", "type", "limit", "allocated_storage", "disable_bundling", "rented")
        filters = {key: value for key, value in body.items() if key not in asides}
        found = select(list(self.free_offers().values()), filters, body.get("order") or [])
        return Answer(200, {"offers": found[: min(body.get("limit", 64), 64)]})

    def api_create(self, place: dict, body: dict, query: dict) -> Answer:
        if gone := self.fault("offer_gone", place):
            raise no_such_ask(place["id"], gone.get("status", 410))
        if self.fault("no_credit", place):
            msg = "Your account lacks credit; see the billing page."
            raise Refused(400, "insufficient_credit", msg, ask_id=place["id"])
        check_request(body)
        with self.lock:
            offer = self.free_offers().get(place["id"])
            if not offer:
                raise no_such_ask(place["id"], 410 if place["id"] in self.offers else 404)
            number = next(self.numbers)
            instance = self.instances[number] = Instance(self, number, offer, body)
        self.note("created", label=instance.label, **instance.place())
        done = {"success": True, "new_contract": number, "instance_api_key": instance.key}
        return self.spoiled(place, instance, Answer(200, done))

    def spoiled(self, place: dict, instance: Instance, answer: Answer) -> Answer:
        """The answer to a create that has worked, as faults have it."""
        kinds = {
            "create_lost_response": Answer(None),
            "create_lost_slow": answer,
            "create_500_done": Answer(500, "Internal Server Error"),
            "create_false_with_contract": Answer(200, {**answer.body, "success": False}),
        }
        for name, other in kinds.items():
            if fault := self.fault(name, place):
                instance.visible_at = time.time() + fault.get("appears_after", 0)
                return other._replace(delay=fault.get("seconds", 0))
        return answer

    def rows(self) -> list[dict]:
        seen = [each for each in list(self.instances.values()) if each.visible_at <= time.time()]
        return [each.row() for each in seen]

    def api_show(self, place: dict, body: dict, query: dict) -> Answer:
        found = [row for row in self.rows() if row["id"] == place["id"]]
        return Answer(200, {"instances": found[0] if found else None})

    def api_list(self, place: dict, body: dict, query: dict) -> Answer:
        order = [(each["col"], each["dir"]) for each in query.get("order_by") or []]
        found = select(self.rows(), query.get("select_filters") or {}, order)
        after = int(query.get("after_token", "after 0").split()[1])  # pages are by id
        left, limit = [row for row in found if row["id"] > after], min(query.get("limit", 25), 25)
        token = f"after {left[limit - 1]['id']}" if len(left) > limit else None
        page = {"success": True, "instances": left[:limit], "next_token": token}
        return Answer(200, page | {"instances_found": len(found), "total_instances": len(found)})

    def api_start(self, place: dict, body: dict, query: dict) -> Answer:
        if self.fault("start_unavailable", place):
            msg = "Required resources are currently unavailable, state change queued."
            raise Refused(200, "resources_unavailable", msg)
        self.find(place).start()
        return Answer(200, {"success": True})

    def api_stop(self, place: dict, body: dict, query: dict) -> Answer:
        self.find(place).stop()
        return Answer(200, {"success": True})

    def api_label(self, place: dict, body: dict, query: dict) -> Answer:
        self.find(place).label = body["label"]
        return Answer(200, {"success": True})

    def api_update(self, *_: object) -> Answer:
        raise Refused(400, "invalid_args", "state or label is needed")

    def api_destroy(self, place: dict, body: dict, query: dict) -> Answer:
        with self.lock:
            instance = self.find(place)
            del self.instances[instance.number]
        instance.destroy()
        self.note("destroyed", label=instance.label, **instance.place())
        return Answer(200, {"success": True})

    def api_logs(self, place: dict, body: dict, query: dict) -> Answer:
        instance, path = self.find(place), f"/_logs/{secrets.token_hex(16)}.log"
        text = f"Error response from daemon: No such container: C.{instance.number}\n"
        if instance.log.exists():
            text = instance.log.read_text(errors="replace")
        lines = [line for line in text.splitlines(True) if re.search(body.get("filter", ""), line)]
        tail = "".join(lines[-int(body.get("tail", 1000)) :])
        self.logs[path] = [Answer(404, "not yet"), Answer(200, tail)]
        return Answer(200, {"success": True, "result_url": self.url + path})

    def close(self) -> None:
        for instance in list(self.instances.values()):
            instance.destroy()
        shutil.rmtree(self.homes, ignore_errors=True)


def runtype(body: dict) -> str:
    return body.get("runtype") or ("args" if body.get("args") else "ssh")


def no_such_ask(number: int, status: int) -> Refused:
    msg = f"error 404/3603: no_such_ask Instance type by id {number} is not available."
    if status == 404:
        return Refused(404, "invalid_args", msg, ask_id=number)
    msg = f"error {status}/3907: no_such_ask Instance type {number} is no longer available."
    return Refused(status, "no_such_ask", msg, ask_id=number)


def check_request(body: dict) -> None:
    """What Vast's documentation bounds."""
    env, texts = body.get("env") or {}, [body.get("onstart") or "", *(body.get("args") or [])]
    wrong = {
        "image is required": not body.get("image"),
        "env must be an object": not isinstance(env, dict),
        "args and onstart: more than 4096 characters": sum(map(len, texts)) > 4096,
        "label: more than 256 characters": len(body.get("label") or "") > 256,
        "env: more than 32768 characters": len(json.dumps(env)) > 32768,
        "disk: less than 8 GB": (body.get("disk") or 8) < 8,
        "no sshd on this machine": "ssh" in runtype(body) and not SSHD,
    }
    for msg in (msg for msg, is_so in wrong.items() if is_so):
        raise Refused(400, "invalid_args", f"error 400/3467: Invalid args: {msg}")


OPERATORS = {
    **{"eq": operator.eq, "neq": operator.ne, "gt": operator.gt, "gte": operator.ge},
    **{"lt": operator.lt, "lte": operator.le, "in": lambda have, want: have in want},
    "notin": lambda have, want: have not in want,
}


def select(rows: list[dict], filters: dict, order: Any) -> list[dict]:
    """Those that fit, in order: `order` is of (field, direction)."""
    for field, wishes in filters.items():
        if not isinstance(wishes, dict) or wishes.keys() - OPERATORS.keys():
            raise Refused(400, "bad_request", f"{field} must be an object of operators")
        for name, want in wishes.items():
            rows = [row for row in rows if fits(field, row.get(field), name, want)]
    for field, direction in reversed(list(order)):
        rows = sorted(rows, key=lambda row: row.get(field) or 0, reverse=direction == "desc")
    return rows


def fits(field: str, have: object, name: str, want: object) -> bool:
    """Whether a value is as wished. The SDK sends the numbers of a query in words as text."""
    if field == "label":
        return OPERATORS[name](have, want)
    want = [*map(plain, want)] if isinstance(want, list) else plain(want)
    with contextlib.suppress(TypeError):  # None is neither more nor less than anything
        return OPERATORS[name](plain(have), want)
    return False


def plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):
        return float(value)
    return value.rpartition(", ")[2]  # of a place, the country


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vast: Vast

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        body = json.loads(text or "{}")
        if self.path.startswith("/_control/"):
            return self.send(control(self.vast, self.path.rpartition("/")[2], body))
        if self.path in self.vast.logs:  # the first answer once, the last for ever
            left = self.vast.logs[self.path]
            return self.send(left.pop(0) if len(left) > 1 else left[0])
        headers = [f"{k}: {v}" for k, v in self.headers.items() if k.lower() != "authorization"]
        with self.vast.lock, (self.vast.state / "requests.txt").open("a") as requests:
            requests.write("\n".join([f"{self.command} {self.path}", *headers, text, "\n"]))
        path, _, query = self.path.partition("?")
        who, place = self.vast.who(self.headers.get("Authorization", "")), self.place(path, body)
        answer = Answer(404, {"success": False, "msg": "no such path"})
        if place:
            answer = self.vast.answer(who, place, body, read_query(query))
        facts = {**place, "authorized": who is not None, "by": who}
        self.vast.note("request", method=self.command, path=path, status=answer.status, **facts)
        self.send(answer)

    do_GET = do_POST = do_PUT = do_DELETE = serve

    def place(self, path: str, body: dict) -> dict:
        """Which endpoint is meant, and what of it: what faults are chosen by."""
        for method, pattern, endpoint in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                number = int(match[1]) if match.groups() else None
                if endpoint == "update":
                    states = {"running": "start", "stopped": "stop"}
                    endpoint = states.get(
                        body.get("state"), "label" if "label" in body else endpoint
                    )
                offer, instance = self.vast.offers.get(number), self.vast.instances.get(number)
                about = {"offer": number, "machine": offer["machine_id"]} if offer else {}
                about = instance.place() if instance else about
                return {"endpoint": endpoint, "id": number, **about}
        return {}

    def send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        if answer.status is None:
            self.close_connection = True
            return
        plain = isinstance(answer.body, str)
        data = (answer.body if plain else json.dumps(answer.body)).encode()
        with contextlib.suppress(OSError):  # whoever has gone
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)


def read_query(query: str) -> dict:
    """The SDK sends JSON, and text as it is."""
    found: dict[str, Any] = dict(parse.parse_qsl(query))
    for key, value in found.items():
        with contextlib.suppress(ValueError):
            found[key] = json.loads(value)
    return found


def control(vast: Vast, verb: str, body: dict) -> Answer:
    if verb == "offers":
        vast.offers = {each["id"]: each for each in body["offers"]}
    elif verb == "fault":
        vast.faults.append({"times": math.inf, **body})
    elif verb == "heal":
        vast.faults.clear()
    elif verb == "set":
        vast.settings |= body
    elif verb == "change":
        vast.instances[body.pop("id")].changed |= body
    return Answer(200, [inside(each) for each in list(vast.instances.values())])


def inside(instance: Instance) -> dict:
    """A row, and what only the fake can know."""
    pid = instance.process.pid if instance.process else None
    known = {"offer": instance.offer["id"], "key": instance.key, "home": f"{instance.folder}/home"}
    known |= {"run_home": str(instance.run_home), "pid": pid}
    return instance.row() | known | {"pids": descendants(pid) if pid else []}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--key", default=secrets.token_hex(32))
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    vast = Handler.vast = Vast(options.state.resolve(), options.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    vast.url = f"http://127.0.0.1:{server.server_port}"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(vast.url, flush=True)
    try:
        sys.stdin.read() if options.until_eof else threading.Event().wait()
    finally:
        vast.close()


_numbers = itertools.count(7000001)


def offer(**overrides: object) -> dict:
    """An offer as a search shows it: a T4 for $0.12 an hour, on a machine of its own."""
    number = next(_numbers)
    gpu = {"gpu_name": "Tesla T4", "gpu_ram": 15360, "num_gpus": 1, "compute_cap": 750}
    host = {"cuda_max_good": 13.0, "reliability": 0.995, "reliability2": 0.995, "host_id": 501}
    host |= {"disk_space": 200.0, "geolocation": "Sweden, SE", "cpu_arch": "amd64"}
    net = {"inet_down": 800.0, "inet_up": 500.0, "inet_down_cost": 0.002, "inet_up_cost": 0.002}
    net |= {"direct_port_count": 20, "static_ip": True}
    market = {"verified": True, "verification": "verified", "rentable": True, "rented": False}
    market |= {"duration": 30 * 86400.0}  # for how long its host lets it yet
    market |= {"external": False, "dph_total": 0.12, "dlperf_per_dphtotal": 75.0, "score": 50.0}
    return {
        "id": number,
        "machine_id": number - 6000000,
        **gpu,
        **host,
        **net,
        **market,
        **overrides,
    }


class FakeVast:
    """The program above as a process, with these settings. Use as a context manager.

    `state` keeps its files, such as the instances' logs: `{number}.log`.
    """

    has_sshd = bool(SSHD)

    def __init__(self, state: Path, **settings: object) -> None:
        self.state, self.key, self.settings = state, secrets.token_hex(32), settings

    def __enter__(self) -> "FakeVast":
        program = [sys.executable, __file__, "--state", str(self.state), "--key", self.key]
        self.process = subprocess.Popen(
            [*program, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()
        self.set(**self.settings)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)
        homes = (self.state / "homes").resolve()
        for _ in range(40):  # what was running in it may be just ending
            shutil.rmtree(homes, ignore_errors=True)
            if not homes.exists():
                return
            time.sleep(0.05)

    def _control(self, verb: str, **body: object) -> list[dict]:
        data = json.dumps(body).encode()
        with request.urlopen(f"{self.url}/_control/{verb}", data, 30) as answer:
            return json.load(answer)

    def offers(self, offers: list[dict]) -> None:
        """All that a search can find from now on."""
        self._control("offers", offers=offers)

    def set(self, **settings: object) -> None:
        self._control("set", **settings)

    def fault(self, name: str, **options: object) -> None:
        """From now on, `times` times or always, where `offer`, `machine`, `instance` and
        `endpoint` are those given, if given. An endpoint is a name in `ROUTES`.

        Of requests: rate_limited(retry_after), api_500(status), {endpoint}_fails(status),
        search_quota(retry_after), hang(seconds), lost_response(seconds), start_unavailable.
        Of creates: offer_gone(status), no_credit, and, after the work is done,
        create_lost_response, create_lost_slow, create_500_done, create_false_with_contract: these
        answer after `seconds`, and the instance is shown only after `appears_after` seconds.
        Of instances, at each of their starts: the names in `OUTCOMES`.
        """
        chosen = {key: value for key, value in options.items() if value is not None}
        self._control("fault", name=name, **chosen)

    def heal(self) -> None:
        """No fault from now on."""
        self._control("heal")

    def change(self, number: int, **row: object) -> None:
        """The row of an instance says this from now on, whatever is true."""
        self._control("change", id=number, **row)

    def instances(self) -> list[dict]:
        """Their rows, with `offer`, `key`, `home`, `run_home`, `pid` and all `pids` below it."""
        return self._control("instances")

    def log(self, number: int) -> str:
        """What an instance has printed, also after its end."""
        return (self.state / f"{number}.log").read_text(errors="replace")

    def journal(self) -> list[dict]:
        """Events in order, each with its `time` and `kind`.

        request: method, path, status (None: no answer), endpoint, authorized, by (an instance's
        number, or 0 for the account), and offer, machine, instance as far as it has any.
        created, destroyed (label), started, ended (code, by_itself): offer, machine, instance.
        """
        path = self.state / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def journal_text(self) -> str:
        """All requests with their headers, but for Authorization, and bodies."""
        return (self.state / "requests.txt").read_text()

    def most_alive(self) -> int:
        """The greatest number of instances that there were at once."""
        steps = {"created": 1, "destroyed": -1}
        return max(itertools.accumulate(steps.get(e["kind"], 0) for e in self.journal()), default=0)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contain"]:
        middle = sys.argv.index("--")
        sys.exit(contain(sys.argv[2:middle], sys.argv[middle + 1 :]))
    main()

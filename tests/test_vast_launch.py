"""A launch, whatever Vast.ai and its hosts do: one instance that ranks, or none, or one named.

The SDK and the HTTP are real, and so are the instances: the start script, as a process with the
gateway and a fake engine. Only the time between calls is short.
"""

import random
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from deploy.vast import manage
from deploy.vast.endpoint import Endpoint
from deploy.vast.errors import (
    DeployError,
    HostFailed,
    NoCredit,
    NoMachine,
    NotOurs,
    QuotaExhausted,
    StillThere,
    VastFault,
)
from deploy.vast.follow import Follower
from tests.fake_vast import FakeVast, offer
from tests.vast_site import Site, quick_host

# Python's ssl (3.11) drops a socket unclosed when its peer resets it between connection and
# handshake, as a host may whose server is about to be there.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <clients.pin:ResourceWarning")

CHEAP, NEXT, LAST = 11, 12, 13  # machines, by their price


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A Vast.ai with three good offers."""
    with FakeVast(tmp_path / "vast", delay=0.02, container_env=quick_host(tmp_path)) as fake:
        fake.offers(
            [
                offer(id=machine - 10, machine_id=machine, dph_total=0.01 * machine)
                for machine in (CHEAP, NEXT, LAST)
            ]
        )
        yield Site(fake, tmp_path)


def machines(site: Site) -> list[int]:
    """The machines that were rented, in order."""
    return [event["machine"] for event in site.fake.journal() if event["kind"] == "created"]


def assert_one(site: Site, machine: int = CHEAP) -> None:
    """One instance is left, on that machine, it ranks, and there were never two."""
    (label,) = site.alive().values()
    assert site.fake.most_alive() == 1
    assert machines(site)[-1] == machine
    assert manage.status(site.desk, label).count("ready, https://") == 1
    manage.end(site.desk, label)
    assert_none(site)


def assert_none(site: Site) -> None:
    assert site.alive() == {}
    assert site.fake.most_alive() <= 1
    assert list(site.notes.all()) == []


def test_the_best_offer_becomes_an_endpoint_that_ranks(site: Site):
    (ready,) = site.launch()
    access = ready.access
    key = Path(access.key_file).read_text()
    answer = requests.post(
        f"{access.url}/rerank",
        json={"query": "an apple", "passages": ["an apple", "a hammer"]},
        headers={"x-api-key": key},
        verify=access.certificate,
        timeout=20,
    )
    assert answer.json() == [1.0, 0.5]  # of the fake engine: (1 + cosine) / 2
    assert (
        requests.get(f"{access.url}/v1/models", verify=access.certificate, timeout=20).status_code
        == 401
    )
    assert key not in site.fake.journal_text() and key not in site.text
    assert_one(site)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("status_error", "its host says: Error response from daemon"),
        ("exits", "its status is exited"),
        ("offline", "its status is offline"),
        ("frozen", "its status is frozen"),
    ],
)
def test_a_host_that_fails_is_destroyed_and_the_next_is_taken(site: Site, fault: str, words: str):
    site.fake.fault(fault, machine=CHEAP)
    site.launch()
    assert f"machine {CHEAP} failed: {words}" in site.text
    assert machines(site) == [CHEAP, NEXT]
    assert_one(site, NEXT)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no_ports", "nothing leads to its port"),
        ("dead_port", "not begun"),
        ("refused_port", "not begun"),
    ],
)
def test_a_host_that_stalls_is_destroyed_and_the_next_is_taken(site: Site, fault: str, words: str):
    site.fake.fault(fault, machine=CHEAP)
    site.launch(timeout_s=12)
    (line,) = (line for line in site.lines if line.startswith(f"machine {CHEAP} failed: stalled"))
    assert words in line or "last: " in line
    assert machines(site) == [CHEAP, NEXT]
    assert_one(site, NEXT)


def test_a_host_that_loads_for_ever_is_destroyed_when_the_time_is_over(site: Site):
    site.fake.fault("stuck_loading", machine=CHEAP)
    site.launch(timeout_s=9)
    assert f"machine {CHEAP} failed: not ready after 0:09 min; last: loading" in site.text
    assert_one(site, NEXT)


@pytest.mark.parametrize("status", [404, 410])
def test_an_offer_that_is_gone_is_passed_over_and_is_no_failure(site: Site, status: int):
    site.fake.fault("offer_gone", machine=CHEAP, status=status)
    site.launch(tries=1)
    assert "offer 1 is gone" in site.text
    assert_one(site, NEXT)


def test_when_all_offers_are_gone_it_says_so(site: Site):
    site.fake.fault("offer_gone")
    with pytest.raises(NoMachine, match=r"none of 3 offers fits; ruled out by not tried before: 3"):
        site.launch()
    assert_none(site)


@pytest.mark.parametrize(
    "fault", ["create_lost_response", "create_500_done", "create_false_with_contract"]
)
def test_what_a_lost_answer_created_is_found_by_its_label(site: Site, fault: str):
    site.fake.fault(fault, times=1, appears_after=0.05)
    site.launch()
    assert "looking for an instance labelled rerank-serve-minilm-" in site.text
    assert site.creates() == 1
    assert_one(site)


def test_what_shows_too_late_to_be_found_is_destroyed_in_the_end(site: Site):
    site.fake.fault("create_lost_response", times=1, appears_after=1.5, machine=CHEAP)
    site.fake.fault("stuck_loading", machine=CHEAP)  # for both would want the same port here
    site.launch()
    assert "nothing was created, as it seems" in site.text
    assert "looking once more for what was never answered for" in site.text
    assert list(site.alive().values()) == [d.label for d in site.notes.all()]
    assert machines(site) == [CHEAP, NEXT]


def test_what_has_not_shown_in_the_end_is_named(site: Site):
    site.fake.fault("create_lost_response", times=1, appears_after=60, machine=CHEAP)
    site.fake.fault("stuck_loading", machine=CHEAP)
    (ready,) = site.launch()
    (lost,) = (d for d in site.notes.all() if d.label != ready.deployment.label)
    assert site.lines[-1] == (
        f"should it show later, `.venv/bin/python -m deploy vast destroy {lost.label}` ends it"
    )


def test_a_creation_is_never_repeated_blindly(site: Site):
    site.fake.fault("create_lost_response", machine=CHEAP)
    site.fake.fault("status_error", machine=CHEAP)
    site.launch()
    assert machines(site) == [CHEAP, NEXT] and site.creates() == 2
    assert_one(site, NEXT)


def test_when_nobody_can_tell_what_was_created_nothing_more_is_rented(site: Site):
    site.fake.fault("create_lost_response")
    site.fake.fault("list_fails")
    with pytest.raises(StillThere, match=r"may still run and cost money .* destroy rerank-serve-"):
        site.launch()
    assert machines(site) == [CHEAP]
    site.fake.heal()
    (label,) = site.alive().values()
    assert [d.label for d in site.notes.all()] == [label]
    manage.end(site.desk, label)
    assert_none(site)


def test_an_instance_that_cannot_be_destroyed_is_named_and_nothing_more_is_rented(site: Site):
    site.fake.fault("exits", machine=CHEAP)
    site.fake.fault("destroy_fails")
    with pytest.raises(StillThere, match=r"deploy vast destroy \d+`") as error:
        site.launch()
    (number,) = site.alive()
    assert f"instance {number} labelled" in str(error.value)
    assert machines(site) == [CHEAP]
    site.fake.heal()
    manage.end(site.desk, str(number))
    assert_none(site)


def test_a_destruction_that_fails_at_first_is_tried_again(site: Site):
    site.fake.fault("exits", machine=CHEAP)
    site.fake.fault("destroy_fails", times=2)
    site.launch()
    assert_one(site, NEXT)


def test_too_many_requests_are_waited_for(site: Site):
    for endpoint in ("search", "create", "show", "list", "logs", "destroy"):
        site.fake.fault("rate_limited", endpoint=endpoint, times=3)
    site.launch()
    assert_one(site)


@pytest.mark.parametrize("fault", ["api_500", "hang"])
def test_a_fault_of_vast_ai_that_passes_is_no_failure(site: Site, fault: str):
    more = {"seconds": 5} if fault == "hang" else {}
    for endpoint in ("search", "show", "list", "logs", "destroy"):
        site.fake.fault(fault, endpoint=endpoint, times=1, **more)
    site.launch(timeout_s=40)
    assert_one(site)


def test_a_fault_of_vast_ai_that_stays_leaves_nothing(site: Site):
    site.fake.fault("api_500", endpoint="logs")
    with pytest.raises(DeployError, match=r"Vast\.ai fails after 6 tries"):
        site.launch()
    assert_none(site)


def test_no_credit_ends_it_at_once(site: Site):
    site.fake.fault("no_credit")
    with pytest.raises(NoCredit, match="add credit to the account"):
        site.launch()
    assert site.creates() == 1
    assert_none(site)


def test_a_used_up_search_quota_says_when_it_is_filled_again(site: Site):
    site.fake.fault("search_quota", retry_after=40000)
    with pytest.raises(QuotaExhausted, match=r"try again later, in about 11\.1 hours"):
        site.launch()
    assert_none(site)


def test_a_server_that_ranks_wrongly_is_not_taken(site: Site, tmp_path: Path):
    site.fake.set(container_env=quick_host(tmp_path, FAKE_SCORES="unshared"))
    with pytest.raises(NoMachine, match="2 machines failed"):
        site.launch(tries=2)
    assert "it ranks wrongly: four passages came in the order" in site.text
    assert machines(site) == [CHEAP, NEXT]
    assert_none(site)


def test_a_server_that_cannot_start_says_why(site: Site, tmp_path: Path):
    site.fake.set(container_env=quick_host(tmp_path, FAKE_BOOT="die"))
    with pytest.raises(NoMachine):
        site.launch(tries=1, ttl_s=3600)  # with an end set, the container lives on
    assert "its server ended with status 1: " in site.text
    assert "the first error, which explains it" in site.text
    assert_none(site)


def test_waste_is_bounded(site: Site):
    site.fake.fault("exits")
    with pytest.raises(NoMachine, match="1 machines failed, for about"):
        site.launch(max_waste=0.001)
    assert machines(site) == [CHEAP]
    assert_none(site)


def test_nothing_is_rented_without_an_agreement(site: Site):
    asked: list[str] = []
    with pytest.raises(NoMachine, match="give --yes or --max-price"):
        site.launch(ask=lambda question: bool(asked.append(question)), yes=False)
    assert "at most $0.130 an hour" in asked[0]
    assert site.creates() == 0
    assert_none(site)


def test_a_price_that_was_agreed_to_is_not_gone_beyond(site: Site):
    site.fake.fault("exits", machine=CHEAP)
    with pytest.raises(NoMachine, match=r"at most \$0.115 an hour: 2"):
        site.launch(ask=lambda _: pytest.fail("was asked"), yes=False, max_price=0.115)
    assert machines(site) == [CHEAP]
    assert_none(site)


@pytest.mark.parametrize("wish", [{"max_price": 0.2}, {}])
def test_a_price_that_has_risen_since_is_not_paid(site: Site, wish: dict[str, float]):
    def dearer(_: str) -> bool:
        site.fake.offers([offer(id=1, machine_id=CHEAP, dph_total=9.99)])
        return True

    if wish:
        site.desk.show = lambda line: (site.lines.append(line), "→" in line and dearer(""))
    with pytest.raises(NoMachine):
        site.launch(ask=dearer, yes=False, **wish)
    assert "it costs $9.990 an hour, more than was agreed" in site.text
    assert_none(site)


def test_each_attempt_has_a_key_of_its_own_unless_one_is_given(site: Site):
    site.fake.fault("exits", machine=CHEAP)
    site.launch(key="my-own-key")
    (deployment,) = site.notes.all()
    assert site.notes.key(deployment.label) == "my-own-key"
    manage.end(site.desk, None)
    site.launch()
    (deployment,) = site.notes.all()
    assert site.notes.key(deployment.label).startswith("rk-")
    assert "my-own-key" not in site.fake.journal_text()


@pytest.mark.parametrize("seed", range(6))
def test_any_faults_together_hide_no_instance(site: Site, seed: int):
    chance = random.Random(seed)
    hosts = ["status_error", "exits", "offline", "frozen"]
    creates = ["create_lost_response", "create_500_done", "create_false_with_contract"]
    calls = ["rate_limited", "api_500", "lost_response"]
    for machine in (CHEAP, NEXT):
        site.fake.fault(chance.choice(hosts), machine=machine)
    site.fake.fault(chance.choice([*creates, "offer_gone"]), times=chance.randint(1, 2))
    for endpoint in ("show", "list", "destroy", "logs"):
        times = chance.randint(1, 8)  # beyond 5 the call itself fails
        site.fake.fault(chance.choice(calls), endpoint=endpoint, times=times)
    told: list[object] = []
    words = ""
    try:
        told = site.launch()
    except DeployError as error:
        words = str(error)
        assert words and "\n" not in words
    assert site.fake.most_alive() <= 1
    for label in site.alive().values():
        assert label in words or [d.label for d in site.notes.all()] == [label]
    assert bool(told) != bool(words)


def test_stop_and_start_keep_the_key_and_the_certificate(site: Site):
    (ready,) = site.launch()
    label = ready.deployment.label
    assert "Its disk still costs money" in manage.stop(site.desk, label)
    again = manage.start(site.desk, label)
    assert again.deployment.fingerprint == ready.deployment.fingerprint
    assert again.access.url != ready.access.url  # the port outside is a new one
    assert_one(site)


def test_a_start_whose_machine_is_taken_says_what_still_costs(site: Site):
    (ready,) = site.launch()
    (number,) = site.alive()
    manage.stop(site.desk, None)
    site.fake.fault("start_unavailable")
    words = f"does not start it: .* Instance {number}: its disk .* deploy vast destroy {number}`"
    with pytest.raises(StillThere, match=words):
        manage.start(site.desk, ready.deployment.label)
    changes = [event.get("endpoint") for event in site.fake.journal()]
    assert changes.count("stop") == 2  # the last, so that it does not stay queued


def test_a_start_that_cannot_be_followed_names_what_runs(site: Site):
    (ready,) = site.launch()
    (number,) = site.alive()
    manage.stop(site.desk, None)
    site.fake.fault("api_500", endpoint="show")
    with pytest.raises(StillThere, match=f"Instance {number}: .*deploy vast stop {number}`"):
        manage.start(site.desk, ready.deployment.label)
    site.fake.heal()
    (site.notes.folder(ready.deployment.label) / "key").unlink()
    manage.stop(site.desk, None)
    with pytest.raises(DeployError, match="key cannot be read"):
        manage.start(site.desk, None)
    assert site.fake.instances()[0]["actual_status"] == "exited"  # it was not started for that


def test_only_what_is_stopped_is_called_so(site: Site):
    site.launch()
    (number,) = site.alive()
    site.fake.change(number, actual_status="frozen")
    manage.CHANGES_WITHIN_S, before = 0.5, manage.CHANGES_WITHIN_S
    try:
        with pytest.raises(HostFailed, match="does not stop: its disk costs money"):
            manage.stop(site.desk, None)
    finally:
        manage.CHANGES_WITHIN_S = before
    assert "$0.110 an hour" in manage.list_all(site.desk)


def test_a_label_that_others_wrote_harms_nothing(site: Site, tmp_path: Path):
    (ready,) = site.launch()
    (number,) = site.alive()
    precious = tmp_path / "precious"
    precious.mkdir()
    evil = f"{ready.deployment.label}/../../../../precious"
    for label in (evil, "my production; $(reboot)"):
        site.fake.change(number, label=label)
        assert str(number) in manage.list_all(site.desk)  # by its id, which the notes have
        assert manage.find(site.desk, str(number)).id == number
    manage.end(site.desk, ready.deployment.label)
    assert site.alive() == {} and precious.is_dir()
    with pytest.raises(DeployError, match="is no label of this program's"):
        site.notes.forget(evil)


def test_destroy_takes_no_beginning_of_a_name(site: Site):
    (ready,) = site.launch()
    with pytest.raises(NotOurs):
        manage.end(site.desk, ready.deployment.label[:-1])
    assert len(site.alive()) == 1


def test_rows_with_nulls_and_many_pages_are_read(site: Site):
    site.launch()
    (number,) = site.alive()
    site.fake.change(number, start_date=None, extra_env=None, ports=None, status_msg=None)
    assert manage.find(site.desk, None).started == 0
    assert "1 instances" in manage.list_all(site.desk)
    manage.end(site.desk, None)
    assert_none(site)


def test_a_log_that_cannot_be_read_does_not_hide_why_a_host_failed():
    def refuse(_: int) -> str:
        raise VastFault("no log")

    dead = SimpleNamespace(status="exited", intended="running", message="", hourly=0.1)
    account = SimpleNamespace(show=lambda _: dead, logs=refuse)
    follower = Follower(SimpleNamespace(vast=account), 1, nullcontext, "key", b"", 60)
    with pytest.raises(HostFailed, match=r"^its status is exited$"):
        follower._look()


def test_an_instance_that_lost_its_disk_gets_the_program_again(site: Site):
    (ready,) = site.launch()
    (row,) = site.fake.instances()
    manage.stop(site.desk, None)
    for file in Path(row["run_home"]).glob("*"):
        if file.name in ("program.tgz", "certificate.pem"):
            file.unlink()
    again = manage.start(site.desk, None)
    assert again.deployment.fingerprint != ready.deployment.fingerprint
    assert_one(site)


def test_names_of_instances(site: Site):
    with pytest.raises(NotOurs, match="there are 0"):
        manage.status(site.desk, None)
    (ready,) = site.launch()
    (number,) = site.alive()
    label = ready.deployment.label
    for name in (None, str(number), label, label[:20]):
        assert manage.find(site.desk, name).id == number
    with pytest.raises(NotOurs, match=f"0 instances are nothing.*{label}"):
        manage.end(site.desk, "nothing")
    listed = manage.list_all(site.desk)
    assert label in listed and "1 instances, $0.110 an hour" in listed
    assert "rerank-serve: starting" in manage.logs(site.desk, None, 100)
    assert_one(site)


def test_another_machine_may_list_and_destroy_but_not_ask(site: Site, tmp_path: Path):
    site.launch()
    elsewhere = Site(site.fake, tmp_path / "elsewhere")
    assert "launched from another machine" in manage.status(elsewhere.desk, None)
    with pytest.raises(NotOurs, match="start it there"):
        manage.start(elsewhere.desk, None)
    manage.end(elsewhere.desk, None)
    assert site.alive() == {}


def test_what_the_script_said_first_is_kept_when_its_log_is_flooded():
    begin = f"rerank-serve: fingerprint sha256:{'ab' * 32} run 7\nrerank-serve: starting\n"
    logs = iter([begin, "garbage\n" * 400, "garbage\nrerank-serve: ended with status 1\n"])
    account = SimpleNamespace(logs=lambda _: next(logs))
    follower = Follower(SimpleNamespace(vast=account), 1, nullcontext, "key", b"", 60)
    first, flooded, ended = follower._hear(), follower._hear(), follower._hear()
    assert (flooded.fingerprint, flooded.run, flooded.step) == (first.fingerprint, "7", "starting")
    assert (ended.fingerprint, ended.ended) == (first.fingerprint, 1)


def test_a_server_with_another_certificate_is_sent_nothing(site: Site):
    (ready,) = site.launch()
    host, port = ready.access.url.removeprefix("https://").split(":")
    other = Endpoint((host, int(port)), "sha256:" + "0" * 64, "the key")
    for ask in (other.phase, other.verify, lambda: other.send_program(b"x")):
        with pytest.raises(HostFailed, match="another certificate than its log tells of"):
            ask()


def test_who_answers_without_a_key_is_not_taken(site: Site):
    (ready,) = site.launch()
    host, port = ready.access.url.removeprefix("https://").split(":")
    fingerprint = ready.access.fingerprint
    with pytest.raises(HostFailed, match="a first ranking fails: 401"):
        Endpoint((host, int(port)), fingerprint, "a wrong key").verify()

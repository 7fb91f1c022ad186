"""What is asked of Vast.ai, and which offer is taken. Golden files hold each config's search."""

import inspect
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vastai import VastAI
from vastai.api.instances import build_create_instance_payload
from vastai.api.query import offers_alias, offers_fields, offers_mult, parse_query

from deploy.vast import plan
from deploy.vast.launch import BOOT
from deploy.vast.offers import NoneFits, Quote, choose, quote, table
from deploy.vast.plan import Clause, Contents, clauses, needs_of, query, query_text
from serve import stack_yaml
from serve.errors import ConfigError
from serve.shelf import CONFIGS
from serve.spec import Hardware
from tests.fake_vast import check_request, offer, select
from tests.harness import ROOT

GOLDEN = Path(__file__).parent / "golden" / "vast"
GUIDE = (GOLDEN / "guide-search.txt").read_text().strip()
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
BASE = needs_of(stack_yaml.find("bge-reranker-base"))
NEEDS = clauses(BASE)
OPERATORS = {"gte": operator.ge, "lte": operator.le, "eq": operator.eq}


def parsed(text: str) -> dict:
    """A search text as the SDK's own parser reads it; it leaves most numbers as text."""
    found = parse_query(text, None, offers_fields, offers_alias, offers_mult)
    return {
        field: {name: value if value in (True, False) else float(value)}
        for field, wishes in found.items()
        for name, value in wishes.items()
    }


# ------------------------------------------------------------------------------------ the search


def test_the_guides_own_search():
    found = clauses(replace(BASE, gpu_memory_gib=16))
    assert query_text(found[:7]) == GUIDE
    assert parsed(GUIDE) == query(found[:7])


def test_we_ask_for_what_the_guide_does_and_for_more():
    ours = query_text(NEEDS)
    assert ours.startswith(GUIDE.replace("gpu_ram >= 16", "gpu_ram >= 15") + " ")


@pytest.mark.parametrize(
    ("megabytes", "gigabytes", "fits"),
    [
        (15360, 15, True),  # a T4, and what we ask for bge-reranker-base
        (15360, 16, False),  # the same, and what the guide asks for
        (23034, 22, True),  # an L4
        (23028, 22, True),  # an A10
        (23028, 24, False),
        (24564, 24, True),
    ],
)
def test_gpu_memory_is_as_offers_report_it(megabytes: int, gigabytes: float, fits: bool):
    offered, wanted = offer(gpu_ram=megabytes), clauses(replace(BASE, gpu_memory_gib=gigabytes))
    assert all(clause.holds(offered) for clause in wanted) == fits
    assert bool(select([offered], query(wanted), [])) == fits


@pytest.mark.parametrize("name", NAMES)
def test_golden_search(name: str, capsys: pytest.CaptureFixture):
    found = clauses(needs_of(stack_yaml.find(name)))
    assert query_text(found) + "\n" == (GOLDEN / f"{name}.txt").read_text()
    assert parsed(query_text(found)) == query(found)
    assert capsys.readouterr().err == ""  # the parser says there which fields it does not know


def test_no_golden_file_is_left_over():
    known = {*NAMES, "guide-search", "recipe-bge-reranker-base"}
    assert {path.stem for path in GOLDEN.iterdir()} == known


numbers = st.floats(min_value=0, max_value=1e6)
hardware = st.builds(Hardware, **{field.name: numbers for field in fields(Hardware)})


positive = st.none() | st.floats(min_value=1e-6, max_value=1e6)


@given(hardware, positive, positive)
def test_the_text_of_a_search_is_the_search(
    needs: Hardware, max_price: float | None, ttl_s: float | None
):
    found = clauses(needs, max_price, ttl_s)
    assert parsed(query_text(found)) == query(found)


def test_a_price_and_a_time_are_two_more_requirements():
    *rest, time, price = clauses(BASE, 0.35, 12 * 3600)
    assert tuple(rest) == NEEDS
    assert (str(time), time.words) == ("duration >= 0.5", "free for 12 h")
    assert (str(price), price.words) == ("dph_total <= 0.35", "at most $0.35 an hour")


@pytest.mark.parametrize(
    ("clause", "value", "holds"),
    [
        (clauses(BASE, None, 4 * 3600)[-1], 4 * 3600, True),  # offers say it in seconds
        (clauses(BASE, None, 4 * 3600)[-1], 4 * 3600 - 1, False),
        (clauses(BASE, 0.35)[-1], 0.35, True),
        (clauses(BASE, 0.35)[-1], 0.3501, False),
        (NEEDS[2], 1, True),  # one GPU
        (NEEDS[2], 2, False),
        (NEEDS[2], True, False),
        (NEEDS[3], True, True),  # an address that stays
        (NEEDS[3], 1, True),
        (NEEDS[3], False, False),
        (NEEDS[3], 0, False),
        (NEEDS[3], "true", False),
        (NEEDS[3], None, False),
    ],
)
def test_whether_a_requirement_holds(clause: Clause, value: object, holds: bool):
    assert clause.holds({clause.field: value}) == holds
    assert not clause.holds({})


# ------------------------------------------------------------------------------------- the needs


def test_what_the_stack_needs():
    said = {"gpu_memory_gib": 22, "disk_gib": 60}  # by its own YAML
    rest = {"memory_gib": 17, "download_gb": 12.3, "compute_capability": 8, "cuda": 13}
    assert needs_of(stack_yaml.find("rerank-server")) == Hardware(**said, **rest)


def test_what_no_yaml_says():
    assert needs_of(stack_yaml.find("org/name")) == plan.UNSAID


def test_what_one_yaml_of_a_stack_does_not_say(tmp_path: Path):
    path = tmp_path / "stack.yaml"
    path.write_text("models: {bge-reranker-base: {}, plain: {config: org/name}}\n")
    assert needs_of(stack_yaml.find(str(path))) == Hardware(
        memory_gib=4,
        gpu_memory_gib=BASE.gpu_memory_gib + plan.UNSAID.gpu_memory_gib,
        disk_gib=BASE.disk_gib + plan.UNSAID.disk_gib,
        download_gb=BASE.download_gb + plan.UNSAID.download_gb,
        compute_capability=7.5,
        cuda=13.0,
    )


def test_the_image_is_that_of_the_lock():
    assert f"vllm=={plan.VLLM_TAG[1:]}" in (ROOT / "deploy/lock/gpu.txt").read_text().split()
    assert plan.image_for(replace(BASE, cuda=13.0)) == f"vllm/vllm-openai:{plan.VLLM_TAG}"
    assert plan.image_for(replace(BASE, cuda=12.9)) == f"vllm/vllm-openai:{plan.VLLM_TAG}-cu129"
    with pytest.raises(ConfigError, match=r"for CUDA 12\.8: write 13 or 12\.9"):
        plan.image_for(replace(BASE, cuda=12.8))


# ----------------------------------------------------------------------------------- the request

KEY, DIGEST, BUNDLE = "rk-secret", "ab" * 32, "cd" * 32
CONTENTS = Contents(model="minilm", key=DIGEST, bundle=BUNDLE)
EVERYTHING = replace(CONTENTS, tunnel=True, ttl_s=14400.25, hf_token="hf_secret")


def request(contents: Contents = CONTENTS, script: str = "echo") -> plan.Request:
    return plan.request_for(BASE, contents, label="rerank-serve-x", script=script)


def payload(asked: plan.Request) -> dict:
    """What the SDK sends for it."""
    inspect.signature(VastAI.create_instance).bind(None, 1, **asked.arguments())
    sent = build_create_instance_payload(**asked.arguments())
    check_request(sent)
    return {key: value for key, value in sent.items() if value}


def test_an_open_port():
    assert payload(request()) == {
        "client_id": "me",
        "image": f"vllm/vllm-openai:{plan.VLLM_TAG}",
        "disk": 40,
        "label": "rerank-serve-x",
        "cancel_unavail": True,
        "runtype": "args",
        "onstart": "/bin/bash",
        "args": ["-c", "echo"],
        "env": {
            "RERANK_MODEL": "minilm",
            "RERANK_API_KEY": f"sha256:{DIGEST}",
            "RERANK_BUNDLE": BUNDLE,
            "RERANK_PORT": "8443",
            "RERANK_DEVICE": "gpu",
            "RERANK_HOST": "0.0.0.0",
            "-p 8443:8443": "1",
        },
    }


def test_a_tunnel_opens_no_port():
    sent = payload(request(replace(CONTENTS, tunnel=True, port=9000)))
    assert sent["runtype"] == "ssh_direc ssh_proxy"
    assert sent["onstart"] == "echo" and "args" not in sent
    assert sent["env"]["RERANK_HOST"] == "127.0.0.1"
    assert sent["env"]["RERANK_OUTPUT"] == "/proc/1/fd/1"
    assert not any(key.startswith("-") for key in sent["env"])


def test_an_end_and_a_token_are_sent_where_they_are_given():
    assert not {"RERANK_TTL", "HF_TOKEN"} & request().env.keys()
    env = request(EVERYTHING).env
    assert (env["RERANK_TTL"], env["HF_TOKEN"]) == ("14400", "hf_secret")


def test_only_secrets_are_hidden():
    asked = request(EVERYTHING)
    plain, shown = asked.arguments(), asked.redacted()
    secrets = {"RERANK_API_KEY": f"sha256:{DIGEST}", "HF_TOKEN": "hf_secret"}
    assert shown.pop("env") == plain["env"] | dict.fromkeys(secrets, "[redacted]")
    assert {key: plain["env"][key] for key in secrets} == secrets
    assert shown == {key: value for key, value in plain.items() if key != "env"}
    for text in (json.dumps(asked.redacted()), repr(asked), repr(EVERYTHING)):
        assert "hf_secret" not in text


@pytest.mark.parametrize("tunnel", [False, True])
def test_a_script_may_have_so_many_characters(tunnel: bool):
    contents, longest = replace(CONTENTS, tunnel=tunnel), 4096 - len("/bin/bash -c ")
    sent = payload(request(contents, "x" * longest))
    assert sum(map(len, [sent["onstart"], *sent.get("args", [])])) <= 4096
    with pytest.raises(ConfigError, match=f"the start script has {longest + 1} characters"):
        request(contents, "x" * (longest + 1))


def test_our_script_is_short_enough():
    request(script=plan.packed(BOOT.read_text()))


attempts = st.from_regex(r"[0-9a-f]{6}-[1-9][0-9]?", fullmatch=True)


@given(st.lists(st.tuples(st.text(), attempts), max_size=4, unique_by=lambda pair: pair[1]))
def test_labels(pairs: list[tuple[str, str]]):
    labels = [plan.label_for(model, attempt) for model, attempt in pairs]
    assert len(set(labels)) == len(labels)
    for label, (_, attempt) in zip(labels, pairs, strict=True):
        assert re.fullmatch(r"rerank-serve-[a-z0-9.-]*-" + attempt, label)
        assert len(label) <= 256


# ----------------------------------------------------------------------------- what an offer costs

NUMBERS = {"dph_total": 0.5, "inet_down_cost": 0.01, "inet_down": 500.0, "reliability": 0.99}


def working_hour(hours: float = 8, **changes: float) -> float:
    return quote(offer(**{**NUMBERS, **changes}), BASE, hours).working_hour


@pytest.mark.parametrize(
    ("numbers", "hours", "download", "minutes", "working_hour"),
    [
        # 11.1 GB: an image of 10 and a model of 1.1; three minutes and 111 seconds
        ((0.12, 0.002, 800, 0.995), 8, 0.0222, 4.85, (0.12 * (8 + 4.85 / 60) + 0.0222) / 7.96),
        ((0.30, 0.000, 1110, 1.0), 1, 0.0, 3 + 80 / 60, 0.3 * (1 + 260 / 3600)),
        ((0.00, 0.010, 1110, 0.5), 2, 0.111, 3 + 80 / 60, 0.111),
    ],
)
def test_quotes_by_hand(
    numbers: Sequence[float], hours: float, download: float, minutes: float, working_hour: float
):
    found = quote(offer(**dict(zip(NUMBERS, numbers, strict=True))), BASE, hours)
    assert found.hourly == numbers[0]
    assert found.download == pytest.approx(download)
    assert found.start_hours * 60 == pytest.approx(minutes)
    assert found.working_hour == pytest.approx(working_hour)


@pytest.mark.parametrize(
    ("field", "sign", "most"),
    [
        ("dph_total", 1, 100),
        ("inet_down_cost", 1, 1),
        ("inet_down", -1, 1e5),
        ("reliability", -1, 1),
    ],
)
@given(st.data())
def test_what_makes_an_offer_dearer(field: str, sign: int, most: float, data: st.DataObject):
    value = st.floats(min_value=most / 1e3, max_value=most)
    lower, higher = sorted((data.draw(value), data.draw(value)))
    before, after = working_hour(**{field: lower}), working_hour(**{field: higher})
    assert sign * (after - before) >= 0
    if higher > 1.01 * lower:
        assert after != before


@given(st.floats(min_value=0.1, max_value=1e4), st.floats(min_value=1.01, max_value=100))
def test_the_longer_the_use_the_less_the_download_matters(hours: float, times: float):
    def share(hours: float) -> float:
        return 1 - working_hour(hours, inet_down_cost=0) / working_hour(hours)

    assert 0 < share(hours * times) < share(hours)


# ----------------------------------------------------------------------------- which offer is taken

SENSE = "a price and a speed that can be"  # in the words of `NoneFits`
TRIED = "not tried before"
JUNK: list[object] = [None, "", "15360", True, False, [], {}, -1, -0.5, 0, 1, 2.5, 10**400, 1e308]
JUNK += [float("nan"), float("inf"), float("-inf"), 5e-324]
missing = object()
READ = sorted({*NUMBERS, "id", "machine_id", *(clause.field for clause in NEEDS)})
values = st.sampled_from([missing, *JUNK]) | st.floats() | st.integers()
changes = st.dictionaries(st.sampled_from([*READ, "gpu_name"]), values, max_size=3)
prices = st.sampled_from([0.1, 0.2, 0.5]) | st.floats(0.01, 2)
machines = st.integers(min_value=1, max_value=6)


@st.composite
def an_offer(draw: st.DrawFn) -> dict:
    """A good offer but for some of its fields."""
    good = offer(dph_total=draw(prices), machine_id=draw(machines)) | draw(changes)
    return {field: value for field, value in good.items() if value is not missing}


offer_lists = st.lists(an_offer(), max_size=8, unique_by=lambda each: repr(each.get("id")))


def is_number(value: object) -> bool:
    """Whether it is one that an offer may have."""
    return type(value) in (int, float) and -1e15 < value < 1e15


def meets(each: Mapping, clause: Clause) -> bool:
    [(field, wish)] = query([clause]).items()
    [(name, bound)] = wish.items()
    value = each.get(field)
    if isinstance(bound, bool):
        return type(value) in (bool, int) and bool(value) == bound
    return is_number(value) and OPERATORS[name](value, bound)


def makes_sense(each: Mapping) -> bool:
    price, traffic, speed, up = (each.get(field) for field in NUMBERS)
    return (
        all(type(each.get(key)) is int and 0 < each[key] < 1e15 for key in ("id", "machine_id"))
        and all(map(is_number, (price, traffic, speed, up)))
        and (price >= 0 and traffic >= 0 and speed >= 0.001 and 0.001 <= up <= 1)
    )


def failures(each: Mapping, wanted: Iterable[Clause], excluded: set[int]) -> list[str]:
    """What an offer does not meet, as this file has it."""
    failed = [clause.words for clause in wanted if not meets(each, clause)]
    failed += [] if makes_sense(each) else [SENSE]
    machine = each.get("machine_id")
    return failed + ([TRIED] if is_number(machine) and machine in excluded else [])


@pytest.mark.parametrize("field", READ)
def test_one_odd_value(field: str):
    for value in (missing, *JUNK):
        odd = {k: v for k, v in (offer() | {field: value}).items() if v is not missing}
        for wanted in (NEEDS, ()):
            failed = failures(odd, wanted, set())
            try:
                found = choose([odd], wanted, BASE)
            except NoneFits as error:
                check_none_fits(error, [failed])
            else:
                assert not failed and [each.offer for each in found] == [odd]


wishes = st.sampled_from([(), NEEDS, NEEDS[:7], clauses(BASE, 0.5)])


@given(offer_lists, wishes, st.sets(machines, max_size=3), st.floats(0.1, 1000), st.data())
def test_whatever_is_offered(
    offers: list[dict],
    wanted: Sequence[Clause],
    excluded: set[int],
    hours: float,
    data: st.DataObject,
):
    failed = [failures(each, wanted, excluded) for each in offers]
    good = [each for each, words in zip(offers, failed, strict=True) if not words]
    shuffled = data.draw(st.permutations(offers))
    try:
        found = choose(offers, wanted, BASE, hours=hours, excluded=excluded)
    except NoneFits as error:
        assert not good
        check_none_fits(error, failed)
        with pytest.raises(NoneFits, match=f"^{re.escape(str(error))}$"):
            choose(shuffled, wanted, BASE, hours=hours, excluded=excluded)
        return
    assert sorted(each.id for each in found) == sorted(each["id"] for each in good)
    costs = [each.working_hour for each in found]
    assert costs == sorted(costs)
    for each in found:
        numbers = (each.hourly, each.download, each.start_hours, each.working_hour)
        assert all(0 <= number < math.inf for number in numbers)
        assert each == quote(each.offer, BASE, hours)
    assert found == choose(shuffled, wanted, BASE, hours=hours, excluded=excluded)
    assert table(found)


def check_none_fits(error: NoneFits, failed: Sequence[Sequence[str]]) -> None:
    """Its counts and its words, by what each offer does not meet."""
    ruled_out = Counter(words for each in failed for words in each)
    alone = Counter(each[0] for each in failed if len(each) == 1)
    assert error.offers == len(failed)
    assert +Counter(error.ruled_out) == ruled_out
    assert +Counter(error.alone) == alone
    text = str(error)
    if not failed:
        assert text == "Vast.ai has no offers at all for these requirements: try again later"
        return
    assert text.startswith(f"none of {len(failed)} offers fits; ruled out by ")
    listed = re.findall(r"(?:by|,) (.+?): (\d+)(?=[,;]|$)", text)
    assert {words: int(count) for words, count in listed} == ruled_out
    assert int(listed[0][1]) == max(ruled_out.values())
    hint = re.search(r"; without «(.+)» (\d+) would do$", text)
    assert bool(hint) == bool(alone)
    if hint:
        assert int(hint[2]) == alone[hint[1]] == max(alone.values())


def test_the_words_when_none_fits():
    offers = [offer(gpu_ram=8192), offer(gpu_ram=8192, verified=False), offer(inet_down=10)]
    with pytest.raises(NoneFits) as caught:
        choose([*offers, offer(machine_id=7)], NEEDS, BASE, excluded={7})
    assert str(caught.value) == (
        "none of 4 offers fits; ruled out by a GPU with 15 GB: 2, a verified host: 1,"
        " 200 Mbit/s down: 1, not tried before: 1; without «a GPU with 15 GB» 1 would do"
    )


def test_of_two_that_cost_the_same_the_first_id_is_taken():
    twins = [offer(id=number) for number in (3, 1, 2)]
    assert [each.id for each in choose(twins, NEEDS, BASE)] == [1, 2, 3]


def test_the_cheapest_hour_of_work_is_not_the_cheapest_rent():
    cheap = offer(id=1, dph_total=0.10, inet_down_cost=0.05)  # $0.56 before it works
    good = offer(id=2, dph_total=0.12)
    found = {
        hours: [each.id for each in choose([cheap, good], NEEDS, BASE, hours=hours)]
        for hours in (8, 100)
    }
    assert found == {8: [2, 1], 100: [1, 2]}


# --------------------------------------------------------------------------------- what people see


def quotes(count: int) -> list[Quote]:
    names = ["RTX 4090", None, "A10"]
    offers = [
        offer(id=10**n, gpu_name=names[n % 3], dph_total=0.1 + n, inet_down=999 / (n + 1))
        for n in range(count)
    ]
    return choose(offers, (), BASE)


def test_a_table():
    head, first, second, third = table(quotes(3)).splitlines()
    assert first.split() == "→ 1 RTX 4090 15 GB 0.100 $0.02 4 min 99.5% 0.104".split()
    assert second.split()[:2] == ["10", "GPU"] and third.split()[:2] == ["100", "A10"]
    starts = [match.start() for match in re.finditer(r"(?<=  )\S", head)]
    assert len(starts) == 8
    for line in (first, second, third):
        assert all(
            line[start - 2 : start] == "  " != line[start - 1 : start + 1] for start in starts
        )


@pytest.mark.parametrize(("count", "last"), [(5, None), (6, "1"), (9, "4")])
def test_a_table_counts_what_it_leaves_out(count: int, last: str | None):
    lines = table(quotes(count)).splitlines()
    assert len(lines) == 6 + bool(last)
    assert [line for line in lines if "→" in line] == [lines[1]]
    assert last is None or lines[-1] == f"   and {last} more that fit"

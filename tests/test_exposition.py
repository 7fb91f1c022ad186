"""The engines' metrics as one text: in the format, whatever comes."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serve.exposition import merge

A = {"model": "a", "replica": "0"}
B = {"model": "a", "replica": "1"}


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_a_family_of_two_engines_is_told_once():
    text = "# HELP vllm:x Words.\n# TYPE vllm:x counter\nvllm:x 1\n"
    assert lines(merge([(A, text), (B, text)])) == [
        "# HELP vllm:x Words.",
        "# TYPE vllm:x counter",
        'vllm:x{model="a",replica="0"} 1',
        'vllm:x{model="a",replica="1"} 1',
    ]


def test_families_are_together_whatever_the_order():
    first = "# TYPE vllm:x gauge\nvllm:x 1\n# TYPE vllm:y gauge\nvllm:y 2\n"
    second = "# TYPE vllm:y gauge\nvllm:y 3\n# TYPE vllm:x gauge\nvllm:x 4\n"
    names = [line.split("{")[0] for line in lines(merge([(A, first), (B, second)]))]
    assert [name for name in names if name[0] != "#"] == ["vllm:x", "vllm:x", "vllm:y", "vllm:y"]


def test_the_parts_of_a_histogram_are_one_family():
    text = (
        "# TYPE vllm:s histogram\n"
        'vllm:s_bucket{le="+Inf"} 2\nvllm:s_count 2\nvllm:s_sum 0.5\n'
        "# TYPE vllm:s_created gauge\nvllm:s_created 1.7e+09\n"
    )
    found = list(text_string_to_metric_families(merge([(A, text)])))
    assert [(family.name, family.type, len(family.samples)) for family in found] == [
        ("vllm:s", "histogram", 3),
        ("vllm:s_created", "gauge", 1),
    ]


def test_only_the_families_of_vllm():
    text = "# TYPE python_info gauge\npython_info 1\nvllmx 1\nvllm:a 1\nprocess_x 2\n"
    assert lines(merge([({}, text)]))[-1] == "vllm:a{} 1"
    assert "python" not in merge([(A, text)]) and "vllmx" not in merge([(A, text)])


def test_labels_of_ours_that_the_engine_has_too():
    text = 'vllm:x{model="own",model_name="n",replica="9",a_model="m"} 1'
    assert lines(merge([(A, text)]))[-1] == (
        'vllm:x{model="a",replica="0",exported_model="own",model_name="n",exported_replica="9",'
        'a_model="m"} 1'
    )


def test_values_of_labels_are_left_alone():
    value = r'vllm:x{a="}, model=\"b\" \\",b=",model=,"} 1'
    assert lines(merge([(A, value)]))[-1] == (
        r'vllm:x{model="a",replica="0",a="}, model=\"b\" \\",b=",model=,"} 1'
    )


def test_a_name_of_ours_is_escaped():
    text = merge([({"model": 'a"\\\nb'}, "vllm:x 1")])
    [family] = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"model": 'a"\\\nb'}


@pytest.mark.parametrize(
    "value",
    ["1", "-1", "1.5", "1e5", "1.7e+09", "+Inf", "-Inf", "NaN", "0.0", ".5", "5 1712345678"],
)
def test_numbers_and_times(value: str):
    assert lines(merge([(A, f"vllm:x {value}")]))[-1].endswith(f"}} {value}")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "<html>",
        "vllm:",
        "vllm:x",
        "vllm:x{",
        "vllm:x{a=1} 1",
        'vllm:x{a="1"',
        'vllm:x{a="1"} x',
        'vllm:x{a="1" b="2"} 1',
        r'vllm:x{a="\z"} 1',
        'vllm:x{a="1"} 1 2 3',
        "vllm:x 1\r",
        "vllm:x 0x10",
        "# TYPE vllm:x",
        "# HELP vllm:x Words.",
        "# TYPE vllm:x gauge",
    ],
)
def test_what_is_no_sample_is_left_out(line: str):
    assert merge([(A, line)]) == ""
    assert merge([(A, f"{line}\nvllm:z 1")]).endswith('vllm:z{model="a",replica="0"} 1\n')


def test_an_engine_that_calls_it_another_kind_is_left_out():
    texts = [(A, "# TYPE vllm:x gauge\nvllm:x 1"), (B, "# TYPE vllm:x counter\nvllm:x 2")]
    assert lines(merge(texts)) == [
        "# HELP vllm:x ",
        "# TYPE vllm:x gauge",
        'vllm:x{model="a",replica="0"} 1',
    ]


def test_a_kind_that_is_none():
    text = "# TYPE vllm:x unknown\nvllm:x 1"
    assert "# TYPE vllm:x untyped" in merge([(A, text)])


def families(text: str) -> Mapping[str, tuple[str, str, int]]:
    return {f.name: (f.type, f.documentation, len(f.samples)) for f in parse(text)}


parse = text_string_to_metric_families
words = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)


@given(
    st.lists(st.tuples(words, words, st.floats()), min_size=1, max_size=4, unique_by=lambda x: x[0])
)
def test_whatever_prometheus_client_writes_comes_through(rows: list[tuple[str, str, float]]):
    """Every sample, with labels of any words, and nothing that its own parser would not read."""
    registry = CollectorRegistry()
    gauge = Gauge("vllm:g", "Words\nof two lines.", ("model", "b"), registry=registry)
    counter = Counter("vllm:c", "A counter.", ("model",), registry=registry)
    histogram = Histogram("vllm:h", "A histogram.", ("b",), registry=registry)
    for first, second, value in rows:
        gauge.labels(first, second).set(value)
        counter.labels(first).inc()
        histogram.labels(second).observe(value)
    text = generate_latest(registry).decode()
    merged = merge([(A, text), (B, text)])
    before, after = families(text), families(merged)
    assert {name: (kind, told) for name, (kind, told, _) in after.items()} == {
        name: (kind, told) for name, (kind, told, _) in before.items()
    }
    assert all(after[name][2] == 2 * count for name, (_, _, count) in before.items())
    for family in parse(merged):
        for sample in family.samples:
            assert (sample.labels["model"], sample.labels["replica"]) in (("a", "0"), ("a", "1"))


@given(st.text(max_size=60))
def test_whatever_comes_prometheus_can_read_the_rest(text: str):
    merged = merge([(A, f"vllm:a 1\n{text}\nvllm:b 2\n"), (B, text.replace(" ", "\nvllm:"))])
    assert {"vllm:a", "vllm:b"} <= {family.name for family in parse(merged)}

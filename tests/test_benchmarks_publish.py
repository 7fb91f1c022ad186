"""Outcomes as a terminal, a program and a reader of the report see them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks import page, plots, publish
from benchmarks.outcome import Chart, Figure, Outcome, UsageError
from benchmarks.publish import Report

PNG = b"\x89PNG\r\n\x1a\n"
LINES = Chart(
    "How <it> grows",
    "passages",
    "ms",
    {"a & b": [(1.0, 2.0), (1000.0, 900.0)], "c": [(1.0, 1.0), (1000.0, 5.0)]},
    log_x=True,
    log_y=True,
)
BARS = Chart("Peers", "pairs per second", "", {"us": [(0, 120.5)], "them": [(0, 60.0)]}, "bars")
OUTCOME = Outcome(
    "trial",
    "this <against> that",
    [{"name": "short", "rate": 5.25, "x": "-"}, {"name": "a longer one", "rate": 1200.0, "x": 3}],
    [
        Figure("ratio", 0.5, 0.98, why="the <machine> was busy"),
        Figure("added ms", 0.4, 1.0, is_least=False),
    ],
    [LINES, BARS],
    ["see `--rate` & <more>"],
    {"raw": [1, 2]},
)
REPORT = Report(
    ("python", "-m", "benchmarks", "trial", "--out", "a folder"),
    {"machine": "a <machine>", "versions": "Python 3", "date": "today"},
    [OUTCOME],
    {"peers": "could not be <installed>"},
)


def test_a_terminal_sees_aligned_columns_and_what_is_missing():
    text = publish.text(OUTCOME)
    assert "  name          rate  x\n  short         5.25  -\n  a longer one  1200  3" in text
    assert "ratio: 0.5 (at least 0.98 wanted, NOT REACHED: the <machine> was busy)" in text
    assert "added ms: 0.4 (at most 1 wanted, reached)" in text


def test_a_program_sees_all():
    told = REPORT.as_json()
    (outcome,) = told["outcomes"]
    assert [figure["is_reached"] for figure in outcome["figures"]] == [False, True]
    assert outcome["details"] == {"raw": [1, 2]} and told["broken"] == REPORT.broken


class Reading(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_from_elsewhere_and_says_all():
    content = page.render(REPORT)
    read = Reading()
    read.feed(content)
    assert read.open == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(read.tags)
    for name, value in read.attributes:
        if name in ("src", "srcset", "href", "action", "data", "poster"):
            assert value.startswith("data:image/svg+xml;base64,")
    assert not re.search(r"https?://|url\(|@import|@font-face", content)
    words = "".join(read.words)
    for text in (
        *("this <against> that", "a longer one", "the <machine> was busy", "--out 'a folder'"),
        *("a <machine>", "Python 3", "today", "could not be <installed>", "not reached"),
    ):
        assert text in words
    assert "prefers-color-scheme: dark" in content
    assert read.tags.count("img") == read.tags.count("source") == 2
    assert ("alt", "How <it> grows: ms by passages") in read.attributes


@pytest.mark.parametrize(
    "chart",
    [
        LINES,
        BARS,
        Chart("one point", "x", "y", {"a": [(3.0, 4.0)]}, log_x=True, log_y=True),
        Chart("none", "x", "y", {}),
        Chart("empty", "x", "y", {"a": []}, log_y=True),
        Chart("zeros", "x", "y", {"a": [(0.0, 0.0), (1.0, 0.0)]}, log_x=True, log_y=True),
        Chart("no bars", "x", "y", {}, "bars"),
    ],
    ids=lambda chart: chart.title,
)
def test_every_chart_is_drawn(chart: Chart):
    assert plots.png(chart).startswith(PNG)


def test_a_page_in_the_dark_has_charts_of_its_own_the_same_each_time():
    light, dark = plots.svg(BARS, plots.LIGHT), plots.svg(BARS, plots.DARK)
    assert light.startswith(b"<?xml") and light != dark
    assert light == plots.svg(BARS, plots.LIGHT)


def test_a_folder_that_cannot_be_written_to_is_refused_before_all(tmp_path: Path):
    publish.check(None)
    publish.check(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        with pytest.raises(UsageError, match="--out"):
            publish.check(place)

"""The web page in a real browser, over the whole server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from clients.examples import EIGHT_PASSAGES, FOUR_PASSAGES, QUERY
from tests.harness import ROOT, Server, write_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
    ),
]
QUIET = (  # the browser's own errands
    "--disable-background-networking --disable-component-update --disable-gpu --disable-quic"
    " --disable-sync --no-first-run --no-sandbox"
).split()
ARTIFACTS = ROOT / "artifacts"
KEY = "s3cret-schlüssel"
PLAIN_KEY = "s3cret-plain"  # HTTP clients disagree about a key beyond ASCII
HARD_QUERY = 'What\'s "Deep" `id` $HOME \\n !x %s {y}?'
HARD_PASSAGES = [
    "it's a 'single' \"double\" \\ backslash\\",
    "two\nlines, ''' and \"\"\" in one",
    "$(touch /tmp/x) `id` ${HOME} !! %d {z} <b>&amp;",
    "ünïcödé 🙂 日本語 \u2028 \u202e \x9b \ufeff end",
    "@file\tand a tab",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For this file alone: while it is open no other test can have an event loop of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@dataclass
class Tab:
    """A browser's tab, what it asked for and what it complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def rerank(self, query: str | None = None, passages: list[str] | None = None) -> None:
        if query is not None:
            self.page.fill("#query", query)
        if passages is not None:
            self.page.fill("#passages", "\n\n".join(passages))
        self.page.click("#rerank")
        self.until_done()

    def until_done(self) -> None:
        expect(self.page.locator("#results")).to_have_attribute("aria-busy", "false")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()

    def titles(self, selector: str) -> list[str]:
        return [one.get_attribute("title") or "" for one in self.page.locator(selector).all()]

    def code(self, name: str) -> str:
        return self.page.locator(f"#panel-{name}").text_content() or ""


Open = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Open]:
    """Opens a server's page; `answers` stand in for the server's at their paths."""
    contexts = []

    def open_(
        server: Server, answers: dict[str, Callable[[Route], None]] | None = None, **options: object
    ) -> Tab:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.set_default_timeout(10_000)
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("console", lambda said: said.type == "error" and tab.errors.append(said.text))
        for path, answer in (answers or {}).items():
            tab.page.route(server.url + path, answer)
        with tab.page.expect_response("**/v1/models"):
            tab.page.goto(server.url)
        return tab

    yield open_
    for context in contexts:
        context.close()


def ranked(server: Server, query: str, passages: list[str]) -> list[tuple[float, str]]:
    """Score and passage by the API itself, best first."""
    answer = server.post("/v2/rerank", {"query": query, "documents": passages}).json()
    return [(one["relevance_score"], passages[one["index"]]) for one in answer["results"]]


def test_a_click_shows_what_the_api_says(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    assert tab.texts("#count") == ["4 passages"]
    tab.rerank()
    expected = ranked(fake_server, QUERY, list(FOUR_PASSAGES))
    assert tab.texts(".text") == [text for _, text in expected]
    assert tab.texts(".score") == [f"{score:.4f}" for score, _ in expected]
    assert tab.texts(".rank") == ["1", "2", "3", "4"]
    exact = [title.split(",")[0] for title in tab.titles(".score")]
    assert exact == [f"score {score}" for score, _ in expected]
    assert tab.texts("article h2") == ["fake"]
    assert "network included" in tab.texts("article .note")[0]
    assert tab.texts("#status") == ["fake ranked 4 passages."]
    assert tab.errors == []
    assert tab.requests and all(url.startswith(fake_server.url) for url in tab.requests)


def test_the_models_stand_once_each(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    assert tab.texts("#model option") == ["fake"]
    assert tab.texts("#other option") == ["none", "fake"]


@pytest.mark.parametrize("keys", ["Control+Enter", "Meta+Enter"])
def test_keys_rerank_from_the_passages(fake_server: Server, open_tab: Open, keys: str):
    tab = open_tab(fake_server)
    tab.page.fill("#passages", "one\n \n\n  two\nlines  \n\n\n")
    assert tab.texts("#count") == ["2 passages"]
    tab.page.press("#passages", keys)
    tab.until_done()
    assert sorted(tab.texts(".text")) == ["one", "two\nlines"]


def test_the_cut_off_greys_what_is_below_it(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    tab.rerank("q", [f"passage {i}" for i in range(12)])
    scores = [score for score, _ in ranked(fake_server, "q", [f"passage {i}" for i in range(12)])]
    for cutoff in (0.5, 0.25, 0.0):
        tab.page.fill("#cutoff", str(cutoff))
        kept = [f"{score:.4f}" for score in scores if score >= cutoff]
        assert tab.texts(".kept .score") == kept
        assert len(tab.texts(".below .score")) == 12 - len(kept)
        assert tab.texts(".line") == (["below the cut-off"] if len(kept) < 12 else [])
    assert tab.page.input_value("#slider") == "0"
    tab.page.fill("#slider", "1")
    assert tab.page.input_value("#cutoff") == "1"
    assert tab.texts(".kept .score") == [f"{score:.4f}" for score in scores if score >= 1]
    tab.page.fill("#cutoff", "7")  # not a score: the last one stays
    assert tab.page.input_value("#slider") == "1"
    colours = [
        tab.page.locator(where).first.evaluate("e => getComputedStyle(e).color")
        for where in (".below .text", "h2")
    ]
    assert colours[0] != colours[1]


def test_two_columns_of_the_same_model_agree(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    tab.page.select_option("#other", "fake")
    tab.rerank()
    first, second = tab.page.locator("article").all()
    assert first.locator(".text").all_text_contents() == second.locator(".text").all_text_contents()
    assert second.locator(".same").count() == 4 and first.locator(".badge").count() == 0


TWO_MODELS = {
    "data": [
        {"id": "minilm", "root": "minilm", "default": False, "ready": False},
        {"id": "bge-reranker-v2-m3", "root": "bge-reranker-v2-m3", "default": True, "ready": True},
        {"id": "BAAI/bge-reranker-v2-m3", "root": "bge-reranker-v2-m3", "default": True},
        {"id": "gemma", "root": "gemma", "llm": True},
    ]
}
SCORES = {
    "bge-reranker-v2-m3": [0.9981, 0.4403, 0.0007, 0.8312, 0.6127, 0.1204, 0.0519, 0.3377],
    "minilm": [0.8922, 0.7131, 0.5022, 0.6114, 0.7777, 0.5701, 0.4809, 0.6903],
}


def play_models(route: Route) -> None:
    route.fulfill(json=TWO_MODELS)


def play_rerank(route: Route) -> None:
    """Scores that two models might give; the first read its passage 4 only in part."""
    asked = json.loads(route.request.post_data or "")
    scores = SCORES[asked["model"]]
    is_first = asked["model"] != "minilm"
    order = sorted(range(len(asked["documents"])), key=lambda i: -scores[i])
    results: list[dict[str, object]] = [
        {"index": i, "relevance_score": scores[i], "raw_score": scores[i] * 9 - 4} for i in order
    ]
    if is_first:
        for place, result in enumerate(results):
            result["stage"] = "then" if place < 4 else "first"
    headers = {"x-rerank-truncated": "4,7"} if is_first else {}
    route.fulfill(json={"results": results}, headers=headers)


PLAYED = {"/v1/models": play_models, "/v2/rerank": play_rerank}
SENTENCE = " Each layer weighs what the one before it found, and passes on what matters."
LONG_PASSAGES = [
    *EIGHT_PASSAGES[:4],
    f"{EIGHT_PASSAGES[4]}.{SENTENCE * 12}",
    *EIGHT_PASSAGES[5:],
]


def test_two_models_are_compared_place_by_place(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server, PLAYED)
    assert tab.texts("#model option") == [
        "bge-reranker-v2-m3",
        "minilm (not ready)",
        "gemma (LLM)",
    ]
    tab.page.select_option("#other", "minilm")
    tab.rerank(QUERY, LONG_PASSAGES)
    assert tab.texts("article h2") == ["bge-reranker-v2-m3", "minilm"]
    first, second = tab.page.locator("article").all()
    assert "raw value" in (first.locator(".score").first.get_attribute("title") or "")
    assert "2 cut: not read to the end" in tab.texts("article .note")[0]
    assert "compare within a stage only" in tab.texts("article .note")[0]
    assert "places against bge-reranker-v2-m3" in tab.texts("article .note")[1]
    assert first.locator(".warn").all_text_contents() == ["cut", "cut"]
    assert first.locator("li", has_text="cut").first.locator(".rank").text_content() == "3"
    assert first.locator(".badge:not(.warn)").all_text_contents() == (
        ["stage: then"] * 4 + ["stage: first"] * 4
    )
    #                  ranks in the first column: 0, 3, 4, 1, 7, 5, 6, 2; in the second 0, 4, 1, 7 …
    moves = ["=", "▲1", "▲1", "▲1", "▼3", "=", "▲1", "▼1"]
    assert second.locator(".badge").all_text_contents() == moves
    assert second.locator(".badge").nth(4).get_attribute("title") == (
        "3 places lower than with bge-reranker-v2-m3"
    )


def test_a_long_passage_opens_and_closes(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server, PLAYED)
    tab.rerank(QUERY, LONG_PASSAGES)
    more = tab.page.locator(".more:visible")
    expect(more).to_have_count(1)
    text = tab.page.locator("li", has=more).locator(".text")
    before = text.bounding_box()
    more.click()
    expect(more).to_have_text("less")
    after = text.bounding_box()
    assert before and after and after["height"] > before["height"] * 1.5
    tab.page.fill("#cutoff", "0.6")  # the list is made anew, and stays as it was opened
    expect(more).to_have_attribute("aria-expanded", "true")
    more.click()
    expect(more).to_have_text("more")


def test_an_error_tells_its_remedy(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    expect(tab.page.locator("#alert")).to_be_hidden()
    tab.rerank("q", ["short", "x" * 2001])
    said = tab.page.get_by_role("alert")
    expect(said).to_contain_text("limits")
    body = {"query": "q", "documents": ["short", "x" * 2001]}
    assert said.text_content() == fake_server.post("/v2/rerank", body).json()["message"]
    tab.rerank("q", ["short"])
    expect(tab.page.locator("#alert")).to_be_hidden()
    tab.rerank("q", [])
    expect(said).to_contain_text("is empty")


def test_a_server_that_is_gone(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    tab.page.route("**/v2/rerank", lambda route: route.abort())
    tab.rerank()
    expect(tab.page.get_by_role("alert")).to_contain_text("The server does not answer")
    tab.page.route("**/v2/rerank", lambda route: route.fulfill(status=502, body="<html>"))
    tab.rerank()
    expect(tab.page.get_by_role("alert")).to_contain_text("The server answered 502")


def test_text_stays_text(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    evil = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    tab.rerank(evil, [evil, "harmless"])
    assert evil in tab.texts(".text")
    assert tab.page.locator("main img, main script").count() == 0
    tab.rerank(f"!400 {evil}", [evil * 40])
    assert tab.page.title() == "rerank-serve"


def run_sample(name: str, code: str) -> str:
    """What a pasted sample prints."""
    command = ["bash", "-c", code] if name == "curl" else [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def printed(name: str, expected: list[tuple[float, str]], passages: list[str], out: str) -> bool:
    """Whether a sample printed exactly what the API says."""
    if name == "curl":
        results = json.loads(out)["results"]
        return [(r["relevance_score"], passages[r["index"]]) for r in results] == expected
    return out == "".join(f"{score} {text}\n" for score, text in expected)


@pytest.mark.parametrize("name", ["curl", "requests", "cohere"])
def test_each_sample_runs_as_it_stands(fake_server: Server, open_tab: Open, name: str):
    tab = open_tab(fake_server)
    tab.page.fill("#query", HARD_QUERY)
    tab.page.fill("#passages", "\n\n".join(HARD_PASSAGES))
    code = tab.code(name)
    assert not set(code) & set("\u2028\u202e\x9b\ufeff")
    expected = ranked(fake_server, HARD_QUERY, HARD_PASSAGES)
    assert printed(name, expected, HARD_PASSAGES, run_sample(name, code))


@pytest.fixture(scope="module")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("keyed")
    (work / "keys").write_text(f"{KEY}\n{PLAIN_KEY}\n")
    with Server(write_config(work), work, "--api-key-file", str(work / "keys")) as server:
        yield server.until_ready()


def test_a_key_is_asked_for_and_kept_out_of_the_code(keyed_server: Server, open_tab: Open):
    tab = open_tab(keyed_server)
    key = tab.page.get_by_label("API key")
    expect(key).to_be_visible()
    assert (key.get_attribute("type"), key.get_attribute("autocomplete")) == ("password", "off")
    expect(tab.page.locator("#alert")).to_be_hidden()
    tab.rerank()
    expect(tab.page.get_by_role("alert")).to_contain_text("needs an API key")
    key.fill("wrong")
    key.press("Enter")
    expect(tab.page.get_by_role("alert")).to_contain_text("needs an API key")
    key.fill(KEY)
    key.press("Enter")
    expect(tab.page.locator("#model option")).to_have_count(1)
    expect(tab.page.locator("#alert")).to_be_hidden()
    tab.rerank()
    assert len(tab.texts(".score")) == 4
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert tab.page.evaluate(stored) == '[{},{},""]'
    assert KEY not in tab.page.content()
    passages = list(FOUR_PASSAGES)
    scores = [title.split()[1].rstrip(",") for title in tab.titles(".score")]
    expected = list(zip(map(float, scores), tab.texts(".text"), strict=True))
    for name in ("curl", "requests", "cohere"):
        code = tab.code(name)
        assert "YOUR_KEY" in code and KEY not in code
        out = run_sample(name, code.replace("YOUR_KEY", PLAIN_KEY))
        assert printed(name, expected, passages, out)


@pytest.mark.parametrize("modern", [True, False])
def test_copy_confirms(fake_server: Server, open_tab: Open, modern: bool):
    tab = open_tab(fake_server, permissions=["clipboard-read", "clipboard-write"])
    if not modern:  # as on a page that came over plain HTTP from another machine
        tab.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    tab.page.get_by_role("tab", name="Cohere").click()
    tab.page.click("#copy")
    expect(tab.page.locator("#copy")).to_have_text("Copied")
    code = tab.code("cohere")
    tab.page.focus("#passages")
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.press("Control+V")
    assert tab.page.input_value("#passages").strip() == code.strip()
    expect(tab.page.locator("#copy")).to_have_text("Copy")


def tab_to(tab: Tab, wanted: str) -> None:
    """Presses Tab until `wanted` (an id) has the focus, which must be visible at every stop."""
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        now = tab.page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert now[1] == "solid", now
        if now[0] == wanted:
            return
    raise AssertionError(f"{wanted} is not reached by Tab")


def test_the_keyboard_is_enough(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    tab_to(tab, "rerank")
    tab.page.keyboard.press("Enter")
    tab.until_done()
    assert len(tab.texts(".score")) == 4
    tab_to(tab, "tab-curl")
    for key, name in (
        ("ArrowRight", "requests"),
        ("End", "cohere"),
        ("ArrowRight", "curl"),
        ("ArrowLeft", "cohere"),
        ("Home", "curl"),
    ):
        tab.page.keyboard.press(key)
        expect(tab.page.locator("[role=tabpanel]:visible")).to_have_id(f"panel-{name}")
        expect(tab.page.locator(f"#tab-{name}")).to_be_focused()
        expect(tab.page.locator("[role=tab][aria-selected=true]")).to_have_id(f"tab-{name}")
    tab_to(tab, "panel-curl")


def test_every_control_has_a_name(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server)
    unnamed = tab.page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')]"
        ".filter(e => !e.labels.length && !e.ariaLabel).map(e => e.id)"
    )
    assert unnamed == []


CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = channels(text).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (channels(colour)[3] !== 0) return colour;
    }
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.tagName === "OPTION") continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    found.push([e.className || e.id || e.tagName, (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_both_schemes(fake_server: Server, open_tab: Open, scheme: str):
    tab = open_tab(fake_server, PLAYED, color_scheme=scheme)
    tab.page.select_option("#other", "minilm")
    tab.rerank(QUERY, LONG_PASSAGES)
    tab.page.evaluate("for (const e of document.querySelectorAll('[hidden]')) e.hidden = false")
    found = tab.page.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [one for one in found if one[1] < 4.5] == []
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(17, 22, 28)") == (scheme == "dark")


def test_a_phone_needs_no_sideways_scroll(fake_server: Server, open_tab: Open):
    tab = open_tab(fake_server, viewport={"width": 360, "height": 740})
    tab.page.select_option("#other", "fake")
    tab.rerank("q" * 300, ["x" * 1500, *FOUR_PASSAGES])
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first, second = (one.bounding_box() for one in tab.page.locator("article").all())
    assert first and second and second["y"] >= first["y"] + first["height"]


SHOTS = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


@pytest.mark.parametrize("name", SHOTS)
def test_pictures_for_people(fake_server: Server, open_tab: Open, name: str):
    tab = open_tab(fake_server, PLAYED, **SHOTS[name])
    tab.page.select_option("#other", "minilm")
    tab.rerank(QUERY, LONG_PASSAGES)
    tab.page.evaluate("document.getElementById('passages').scrollTop = 0")
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / f"page-{name}.png"
    tab.page.screenshot(path=picture, full_page=True)
    assert Path(picture).stat().st_size > 10_000


@pytest.mark.vllm
def test_two_real_models_and_a_cascade(stack_server: Server, open_tab: Open):
    """The whole way: page, gateway and real engines, with a passage that is cut."""
    tab = open_tab(stack_server)
    assert tab.texts("#model option") == [
        "minilm",
        "gemma (LLM)",
        "qwen3",
        "minilm-then-gemma",
    ]
    passages = [*FOUR_PASSAGES, "deep learning " * 300]
    tab.page.select_option("#model", "minilm-then-gemma")
    tab.page.select_option("#other", "minilm")
    tab.rerank(QUERY, passages)
    cascade, plain = tab.page.locator("article").all()
    stages = [f"stage: {stage}" for stage in ("then",) * 3 + ("first",) * 2]
    badges = cascade.locator(".badge").all_text_contents()
    assert [badge for badge in badges if badge.startswith("stage")] == stages
    assert badges.count("cut") == 1
    documents = [text.strip() for text in passages]
    body = {"model": "minilm", "query": QUERY, "documents": documents}
    expected = stack_server.post("/v2/rerank", body).json()["results"]
    shown = plain.locator(".score").all_text_contents()
    assert shown == [f"{item['relevance_score']:.4f}" for item in expected]
    assert not tab.errors
    ARTIFACTS.mkdir(exist_ok=True)
    tab.page.screenshot(path=ARTIFACTS / "page-real-models.png", full_page=True)

"""Pure but for the drawing: a report as one page that needs nothing from elsewhere."""

import base64
from html import escape

from benchmarks import plots
from benchmarks.outcome import Chart, Figure, Outcome
from benchmarks.publish import Report, cell
from serve.markup import code, prose, table, tag

CSS = """
:root { color-scheme: light dark; --back: #f4f6f9; --card: #ffffff; --ink: #1c2430; --soft: #566073;
  --edge: #dfe4ec; --good: #0b6e4c; --good-back: #e2f4ec; --bad: #a3262b; --bad-back: #fbe9e9; }
@media (prefers-color-scheme: dark) {
  :root { --back: #0e1218; --card: #171c24; --ink: #e8ecf2; --soft: #a4afc0; --edge: #2c3543;
    --good: #5fd9aa; --good-back: #12332a; --bad: #ff9a9a; --bad-back: #3b1a1d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0 0 1rem; font-size: 1.7rem; letter-spacing: -0.01em; }
h2 { margin: 0 0 0.25rem; font-size: 1.2rem; }
section { margin-top: 1.5rem; padding: 1.25rem 1.5rem; background: var(--card);
  border: 1px solid var(--edge); border-radius: 12px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.25rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
.words { margin: 0 0 1rem; color: var(--soft); overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0 0.4rem 1.5rem; border-bottom: 1px solid var(--edge); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0.75rem;
  margin: 0 0 1.25rem; padding: 0; list-style: none; }
.figures li { padding: 0.75rem 1rem; border-radius: 10px; background: var(--good-back); }
.figures li.missed { background: var(--bad-back); }
.figures strong { display: block; color: var(--good); font-size: 1.5rem; line-height: 1.25; }
.figures .missed strong { color: var(--bad); }
.figures small { display: block; color: var(--soft); font-size: 0.85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1.25rem; margin-top: 1.25rem; }
.charts img { display: block; width: 100%; max-width: 46rem; height: auto; }
.notes { margin: 1.25rem 0 0; padding-left: 1.2rem; color: var(--soft); font-size: 0.9rem; }
.notes li { overflow-wrap: anywhere; }
.broken { color: var(--bad); }
@media print { section { break-inside: avoid; } }
"""


def render(report: Report) -> str:
    """The whole page. It loads nothing, runs nothing, and is legible in light and in dark."""
    facts = {"command": code(report.line)}
    facts |= {name: escape(value) for name, value in report.surroundings.items()}
    names = ", ".join(outcome.name for outcome in report.outcomes) or "nothing"
    parts = [
        tag("h1", escape(f"rerank-serve measured: {names}")),
        tag("dl", *(tag("dt", name) + tag("dd", value) for name, value in facts.items())),
        *(
            tag("section", tag("h2", escape(name)), tag("p", escape(why), class_="broken"))
            for name, why in report.broken.items()
        ),
        *map(_section, report.outcomes),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        + tag("title", escape(f"Measured: {names}"))
        + tag("style", CSS)
    )
    page = tag("html", tag("head", head), tag("body", tag("main", *parts)), lang="en")
    return "<!doctype html>\n" + page


def _section(outcome: Outcome) -> str:
    figures = "".join(map(_figure, outcome.figures))
    charts = "".join(map(_chart, outcome.charts))
    notes = "".join(tag("li", prose(note)) for note in outcome.notes)
    return tag(
        "section",
        tag("h2", escape(outcome.name)),
        tag("p", escape(outcome.words), class_="words"),
        tag("ul", figures, class_="figures") if figures else "",
        tag("div", _rows(outcome), class_="wide") if outcome.rows else "",
        tag("div", charts, class_="charts") if charts else "",
        tag("ul", notes, class_="notes") if notes else "",
    )


def _rows(outcome: Outcome) -> str:
    heads = list(outcome.rows[0])
    return table(heads, [[escape(cell(row[head])) for head in heads] for row in outcome.rows])


def _figure(figure: Figure) -> str:
    wanted = f"at {'least' if figure.is_least else 'most'} {figure.wanted:g} wanted"
    why = f": {figure.why}" if figure.why else ""
    state = "reached" if figure.is_reached else "not reached"
    return tag(
        "li",
        tag("strong", escape(f"{figure.value:g}")),
        escape(figure.name),
        tag("small", escape(f"{wanted}, {state}{why}")),
        class_="reached" if figure.is_reached else "missed",
    )


def _chart(chart: Chart) -> str:
    """Drawn twice, and the one shown that fits the page's colours."""
    light, dark = (_data(plots.svg(chart, paper)) for paper in (plots.LIGHT, plots.DARK))
    words = escape(f"{chart.title}: {chart.y} by {chart.x}", quote=True)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{words}"></picture>'
    )


def _data(image: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image).decode()

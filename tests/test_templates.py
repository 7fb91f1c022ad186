"""Prompt templates, rendered as vLLM renders them."""

import jinja2.sandbox
import pytest

from serve.shelf import CONFIGS

GEMMA = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query"
    " by providing a prediction of either 'Yes' or 'No'."
)
QWEN3 = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".'
)


def render(template: str, query: str, passage: str, **options: str) -> str:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = (CONFIGS / "templates" / f"{template}.jinja").read_text()
    return environment.from_string(source).render(
        messages=[{"role": "query", "content": query}, {"role": "document", "content": passage}],
        **options,
    )


TEXTS = [("a question", "an answer"), ("two\nlines", "b"), ("end\n\n", "too\n"), ("", "{{ x }}")]


@pytest.mark.parametrize(("query", "passage"), TEXTS)
@pytest.mark.parametrize("options", [{}, {"instruction": ""}, {"instruction": "Is B a fruit?\n"}])
def test_gemma(query: str, passage: str, options: dict[str, str]):
    instruction = options.get("instruction", "").rstrip("\n") or GEMMA
    left, right = query.rstrip("\n"), passage.rstrip("\n")
    expected = f"A: {left}\nB: {right}\n{instruction}"
    assert render("bge-reranker-v2-gemma", query, passage, **options) == expected


@pytest.mark.parametrize(("query", "passage"), TEXTS)
@pytest.mark.parametrize("options", [{}, {"instruction": "Find fruit"}])
def test_qwen3(query: str, passage: str, options: dict[str, str]):
    assert render("qwen3-reranker", query, passage, **options) == (
        f"<|im_start|>system\n{QWEN3_SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"<Instruct>: {options.get('instruction', QWEN3)}\n<Query>: {query}\n"
        f"<Document>: {passage}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )

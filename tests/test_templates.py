"""Chat templates of LLM rerankers: the prompt as the model was trained with, to the letter."""

import jinja2.sandbox
import pytest

from serve.spec import CONFIGS

INSTRUCTION = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query"
    " by providing a prediction of either 'Yes' or 'No'."
)


@pytest.mark.parametrize(
    ("query", "passage"),
    [("a question", "an answer"), ("two\nlines", "b"), ("trailing\n\n", "too\n"), ("", "{{ x }}")],
)
def test_gemma(query: str, passage: str):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = (CONFIGS / "templates" / "bge-reranker-v2-gemma.jinja").read_text()
    prompt = environment.from_string(source).render(
        messages=[{"role": "query", "content": query}, {"role": "document", "content": passage}]
    )
    left, right = query.rstrip("\n"), passage.rstrip("\n")
    assert prompt == f"A: {left}\nB: {right}\n{INSTRUCTION}"

"""The texts of a request that come to the model, and a request with others in their place."""

from collections.abc import Iterator, Mapping

from serve.rerank import RerankRequest

# The options that hold text which comes to the model, through its prompt's template.
TEXT_OPTIONS = ("instruction", "chat_template_kwargs")


def texts_of(request: RerankRequest) -> list[str]:
    """Every text of a request that comes to the model: queries, passages, instruction."""
    others = (text for name in TEXT_OPTIONS for text in _strings(request.options.get(name)))
    return [*request.queries, *request.passages, *others]


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, but for the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def with_texts(request: RerankRequest, texts: Mapping[str, str]) -> RerankRequest:
    """The request with `texts[text]` in place of each text that is a key of `texts`."""
    changed = {n: _with(v, texts) for n, v in request.options.items() if n in TEXT_OPTIONS}
    return request._replace(
        queries=[texts.get(text, text) for text in request.queries],
        passages=[texts.get(text, text) for text in request.passages],
        options={**request.options, **changed},
    )


def _with(value: object, texts: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, Mapping):
        return {key: _with(item, texts) for key, item in value.items()}
    return [_with(item, texts) for item in value] if isinstance(value, list) else value

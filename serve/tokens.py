"""A model's tokenizer, as vLLM reads it from the model's files."""

from collections.abc import Iterator
from pathlib import Path

import orjson
from tokenizers import AddedToken, Tokenizer

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_SPECIAL_NAMES = (
    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token"
    " additional_special_tokens extra_special_tokens"
).split()


def load(file: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, neither cutting nor padding.

    Raises ValueError for a file that is none, or of a kind that the library does not know.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    more = list(_more_tokens(file.with_name("tokenizer_config.json"), known))
    tokenizer.add_special_tokens([token for token in more if token.special])
    tokenizer.add_tokens([token for token in more if not token.special])
    return tokenizer


def _more_tokens(config: Path, known: set[str]) -> Iterator[AddedToken]:
    """Tokens that only transformers' own file names, beside those that are `known`."""
    try:
        named = orjson.loads(config.read_bytes())
        for token in named.get("added_tokens_decoder", {}).values():
            if token["content"] not in known:
                flags = {flag: token[flag] for flag in _FLAGS if flag in token}
                yield AddedToken(token["content"], **flags)
        for name in _SPECIAL_NAMES:
            for token in _listed(named.get(name)):
                content = token["content"] if isinstance(token, dict) else token
                if isinstance(content, str) and content not in known:
                    yield AddedToken(content, special=True, normalized=False)
    except (OSError, orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]

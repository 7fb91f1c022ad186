"""How one model reads texts: what is done with them before the engine, and beside it.

Tokenizing takes time, so it happens in a thread (the library works outside Python's lock), and no
more of it than must be.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
from tokenizers import AddedToken, Tokenizer

from serve.lengths import Lengths, TokenLimits, slices
from serve.rerank import RerankRequest, texts_of, with_texts
from serve.specials import USUAL_SPECIALS, Specials

log = logging.getLogger(__name__)

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_SPECIAL_NAMES = (
    "bos_token eos_token unk_token sep_token pad_token cls_token mask_token"
    " additional_special_tokens extra_special_tokens"
).split()


class Reading:
    """What is known of how a model reads, which is little until its tokenizer is here."""

    def __init__(self, max_model_len: int | None = None) -> None:
        self.max_model_len = max_model_len
        self.specials = Specials(USUAL_SPECIALS)
        self.lengths: Lengths | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    async def learn(self, file: Path, template: str, *, is_pair: bool) -> None:
        """Takes the tokenizer in a `tokenizer.json`. Raises ValueError when it cannot be used.

        `template` is the model's prompt template, `is_pair` as in `Lengths`.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, _learn, file, template, is_pair)
        self.specials, self.lengths = found

    def needs_a_look(self, request: RerankRequest) -> bool:
        """Whether a special token may be in a text, or a pair may be cut; mostly not.

        It is told from all texts as one and from their greatest lengths, in microseconds.
        """
        whole = "\n".join(texts_of(request))
        if self.specials.could_hold(whole):
            return True
        return self.lengths is not None and self.lengths.may_cut_any(
            max(map(len, request.queries)),
            max(map(len, request.passages)),
            TokenLimits.of(request.options, self.max_model_len),
            is_ascii=whole.isascii(),
        )

    async def neutral(self, request: RerankRequest) -> RerankRequest:
        """The request with nothing in its texts that becomes a special token."""
        suspects = list({text for text in texts_of(request) if self.specials.could_hold(text)})
        loop = asyncio.get_running_loop()
        texts: dict[str, str] = {}
        for part in slices(suspects):  # between them it can be cancelled
            texts |= await loop.run_in_executor(self._thread, _neutral, self.specials, part)
        return with_texts(request, texts) if texts else request

    async def cut(self, request: RerankRequest) -> list[int]:
        """Indices of the pairs that the engine cuts; `request.options` are what it is sent."""
        if self.lengths is None:
            return []
        limits = TokenLimits.of(request.options, self.max_model_len)
        suspects = self.lengths.suspects(request, limits)
        if not suspects:
            return []
        one = len(request.queries) == 1
        queries = request.queries if one else [request.queries[index] for index in suspects]
        try:
            counts = await self._count([*queries, *(request.passages[index] for index in suspects)])
        except ValueError as error:
            log.warning("nobody is told which passages are cut: %s", error)
            return []
        places = self.lengths.beyond(counts[: len(queries)], counts[len(queries) :], limits)
        return [suspects[place] for place in places]

    async def _count(self, texts: list[str]) -> list[int]:
        assert self.lengths is not None
        loop, counts = asyncio.get_running_loop(), []
        for part in slices(texts):  # between them it can be cancelled
            counts += await loop.run_in_executor(self._thread, self.lengths.count, part)
        return counts

    def close(self) -> None:
        """Ends the thread, when it is done with what it does."""
        self._thread.shutdown(wait=False, cancel_futures=True)


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


def _neutral(specials: Specials, texts: Sequence[str]) -> dict[str, str]:
    """Those of the texts that special tokens stand in, and what takes their place."""
    neutral = {text: specials.neutral(text) for text in texts}
    return {text: other for text, other in neutral.items() if other is not text}


def _learn(file: Path, template: str, is_pair: bool) -> tuple[Specials, Lengths]:
    tokenizer = load(file)
    try:
        return Specials.of(tokenizer, template), Lengths(tokenizer, is_pair=is_pair)
    except ValueError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file}: {error}") from error

"""The ranking before the reranker: BM25 of `bm25s`, English words by Snowball's stems."""

from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from benchmarks.quality.collection import Collection, Run, Texts

K1, B = 1.2, 0.75


def bm25(collection: Collection, queries: Sequence[str], depth: int) -> Run:
    """The best `depth` documents of each query that share a word with it; where queries have
    documents of their own, the best of these. Equal scores keep the collection's order."""
    index = _Index(collection.texts)
    places = {id: place for place, id in enumerate(collection.texts)}
    run = {}
    for query in queries:
        scores = index.scores(collection.queries[query])
        if collection.own is None:
            found = np.flatnonzero(scores > 0)
        else:
            found = np.array([places[id] for id in collection.own[query]])
        best = found[np.argsort(-scores[found], kind="stable")[:depth]]
        run[query] = [index.ids[place] for place in best]
    return run


def given(collection: Collection, queries: Sequence[str], depth: int) -> Run:
    """The documents that each query has of its own, in their order."""
    own = collection.own or {}
    return {query: own[query][:depth] for query in queries}


class _Index:
    """BM25 over all texts."""

    def __init__(self, texts: Texts) -> None:
        self.ids = list(texts)
        self._stemmer = Stemmer.Stemmer("english")
        words = self._words(list(texts.values()))
        self._bm25 = bm25s.BM25(k1=K1, b=B) if any(words) else None  # it takes no empty corpus
        if self._bm25:
            self._bm25.index(words, show_progress=False)

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """One for each text."""
        if self._bm25 is None:
            return np.zeros(len(self.ids), np.float32)
        known = self._bm25.get_tokens_ids(self._words([query])[0])
        scores: npt.NDArray[np.float32] = self._bm25.get_scores_from_ids(known)
        return scores

    def _words(self, texts: list[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s.tokenize(
            texts, stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return words

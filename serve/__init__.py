"""rerank-serve: vLLM rerankers behind one gateway that speaks every rerank API."""

__version__ = "0.1.0"

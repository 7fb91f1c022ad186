"""Clients of a rerank server, through `requests`, the OpenAI SDK and Cohere's SDK.

They never import the server: whoever uses them needs only this package and the SDK of choice.
"""

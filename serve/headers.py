"""The names of our own HTTP headers."""

REQUEST_ID = "x-request-id"  # the client's own, or a new one
TRUNCATED = "x-rerank-truncated"  # indices of texts that the model did not read whole
CACHED = "x-rerank-cached"  # how many of the scores were known before
TIMEOUT = "x-rerank-timeout"  # of requests: seconds after which no answer is wanted

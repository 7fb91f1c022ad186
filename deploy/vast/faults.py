"""What becomes of the exceptions of Vast.ai's SDK: ours. No other place knows of them."""

import re

import requests

from deploy.vast.errors import (
    DeployError,
    Gone,
    NoCredit,
    NoKey,
    QuotaExhausted,
    Unclear,
    VastFault,
)

_CREDIT = re.compile(r"insufficient_credit|\bcredits?\b", re.IGNORECASE)
LONGEST_WAIT_S = 600.0  # that Vast.ai may ask for; beyond it a quota is used up


class Again(Exception):
    """A fault that may pass, and the seconds that Vast.ai asks to wait."""

    def __init__(self, words: str, after: float = 0) -> None:
        super().__init__(words)
        self.after = after


def mapped(error: Exception, *, may_repeat: bool) -> DeployError | Again:
    """Our exception for one of the SDK's."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refusal(error.response, may_repeat=may_repeat)
    words = type(error).__name__
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        words += f": {error}"  # others may quote a header, and with it the key
    if not may_repeat:
        return Unclear(f"its answer was lost ({words[:200]})")
    return Again(words[:200])


def _refusal(answer: requests.Response, *, may_repeat: bool) -> DeployError | Again:
    code, words = _said(answer)
    status = answer.status_code
    if status == 429:
        after = _seconds(answer.headers.get("retry-after", ""))
        if code == "search_quota_exceeded" or after > LONGEST_WAIT_S:
            hours = f", in about {after / 3600:.1f} hours" if after else ""
            return QuotaExhausted(f"Vast.ai's quota is used up ({words}): try again later{hours}")
        return Again(words, after)
    if status in (401, 403):
        return NoKey(f"Vast.ai refuses the key ({words}): check VAST_API_KEY and what it may do")
    if status < 500 and _CREDIT.search(f"{code} {words}"):
        return NoCredit(f"Vast.ai: {words}: add credit to the account")
    if status in (404, 409, 410) or code.startswith("no_such"):
        return Gone(words)
    if status >= 500:
        return Again(words) if may_repeat else Unclear(f"Vast.ai answered {status}: {words}")
    return VastFault(f"Vast.ai refuses this ({status}): {words}")


def _said(answer: requests.Response) -> tuple[str, str]:
    """The code and the words of a refusal, which may be JSON or plain text."""
    try:
        body = answer.json()
        return str(body.get("error") or ""), str(body.get("msg") or body.get("error") or body)[:300]
    except (ValueError, AttributeError):
        return "", answer.text.strip()[:300] or answer.reason or "no words"


def _seconds(text: str) -> float:
    return float(text) if text.strip().isdigit() else 0.0

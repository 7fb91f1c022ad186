"""What each key has used of its quotas, counted in memory by the `limits` package.

Its sliding window counter keeps two numbers for each quota: what was used in this window of the
clock, and in the one before, which counts by the share that is left of this one. No window of the
clock has more than the quota, though a stretch across two of them may. A hit costs microseconds,
whatever its amount: the package's moving window, which is exact, keeps an entry for every pair.
"""

import math

from limits.aio.storage import MemoryStorage

from serve.auth import Key, Quota
from serve.errors import QuotaExceeded, TooLarge

MOST_RETRY_AFTER_S = 3600


class Quotas:
    """Counts by the names of keys, so that a key which is read anew goes on where it was."""

    def __init__(self) -> None:
        self._used = MemoryStorage()

    async def charge(self, key: Key | None, counted: str, amount: int) -> None:
        """Takes `amount` of what is `counted` from the key's quota, if it has one for that.

        Raises QuotaExceeded where that is more than is left, TooLarge where it never could be had;
        then nothing is taken.
        """
        quota = key.quotas.get(counted) if key else None
        if key is None or quota is None or amount == 0:
            return
        if amount > quota.amount:
            raise TooLarge(
                f"The request has {amount} {counted}, more than the whole quota of the key"
                f" {key.name!r}, {counted}={quota}: send several requests with fewer passages, or"
                " raise the quota in the API key file."
            )
        place, window_s = f"{counted}/{key.name}", quota.seconds
        if await self._used.acquire_sliding_window_entry(place, quota.amount, window_s, amount):
            return
        before, _, now, ends_s = await self._used.get_sliding_window(place, window_s)
        wait_s = until_free(quota, amount, before, now, ends_s - window_s)
        retry_after = max(1, min(math.floor(wait_s) + 1, MOST_RETRY_AFTER_S))
        raise QuotaExceeded(
            f"The key {key.name!r} has used up its quota, {counted}={quota}: try again in"
            f" {retry_after} s, or raise the quota in the API key file.",
            retry_after=retry_after,
        )


def until_free(quota: Quota, amount: int, before: int, now: int, left_s: float) -> float:
    """Seconds until `amount` more can be had, if nobody takes any. Pure.

    `before` and `now` were used in the last window and in this one, which has `left_s` seconds
    left. Of the last one's use counts the share that is left of this one; it is rounded down.
    """
    room = quota.amount - amount + 1  # which the use must have come below
    if now < room:
        return left_s - (room - now) * quota.seconds / before if before else 0.0
    return left_s + max(0.0, quota.seconds * (1 - room / now))

"""What the venue refuses, and how it counts."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

from marketprism_ray.simulator.wire import Wire

PATIENCE = 20
"""Requests after a 429 that are answered with another; then comes the ban."""
FIRST_BAN_S, LONGEST_BAN_S = 120.0, 3 * 86_400.0


class Refused(Exception):
    """What the venue says no to, with its code and words."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class Quota:
    """So much in so many seconds, counted from the first request on."""

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._since = -math.inf
        self.used = 0

    def spend(self, amount: int, now: float) -> bool:
        """Count a request; False if it is too much."""
        if now >= self._since + self._seconds:
            self._since, self.used = now, 0
        self.used += amount
        return self.used <= self.limit

    def left_s(self, now: float) -> float:
        """Give the time until it begins anew."""
        return max(0.0, self._since + self._seconds - now)


class Guard:
    """What one address may ask: weight, then a 429 until the minute is over, then a ban for who goes on asking."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._until = -math.inf
        self._status = 429
        self._ignored = 0
        self._bans = 0

    def ask(self, weight: int, now: float) -> tuple[int, float]:
        """Give the status (200, 429, 418) and for how long the address is refused, seconds."""
        if now >= self._until:
            if self.quota.spend(weight, now):
                return 200, 0.0
            self._status, self._ignored, self._until = 429, 0, now + self.quota.left_s(now)
            return 429, self._until - now
        self._ignored += 1
        if self._ignored > PATIENCE:
            length = min(LONGEST_BAN_S, FIRST_BAN_S * 2**self._bans)
            self._bans += 1
            self._status, self._ignored, self._until = 418, 0, now + length
        return self._status, self._until - now


class Pool:
    """The limits of an address, shared by all markets that spend from the same."""

    def __init__(self, weight_per_minute: int) -> None:
        self.guard = Guard(Quota(weight_per_minute, 60))
        self.quotas = {"funding": Quota(500, 300), "statistics": Quota(1000, 300), "raw": Quota(300_000, 300)}


_POOLS: WeakKeyDictionary[Wire, dict[str, Pool]] = WeakKeyDictionary()
"""The pools of each simulator: both futures markets spend from the same."""


def pool_of(wire: Wire, name: str, weight_per_minute: int) -> Pool:
    """Give the pool of a name, one for each simulator."""
    return _POOLS.setdefault(wire, {}).setdefault(name, Pool(weight_per_minute))

"""What the venue refuses, and how it counts."""

from __future__ import annotations

import time
from collections import deque
from weakref import WeakKeyDictionary

from marketprism_ray.simulator.wire import Wire


class Limiter:
    """So much in so many seconds."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def spend(self, amount: int) -> tuple[int, bool]:
        """Give what is used up now, and whether it was allowed; what was refused costs nothing."""
        now = time.monotonic()
        while self._spent and self._spent[0][0] < now - self._seconds:
            self._sum -= self._spent.popleft()[1]
        used = self._sum + amount
        if used > self._limit:
            return used, False
        self._spent.append((now, amount))
        self._sum = used
        return used, True


_POOLS: WeakKeyDictionary[Wire, dict[str, Limiter]] = WeakKeyDictionary()
"""The limiters of each simulator: both futures markets spend from the same."""


def limiter_of(wire: Wire, name: str, limit: int, seconds: float) -> Limiter:
    """Give the limiter of a name, one for each simulator."""
    return _POOLS.setdefault(wire, {}).setdefault(name, Limiter(limit, seconds))


class Refused(Exception):
    """What the venue says no to, with its code and words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

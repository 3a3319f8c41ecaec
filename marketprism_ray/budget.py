"""What a process may ask of a venue's REST API, decided from published limits. Pure: time is an argument, in ns.

A request waits until each budget it costs has room in its sliding window. Only a part of the published capacity is used
(``fraction``), and of that only this process's ``share``, because limits hold per public address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from marketprism_ray.venue import Budget, Request

SECOND = 1_000_000_000


class RequestBudget:
    """The budgets of one venue, as this process may use them."""

    def __init__(self, budgets: tuple[Budget, ...], *, fraction: float = 0.8, share: float = 1.0) -> None:
        self._windows = {
            budget.name: _Window(budget, max(1, int(budget.capacity * fraction * share))) for budget in budgets
        }
        self._blocked_until = 0

    def delay_s(self, request: Request, now: int) -> float:
        """Give the seconds to wait before this request may be sent; 0 if it may go now."""
        waits = [self._blocked_until - now]
        waits += [self._windows[name].wait(weight, now) for name, weight in request.costs]
        return max(0, *waits) / SECOND

    def spend(self, request: Request, now: int) -> None:
        """Note that the request is sent."""
        for name, weight in request.costs:
            self._windows[name].spend(weight, now)

    def observe(self, headers: Mapping[str, str], now: int) -> None:
        """Believe the venue when it reports more use than we have counted: others share the address."""
        for window in self._windows.values():
            header = window.budget.used_header
            text = headers.get(header) if header else None
            if text is not None and text.isdigit():
                window.observe(int(text), now)

    def block(self, seconds: float, now: int) -> None:
        """Send nothing for this long: the venue said so."""
        self._blocked_until = max(self._blocked_until, now + int(seconds * SECOND))


class _Window:
    """A sliding window of spent weight."""

    def __init__(self, budget: Budget, capacity: int) -> None:
        self.budget = budget
        self._capacity = capacity
        self._period = int(budget.period_s * SECOND)
        self._spent: deque[tuple[int, int]] = deque()
        self._used = 0

    def _forget(self, now: int) -> None:
        while self._spent and self._spent[0][0] <= now - self._period:
            self._used -= self._spent.popleft()[1]

    def wait(self, weight: int, now: int) -> int:
        self._forget(now)
        weight = min(weight, self._capacity)
        excess = self._used + weight - self._capacity
        for at, spent in self._spent:
            if excess <= 0:
                break
            excess -= spent
            if excess <= 0:
                return at + self._period - now
        return 0

    def spend(self, weight: int, now: int) -> None:
        self._forget(now)
        self._spent.append((now, weight))
        self._used += weight

    def observe(self, used: int, now: int) -> None:
        self._forget(now)
        if used > self._used:
            self.spend(used - self._used, now)


class CircuitBreaker:
    """Stops asking a server that fails, and tries it again now and then.

    Parameters
    ----------
    failures : consecutive failures that open the circuit
    open_s : seconds before one request is let through to see
    """

    def __init__(self, failures: int = 5, open_s: float = 10.0) -> None:
        self._limit = failures
        self._open_ns = int(open_s * SECOND)
        self._failures = 0
        self._retry_at = 0

    def allows(self, now: int) -> bool:
        """Tell whether a request may be tried; while open, one probe each ``open_s``."""
        if self._failures < self._limit:
            return True
        if now < self._retry_at:
            return False
        self._retry_at = now + self._open_ns
        return True

    def succeeded(self) -> None:
        """Close the circuit."""
        self._failures = 0

    def failed(self, now: int) -> None:
        """Count a failure; open the circuit at the limit."""
        self._failures += 1
        if self._failures >= self._limit:
            self._retry_at = now + self._open_ns

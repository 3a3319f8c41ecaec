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
        self._windows = {budget.name: _Window(budget, budget.capacity * fraction, share) for budget in budgets}
        self._blocked_until = 0

    def set_share(self, share: float) -> None:
        """Change this process's part of the limits: others have come or gone."""
        for window in self._windows.values():
            window.set_share(share)

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
    """A sliding window of spent weight.

    A request that weighs more than the whole capacity, as it may where many processes share a limit, takes all of it
    for as much longer: the rate is kept in any case.
    """

    def __init__(self, budget: Budget, limit: float, share: float) -> None:
        self.budget = budget
        self._limit = limit
        self._capacity = limit * share
        self._period = int(budget.period_s * SECOND)
        self._spent: deque[tuple[int, float]] = deque()
        self._used = 0.0

    def set_share(self, share: float) -> None:
        """Use this part of the limit from now on; what is spent stays spent."""
        self._capacity = self._limit * share

    def _forget(self, now: int) -> None:
        while self._spent and self._spent[0][0] <= now:
            self._used -= self._spent.popleft()[1]
        if not self._spent:
            self._used = 0.0  # sums of floats leave crumbs

    def wait(self, weight: float, now: int) -> int:
        """Give the ns to wait until so much weight has room."""
        self._forget(now)
        excess = self._used + min(weight, self._capacity) - self._capacity
        for until, spent in self._spent:
            if excess <= 1e-9:
                break
            excess -= spent
            if excess <= 1e-9:
                return until - now
        return 0

    def spend(self, weight: float, now: int) -> None:
        """Note spent weight."""
        self._forget(now)
        amount = min(weight, self._capacity)
        until = now + int(self._period * max(1.0, weight / self._capacity))
        if self._spent:
            until = max(until, self._spent[-1][0])
        self._spent.append((until, amount))
        self._used += amount

    def observe(self, used: int, now: int) -> None:
        """Believe the venue's own count: what is left of the whole limit may be less than what is left of our share."""
        self._forget(now)
        excess = (self._capacity - self._used) - max(0.0, self._limit - used)
        if excess > 0:
            self.spend(min(excess, self._capacity), now)


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

"""What a house demands of a socket: how much it may say, how it is kept alive, how long it may live.

Pure: time is an argument. ``wire`` carries the answers out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

POLICY_VIOLATION, GOING_AWAY = 1008, 1001


@dataclass(frozen=True)
class Rules:
    """How a house treats its sockets; None where it has no such rule."""

    messages: int | None = None
    """Incoming messages a second; protocol pings and pongs count."""
    streams: int | None = None
    """Streams that one socket may have."""
    connects: tuple[int, float] | None = None
    """(attempts, in so many seconds) from one address."""
    ping_s: float | None = None
    """Time between the house's protocol pings."""
    pong_s: float | None = None
    """The socket is cut if a ping has waited for its own pong for this long."""
    lifetime_s: float | None = None
    """The socket is closed at this age."""


@dataclass
class Conduct:
    """How one socket has behaved.

    Parameters
    ----------
    opened : when, monotonic seconds, as all times here
    """

    rules: Rules
    opened: float
    _heard: deque[float] = field(default_factory=deque)
    _pinged: float = 0.0
    _pings: dict[bytes, float] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        self._pinged = self.opened

    def hears(self, now: float) -> bool:
        """Count a message; False if it is one too many within a second."""
        if self.rules.messages is None:
            return True
        while self._heard and self._heard[0] <= now - 1:
            self._heard.popleft()
        self._heard.append(now)
        return len(self._heard) <= self.rules.messages

    def ping(self, now: float) -> bytes | None:
        """Give the payload of a ping that is due."""
        if self.rules.ping_s is None or now < self._pinged + self.rules.ping_s:
            return None
        self._pinged = now
        self._count += 1
        payload = str(self._count).encode()
        self._pings[payload] = now
        return payload

    def pong(self, payload: bytes) -> None:
        """Take a pong: it answers the ping with its payload and those before; an unasked one answers nothing."""
        if payload in self._pings:
            sent = self._pings[payload]
            self._pings = {other: at for other, at in self._pings.items() if at > sent}

    def verdict(self, now: float) -> tuple[int, str] | None:
        """Give code and reason if the socket must be closed now."""
        rules = self.rules
        if rules.lifetime_s is not None and now >= self.opened + rules.lifetime_s:
            return GOING_AWAY, "lifetime"
        if rules.pong_s is not None and self._pings and now >= min(self._pings.values()) + rules.pong_s:
            return POLICY_VIOLATION, "Pong timeout"
        return None

    def wakes_at(self) -> float | None:
        """Give the next time at which `ping` or `verdict` may say something; None if never."""
        rules = self.rules
        times = []
        if rules.ping_s is not None:
            times.append(self._pinged + rules.ping_s)
        if rules.pong_s is not None and self._pings:
            times.append(min(self._pings.values()) + rules.pong_s)
        if rules.lifetime_s is not None:
            times.append(self.opened + rules.lifetime_s)
        return min(times, default=None)


class Attempts:
    """Connection attempts of one address."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def allows(self, limit: tuple[int, float] | None, now: float) -> bool:
        """Count an attempt, also one that is refused."""
        if limit is None:
            return True
        most, seconds = limit
        while self._times and self._times[0] <= now - seconds:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= most

"""What the venue remembers of a socket, and of who asks how much."""

from __future__ import annotations

import time


class Credits:
    """A pool that refills steadily."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, burst, time.monotonic()

    def take(self) -> bool:
        """Take one; False if none is left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Session:
    """What the venue remembers of a socket."""

    def __init__(self, now_ms: int, address: str | None = None) -> None:
        self.address = address
        self.heartbeat_ms: int | None = None
        self.next_beat_ms = 0
        self.tested_ms: int | None = None
        """When the test request was sent that nobody has answered."""
        self.quiet_since_ms = now_ms
        self.is_over = False

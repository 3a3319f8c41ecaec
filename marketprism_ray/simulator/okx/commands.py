"""What a client may ask of an OKX socket: the form of requests, how many there may be, and who may have what.

There are no accounts: any complete login is accepted and is of the lowest tier, so that the books by tick are refused
for want of a login (60011) or of a tier (64003).
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CONNECTION = "a4d3ae55"
REQUESTS, PERIOD_S = 480, 3600.0
"""Requests to subscribe, unsubscribe or log in, of one connection."""
ARGUMENTS_BYTES = 65_536
"""All arguments of a connection together."""
TICK_BOOKS = ("books-l2-tbt", "books50-l2-tbt")
LOGIN = ("apiKey", "passphrase", "timestamp", "sign")
SILENT_S = 30.0


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Command:
    """A request.

    Parameters
    ----------
    identity : ``id`` to repeat in answers, if there was one
    """

    op: str
    args: list[dict[str, Any]]
    identity: dict[str, Any]


@dataclass
class Session:
    """What the venue remembers of a connection."""

    is_logged_in: bool = False
    closes_ms: int | None = None
    """When it is closed for an upgrade that was announced."""
    arguments: dict[str, int] = field(default_factory=dict)
    """Bytes of each stream's argument."""
    _times: deque[float] = field(default_factory=deque)

    def count(self, now_s: float | None = None) -> None:
        """Count a request; raises `Refused` if it is one too many."""
        now = time.monotonic() if now_s is None else now_s
        while self._times and self._times[0] <= now - PERIOD_S:
            self._times.popleft()
        if len(self._times) >= REQUESTS:
            raise Refused("60014", "Requests too frequent")
        self._times.append(now)

    def log_in(self, args: list[dict[str, Any]]) -> None:
        """Log in; raises `Refused` if what a login needs is not there."""
        if not all(isinstance(args[0].get(name), str) and args[0][name] for name in LOGIN):
            raise Refused("60009", "Login failed.")
        self.is_logged_in = True

    def refuse_tick_books(self, arg: dict[str, Any]) -> None:
        """Raise `Refused` for a book by tick."""
        if arg.get("channel") in TICK_BOOKS:
            if not self.is_logged_in:
                raise Refused("60011", "Please log in")
            raise Refused("64003", "Your trading fee tier doesn't meet the requirement to access this channel")

    def make_room(self, key: str) -> None:
        """Count a stream's argument; raises `Refused` if there is no room for it."""
        if sum(self.arguments.values()) + len(key) > ARGUMENTS_BYTES:
            raise Refused("60013", "Invalid args: the total length of multiple channels cannot exceed 64 KB")
        self.arguments[key] = len(key)


def read(message: str) -> Command:
    """Read a request; raises `Refused`."""
    try:
        command = json.loads(message)
        op = command["op"]
        identity = {"id": command["id"]} if "id" in command else {}
    except (ValueError, KeyError, TypeError):
        raise Refused("60012", f"Illegal request: {message[:200]}") from None
    if op not in ("subscribe", "unsubscribe", "login"):
        raise Refused("60012", f"Illegal request: {message[:200]}")
    args = command.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(arg, dict) for arg in args):
        raise Refused("60013", "Invalid args")
    return Command(op, args, identity)

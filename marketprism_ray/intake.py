"""The usual way of a frame, as short as it can be: a routed frame, a trade that follows, a book change that follows.

Each class here is the base of one that deals with everything unusual (`Feed`, `TradeStream`, `BookSync`): what the base
cannot settle in a few comparisons, it hands to a method of that class. ``_hot.pyx`` has the same classes compiled;
``hot.py`` gives whichever there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketprism_ray.book import Book
from marketprism_ray.errors import DECODE_ERRORS, BookError
from marketprism_ray.venue import Delta, Follows, items

_NEXT = Follows.NEXT


class Cut:
    """Reads the key at the head of a frame: from a fixed place up to a byte.

    Parameters
    ----------
    start : bytes before the key
    end : the byte that ends it
    with_end : the byte belongs to the key
    """

    __slots__ = ("_end", "_extra", "_start")

    def __init__(self, start: int, end: bytes, with_end: bool = False) -> None:
        self._start = start
        self._end = end
        self._extra = len(end) if with_end else 0

    def read(self, raw: bytes) -> bytes:
        """Give the key; empty if there is none."""
        at = raw.find(self._end, self._start)
        return raw[self._start : at + self._extra] if at >= 0 else b""


class FrameIntake:
    """Hands a frame to what reads its key."""

    now: int
    """Time of the last event, ns since the epoch."""
    frames: int
    _tap: Callable[[bytes, int], None] | None
    _route: Callable[[bytes], bytes]
    _handlers: dict[bytes, Callable[[bytes, int], None]]

    def frame(self, raw: bytes, received: int) -> None:
        """Take one message. Never raises on bad input: it is counted and its stream resyncs."""
        self.now = received
        self.frames += 1
        if self._tap is not None:
            self._tap(raw, received)
        handler = self._handlers.get(self._route(raw))
        if handler is not None:
            handler(raw, received)
        else:
            self._other(raw, received)

    def _other(self, raw: bytes, received: int) -> None:
        raise NotImplementedError


class TradeIntake:
    """Keeps trades whose sequence goes on by one."""

    frames: int
    last: int | None
    """Sequence of the last accepted trade."""
    _last_trade: Any
    _decode: Callable[[bytes], Any]
    _owners: list[Any]
    _rows: list[Any]
    _received: list[int]

    def frame(self, raw: bytes, received: int) -> None:
        """Decode, check the sequence, keep."""
        self.frames += 1
        try:
            data = self._decode(raw).data
        except DECODE_ERRORS as error:
            self._malformed(raw, error)
            return
        for trade in items(data):
            self._take(trade, received)

    def _take(self, trade: Any, received: int) -> None:
        if trade.sequence - 1 != self.last and not self._out_of_step(trade, received):
            return
        self.last = trade.sequence
        self._last_trade = trade
        self._owners.append(self)
        self._rows.append(trade)
        self._received.append(received)

    def _malformed(self, raw: bytes, error: Exception) -> None:
        raise NotImplementedError

    def _out_of_step(self, trade: Any, received: int) -> bool:
        """Deal with a trade that does not simply follow; True if it is to be taken."""
        raise NotImplementedError


class DeltaIntake:
    """Applies book changes while the book is live and each follows the one before."""

    book: Book
    last: int
    """Id of the book."""
    last_time: int
    """Event time of the last change, venue units."""
    changed: bool
    applied: int
    _live: bool
    _follows: Callable[[int, Delta], Follows]
    _emit: Callable[[Delta, int, int], None]

    def delta(self, delta: Delta, received: int) -> None:
        """Take one message of the stream."""
        if self._live and not delta.is_snapshot and self._follows(self.last, delta) is _NEXT:
            self._apply(delta, received)
        else:
            self._unusual(delta, received)

    def _apply(self, delta: Delta, received: int) -> None:
        bids, asks = delta.bids, delta.asks
        try:
            crossed = self.book.apply(bids, asks)
        except BookError as error:
            self.broken("malformed", str(error))
            return
        previous, self.last = self.last, delta.last
        if not bids and not asks and delta.previous == delta.last:
            return  # a keep-alive: the book lives, nothing changed
        self.last_time = delta.time
        self.changed = True
        self.applied += 1
        self._emit(delta, previous, received)
        if crossed or delta.checksum:
            self._examine(delta, crossed)

    def _unusual(self, delta: Delta, received: int) -> None:
        raise NotImplementedError

    def _examine(self, delta: Delta, crossed: bool) -> None:
        """Look at a book that is crossed, or has a digest to be compared."""
        raise NotImplementedError

    def broken(self, reason: str, detail: str) -> None:
        """Give up the book and start over; reason ends up in the gap."""
        raise NotImplementedError


class BookIntake:
    """Hands decoded book changes to the book that takes them, and keeps those that it applied."""

    frames: int
    sync: DeltaIntake
    _decode: Callable[[bytes], Any]
    _keep_deltas: bool
    _time_ns: int
    _deltas: Any
    """Buffer of changes; its lists stay the same."""
    _owners: list[Any]
    _rows: list[Any]
    _received: list[int]

    def frame(self, raw: bytes, received: int) -> None:
        """Decode and hand to the state machine."""
        self.frames += 1
        try:
            for delta in items(self._decode(raw).data):
                self.sync.delta(delta, received)
        except DECODE_ERRORS as error:
            self._malformed(raw, error)

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        """Keep an applied change."""
        if self._keep_deltas:
            self._owners.append(self)
            self._rows.append((previous, delta, self._time_ns))
            self._received.append(received)
            self._deltas.bytes += 100 + 50 * (len(delta.bids) + len(delta.asks))

    def _malformed(self, raw: bytes, error: Exception) -> None:
        raise NotImplementedError

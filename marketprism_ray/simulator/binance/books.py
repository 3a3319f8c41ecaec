"""Books as this house tells them: changes in batches, windows of the best levels, best prices, and late snapshots.

A snapshot by REST comes from servers that lag behind the stream, by another time at each request: it may be older than
the first change that a subscriber holds, in the midst of them, or ahead of all of them.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

from marketprism_ray.simulator.binance.facts import Body, Facts
from marketprism_ray.simulator.binance.frames import book_ticker
from marketprism_ray.simulator.market import BookEvent, Symbol

LAG_MS = 1500
"""What a snapshot lags behind at most."""
_CHANNEL = re.compile(r"(depth|rpiDepth)(5|10|20)?(?:@(\d+)ms)?")

Levels = list[tuple[str, str]]


class Replica:
    """The book of a server that lags behind: the book as it was, and the changes since."""

    def __init__(self, symbol: Symbol) -> None:
        bids, asks = symbol.book()
        self._sides = (dict(bids), dict(asks))
        self._update_id = symbol.update_id
        self._time_ms = 0
        self._events: deque[BookEvent] = deque()

    def take(self, event: BookEvent) -> None:
        """Take a change."""
        self._events.append(event)
        while self._events[0].time_ms < event.time_ms - LAG_MS:
            self._update_id, self._time_ms = _apply(self._sides, self._events.popleft())

    def at(self, time_ms: int, limit: int) -> tuple[int, int, Levels, Levels]:
        """Give the book of a time: update id, time of its last change (0 if long ago), bids, asks."""
        bids, asks = (dict(side) for side in self._sides)
        update_id, changed_ms = self._update_id, self._time_ms
        for event in self._events:
            if event.time_ms > time_ms:
                break
            update_id, changed_ms = _apply((bids, asks), event)
        best_bids = sorted(bids.items(), key=lambda level: Decimal(level[0]), reverse=True)[:limit]
        best_asks = sorted(asks.items(), key=lambda level: Decimal(level[0]))[:limit]
        return update_id, changed_ms, best_bids, best_asks


def _apply(sides: tuple[dict[str, str], dict[str, str]], event: BookEvent) -> tuple[int, int]:
    for side, levels in zip(sides, (event.bids, event.asks), strict=True):
        for price, quantity in levels:
            if quantity.strip("0."):
                side[price] = quantity
            else:
                side.pop(price, None)
    return event.last, event.time_ms


class Lag:
    """By how much each snapshot is late.

    Parameters
    ----------
    most_ms : the greatest lag; 0 for none at all
    """

    def __init__(self, seed: str, most_ms: int = LAG_MS) -> None:
        self.most_ms = most_ms
        self._random = random.Random(seed)

    def draw(self) -> int:
        """Give the lag of a request, ms: a third has none, most little, a few a lot."""
        kind, share = self._random.random(), self._random.random()
        if kind < 0.3:
            return 0
        return int(share * (self.most_ms if kind > 0.8 else self.most_ms / 5))


@dataclass
class _Batch:
    """A stream of a book: what has changed since its last frame."""

    key: str
    symbol: Symbol
    every_ms: int
    levels: int | None
    """Levels a side of a window; None for a stream of changes."""
    previous: int
    """``u`` of the last frame."""
    first: int | None = None
    last: int = 0
    time_ms: int = 0
    bids: dict[str, str] = field(default_factory=dict)
    asks: dict[str, str] = field(default_factory=dict)

    def add(self, event: BookEvent) -> None:
        """Add a change."""
        self.first = event.first if self.first is None else self.first
        self.last, self.time_ms = event.last, event.time_ms
        if self.levels is None:
            self.bids.update(event.bids)
            self.asks.update(event.asks)

    def taken(self) -> BookEvent | None:
        """Give all of it as one change, and begin anew; None if there is nothing."""
        if self.first is None:
            return None
        sides = (list(self.bids.items()), list(self.asks.items()))
        if self.levels is not None:
            sides = self.symbol.book(self.levels)
        event = BookEvent(self.symbol.listing, self.first, self.last, self.previous, *sides, self.time_ms)
        self.previous, self.first = self.last, None
        self.bids, self.asks = {}, {}
        return event


class Books:
    """The streams of books of one market.

    Parameters
    ----------
    push : sends a frame: (stream, writer of its text)
    """

    def __init__(self, facts: Facts, push: Callable[[str, Body], None]) -> None:
        self._facts = facts
        self._push = push
        self._replicas: dict[Symbol, Replica] = {}
        self._batches: dict[Symbol, list[_Batch]] = {}
        self._best: dict[Symbol, object] = {}
        """Last best prices of each symbol with a follower."""
        self._slots: dict[int, int] = {}

    def replica(self, symbol: Symbol) -> Replica:
        """Give what the REST servers know; from the first question or subscription on they keep up."""
        return self._replicas.get(symbol) or self._replicas.setdefault(symbol, Replica(symbol))

    def watch(self, key: str, symbol: Symbol, channel: str) -> None:
        """Begin a stream, unless its name is wrong."""
        if channel == "bookTicker":
            self._best.setdefault(symbol, symbol.best())
            return
        match = _CHANNEL.fullmatch(channel)
        if match is None or any(batch.key == key for batch in self._batches.get(symbol, [])):
            return
        kind, levels, every = match.groups()
        every_ms = self._facts.depth_ms[0] if every is None else int(every)
        allowed = (500,) if kind == "rpiDepth" and self._facts.has_rpi else self._facts.depth_ms
        if every_ms not in allowed or (kind == "rpiDepth" and not (self._facts.has_rpi and every)):
            return
        self.replica(symbol)
        batch = _Batch(key, symbol, every_ms, int(levels) if levels else None, symbol.update_id)
        self._batches.setdefault(symbol, []).append(batch)

    def take(self, symbol: Symbol, event: BookEvent) -> None:
        """Take a change."""
        if not event.bids and not event.asks:
            return
        if symbol in self._replicas:
            self._replicas[symbol].take(event)
        for batch in self._batches.get(symbol, ()):
            batch.add(event)
            if not batch.every_ms:
                self._send(batch, event.time_ms + 1)
        if symbol in self._best and self._best[symbol] != (best := symbol.best()):
            self._best[symbol] = best
            self._push(f"{symbol.listing.venue_symbol.lower()}@bookTicker", partial(book_ticker, symbol, event.time_ms))

    def tick(self, now_ms: int) -> None:
        """Send the batches whose time has come."""
        due = {every for every in self._facts.depth_ms if every and now_ms // every > self._slots.get(every, 0)}
        if not due:
            return
        self._slots.update({every: now_ms // every for every in due})
        for batches in self._batches.values():
            for batch in batches:
                if batch.every_ms in due:
                    self._send(batch, now_ms)

    def _send(self, batch: _Batch, now_ms: int) -> None:
        event = batch.taken()
        if event is not None:
            write = self._facts.depth if batch.levels is None else self._facts.window
            self._push(batch.key, partial(write, event, now_ms))

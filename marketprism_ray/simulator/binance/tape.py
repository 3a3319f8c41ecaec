"""Trades as this house tells them: fills as they happen, and aggregates of fills under ids of their own.

Spot merges the fills of one taker's order at one price. Futures merge neighbouring fills of the same price and side
within 100 ms, and leave out what the insurance fund took: those fills have ids, so ``f`` and ``l`` may skip numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from zlib import crc32

from marketprism_ray.simulator.binance.facts import UNIVERSES
from marketprism_ray.simulator.market import Symbol, TradeEvent, Truth

BUCKET_MS = 100


def is_insurance(event_id: int, *, is_liquidation: bool) -> bool:
    """Tell whether the insurance fund took a fill."""
    return is_liquidation and event_id % 8 == 3


def is_rpi(symbol: Symbol, event_id: int) -> bool:
    """Tell whether a fill was of a retail-price-improvement order: on USD-M only."""
    return symbol.listing.venue == "binance_derivatives" and event_id % 16 == 5


@dataclass
class Aggregate:
    """Fills in one."""

    symbol: Symbol
    id: int
    price: str
    taker_sold: bool
    order: int
    first: int
    last: int
    time_ms: int
    quantity: Decimal = Decimal()
    without_rpi: Decimal = Decimal()

    def add(self, event: TradeEvent) -> None:
        """Add a fill."""
        quantity = Decimal(event.quantity)
        self.last = event.id
        self.quantity += quantity
        if not is_rpi(self.symbol, event.id):
            self.without_rpi += quantity


class Tape:
    """The aggregates of a symbol."""

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.told = Truth()
        """Aggregates that are closed, as trades: what a follower of this stream can know."""
        self.rows: list[Aggregate] = []
        self._is_spot = symbol.listing.venue not in UNIVERSES
        self._open: Aggregate | None = None
        self._count = crc32(symbol.listing.venue_symbol.encode()) % 10**7 + 10**6

    @property
    def next_id(self) -> int:
        """Id of the next aggregate that will be told."""
        return self._count if self._open is not None else self._count + 1

    def take(self, event: TradeEvent) -> list[Aggregate]:
        """Take a fill; give what is closed by it."""
        if is_insurance(event.id, is_liquidation=event.is_liquidation):
            return []
        closed = []
        one = self._open
        if one is not None and not self._continues(one, event):
            closed.append(self._close(one))
            one = None
        if one is None:
            self._count += 1
            one = self._open = Aggregate(
                *(self.symbol, self._count, event.price, event.taker_sold, event.order, event.id, event.id),
                time_ms=event.time_ms,
            )
        one.add(event)
        if self._is_spot and event.is_last:
            closed.append(self._close(one))
        return closed

    def _continues(self, one: Aggregate, event: TradeEvent) -> bool:
        if (one.price, one.taker_sold) != (event.price, event.taker_sold):
            return False
        return one.order == event.order if self._is_spot else event.time_ms < one.time_ms + BUCKET_MS

    def until(self, now_ms: int) -> list[Aggregate]:
        """Give what is closed by time."""
        one = self._open
        if one is None or self._is_spot or now_ms < one.time_ms + BUCKET_MS:
            return []
        return [self._close(one)]

    def _close(self, one: Aggregate) -> Aggregate:
        self._open = None
        self.rows.append(one)
        told = self.told
        told.ids.append(one.id)
        told.prices.append(one.price)
        told.quantities.append(self.symbol.quantity_text(one.quantity))
        told.taker_sold.append(one.taker_sold)
        told.times_ms.append(one.time_ms)
        told.liquidations.append(False)
        return one

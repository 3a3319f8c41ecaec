"""What OKX sends of books and trades: changes of 100 ms in one update, fills of one order at one price in one push."""

from __future__ import annotations

from decimal import Decimal

from marketprism_ray.simulator.market import BookEvent, Symbol, TradeEvent, plain


class Chain:
    """The updates of one book: absolute quantities of all levels that changed since the last one."""

    def __init__(self, symbol: Symbol) -> None:
        self._symbol = symbol
        self._last = symbol.update_id
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}
        self._pending: BookEvent | None = None

    def add(self, event: BookEvent) -> None:
        """Take a change."""
        for kept, levels in ((self._bids, event.bids), (self._asks, event.asks)):
            kept.update(levels)
        self._pending = event

    def update(self, now_ms: int) -> BookEvent | None:
        """Give the update that is due, whose ``previous`` is what was sent last; None if nothing changed."""
        event = self._pending
        if event is None:
            return None
        update = BookEvent(
            event.listing,
            self._last + 1,
            event.last,
            self._last,
            list(self._bids.items()),
            list(self._asks.items()),
            now_ms,
        )
        self._last, self._pending = event.last, None
        self._bids.clear()
        self._asks.clear()
        return update


class Fills:
    """Fills of one taker's order at one price that go out together."""

    def __init__(self) -> None:
        self._waiting: list[TradeEvent] = []

    def add(self, event: TradeEvent) -> list[list[TradeEvent]]:
        """Take a fill; give the pushes that are complete."""
        found = []
        if self._waiting and (self._waiting[0].order, self._waiting[0].price) != (event.order, event.price):
            found.append(self._waiting)
            self._waiting = []
        self._waiting.append(event)
        if event.is_last:
            found.append(self._waiting)
            self._waiting = []
        return found


def merged(fills: list[TradeEvent]) -> TradeEvent:
    """Give fills as one: the last id, the sum of quantities."""
    last = fills[-1]
    total = plain(sum((Decimal(fill.quantity) for fill in fills), Decimal()))
    return TradeEvent(
        last.listing, last.id, last.price, total, last.taker_sold, last.time_ms, last.is_liquidation, last.order
    )

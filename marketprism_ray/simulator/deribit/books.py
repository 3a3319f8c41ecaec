"""Books as Deribit sends them: chains of changes by interval, and windows whose prices are put into groups."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from marketprism_ray.simulator.deribit.text import number
from marketprism_ray.simulator.market import BookEvent, Symbol, plain

GROUPS = ("none", "1", "2", "5", "10", "25", "100", "250")
"""Steps of prices that a window can be grouped by, in ticks."""
Levels = Sequence[tuple[str, str]]


class Chain:
    """The changes of one book at one interval: what has changed since the last message, each level once."""

    def __init__(self, symbol: Symbol) -> None:
        self._symbol = symbol
        self._sent = symbol.update_id
        bids, asks = symbol.book()
        self._known = {price for price, _ in bids}, {price for price, _ in asks}
        self._waiting: tuple[dict[str, str], dict[str, str]] = {}, {}

    def add(self, event: BookEvent) -> None:
        """Take a change."""
        for waiting, levels in zip(self._waiting, (event.bids, event.asks), strict=True):
            waiting.update(levels)

    def change(self, now_ms: int) -> str | None:
        """Write the change that is due; None if nothing has changed."""
        symbol = self._symbol
        if symbol.update_id == self._sent:
            return None
        sides = [_entries(levels, known) for levels, known in zip(self._waiting, self._known, strict=True)]
        previous, self._sent = self._sent, symbol.update_id
        for waiting in self._waiting:
            waiting.clear()
        return (
            f'{{"type":"change","timestamp":{now_ms},"prev_change_id":{previous},'
            f'"instrument_name":"{symbol.listing.venue_symbol}","change_id":{symbol.update_id},'
            f'"bids":{sides[0]},"asks":{sides[1]}}}'
        )

    def snapshot(self, now_ms: int) -> str:
        """Write the whole book, for a new listener; what waits must have been sent."""
        symbol = self._symbol
        bids, asks = ("[" + ",".join(f'["new",{p},{number(q)}]' for p, q in side) + "]" for side in symbol.book())
        return (
            f'{{"type":"snapshot","timestamp":{now_ms},"prev_change_id":null,'
            f'"instrument_name":"{symbol.listing.venue_symbol}","change_id":{symbol.update_id},'
            f'"bids":{bids},"asks":{asks}}}'
        )


def _entries(levels: dict[str, str], known: set[str]) -> str:
    """Write changes of one side, and keep its prices; a level that was not there cannot go."""
    found = []
    for price, amount in levels.items():
        if amount.strip("0."):
            found.append(f'["{"change" if price in known else "new"}",{price},{number(amount)}]')
            known.add(price)
        elif price in known:
            found.append(f'["delete",{price},0.0]')
            known.remove(price)
    return f"[{','.join(found)}]"


def grouped(symbol: Symbol, group: str, depth: int) -> tuple[Levels, Levels]:
    """Give the best levels; with a group, levels are put together downwards for bids and upwards for asks."""
    if group == "none":
        return symbol.book(depth)
    step = int(group) * symbol.listing.tick
    bids, asks = symbol.book()
    return _put_together(bids, step, ROUND_FLOOR, depth), _put_together(asks, step, ROUND_CEILING, depth)


def _put_together(levels: Levels, step: Decimal, rounding: str, depth: int) -> Levels:
    found: dict[Decimal, Decimal] = {}
    for price, amount in levels:
        place = (Decimal(price) / step).to_integral_value(rounding) * step
        if place not in found and len(found) == depth:
            break
        found[place] = found.get(place, Decimal()) + Decimal(amount)
    return [(plain(price), plain(amount)) for price, amount in found.items()]

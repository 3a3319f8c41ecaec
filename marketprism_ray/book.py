"""The price levels of one book: apply, best bid and offer, top n, checksum.

Each side is two parallel lists, float prices in ascending order of *goodness* and the venue's levels with their exact
text. The best level is the last one, so that the busiest inserts move the fewest entries. The float only finds the
place: every price of at most 15 significant digits has a float of its own, and what leaves the book is the text. Rows
are replaced, never changed, so a slice of them is a snapshot.

This module knows nothing of sequences; ``sync.py`` decides what may be applied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from marketprism_ray.errors import BookError
from marketprism_ray.venue import WireLevel

_INFINITY = float("inf")


class Book:
    """One order book in the venue's units.

    Parameters
    ----------
    keep : most levels a side, far ones are dropped beyond it; None keeps all. Levels that drift out of a venue's
        snapshot window are never deleted by the venue (ghosts), so books of such venues must be bounded.
    """

    __slots__ = ("_asks", "_bids", "_keep", "_prune_at", "pruned", "unknown_deletes")

    def __init__(self, keep: int | None = None) -> None:
        self._bids: tuple[list[float], list[WireLevel]] = ([], [])
        self._asks: tuple[list[float], list[WireLevel]] = ([], [])
        self._keep = keep
        self._prune_at = keep + max(keep // 10, 10) if keep else None
        self.pruned = 0
        self.unknown_deletes = 0

    def replace(self, bids: Sequence[WireLevel], asks: Sequence[WireLevel]) -> bool:
        """Forget everything and take these levels; True if they are crossed.

        Raises
        ------
        BookError
            If a level is no positive number. The book is then empty.
        """
        self.clear()
        return self.apply(bids, asks)

    def clear(self) -> None:
        """Forget everything."""
        self._bids = ([], [])
        self._asks = ([], [])

    def apply(self, bids: Sequence[WireLevel], asks: Sequence[WireLevel]) -> bool:
        """Set absolute quantities; 0 deletes; deleting an unknown level is counted and harmless.

        Returns
        -------
        bool
            True if the book is crossed now: the best bid is at or above the best offer.

        Raises
        ------
        BookError
            If a price or quantity is no finite number, or negative. The book must then be thrown away.
        """
        try:
            if bids:
                self._apply(self._bids, bids, False)
            if asks:
                self._apply(self._asks, asks, True)
        except ValueError as error:
            raise BookError(f"a price or quantity is not a number: {error}") from error
        bid_prices, ask_prices = self._bids[0], self._asks[0]
        return bool(bid_prices and ask_prices) and bid_prices[-1] >= -ask_prices[-1]

    def _apply(
        self,
        side: tuple[list[float], list[WireLevel]],
        levels: Sequence[WireLevel],
        negate: bool,
        number: Callable[[str], float] = float,
        find: Callable[[list[float], float], int] = bisect_left,
    ) -> None:
        prices, rows = side
        size = len(prices)
        for level in levels:
            price = number(level.price)
            quantity = number(level.quantity)
            if negate:
                price = -price
            at = find(prices, price)
            if at < size and prices[at] == price:
                if not quantity:
                    del prices[at], rows[at]
                    size -= 1
                    continue
                rows[at] = level
            elif not quantity:
                self.unknown_deletes += 1
                continue
            else:
                # A price that is in the book has been looked at when it came.
                if not 0.0 < abs(price) < _INFINITY or (price < 0.0) is not negate:
                    raise BookError(f"price {level.price!r} is out of range")
                prices.insert(at, price)
                rows.insert(at, level)
                size += 1
            if not 0.0 < quantity < _INFINITY:
                raise BookError(f"quantity {level.quantity!r} at {level.price!r} is out of range")
        if self._prune_at is not None and size > self._prune_at:
            assert self._keep is not None
            excess = size - self._keep
            del prices[:excess], rows[:excess]
            self.pruned += excess

    def best(self) -> tuple[WireLevel | None, WireLevel | None]:
        """Give best bid and best offer; None for an empty side."""
        bids, asks = self._bids[1], self._asks[1]
        return (bids[-1] if bids else None), (asks[-1] if asks else None)

    def top(self, depth: int) -> tuple[list[WireLevel], list[WireLevel]]:
        """Give up to ``depth`` levels a side, best first."""
        if depth <= 0:
            return [], []
        return self._bids[1][: -depth - 1 : -1], self._asks[1][: -depth - 1 : -1]

    def levels(self) -> tuple[list[WireLevel], list[WireLevel]]:
        """Give all levels, best first."""
        return self._bids[1][::-1], self._asks[1][::-1]

    def __len__(self) -> int:
        return len(self._bids[0]) + len(self._asks[0])

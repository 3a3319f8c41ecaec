"""A symbol as Deribit lists it: names, groups, running sums."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal

from marketprism_ray.simulator.market import Listing, Symbol, TradeEvent
from marketprism_ray.simulator.summaries import RunningCandle, RunningDay, funding_rate

RESOLUTIONS_MS = {
    **{str(n): n * 60_000 for n in (1, 3, 5, 10, 15, 30, 60, 120, 180, 360, 720)},
    "1D": 86_400_000,
}
INTERVALS_MS = {"100ms": 100, "agg2": 1_000}
CONTRACT_SIZES = {"BTC-USD": "10", "ETH-USD": "1", "BTC-USDC": "0.0001"}


class Listed:
    """A symbol, the channels its events go to, and what is summed up of them.

    Parameters
    ----------
    number : tells symbols apart in trade ids
    """

    def __init__(self, symbol: Symbol, number: int) -> None:
        listing = symbol.listing
        self.symbol = symbol
        self.number = number
        self.name = listing.venue_symbol
        self.kind = "option" if listing.market_type == "option" else "future"
        self.currency = settlement(listing)
        groups = (f"{kind}.{currency}" for kind in (self.kind, "any") for currency in (self.currency, "any"))
        places = (self.name, *groups)
        self.trade_keys = {every: [f"trades.{place}.{every}" for place in places] for every in INTERVALS_MS}
        self.quote_key = f"quote.{self.name}"
        self.day = RunningDay()
        self.candles: dict[str, RunningCandle] = {}
        """Candles of charts that somebody has watched, by resolution."""
        self.trades = self.books = 0
        self.combos: dict[int, tuple[str, str]] = {}
        """Name of the spread and id of its trade, by the number that trades of this symbol as its legs have."""

    def is_in(self, kind: str, currency: str) -> bool:
        """Tell whether it belongs to a group of instruments."""
        return kind in ("any", self.kind) and currency in ("any", self.currency)

    def candle(self, resolution: str, now_ms: int) -> RunningCandle:
        """Give the running candle; one that nobody has watched yet catches up with its interval."""
        if resolution not in self.candles:
            step = RESOLUTIONS_MS[resolution]
            candle = self.candles[resolution] = RunningCandle(step)
            start = bisect_left(self.symbol.truth.times_ms, now_ms // step * step)
            for event in events_of(self.symbol, range(start, len(self.symbol.truth.ids))):
                candle.add(event)
        return self.candles[resolution]


def current_funding(listing: Listing, at_ms: int) -> Decimal:
    """Give the funding rate of this moment, a fraction: another one than that of the last 8 hours."""
    return (funding_rate(listing, at_ms) / 3).quantize(Decimal("1e-10"))


def settlement(listing: Listing) -> str:
    """Give the currency that an instrument is settled in."""
    return "USDC" if listing.quote == "USDC" else listing.base


def index_name_of(listing: Listing) -> str:
    """Give the name of an instrument's index."""
    return f"{listing.base}_{listing.quote}".lower()


def contract_size(listing: Listing) -> str:
    """Give the contract size as text."""
    return "1" if listing.market_type == "option" else CONTRACT_SIZES.get(f"{listing.base}-{listing.quote}", "1")


def trade_id(sequence: int, number: int) -> str:
    """Give the id of a trade, unique among all symbols."""
    return f"40{sequence:09d}{number}"


def events_of(symbol: Symbol, places: Iterable[int]) -> list[TradeEvent]:
    """Give trades by their places in the truth."""
    truth = symbol.truth
    return [
        TradeEvent(
            symbol.listing,
            truth.ids[i],
            truth.prices[i],
            truth.quantities[i],
            truth.taker_sold[i],
            truth.times_ms[i],
            truth.liquidations[i],
            truth.orders[i],
            combo=truth.combos[i],
        )
        for i in places
    ]

"""A seeded market: books that never cross, trades with contiguous ids, and the truth about both.

Pure: randomness comes from the seed, time from the caller. Prices are integer ticks and quantities integer lots, so
that text is exact. Nothing here knows a wire format beyond how a venue writes decimals.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from marketprism_ray.instruments import MarketType

LIQUIDATION_SHARE = 0.02
EXPIRY = ("291228", 1_893_139_200_000)
"""The one delivery day of dated contracts, 08:00 UTC: far away, so that nothing expires in a test."""


@dataclass(frozen=True)
class Listing:
    """A symbol on offer."""

    venue: str
    symbol: str
    venue_symbol: str
    base: str
    quote: str
    price: Decimal
    tick: Decimal
    lot: Decimal
    contract: tuple[str, str] | None = None
    """(contract size, ``linear`` or ``inverse``); None where the venue counts in base."""
    market_type: MarketType = "spot"
    expiry_ms: int | None = None
    strike: str | None = None
    option_type: Literal["C", "P"] | None = None


@dataclass(frozen=True)
class TradeEvent:
    """A trade as it happened, in the venue's units."""

    listing: Listing
    id: int
    price: str
    quantity: str
    taker_sold: bool
    time_ms: int
    is_liquidation: bool = False
    """True if the taker's order was a forced one; never on spot."""


@dataclass(frozen=True)
class BookEvent:
    """A change of a book: absolute quantities; ``0`` deletes."""

    listing: Listing
    first: int
    last: int
    previous: int
    bids: Sequence[tuple[str, str]]
    asks: Sequence[tuple[str, str]]
    time_ms: int


@dataclass
class Truth:
    """All trades of one symbol since the beginning, column by column."""

    ids: list[int] = field(default_factory=list)
    prices: list[str] = field(default_factory=list)
    quantities: list[str] = field(default_factory=list)
    taker_sold: list[bool] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    liquidations: list[bool] = field(default_factory=list)
    subscribed_from: int | None = None
    """First id after somebody subscribed these trades for the first time."""


def plain(value: Decimal) -> str:
    """Write a decimal without exponent and without trailing zeros."""
    return format(value.normalize(), "f")


def padded(value: Decimal) -> str:
    """Write a decimal with 8 digits after the point."""
    return format(value, ".8f")


class _Side:
    """One side of a book: goodness (higher is better) of each level, sorted, and its lots."""

    def __init__(self, window: int | None) -> None:
        self.order: list[int] = []
        self.lots: dict[int, int] = {}
        self._window = window

    def _edge(self) -> int:
        """Give the worst goodness inside the venue's window."""
        if not self.order:
            return 0
        return self.order[0] if self._window is None else self.order[-min(self._window, len(self.order))]

    def apply(self, changes: dict[int, int]) -> dict[int, int]:
        """Change levels; give what the venue sends: its window loses and gains levels at the far edge as well."""
        before = self._edge()
        was_inside = {good for good in changes if good in self.lots and good >= before}
        left = self.order[bisect_left(self.order, before) :] if self._window else []
        for good, lots in changes.items():
            if lots:
                if good not in self.lots:
                    insort(self.order, good)
                self.lots[good] = lots
            elif good in self.lots:
                del self.lots[good]
                del self.order[bisect_left(self.order, good)]
        if self._window is None:
            return changes
        after = self._edge()
        sent = {g: lots for g, lots in changes.items() if g >= after and (lots or g in was_inside)}
        sent.update(dict.fromkeys((g for g in was_inside if g < after), 0))
        if after > before:
            sent.update(dict.fromkeys((g for g in left if g < after), 0))
        elif after < before:
            entered = self.order[bisect_left(self.order, after) : bisect_left(self.order, before)]
            sent.update((g, self.lots[g]) for g in entered)
        return sent


class Symbol:
    """One symbol's book and trades.

    Parameters
    ----------
    levels : levels a side to begin with
    window : levels a side that the venue's channel shows; None for all
    """

    def __init__(
        self, listing: Listing, seed: str, text: Callable[[Decimal], str], levels: int = 1200, window: int | None = None
    ) -> None:
        self.listing = listing
        self.truth = Truth()
        self.text = text
        self.window = window
        self._random = random.Random(seed)
        self._mid = int(listing.price / listing.tick)
        self._bids = _Side(window)
        self._asks = _Side(window)
        self.update_id = self._random.randrange(10**9, 10**10)
        self.trade_id = self._random.randrange(10**6, 10**8)
        # Dense near the middle, sparse far away: some levels lie outside any snapshot window.
        steps = [i + (i * i) // 400 for i in range(levels)]
        self._bids.apply({self._mid - 1 - step: self._quantity() for step in steps if self._mid - 1 - step > 0})
        self._asks.apply({-(self._mid + step): self._quantity() for step in steps})

    def _quantity(self) -> int:
        return int(self._random.paretovariate(1.2) * 10) + 1

    def _price_text(self, tick: int) -> str:
        return self.text(abs(tick) * self.listing.tick)

    def _quantity_text(self, lots: int) -> str:
        return self.text(lots * self.listing.lot)

    def trade(self, time_ms: int) -> TradeEvent:
        """Let a trade happen."""
        sold = self._random.random() < 0.5
        forced = self.listing.market_type != "spot" and self._random.random() < LIQUIDATION_SHARE
        self.trade_id += 1
        event = TradeEvent(
            self.listing,
            self.trade_id,
            self._price_text(self._mid - 1 if sold else self._mid),
            self._quantity_text(self._quantity()),
            sold,
            time_ms,
            forced,
        )
        truth = self.truth
        truth.ids.append(event.id)
        truth.prices.append(event.price)
        truth.quantities.append(event.quantity)
        truth.taker_sold.append(sold)
        truth.times_ms.append(time_ms)
        truth.liquidations.append(forced)
        return event

    def change(self, time_ms: int) -> BookEvent:
        """Let the book change: a few levels, now and then the middle."""
        chance = self._random
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        if chance.random() < 0.2:
            self._move(chance.choice((-1, 1)) * chance.randint(1, 4), bids, asks)
        for _ in range(chance.randint(1, 8)):
            deep = chance.random() < 0.02
            step = chance.randint(1000, 3000) if deep else int(chance.expovariate(0.05))
            lots = 0 if chance.random() < 0.35 else self._quantity()
            if chance.random() < 0.5:
                if self._mid - 1 - step > 0:
                    bids[self._mid - 1 - step] = lots
            else:
                asks[-(self._mid + step)] = lots
        # The best level on either side never goes empty.
        bids[self._mid - 1] = bids.get(self._mid - 1) or self._quantity()
        asks[-self._mid] = asks.get(-self._mid) or self._quantity()
        sent_bids, sent_asks = self._bids.apply(bids), self._asks.apply(asks)
        previous = self.update_id
        self.update_id += len(sent_bids) + len(sent_asks)
        return BookEvent(
            self.listing,
            previous + 1,
            self.update_id,
            previous,
            [(self._price_text(t), self._quantity_text(q)) for t, q in sent_bids.items()],
            [(self._price_text(t), self._quantity_text(q)) for t, q in sent_asks.items()],
            time_ms,
        )

    def _move(self, by: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        """Move the middle; levels on the wrong side of it go."""
        new = max(2, self._mid + by)
        asks.update(dict.fromkeys((-tick for tick in range(self._mid, new) if -tick in self._asks.lots), 0))
        bids.update(dict.fromkeys((tick for tick in range(new, self._mid) if tick in self._bids.lots), 0))
        self._mid = new

    def best(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Give best bid and best ask as text."""
        (bid,), (ask,) = self.book(1)
        return bid, ask

    def book(self, depth: int | None = None) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Give the levels as text, best first."""
        return self._text_of(self._bids, depth), self._text_of(self._asks, depth)

    def _text_of(self, side: _Side, depth: int | None) -> list[tuple[str, str]]:
        best_first = reversed(side.order[-depth:] if depth else side.order)
        return [(self._price_text(good), self._quantity_text(side.lots[good])) for good in best_first]


def _pairs(venue: str, lot: str, names: dict[str, tuple[str, str]], text: str) -> list[Listing]:
    return [
        Listing(venue, f"{b}-{q}", text.format(b=b, q=q), b, q, Decimal(price), Decimal(tick), Decimal(lot))
        for (b, q), (price, tick) in ((tuple(name.split("-")), values) for name, values in names.items())
    ]


_SPOT = {"BTC-USDT": ("91250", "0.01"), "ETH-USDT": ("3010", "0.01"), "SOL-USDT": ("142", "0.001")}


def _derivative(
    venue: str,
    symbol: str,
    venue_symbol: str,
    step: tuple[str, str, str],
    contract: tuple[str, str] | None = None,
) -> Listing:
    """List a derivative by its canonical name; ``step`` is (price, tick, lot)."""
    base, quote, *rest = symbol.split("-")
    dated = rest[0] != "SWAP"
    is_option = len(rest) == 3
    option_type: Literal["C", "P"] | None = None
    if is_option:
        option_type = "C" if rest[2] == "C" else "P"
    return Listing(
        venue,
        symbol,
        venue_symbol,
        base,
        quote,
        Decimal(step[0]),
        Decimal(step[1]),
        Decimal(step[2]),
        contract,
        "option" if is_option else "futures" if dated else "perpetual",
        EXPIRY[1] if dated else None,
        rest[1] if is_option else None,
        option_type,
    )


LISTINGS: tuple[Listing, ...] = (
    *_pairs("binance_spot", "0.00001", _SPOT, "{b}{q}"),
    *_pairs("okx_spot", "0.00001", _SPOT, "{b}-{q}"),
    *(
        _derivative("okx_derivatives", symbol, symbol, step, contract)
        for symbol, step, contract in (
            ("BTC-USDT-SWAP", ("91240", "0.1", "0.01"), ("0.01", "linear")),
            ("ETH-USDT-SWAP", ("3009", "0.01", "0.01"), ("0.1", "linear")),
            ("BTC-USD-SWAP", ("91230", "0.1", "0.01"), ("100", "inverse")),
            ("BTC-USDT-291228", ("93100", "0.1", "0.01"), ("0.01", "linear")),
            ("BTC-USD-291228-100000-C", ("0.0215", "0.0001", "1"), ("0.01", "linear")),
            ("BTC-USD-291228-80000-P", ("0.0180", "0.0001", "1"), ("0.01", "linear")),
        )
    ),
    _derivative("binance_derivatives", "BTC-USDT-SWAP", "BTCUSDT", ("91248", "0.1", "0.001")),
    _derivative("binance_derivatives", "ETH-USDT-SWAP", "ETHUSDT", ("3008", "0.01", "0.001")),
    _derivative("binance_derivatives", "BTC-USDT-291228", "BTCUSDT_291228", ("93110", "0.1", "0.001")),
    _derivative("binance_coinm", "BTC-USD-SWAP", "BTCUSD_PERP", ("91235", "0.1", "1"), ("100", "inverse")),
    _derivative("binance_coinm", "ETH-USD-SWAP", "ETHUSD_PERP", ("3007", "0.01", "1"), ("10", "inverse")),
    _derivative("binance_coinm", "BTC-USD-291228", "BTCUSD_291228", ("93105", "0.1", "1"), ("100", "inverse")),
    # Deribit counts inverse contracts in USD, everything else in base.
    _derivative("deribit_derivatives", "BTC-USD-SWAP", "BTC-PERPETUAL", ("91249.5", "0.5", "10"), ("1", "inverse")),
    _derivative("deribit_derivatives", "ETH-USD-SWAP", "ETH-PERPETUAL", ("3009.5", "0.05", "1"), ("1", "inverse")),
    _derivative("deribit_derivatives", "BTC-USDC-SWAP", "BTC_USDC-PERPETUAL", ("91250", "0.5", "0.0001")),
    _derivative("deribit_derivatives", "BTC-USD-291228", "BTC-28DEC29", ("93120", "0.5", "10"), ("1", "inverse")),
    _derivative("deribit_derivatives", "BTC-USD-291228-100000-C", "BTC-28DEC29-100000-C", ("0.0215", "0.0001", "0.1")),
    _derivative("deribit_derivatives", "BTC-USD-291228-80000-P", "BTC-28DEC29-80000-P", ("0.018", "0.0001", "0.1")),
)


_NAMES = {
    "binance_spot": ("{c}-USDT", "{c}USDT"),
    "binance_derivatives": ("{c}-USDT-SWAP", "{c}USDT"),
    "binance_coinm": ("{c}-USD-SWAP", "{c}USD_PERP"),
    "okx_spot": ("{c}-USDT", "{c}-USDT"),
    "okx_derivatives": ("{c}-USDT-SWAP", "{c}-USDT-SWAP"),
    "deribit_derivatives": ("{c}-USDC-SWAP", "{c}_USDC-PERPETUAL"),
}
EXTRA_LEVELS = 200


def made_up(venue: str, count: int) -> list[Listing]:
    """List coins that do not exist, C000 and so on: many symbols are what a cold start is about."""
    symbol, venue_symbol = _NAMES[venue]
    contract = {"binance_coinm": ("10", "inverse"), "okx_derivatives": ("1", "linear")}.get(venue)
    found = []
    for n in range(count):
        coin = f"C{n:03d}"
        name, own = symbol.format(c=coin), venue_symbol.format(c=coin)
        if venue.endswith("spot"):
            base, quote = name.split("-")
            listing = Listing(venue, name, own, base, quote, Decimal(10), Decimal("0.001"), Decimal(1))
        else:
            listing = _derivative(venue, name, own, ("10", "0.001", "1"), contract)
        found.append(listing)
    return found


class Market:
    """All symbols of the chosen venues.

    Parameters
    ----------
    trade_share : part of the events that are trades
    extra : made-up coins that each venue lists besides
    """

    def __init__(
        self, venues: Sequence[str], seed: int, *, trade_share: float = 0.7, levels: int = 1200, extra: int = 0
    ) -> None:
        listings = [listing for listing in LISTINGS if listing.venue in venues]
        known = len(listings)
        for venue in venues:
            listings += made_up(venue, extra)
        self._seed = seed
        self.symbols: dict[tuple[str, str], Symbol] = {}
        self._all: list[Symbol] = []
        for number, listing in enumerate(listings):
            self.enter(listing, levels if number < known else EXTRA_LEVELS)
        self._random = random.Random(seed)
        self._trade_share = trade_share

    def enter(self, listing: Listing, levels: int = EXTRA_LEVELS) -> None:
        """List a symbol."""
        symbol = self.symbols[listing.venue, listing.symbol] = Symbol(
            listing,
            f"{self._seed}/{listing.venue}/{listing.symbol}",
            padded if listing.venue == "binance_spot" else plain,
            levels,
            400 if listing.venue.startswith("okx") else None,
        )
        self._all.append(symbol)

    def leave(self, venue: str, symbol: str) -> None:
        """Take a symbol off the list: nothing happens to it any more."""
        self._all.remove(self.symbols.pop((venue, symbol)))

    def step(self, time_ms: int) -> TradeEvent | BookEvent:
        """Let one event happen somewhere."""
        symbol = self._all[int(self._random.random() * len(self._all))]
        return symbol.trade(time_ms) if self._random.random() < self._trade_share else symbol.change(time_ms)

    def of_venue_symbol(self, venue: str, venue_symbol: str) -> Symbol | None:
        """Find a symbol by the venue's own name."""
        for symbol in self._all:
            if symbol.listing.venue == venue and symbol.listing.venue_symbol == venue_symbol:
                return symbol
        return None

    def of_venue(self, venue: str) -> list[Symbol]:
        """Give the symbols of a venue."""
        return [symbol for symbol in self._all if symbol.listing.venue == venue]

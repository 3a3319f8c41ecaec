"""A seeded market: books, trades with contiguous ids, and the truth about both.

A taker's order is one fill at the best price, several fills of several makers at one price, or a sweep of several
levels; a book crosses in an auction only. Activity comes in bursts. An instrument can halt and resume, be auctioned,
expire, be delisted, and new ones come, see `Market.halt`; by itself the market does none of this.

Pure: randomness comes from the seed, time from the caller. Prices are integer ticks and quantities integer lots, so
that text is exact. Nothing here knows a wire format beyond how a venue writes decimals.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from marketprism_ray.instruments import MarketType
from marketprism_ray.simulator.side import Side

LIQUIDATION_SHARE = 0.02
SEVERAL_SHARE = 0.1
"""Part of the takers' orders that more than one maker fills."""
UNDO = 200
"""Changes of a book that can be looked behind."""
BURST_SHARE = 0.02
"""Part of the steps that begin a burst: nothing else happens for a while than what happens to one symbol."""
AUCTION_VENUES = ("okx_spot", "okx_derivatives")
"""Those that show the book of an auction, in which bids and asks cross."""
COMBO_VENUES = ("deribit_derivatives",)
COMBO_SHARE = 0.03
"""Part of the steps of a dated contract that are trades of a spread: of it and its perpetual at once."""
State = Literal["open", "halted", "auction"]
FIXED_VENUES = ("binance_derivatives", "binance_coinm")
"""Those that write each number with the digits of its instrument, trailing zeros and all."""
SKIPPING_VENUES = (*FIXED_VENUES, "deribit_derivatives")
"""Those whose ids of changes skip what else the engine counts: other instruments."""
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
    order: int = 0
    """Number of the taker's order within the symbol: its fills come one after the other, at one time."""
    is_last: bool = True
    """True for the last fill of the taker's order."""
    combo: int | None = None
    """Number of the trade of several instruments at once that it is a leg of."""


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
    orders: list[int] = field(default_factory=list)
    combos: list[int | None] = field(default_factory=list)
    subscribed_from: int | None = None
    """First id after somebody subscribed these trades for the first time."""


def plain(value: Decimal) -> str:
    """Write a decimal without exponent and without trailing zeros."""
    return format(value.normalize(), "f")


def _fixed(value: Decimal, step: Decimal) -> str:
    """Write a decimal with the digits of its step."""
    return format(value, f".{max(0, -int(step.as_tuple().exponent))}f")


def padded(value: Decimal) -> str:
    """Write a decimal with 8 digits after the point."""
    return format(value, ".8f")


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
        self.state: State = "open"
        self.truth = Truth()
        self._order = 0
        self._undo: deque[tuple[int, int, dict[int, int], dict[int, int]]] = deque(maxlen=UNDO)
        """Time, update id and levels before each of the last changes."""
        self.text = text
        self._is_fixed = listing.venue in FIXED_VENUES
        self._skips = listing.venue in SKIPPING_VENUES
        self.window = window
        self._random = random.Random(seed)
        self._mid = int(listing.price / listing.tick)
        self._bids = Side(window)
        self._asks = Side(window)
        self.update_id = self._random.randrange(10**9, 10**10)
        self.trade_id = self._random.randrange(10**6, 10**8)
        # Dense near the middle, sparse far away: some levels lie outside any snapshot window.
        steps = [i + (i * i) // 400 for i in range(levels)]
        self._bids.apply({self._mid - 1 - step: self._quantity() for step in steps if self._mid - 1 - step > 0})
        self._asks.apply({-(self._mid + step): self._quantity() for step in steps})

    def _quantity(self) -> int:
        """Draw lots: mostly few, now and then a level or an order a thousand times as large."""
        chance = self._random.random()
        if chance < 0.5:
            return self._random.randint(1, 30)
        return (int(self._random.paretovariate(1.2) * 10) + 1) * (1000 if chance > 0.99 else 1)

    def price_text(self, price: Decimal) -> str:
        """Write a price as the venue does."""
        return _fixed(price, self.listing.tick) if self._is_fixed else self.text(price)

    def quantity_text(self, quantity: Decimal) -> str:
        """Write a quantity as the venue does."""
        return _fixed(quantity, self.listing.lot) if self._is_fixed else self.text(quantity)

    def _price_text(self, tick: int) -> str:
        return self.price_text(abs(tick) * self.listing.tick)

    def _quantity_text(self, lots: int) -> str:
        return self.quantity_text(lots * self.listing.lot)

    def act(self, time_ms: int, *, is_trade: bool) -> list[TradeEvent | BookEvent]:
        """Let something happen: nothing while it is halted, no trade while it is auctioned."""
        if self.state == "halted":
            return []
        if self.state == "auction":
            return [self.cross(time_ms)]
        if not is_trade:
            return [self.change(time_ms)]
        return self.sweep(time_ms) if self._random.random() < SEVERAL_SHARE else [self.trade(time_ms)]

    def trade(
        self, time_ms: int, combo: int | None = None, *, sold: bool | None = None, lots: int | None = None
    ) -> TradeEvent:
        """Let one maker fill a taker's order at the best price; side and lots are drawn where they are not given."""
        if sold is None:
            sold = self._random.random() < 0.5
        self._order += 1
        tick = self._bids.best if sold else -self._asks.best
        return self._fill(tick, self._quantity() if lots is None else lots, sold, time_ms, combo=combo)

    def sweep(self, time_ms: int) -> list[TradeEvent | BookEvent]:
        """Let a taker's order be filled by several makers on up to five levels; what is taken leaves the book."""
        chance = self._random
        sold, levels = chance.random() < 0.5, chance.choice((1, 1, 1, 2, 3, 5))
        side = self._bids if sold else self._asks
        is_forced = self._is_forced()
        self._order += 1
        if len(side.order) == 1:
            return [self._fill(abs(side.best), self._quantity(), sold, time_ms, is_forced=is_forced)]
        # One level stays behind the last that may go.
        taken = side.order[-1 : -1 - min(levels, len(side.order) - 1) : -1]
        fills: list[tuple[int, int]] = []
        left: dict[int, int] = {}
        for place, good in enumerate(taken):
            lots = side.lots[good]
            is_partial = place == len(taken) - 1 and lots > 1 and chance.random() < 0.7
            wanted = chance.randint(1, lots - 1) if is_partial else lots
            left[good] = lots - wanted
            for _ in range(chance.randint(1 if levels > 1 else 2, 4)):
                if wanted > 1:
                    part = chance.randint(1, wanted - 1)
                    fills.append((abs(good), part))
                    wanted -= part
            fills.append((abs(good), wanted))
        events: list[TradeEvent | BookEvent] = [
            self._fill(tick, lots, sold, time_ms, is_forced=is_forced, is_last=place == len(fills) - 1)
            for place, (tick, lots) in enumerate(fills)
        ]
        gone = [good for good, lots in left.items() if not lots]
        if gone:
            after = side.order[-1 - len(gone)]
            self._mid = after + 1 if sold else -after
        events.append(self._book_event(left if sold else {}, {} if sold else left, time_ms))
        return events

    def _is_forced(self) -> bool:
        return self.listing.market_type != "spot" and self._random.random() < LIQUIDATION_SHARE

    def _fill(
        self,
        tick: int,
        lots: int,
        sold: bool,
        time_ms: int,
        *,
        is_forced: bool | None = None,
        is_last: bool = True,
        combo: int | None = None,
    ) -> TradeEvent:
        self.trade_id += 1
        forced = self._is_forced() if is_forced is None else is_forced
        price, quantity = self._price_text(tick), self._quantity_text(lots)
        event = TradeEvent(
            self.listing, self.trade_id, price, quantity, sold, time_ms, forced, self._order, is_last, combo
        )
        truth = self.truth
        truth.ids.append(event.id)
        truth.prices.append(event.price)
        truth.quantities.append(event.quantity)
        truth.taker_sold.append(sold)
        truth.times_ms.append(time_ms)
        truth.liquidations.append(forced)
        truth.orders.append(event.order)
        truth.combos.append(combo)
        return event

    def change(self, time_ms: int) -> BookEvent:
        """Let the book change: a few levels, now and then the middle."""
        chance = self._random
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        if chance.random() < 0.2:
            far = 30 if self._mid > 2_000 and chance.random() < 0.05 else 4
            self._move(chance.choice((-1, 1)) * chance.randint(1, far), bids, asks)
        for _ in range(chance.randint(1, 40 if chance.random() < 0.05 else 8)):
            deep = chance.random() < 0.02
            step = chance.randint(1000, 3000) if deep else int(chance.expovariate(0.05))
            lots = 0 if chance.random() < 0.35 else self._quantity()
            if chance.random() < 0.5:
                if self._mid - 1 - step > 0:
                    bids[self._mid - 1 - step] = lots
            else:
                asks[-(self._mid + step)] = lots
        # Mostly the spread is one tick; a side never goes empty.
        for side, levels, good in ((self._bids, bids, self._mid - 1), (self._asks, asks, -self._mid)):
            if not levels.get(good) and (chance.random() < 0.7 or len(side.order) < 50):
                levels[good] = self._quantity()
        return self._book_event(bids, asks, time_ms)

    def cross(self, time_ms: int) -> BookEvent:
        """Let orders of an auction come in: they wait, on whichever side of the others' prices."""
        reach = range(-5, 20)
        bids = {self._mid - 1 - step: self._quantity() for step in self._random.sample(reach, 3)}
        asks = {-(self._mid + step): self._quantity() for step in self._random.sample(reach, 3)}
        return self._book_event({tick: lots for tick, lots in bids.items() if tick > 0}, asks, time_ms)

    def uncross(self, time_ms: int) -> list[TradeEvent | BookEvent]:
        """End an auction: one trade in the middle, and nothing is left on the wrong side of it."""
        bids = dict.fromkeys((tick for tick in self._bids.order if tick >= self._mid), 0)
        asks = dict.fromkeys((good for good in self._asks.order if -good < self._mid), 0)
        if not bids and not asks:
            return []
        self._order += 1
        trade = self._fill(self._mid, self._quantity(), self._random.random() < 0.5, time_ms)
        bids[self._mid - 1], asks[-self._mid] = self._quantity(), self._quantity()
        return [trade, self._book_event(bids, asks, time_ms)]

    def _book_event(self, bids: dict[int, int], asks: dict[int, int], time_ms: int) -> BookEvent:
        self._undo.append((time_ms, self.update_id, self._bids.before(bids), self._asks.before(asks)))
        sent_bids, sent_asks = self._bids.apply(bids), self._asks.apply(asks)
        if not sent_bids and not sent_asks:
            # All of it was outside the window: an update always says something.
            again = {self._bids.best: self._quantity()}
            self._undo[-1][2].update(self._bids.before(again))
            sent_bids = self._bids.apply(again)
        previous = self.update_id
        if self._skips and self._random.random() > 0.03:
            self.update_id += int(self._random.expovariate(1 / 400))
        first = self.update_id + 1
        self.update_id += len(sent_bids) + len(sent_asks)
        return BookEvent(
            self.listing,
            first,
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

    def book_at(self, time_ms: int, depth: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]], int]:
        """Give the levels as they were, best first, and the update id of that time; not further back than is kept."""
        bids, asks = dict(self._bids.lots), dict(self._asks.lots)
        last = self.update_id
        for changed_ms, update_id, bids_before, asks_before in reversed(self._undo):
            if changed_ms <= time_ms:
                break
            bids.update(bids_before)
            asks.update(asks_before)
            last = update_id
        sides = []
        for lots in (bids, asks):
            best = sorted((good for good, quantity in lots.items() if quantity), reverse=True)[:depth]
            sides.append([(self._price_text(good), self._quantity_text(lots[good])) for good in best])
        return sides[0], sides[1], last

    def _text_of(self, side: Side, depth: int | None) -> list[tuple[str, str]]:
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
    return [made_up_coin(venue, number) for number in range(count)]


def made_up_coin(venue: str, number: int) -> Listing:
    """Give a coin that does not exist, by its number."""
    symbol, venue_symbol = _NAMES[venue]
    coin = f"C{number:03d}"
    name, own = symbol.format(c=coin), venue_symbol.format(c=coin)
    if venue.endswith("spot"):
        base, quote = name.split("-")
        return Listing(venue, name, own, base, quote, Decimal(10), Decimal("0.001"), Decimal(1))
    contract = {"binance_coinm": ("10", "inverse"), "okx_derivatives": ("1", "linear")}.get(venue)
    return _derivative(venue, name, own, ("10", "0.001", "1"), contract)


class Market:
    """All symbols of the chosen venues.

    Parameters
    ----------
    trade_share : part of the events that are trades
    extra : made-up coins that each venue lists besides
    """

    def __init__(
        self,
        venues: Sequence[str],
        seed: int,
        *,
        trade_share: float = 0.7,
        levels: int = 1200,
        extra: int = 0,
    ) -> None:
        listings = [listing for listing in LISTINGS if listing.venue in venues]
        known = len(listings)
        for venue in venues:
            listings += made_up(venue, extra)
        self._seed = seed
        self.symbols: dict[tuple[str, str], Symbol] = {}
        self.gone: dict[tuple[str, str], Symbol] = {}
        """Symbols that were taken off the list, whose history can still be asked for."""
        self._all: list[Symbol] = []
        self._dated: list[Symbol] = []
        """Symbols with a delivery day that somebody listed during the run."""
        for number, listing in enumerate(listings):
            self.enter(listing, levels if number < known else EXTRA_LEVELS)
        self._random = random.Random(seed)
        self._trade_share = trade_share
        self._burst: list[Symbol] = []
        self._combos = 0

    def enter(self, listing: Listing, levels: int = EXTRA_LEVELS) -> Symbol:
        """List a symbol; one that was listed before goes on with its numbers and its history."""
        place = listing.venue, listing.symbol
        symbol = self.gone.pop(place, None)
        if symbol is None:
            text = padded if listing.venue == "binance_spot" else plain
            window = 400 if listing.venue.startswith("okx") else None
            symbol = Symbol(listing, f"{self._seed}/{listing.venue}/{listing.symbol}", text, levels, window)
        symbol.listing, symbol.state = listing, "open"
        self.symbols[place] = symbol
        self._all.append(symbol)
        if listing.expiry_ms is not None and listing.expiry_ms != EXPIRY[1]:
            self._dated.append(symbol)
        return symbol

    def leave(self, venue: str, symbol: str) -> None:
        """Take a symbol off the list: nothing happens to it any more."""
        gone = self.gone[venue, symbol] = self.symbols.pop((venue, symbol))
        self._all.remove(gone)
        self._dated = [one for one in self._dated if one is not gone]

    def expired(self, time_ms: int) -> list[Symbol]:
        """Take off the list, and give, what has reached its delivery."""
        due = [one for one in self._dated if one.listing.expiry_ms is not None and one.listing.expiry_ms <= time_ms]
        for one in due:
            self.leave(one.listing.venue, one.listing.symbol)
        return due

    def step(self, time_ms: int) -> list[TradeEvent | BookEvent]:
        """Let something happen somewhere: one event, or all that follows from one taker's order."""
        if self._burst:
            symbol = self._burst.pop()
        else:
            symbol = self._all[int(self._random.random() * len(self._all))]
            if self._random.random() < BURST_SHARE:
                self._burst = [symbol] * self._random.randint(5, 40)
        if self._random.random() < COMBO_SHARE and (legs := self._legs(symbol)) is not None:
            self._combos += 1
            sold, lots = self._random.random() < 0.5, self._random.randint(1, 500)
            return [
                legs[0].trade(time_ms, self._combos, sold=sold, lots=lots),
                legs[1].trade(time_ms, self._combos, sold=not sold, lots=lots),
            ]
        return symbol.act(time_ms, is_trade=self._random.random() < self._trade_share)

    def _legs(self, symbol: Symbol) -> tuple[Symbol, Symbol] | None:
        """Give the legs of a spread, the dated contract first, where its perpetual is listed and both are open."""
        listing = symbol.listing
        if listing.venue not in COMBO_VENUES or listing.market_type != "futures":
            return None
        other = self.symbols.get((listing.venue, f"{listing.base}-{listing.quote}-SWAP"))
        if other is None or symbol.state != "open" or other.state != "open":
            return None
        return symbol, other

    def halt(self, venue: str, symbol: str) -> None:
        """Let nothing happen to a symbol."""
        self._find(venue, symbol).state = "halted"

    def auction(self, venue: str, symbol: str) -> None:
        """Let orders wait, and the book cross."""
        if venue not in AUCTION_VENUES:
            raise ValueError(f"{venue} shows no auction; those that do: {', '.join(AUCTION_VENUES)}")
        self._find(venue, symbol).state = "auction"

    def resume(self, venue: str, symbol: str, time_ms: int) -> list[TradeEvent | BookEvent]:
        """End a halt, or an auction: give what happens then."""
        found = self._find(venue, symbol)
        was, found.state = found.state, "open"
        return found.uncross(time_ms) if was == "auction" else []

    def _find(self, venue: str, symbol: str) -> Symbol:
        if (venue, symbol) not in self.symbols:
            raise ValueError(f"no symbol {symbol!r} at {venue!r}")
        return self.symbols[venue, symbol]

    def of_venue_symbol(self, venue: str, venue_symbol: str) -> Symbol | None:
        """Find a symbol by the venue's own name."""
        for symbol in self._all:
            if symbol.listing.venue == venue and symbol.listing.venue_symbol == venue_symbol:
                return symbol
        return None

    def of_venue(self, venue: str) -> list[Symbol]:
        """Give the symbols of a venue."""
        return [symbol for symbol in self._all if symbol.listing.venue == venue]

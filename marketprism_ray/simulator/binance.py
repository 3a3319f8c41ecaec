"""The server side of Binance: spot, USD-M and COIN-M futures, whose differences are the table of ``Facts`` at the end.

What a wrong stream gets is an acknowledgement and silence, as in life; so does a good one on the wrong path.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Listing, Market, Symbol, TradeEvent, padded, plain
from marketprism_ray.simulator.summaries import (
    DAY_MS,
    FUNDING_MS,
    funding_rate,
    index_price,
    long_share,
    mark_price,
    next_funding_ms,
    open_interest,
)
from marketprism_ray.simulator.wire import Client, Wire

UNIVERSES = {"binance_derivatives": 1, "binance_coinm": 2}
"""``st`` of the futures markets: their all-market streams carry the symbols of both."""
INTERVALS_MS = {
    "1s": 1000,
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": DAY_MS,
}
FUTURES_INTERVALS_MS = {name: ms for name, ms in INTERVALS_MS.items() if name != "1s"}
PERIODS_MS = {name: INTERVALS_MS[name] for name in ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")}
HOUR_MS = 3_600_000
MARK_S, BOOK_TICKER_S = 3, 5
"""Seconds between messages of ``@markPrice`` and of ``!bookTicker``."""
PERPETUAL_DELIVERY_MS = 4_133_404_800_000
NO_SYMBOL = (-1121, "Invalid symbol.")
DIGITS = Decimal("1E-8")

Body = Callable[[Any, int], str]
"""(event, its time in the socket's unit) -> JSON text."""


# --- figures ---------------------------------------------------------------------------------------------------------


def _is_inverse(listing: Listing) -> bool:
    return listing.contract is not None and listing.contract[1] == "inverse"


def _value(listing: Listing, price: Decimal, quantity: Decimal) -> Decimal:
    """Give a quantity's value: in quote, or in base where contracts are worth a fixed sum of quote."""
    if listing.contract is not None and _is_inverse(listing):
        return (quantity * Decimal(listing.contract[0]) / price).quantize(DIGITS)
    return price * quantity


def _value_text(symbol: Symbol, value: Decimal) -> str:
    return padded(value) if _is_inverse(symbol.listing) else symbol.text(value)


def _pair(listing: Listing) -> str:
    return f"{listing.base}{listing.quote}"


def _contract_type(listing: Listing) -> str:
    return "PERPETUAL" if listing.market_type == "perpetual" else "CURRENT_QUARTER"


@dataclass
class _Bar:
    """A candle that grows."""

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    first_id: int
    close: Decimal = Decimal()
    last_id: int = 0
    trades: int = 0
    volume: Decimal = Decimal()
    value: Decimal = Decimal()
    bought: Decimal = Decimal()
    bought_value: Decimal = Decimal()

    def add(self, trade_id: int, price: Decimal, quantity: Decimal, value: Decimal, *, taker_sold: bool) -> None:
        self.close, self.last_id = price, trade_id
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.trades += 1
        self.volume += quantity
        self.value += value
        if not taker_sold:
            self.bought += quantity
            self.bought_value += value


class _Candles:
    """The candles of a symbol and interval, one trade after the other."""

    def __init__(self, symbol: Symbol, interval_ms: int, start_ms: int) -> None:
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.bar: _Bar | None = None
        """The one still open."""
        self._next = bisect_left(symbol.truth.times_ms, start_ms)

    def closed_before(self, now_ms: int) -> list[_Bar]:
        """Take in what was traded since the last call; give the candles that ended by a time."""
        truth, listing = self.symbol.truth, self.symbol.listing
        closed = []
        for i in range(self._next, len(truth.ids)):
            price, quantity = Decimal(truth.prices[i]), Decimal(truth.quantities[i])
            open_ms = truth.times_ms[i] // self.interval_ms * self.interval_ms
            if self.bar is None or self.bar.open_ms != open_ms:
                if self.bar is not None:
                    closed.append(self.bar)
                self.bar = _Bar(open_ms, price, price, price, truth.ids[i])
            self.bar.add(
                truth.ids[i], price, quantity, _value(listing, price, quantity), taker_sold=truth.taker_sold[i]
            )
        self._next = len(truth.ids)
        if self.bar is not None and self.bar.open_ms + self.interval_ms <= now_ms:
            closed.append(self.bar)
            self.bar = None
        return closed


class _Day:
    """The last 24 h of a symbol, kept up to date by the trades that come and go."""

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self._volume = Decimal()
        self._value = Decimal()
        self._first = 0
        self._next = 0
        self._highs: deque[tuple[int, Decimal]] = deque()
        """Trades that no later one is above: the first is the highest. ``_lows`` likewise."""
        self._lows: deque[tuple[int, Decimal]] = deque()

    def until(self, now_ms: int) -> _Day:
        """Move the window."""
        truth = self.symbol.truth
        for i in range(self._next, len(truth.ids)):
            price = self._count(i, 1)
            while self._highs and self._highs[-1][1] <= price:
                self._highs.pop()
            while self._lows and self._lows[-1][1] >= price:
                self._lows.pop()
            self._highs.append((i, price))
            self._lows.append((i, price))
        self._next = len(truth.ids)
        while self._first < self._next and truth.times_ms[self._first] < now_ms - DAY_MS:
            self._count(self._first, -1)
            self._first += 1
        for extremes in (self._highs, self._lows):
            while extremes and extremes[0][0] < self._first:
                extremes.popleft()
        return self

    def _count(self, place: int, sign: int) -> Decimal:
        truth = self.symbol.truth
        price, quantity = Decimal(truth.prices[place]), Decimal(truth.quantities[place])
        self._volume += sign * quantity
        self._value += sign * _value(self.symbol.listing, price, quantity)
        return price

    @property
    def trades(self) -> int:
        """Number of trades."""
        return self._next - self._first

    def figures(self) -> dict[str, Any]:
        """Give the figures under the names of ``ticker/24hr``; zeros without trades."""
        symbol, truth = self.symbol, self.symbol.truth
        value_name = "baseVolume" if _is_inverse(symbol.listing) else "quoteVolume"
        prices = [Decimal()] * 4
        average, quantity, ids = Decimal(), "0", (-1, -1)
        if self.trades:
            first, last = self._first, self._next - 1
            prices = [Decimal(truth.prices[first]), self._highs[0][1], self._lows[0][1], Decimal(truth.prices[last])]
            average = self._value / self._volume
            if symbol.listing.contract is not None and _is_inverse(symbol.listing):
                average = self._volume * Decimal(symbol.listing.contract[0]) / self._value
            quantity, ids = truth.quantities[last], (truth.ids[first], truth.ids[last])
        start, high, low, end = prices
        return {
            "priceChange": symbol.text(end - start),
            "priceChangePercent": f"{(end - start) * 100 / (start or 1):.3f}",
            "weightedAvgPrice": symbol.text(average.quantize(DIGITS)),
            "lastPrice": symbol.text(end),
            "lastQty": quantity,
            "openPrice": symbol.text(start),
            "highPrice": symbol.text(high),
            "lowPrice": symbol.text(low),
            "volume": symbol.text(self._volume),
            value_name: _value_text(symbol, self._value),
            "firstId": ids[0],
            "lastId": ids[1],
            "count": self.trades,
        }


# --- limits ----------------------------------------------------------------------------------------------------------


class _Limiter:
    """So much in so many seconds."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def spend(self, amount: int) -> tuple[int, bool]:
        """Give what is used up now, and whether it was allowed; what was refused costs nothing."""
        now = time.monotonic()
        while self._spent and self._spent[0][0] < now - self._seconds:
            self._sum -= self._spent.popleft()[1]
        used = self._sum + amount
        if used > self._limit:
            return used, False
        self._spent.append((now, amount))
        self._sum = used
        return used, True


_POOLS: WeakKeyDictionary[Wire, dict[str, _Limiter]] = WeakKeyDictionary()
"""The limiters of each simulator: both futures markets spend from the same."""


def _limiter(wire: Wire, name: str, limit: int, seconds: float) -> _Limiter:
    return _POOLS.setdefault(wire, {}).setdefault(name, _Limiter(limit, seconds))


class _Refused(Exception):
    """What the venue says no to, with its code and words."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class _Ask:
    """A request to the REST API."""

    query: Mapping[str, str]
    limit: int
    numbers: Mapping[str, int]
    """``fromId``, ``startTime`` and ``endTime``, where given."""
    now_ms: int


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """A REST endpoint: who answers, what it costs, how long its pages are."""

    answer: Callable[[Binance, _Ask], Any]
    weight: int = 1
    weight_of_all: int | None = None
    """Weight without a symbol, where it differs."""
    steps: tuple[tuple[int, int], ...] = ()
    """Weights by ``limit``: (up to, weight)."""
    page: tuple[int, int] = (500, 1000)
    """``limit`` if none is given, and the highest."""
    limiter: str | None = None
    """Limiter of requests besides that of weight."""

    def cost(self, limit: int, *, is_of_all: bool) -> int:
        """Give the weight of a request."""
        for most, weight in self.steps:
            if limit <= most:
                return weight
        if self.steps:
            return self.steps[-1][1]
        return self.weight_of_all if is_of_all and self.weight_of_all is not None else self.weight


@dataclass(frozen=True)
class Facts:
    """In what a market of this house differs from the others."""

    pool: str
    weight_per_minute: int
    sockets: Mapping[str, str]
    """Name of an endpoint -> its path."""
    paths: tuple[str, ...]
    """What comes before ``ws`` and ``stream``; with more than one, each delivers the streams of its class only."""
    rest: tuple[str, ...]
    """What comes before the names of the REST endpoints."""
    endpoints: Mapping[str, Endpoint]
    intervals_ms: Mapping[str, int]
    trades: Mapping[str, Body]
    """Channel of trades -> its writer."""
    depth: Body
    has_ids_of_pairs: bool = False
    """COIN-M: names the pair beside the symbol, answers in lists, and gives candles from the end of the time asked."""
    has_microseconds: bool = False
    has_notice: bool = False
    kline_s: int = 1
    ticker_s: int = 1


def _class_of(stream: str) -> str:
    """Tell on which of the routed paths a stream flows."""
    channel = stream[1:] if stream.startswith("!") else stream.partition("@")[2]
    return "public" if channel == "trade" or channel.startswith(("bookTicker", "depth", "rpiDepth")) else "market"


class Binance:
    """One simulated market of this house: ``binance_spot``, ``binance_derivatives`` or ``binance_coinm``."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self.rate_limited = 0
        self._facts = FACTS[name]
        self._market = market
        self._wire = wire
        self._own: list[Symbol] = []
        self._all: list[Symbol] = []
        self._traded: dict[Symbol, int] = {}
        """Number of trades at the last beat."""
        self._quoted: dict[Symbol, int] = {}
        """Update id at the last ``!bookTicker``."""
        self._days: dict[Symbol, _Day] = {}
        self.relist()
        self._limiters = {
            None: _limiter(wire, self._facts.pool, self._facts.weight_per_minute, 60),
            "funding": _limiter(wire, "funding", 500, 300),
            "statistics": _limiter(wire, "statistics", 1000, 300),
        }
        self._second = 0
        self._candles: dict[str, _Candles] = {}
        """Stream -> its candles, while somebody listens."""

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self._own = self._market.of_venue(self.name)
        universes = UNIVERSES if self.name in UNIVERSES else (self.name,)
        self._all = [symbol for venue in universes for symbol in self._market.of_venue(venue)]
        self._traded = {symbol: self._traded.get(symbol, 0) for symbol in self._all}
        self._quoted = {symbol: self._quoted.get(symbol, 0) for symbol in self._all}
        self._days = {symbol: self._days.get(symbol) or _Day(symbol) for symbol in self._all}

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        sockets = [
            route
            for path in self._facts.paths
            for route in (
                web.get(f"/{self.name}/{{path:{path}stream|{path}ws}}", self._socket),
                web.get(f"/{self.name}/{{path:{path}ws}}/{{names:.+}}", self._socket),
            )
        ]
        below = "|".join(self._facts.rest)
        return [*sockets, web.get(f"/{self.name}/{{below:{below}}}/{{endpoint:.+}}", self._rest)]

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URL of each socket and of ``rest``."""
        sockets = {name: f"ws://{host}/{self.name}/{path}" for name, path in self._facts.sockets.items()}
        return {**sockets, "rest": f"http://{host}/{self.name}"}

    def misbehave(self, kind: str) -> bool:
        """Do a fault only this venue knows: there is none."""
        return False

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        names = request.match_info.get("names") or request.query.get("streams") or ""
        started = [name for name in names.split("/") if name]
        return await self._wire.serve(
            request,
            self.name,
            request.match_info["path"],
            self._command,
            idle_s=None,
            names=started,
            opened=self._subscribe,
        )

    def _subscribe(self, client: Client, name: str) -> None:
        if len(self._facts.paths) > 1 and _class_of(name) != (client.path.rpartition("/")[0] or "public"):
            client.keys.add(name)  # acknowledged and listed, but nothing will come
            return
        self._wire.subscribe(client, name)
        symbol, _, channel = name.partition("@")
        found = self._market.of_venue_symbol(self.name, symbol.upper()) if symbol.islower() else None
        if found is not None and channel in self._facts.trades and found.truth.subscribed_from is None:
            found.truth.subscribed_from = found.trade_id + 1

    def _command(self, client: Client, text: str) -> None:
        try:
            command = json.loads(text)
            method, identity = command["method"], command.get("id")
            names = [str(name) for name in command.get("params") or []]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            client.send('{"code":3,"msg":"Invalid JSON: expected value","id":null}')
            return
        match method:
            case "SUBSCRIBE":
                for name in names:
                    self._subscribe(client, name)
                client.send(json.dumps({"result": None, "id": identity}))
            case "UNSUBSCRIBE":
                for name in names:
                    self._wire.unsubscribe(client, name)
                client.send(json.dumps({"result": None, "id": identity}))
            case "LIST_SUBSCRIPTIONS":
                client.send(json.dumps({"result": sorted(client.keys), "id": identity}))
            case _:
                client.send(json.dumps({"code": 2, "msg": "Invalid request: unknown variant", "id": identity}))

    def notice(self) -> None:
        """Announce a shutdown on every socket; futures do not."""
        if not self._facts.has_notice:
            return
        for client in self._wire.clients:
            if client.venue == self.name:
                event = {"e": "serverShutdown", "E": int(time.time() * 1000)}
                client.send(json.dumps({"stream": "!serverShutdown", "data": event} if _is_combined(client) else event))

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        stream = event.listing.venue_symbol.lower()
        if isinstance(event, TradeEvent):
            for channel, write in self._facts.trades.items():
                self._send(f"{stream}@{channel}", event.time_ms, event, write)
            return
        self._send(f"{stream}@depth@100ms", event.time_ms, event, self._facts.depth)
        self._send(f"{stream}@depth", event.time_ms, event, self._facts.depth)
        self._send(f"{stream}@bookTicker", event.time_ms, event, self._best)

    def _send(self, key: str, time_ms: int, event: Any, body: Body) -> None:
        """Write each form of a frame once, and only if a socket wants it."""
        made: dict[tuple[bool, bool], str] = {}

        def frame(client: Client) -> str:
            form = (_is_combined(client), client.in_microseconds and self._facts.has_microseconds)
            if form not in made:
                text = body(event, time_ms * 1000 if form[1] else time_ms)
                made[form] = f'{{"stream":"{key}","data":{text}}}' if form[0] else text
            return made[form]

        self._wire.publish(self.name, key, frame)

    def _best(self, event: BookEvent, at: int) -> str:
        return _book_ticker(self._market.symbols[self.name, event.listing.symbol], at)

    # --- what is due by time ---

    def tick(self, now_ms: int) -> None:
        """Send what is due: candles, tickers, marks, liquidations. Does something once a second."""
        second = now_ms // 1000
        if second <= self._second:
            return
        self._second = second
        wanted = {key for client in self._wire.clients if client.venue == self.name for key in client.keys}
        traded, self._traded = self._traded, {symbol: len(symbol.truth.ids) for symbol in self._all}
        if not wanted:
            return
        self._send_candles(second, wanted)
        if second % self._facts.ticker_s == 0:
            for symbol in self._own:
                self._send_ticker(symbol, second * 1000)
        if self.name in UNIVERSES:
            self._send_marks(second)
            self._send_liquidations(traded, second * 1000)
            self._send_all(traded, second)

    def _send_candles(self, second: int, wanted: set[str]) -> None:
        now_ms = second * 1000
        self._candles = {key: candles for key, candles in self._candles.items() if key in wanted}
        for key in sorted(wanted):
            name, _, interval = key.partition("@kline_")
            interval_ms = self._facts.intervals_ms.get(interval)
            if interval_ms is None:
                continue
            if key not in self._candles:
                symbol = self._find(name.upper()) if name.islower() else None
                if symbol is None:
                    continue
                # Whoever came in the last second before a candle's end gets its end.
                self._candles[key] = _Candles(symbol, interval_ms, (now_ms - 1000) // interval_ms * interval_ms)
            candles = self._candles[key]
            for bar in candles.closed_before(now_ms):
                self._send_candle(key, now_ms, candles, bar, interval, is_closed=True)
            if candles.bar is not None and (interval == "1s" or second % self._facts.kline_s == 0):
                self._send_candle(key, now_ms, candles, candles.bar, interval, is_closed=False)

    def _send_candle(
        self, key: str, now_ms: int, candles: _Candles, bar: _Bar, interval: str, *, is_closed: bool
    ) -> None:
        def body(_: Any, at: int) -> str:
            scale = at // now_ms
            name = candles.symbol.listing.venue_symbol
            start, open_, high, low, close, volume, _end, value, trades, bought, bought_value, _unused = _kline(
                candles.symbol, bar, candles.interval_ms
            )
            k = {
                "t": start * scale,
                "T": (bar.open_ms + candles.interval_ms) * scale - 1,
                "s": name,
                "i": interval,
                "f": bar.first_id,
                "L": bar.last_id,
                "o": open_,
                "c": close,
                "h": high,
                "l": low,
                "v": volume,
                "n": trades,
                "x": is_closed,
                "q": value,
                "V": bought,
                "Q": bought_value,
                "B": "0",
            }
            return _text({"e": "kline", "E": at, "s": name, "k": k})

        self._send(key, now_ms, None, body)

    def _send_ticker(self, symbol: Symbol, now_ms: int) -> None:
        stream = symbol.listing.venue_symbol.lower()
        if symbol.truth.ids:
            self._send(f"{stream}@ticker", now_ms, symbol, lambda s, at: _text(self._ticker_event(s, now_ms, at)))
            self._send(f"{stream}@miniTicker", now_ms, symbol, lambda s, at: _text(self._mini_ticker(s, now_ms, at)))

    def _ticker_event(self, symbol: Symbol, now_ms: int, at: int) -> dict[str, Any]:
        figures, scale = self._days[symbol].until(now_ms).figures(), at // now_ms
        best: dict[str, Any] = {}
        if self.name not in UNIVERSES:
            (bid, bid_size), (ask, ask_size) = symbol.best()
            best = {"x": figures["openPrice"], "b": bid, "B": bid_size, "a": ask, "A": ask_size}
        return {
            "e": "24hrTicker",
            "E": at,
            **_names(symbol.listing),
            "p": figures["priceChange"],
            "P": figures["priceChangePercent"],
            "w": figures["weightedAvgPrice"],
            "c": figures["lastPrice"],
            "Q": figures["lastQty"],
            **best,
            "o": figures["openPrice"],
            "h": figures["highPrice"],
            "l": figures["lowPrice"],
            "v": figures["volume"],
            "q": figures.get("quoteVolume") or figures["baseVolume"],
            "O": (now_ms - DAY_MS) * scale,
            "C": at,
            "F": figures["firstId"],
            "L": figures["lastId"],
            "n": figures["count"],
            **_universe(symbol.listing),
        }

    def _mini_ticker(self, symbol: Symbol, now_ms: int, at: int) -> dict[str, Any]:
        whole = self._ticker_event(symbol, now_ms, at)
        kept = ("E", "s", "ps", "c", "o", "h", "l", "v", "q", "st")
        return {"e": "24hrMiniTicker"} | {name: whole[name] for name in kept if name in whole}

    def _send_marks(self, second: int) -> None:
        now_ms = second * 1000
        ends = ("", "@1s") if second % MARK_S == 0 else ("@1s",)
        for end in ends:
            for symbol in self._all:
                self._send(
                    f"{symbol.listing.venue_symbol.lower()}@markPrice{end}",
                    now_ms,
                    symbol,
                    lambda s, at: _text(_mark(s, at)),
                )
            self._send(
                f"!markPrice@arr{end}", now_ms, self._own, lambda own, at: _text([_mark(symbol, at) for symbol in own])
            )
            for symbol in self._own if self._facts.has_ids_of_pairs else ():
                if symbol.listing.market_type == "perpetual":
                    self._send(f"{_pair(symbol.listing).lower()}@indexPrice{end}", now_ms, symbol, _index)

    def _send_liquidations(self, traded: Mapping[Symbol, int], now_ms: int) -> None:
        """Send the largest forced order of each symbol since the last beat."""
        for symbol in self._all:
            truth = symbol.truth
            forced = [i for i in range(traded[symbol], len(truth.ids)) if truth.liquidations[i]]
            if not forced:
                continue
            largest = max(forced, key=lambda i: Decimal(truth.quantities[i]))
            if symbol.listing.venue == self.name:
                stream = symbol.listing.venue_symbol.lower()
                self._send(f"{stream}@forceOrder", now_ms, symbol, lambda s, at, i=largest: _forced(s, i, at))  # type: ignore[misc]
            self._send("!forceOrder@arr", now_ms, symbol, lambda s, at, i=largest: _forced(s, i, at, is_of_all=True))  # type: ignore[misc]

    def _send_all(self, traded: Mapping[Symbol, int], second: int) -> None:
        """Send what both futures markets tell of each other's symbols: those that changed."""
        now_ms = second * 1000
        changed = [symbol for symbol in self._all if len(symbol.truth.ids) > traded[symbol]]
        for key, make in (("!ticker@arr", self._ticker_event), ("!miniTicker@arr", self._mini_ticker)):
            if changed:
                self._send(
                    key,
                    now_ms,
                    changed,
                    lambda symbols, at, make=make: _text([make(symbol, now_ms, at) for symbol in symbols]),  # type: ignore[misc]
                )
        if second % BOOK_TICKER_S == 0:
            quoted, self._quoted = self._quoted, {symbol: symbol.update_id for symbol in self._all}
            for symbol in self._all:
                if symbol.update_id != quoted[symbol]:
                    self._send("!bookTicker", now_ms, symbol, _book_ticker)

    # --- REST ---

    def _find(self, name: str) -> Symbol | None:
        """Find a symbol of the universe."""
        return next((symbol for symbol in self._all if symbol.listing.venue_symbol == name), None)

    def _symbol(self, ask: _Ask) -> Symbol:
        """Find the symbol asked for, in this market."""
        symbol = self._market.of_venue_symbol(self.name, ask.query.get("symbol", ""))
        if symbol is None:
            raise _Refused(*NO_SYMBOL)
        return symbol

    def _chosen(self, ask: _Ask) -> list[Symbol]:
        """Give the symbol asked for, those of the pair asked for, or all."""
        if "symbol" in ask.query:
            return [self._symbol(ask)]
        pair = ask.query.get("pair") if self._facts.has_ids_of_pairs else None
        return [symbol for symbol in self._own if pair in (None, _pair(symbol.listing))]

    def _rows(self, ask: _Ask, row: Callable[[Symbol], dict[str, Any]]) -> Any:
        """Answer with one row, or with a list where several were asked for, and always on COIN-M."""
        rows = [row(symbol) for symbol in self._chosen(ask)]
        return rows[0] if "symbol" in ask.query and not self._facts.has_ids_of_pairs else rows

    def _named(self, symbol: Symbol) -> dict[str, Any]:
        named = {"symbol": symbol.listing.venue_symbol}
        return {**named, "pair": _pair(symbol.listing)} if self._facts.has_ids_of_pairs else named

    async def _rest(self, request: web.Request) -> web.Response:
        name, query = request.match_info["endpoint"], request.query
        endpoint = self._facts.endpoints.get(f"{request.match_info['below']}/{name}")
        default, highest = endpoint.page if endpoint else (1, 1)
        try:
            limit = max(1, int(query.get("limit", default)))
            numbers = {n: int(query[n]) for n in ("fromId", "startTime", "endTime") if n in query}
        except ValueError:
            return _json({"code": -1100, "msg": "Illegal characters found in a parameter."}, 400, {})
        is_of_all = not query.keys() & {"symbol", "pair"}
        used, allowed = self._limiters[None].spend(endpoint.cost(limit, is_of_all=is_of_all) if endpoint else 1)
        headers = {"X-MBX-USED-WEIGHT-1M": str(used)}
        if allowed and endpoint is not None and endpoint.limiter is not None:
            _, allowed = self._limiters[endpoint.limiter].spend(1)
        if not allowed:
            self.rate_limited += 1
            headers["Retry-After"] = "5"
            return _json({"code": -1003, "msg": "Too much request weight used."}, 429, headers)
        if endpoint is None:
            return _json({"code": -1, "msg": f"unknown endpoint {name}"}, 404, headers)
        try:
            answer = endpoint.answer(self, _Ask(query, min(limit, highest), numbers, int(time.time() * 1000)))
        except _Refused as refused:
            return _json({"code": refused.code, "msg": refused.message}, 400, headers)
        return _json(answer, 200, headers)

    def _time(self, ask: _Ask) -> Any:
        return {"serverTime": ask.now_ms}

    def _ping(self, _: _Ask) -> Any:
        return {}

    def _exchange(self, ask: _Ask) -> Any:
        minute = {"interval": "MINUTE", "intervalNum": 1}
        limits = [{"rateLimitType": "REQUEST_WEIGHT", **minute, "limit": self._facts.weight_per_minute}]
        answer = {"timezone": "UTC", "serverTime": ask.now_ms, "rateLimits": limits, "exchangeFilters": []}
        if self.name not in UNIVERSES:
            return {**answer, "symbols": [_info(symbol) for symbol in self._chosen(ask)]}
        if not self._facts.has_ids_of_pairs:
            answer["futuresType"] = "U_MARGINED"
            answer["assets"] = [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]
        limits.append({"rateLimitType": "ORDERS", **minute, "limit": 1200})
        return {**answer, "symbols": [_contract_info(symbol) for symbol in self._own]}

    def _depth(self, ask: _Ask) -> Any:
        symbol = self._symbol(ask)
        bids, asks = symbol.book(ask.limit)
        return {"lastUpdateId": symbol.update_id, "bids": bids, "asks": asks}

    def _futures_depth(self, ask: _Ask) -> Any:
        if int(ask.query.get("limit", ask.limit)) not in (5, 10, 20, 50, 100, 500, 1000):
            raise _Refused(-4021, f"{ask.query['limit']} is not valid depth limit.")
        depth = self._depth(ask)
        named = self._named(self._symbol(ask)) if self._facts.has_ids_of_pairs else {}
        times = {"E": ask.now_ms, "T": ask.now_ms}
        return {"lastUpdateId": depth["lastUpdateId"], **times, **named, "bids": depth["bids"], "asks": depth["asks"]}

    def _trades(self, ask: _Ask) -> Any:
        symbol = self._symbol(ask)
        ids = symbol.truth.ids
        from_id = ask.numbers.get("fromId")
        first = max(0, len(ids) - ask.limit) if from_id is None or not ids else max(0, from_id - ids[0])
        return [_trade_row(symbol, i) for i in range(first, min(first + ask.limit, len(ids)))]

    def _newest_trades(self, ask: _Ask) -> Any:
        symbol = self._symbol(ask)
        count = len(symbol.truth.ids)
        return [_trade_row(symbol, i) for i in range(max(0, count - ask.limit), count)]

    def _aggregates(self, ask: _Ask) -> Any:
        """Give trades as aggregates of one: from an id, or from a time on, or the newest."""
        symbol = self._symbol(ask)
        times, ids = symbol.truth.times_ms, symbol.truth.ids
        last = bisect_right(times, ask.numbers["endTime"]) if "endTime" in ask.numbers else len(ids)
        if "fromId" in ask.numbers:
            first = max(0, ask.numbers["fromId"] - ids[0]) if ids else 0
        elif "startTime" in ask.numbers:
            first = bisect_left(times, ask.numbers["startTime"])
        else:
            first = max(0, last - ask.limit)
        return [_aggregate_row(symbol, i) for i in range(first, min(first + ask.limit, last))]

    def _futures_aggregates(self, ask: _Ask) -> Any:
        numbers = ask.numbers
        if "fromId" in numbers and ("startTime" in numbers or "endTime" in numbers):
            raise _Refused(-1128, "Combination of optional parameters invalid.")
        if "startTime" in numbers and numbers.get("endTime", 0) - numbers["startTime"] >= HOUR_MS:
            raise _Refused(-1127, "More than 1 hours between startTime and endTime.")
        return self._aggregates(ask)

    def _klines(self, ask: _Ask) -> Any:
        symbol, interval_ms = self._find(ask.query.get("symbol", "")), self._interval(ask)
        if symbol is None:
            raise _Refused(*NO_SYMBOL)
        start, end = ask.numbers.get("startTime"), ask.numbers.get("endTime", ask.now_ms)
        is_from_end = start is None or self._facts.has_ids_of_pairs
        if start is not None and self._facts.has_ids_of_pairs and end - start > 200 * DAY_MS:
            raise _Refused(-4088, "Maximum time interval is 200 days.")
        # Whole candles, chosen by the time they open.
        candles = _Candles(symbol, interval_ms, -(-(start or 0) // interval_ms) * interval_ms)
        bars = candles.closed_before(ask.now_ms)
        if candles.bar is not None:
            bars.append(candles.bar)
        bars = [bar for bar in bars if bar.open_ms <= end]
        chosen = bars[-ask.limit :] if is_from_end else bars[: ask.limit]
        return [_kline(symbol, bar, interval_ms) for bar in chosen]

    def _interval(self, ask: _Ask) -> int:
        interval_ms = self._facts.intervals_ms.get(ask.query.get("interval", ""))
        if interval_ms is None:
            raise _Refused(-1120, "Invalid interval.")
        return interval_ms

    def _tickers(self, ask: _Ask) -> Any:
        def row(symbol: Symbol) -> dict[str, Any]:
            best: dict[str, Any] = {}
            if self.name not in UNIVERSES:
                (bid, bid_size), (ask_, ask_size) = symbol.best()
                best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
            times = {"openTime": ask.now_ms - DAY_MS, "closeTime": ask.now_ms}
            return {**self._named(symbol), **best, **times, **self._days[symbol].until(ask.now_ms).figures()}

        return self._rows(ask, row)

    def _book_tickers(self, ask: _Ask) -> Any:
        def row(symbol: Symbol) -> dict[str, Any]:
            (bid, bid_size), (ask_, ask_size) = symbol.best()
            best = {"bidPrice": bid, "bidQty": bid_size, "askPrice": ask_, "askQty": ask_size}
            more = {"time": ask.now_ms, "lastUpdateId": symbol.update_id} if self.name in UNIVERSES else {}
            return {**self._named(symbol), **best, **more}

        return self._rows(ask, row)

    # --- REST of futures ---

    def _premium(self, ask: _Ask) -> Any:
        def row(symbol: Symbol) -> dict[str, Any]:
            mark = _mark(symbol, ask.now_ms)
            return {
                **self._named(symbol),
                "markPrice": mark["p"],
                "indexPrice": mark["i"],
                "estimatedSettlePrice": mark["P"],
                "lastFundingRate": mark["r"],
                "interestRate": "0.00010000" if mark["T"] else "",
                "nextFundingTime": mark["T"],
                "time": ask.now_ms,
            }

        return self._rows(ask, row)

    def _funding(self, ask: _Ask) -> Any:
        """Give what was charged: at each settlement the rate of the period that it ended."""
        start, end = ask.numbers.get("startTime"), min(ask.numbers.get("endTime", ask.now_ms), ask.now_ms)
        is_open = not ask.numbers.keys() & {"startTime", "endTime"}
        limit = 200 if is_open and "limit" not in ask.query else ask.limit
        last = end // FUNDING_MS
        first = max(0, last - limit + 1) if start is None else -(-start // FUNDING_MS)
        symbols = [symbol for symbol in self._chosen(ask) if symbol.listing.market_type == "perpetual"]
        return [
            {
                "symbol": symbol.listing.venue_symbol,
                "fundingRate": padded(funding_rate(symbol.listing, (period - 1) * FUNDING_MS)),
                "fundingTime": period * FUNDING_MS,
                "markPrice": padded(symbol.listing.price),
                "rateType": "Regular",
            }
            for period in range(first, min(last, first + limit - 1) + 1)
            for symbol in symbols
        ][:limit]

    def _funding_info(self, _: _Ask) -> Any:
        """List the symbols whose limits were changed: one, the others are as usual."""
        perpetuals = [symbol for symbol in self._own if symbol.listing.market_type == "perpetual"]
        return [
            {
                "symbol": symbol.listing.venue_symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": 8,
                "disclaimer": False,
            }
            for symbol in perpetuals[-1:]
        ]

    def _interest(self, ask: _Ask) -> Any:
        symbol = self._symbol(ask)
        kind = {"contractType": _contract_type(symbol.listing)} if self._facts.has_ids_of_pairs else {}
        interest = plain(open_interest(symbol.listing, ask.now_ms))
        return {**self._named(symbol), "openInterest": interest, **kind, "time": ask.now_ms}

    def _interest_history(self, ask: _Ask) -> Any:
        kind = ask.query.get("contractType", "ALL")
        listings = [
            symbol.listing
            for symbol in self._asked_statistics(ask)
            if not self._facts.has_ids_of_pairs or kind in ("ALL", _contract_type(symbol.listing))
        ]
        more = {"contractType": kind} if self._facts.has_ids_of_pairs else {"CMCCirculatingSupply": "19950000.00000000"}

        def row(at_ms: int) -> dict[str, Any]:
            amounts = [open_interest(listing, at_ms) for listing in listings]
            values = [_value(listing, listing.price, a) for listing, a in zip(listings, amounts, strict=True)]
            return {
                **self._of_statistics(ask),
                "sumOpenInterest": padded(sum(amounts, Decimal())),
                "sumOpenInterestValue": padded(sum(values, Decimal())),
                **more,
                "timestamp": at_ms,
            }

        return [row(at_ms) for at_ms in _points(ask)] if listings else []

    def _ratios(self, ask: _Ask, name: str, noun: str) -> Any:
        """Give a ratio of longs to shorts: of a symbol, or of the perpetual of a pair."""
        listing = self._asked_statistics(ask)[0].listing

        def row(at_ms: int) -> dict[str, Any]:
            share = long_share(name, listing, at_ms)
            return {
                **self._of_statistics(ask),
                "longShortRatio": f"{share / (1 - share):.4f}",
                f"long{noun}": f"{share:.4f}",
                f"short{noun}": f"{1 - share:.4f}",
                "timestamp": at_ms,
            }

        return [row(at_ms) for at_ms in _points(ask)]

    def _top_positions(self, ask: _Ask) -> Any:
        return self._ratios(ask, "top_position", "Position" if self._facts.has_ids_of_pairs else "Account")

    def _top_accounts(self, ask: _Ask) -> Any:
        return self._ratios(ask, "top_account", "Account")

    def _all_accounts(self, ask: _Ask) -> Any:
        return self._ratios(ask, "all_account", "Account")

    def _of_statistics(self, ask: _Ask) -> dict[str, str]:
        name = "pair" if self._facts.has_ids_of_pairs else "symbol"
        return {name: ask.query[name]}

    def _asked_statistics(self, ask: _Ask) -> list[Symbol]:
        """Give the symbol asked for, or the contracts of the pair, the perpetual first."""
        name = "pair" if self._facts.has_ids_of_pairs else "symbol"
        if name not in ask.query:
            raise _Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        found = self._chosen(ask) if self._facts.has_ids_of_pairs else [self._symbol(ask)]
        if not found:
            raise _Refused(-4144, "Invalid pair.")
        return sorted(found, key=lambda symbol: symbol.listing.market_type != "perpetual")


def _points(ask: _Ask) -> Iterable[int]:
    """Give the times of statistics, ascending: each full period, up to the last that has ended."""
    period_ms = PERIODS_MS.get(ask.query.get("period", ""))
    if period_ms is None:
        raise _Refused(-1130, "Data sent for parameter 'period' is not valid.")
    last = min(ask.numbers.get("endTime", ask.now_ms), ask.now_ms) // period_ms
    first = last - ask.limit + 1
    if "startTime" in ask.numbers:
        first = -(-ask.numbers["startTime"] // period_ms)
    return [number * period_ms for number in range(first, min(last, first + ask.limit - 1) + 1)]


# --- texts -----------------------------------------------------------------------------------------------------------


def _is_combined(client: Client) -> bool:
    return client.path.endswith("stream")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _json(value: Any, status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(text=_text(value), status=status, headers=headers, content_type="application/json")


def _levels(levels: Any) -> str:
    return "[" + ",".join(f'["{price}","{quantity}"]' for price, quantity in levels) + "]"


def _universe(listing: Listing) -> dict[str, int]:
    return {"st": UNIVERSES[listing.venue]} if listing.venue in UNIVERSES else {}


def _names(listing: Listing) -> dict[str, str]:
    names = {"s": listing.venue_symbol}
    return {**names, "ps": _pair(listing)} if listing.venue in UNIVERSES else names


def _trade(event: TradeEvent, at: int) -> str:
    return (
        f'{{"e":"trade","E":{at},"s":"{event.listing.venue_symbol}","t":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def _aggregate(event: TradeEvent, at: int) -> str:
    return (
        f'{{"e":"aggTrade","E":{at},"s":"{event.listing.venue_symbol}","a":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","f":{event.id},"l":{event.id},"T":{at},"m":{str(event.taker_sold).lower()},"M":true}}'
    )


def _futures_trade(event: TradeEvent, at: int) -> str:
    return (
        f'{{"e":"trade","E":{at},"T":{at},"s":"{event.listing.venue_symbol}","t":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}","X":"MARKET","m":{str(event.taker_sold).lower()}}}'
    )


def _futures_aggregate(event: TradeEvent, at: int) -> str:
    without_rpi = "" if _is_inverse(event.listing) else f'"nq":"{event.quantity}",'
    return (
        f'{{"e":"aggTrade","E":{at},"s":"{event.listing.venue_symbol}","a":{event.id},"p":"{event.price}",'
        f'"q":"{event.quantity}",{without_rpi}"f":{event.id},"l":{event.id},"T":{at},'
        f'"m":{str(event.taker_sold).lower()},"st":{UNIVERSES[event.listing.venue]}}}'
    )


def _depth(event: BookEvent, at: int) -> str:
    return (
        f'{{"e":"depthUpdate","E":{at},"s":"{event.listing.venue_symbol}","U":{event.first},"u":{event.last},'
        f'"b":{_levels(event.bids)},"a":{_levels(event.asks)}}}'
    )


def _futures_depth(event: BookEvent, at: int) -> str:
    return (
        f'{{"e":"depthUpdate","E":{at},"T":{at},"s":"{event.listing.venue_symbol}","ps":"{_pair(event.listing)}",'
        f'"U":{event.first},"u":{event.last},"pu":{event.previous},"b":{_levels(event.bids)},'
        f'"a":{_levels(event.asks)},"st":{UNIVERSES[event.listing.venue]}}}'
    )


def _book_ticker(symbol: Symbol, at: int) -> str:
    (bid, bid_size), (ask, ask_size) = symbol.best()
    best = f'"b":"{bid}","B":"{bid_size}","a":"{ask}","A":"{ask_size}"'
    listing = symbol.listing
    if listing.venue not in UNIVERSES:
        return f'{{"u":{symbol.update_id},"s":"{listing.venue_symbol}",{best}}}'
    return (
        f'{{"e":"bookTicker","u":{symbol.update_id},"s":"{listing.venue_symbol}","ps":"{_pair(listing)}",{best},'
        f'"T":{at},"E":{at},"st":{UNIVERSES[listing.venue]}}}'
    )


def _mark(symbol: Symbol, at: int) -> dict[str, Any]:
    mark, index = padded(mark_price(symbol)), padded(index_price(symbol))
    is_perpetual = symbol.listing.market_type == "perpetual"
    return {
        "e": "markPriceUpdate",
        "E": at,
        "s": symbol.listing.venue_symbol,
        "p": mark,
        "ap": mark,
        "i": index,
        "P": index,
        "r": padded(funding_rate(symbol.listing, at)) if is_perpetual else "",
        "T": next_funding_ms(at) if is_perpetual else 0,
        **_universe(symbol.listing),
    }


def _index(symbol: Symbol, at: int) -> str:
    return _text({"e": "indexPriceUpdate", "E": at, "i": _pair(symbol.listing), "p": padded(index_price(symbol))})


def _forced(symbol: Symbol, place: int, at: int, *, is_of_all: bool = False) -> str:
    truth, listing = symbol.truth, symbol.listing
    pair = {"ps": _pair(listing)} if is_of_all or _is_inverse(listing) else {}
    order = {
        "s": listing.venue_symbol,
        **pair,
        "S": "SELL" if truth.taker_sold[place] else "BUY",
        "o": "LIMIT",
        "f": "IOC",
        "q": truth.quantities[place],
        "p": truth.prices[place],
        "ap": truth.prices[place],
        "X": "FILLED",
        "l": truth.quantities[place],
        "z": truth.quantities[place],
        "T": truth.times_ms[place],
        **(_universe(listing) if is_of_all else {}),
    }
    return _text({"e": "forceOrder", "E": at, "o": order})


def _trade_row(symbol: Symbol, place: int) -> dict[str, Any]:
    truth, listing = symbol.truth, symbol.listing
    value = _value(listing, Decimal(truth.prices[place]), Decimal(truth.quantities[place]))
    last = {"isBestMatch": True} if listing.venue not in UNIVERSES else {}
    return {
        "id": truth.ids[place],
        "price": truth.prices[place],
        "qty": truth.quantities[place],
        "baseQty" if _is_inverse(listing) else "quoteQty": padded(value),
        "time": truth.times_ms[place],
        "isBuyerMaker": truth.taker_sold[place],
        **last,
    }


def _aggregate_row(symbol: Symbol, place: int) -> dict[str, Any]:
    truth = symbol.truth
    last = {"M": True} if symbol.listing.venue not in UNIVERSES else {}
    return {
        "a": truth.ids[place],
        "p": truth.prices[place],
        "q": truth.quantities[place],
        "f": truth.ids[place],
        "l": truth.ids[place],
        "T": truth.times_ms[place],
        "m": truth.taker_sold[place],
        **last,
    }


def _kline(symbol: Symbol, bar: _Bar, interval_ms: int) -> list[Any]:
    prices = [symbol.text(price) for price in (bar.open, bar.high, bar.low, bar.close)]
    bought = (symbol.text(bar.bought), _value_text(symbol, bar.bought_value), "0")
    close_ms = bar.open_ms + interval_ms - 1
    value = _value_text(symbol, bar.value)
    return [bar.open_ms, *prices, symbol.text(bar.volume), close_ms, value, bar.trades, *bought]


def _info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    return {
        "symbol": listing.venue_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.00000001",
                "maxPrice": "1000000",
                "tickSize": f"{listing.tick:.8f}",
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": f"{listing.lot:.8f}",
                "maxQty": "9000",
                "stepSize": f"{listing.lot:.8f}",
            },
        ],
    }


def _contract_info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    is_inverse = _is_inverse(listing)
    lots = {"stepSize": plain(listing.lot), "maxQty": "1000000", "minQty": plain(listing.lot)}
    own: dict[str, Any] = {"status": "TRADING", "settlePlan": 0}
    if listing.contract is not None and is_inverse:
        own = {"contractStatus": "TRADING", "contractSize": int(listing.contract[0]), "equalQtyPrecision": 4}
    prices = {"minPrice": plain(listing.tick), "maxPrice": "1000000", "tickSize": plain(listing.tick)}
    notional = [] if is_inverse else [{"filterType": "MIN_NOTIONAL", "notional": "5"}]
    return {
        "symbol": listing.venue_symbol,
        "pair": _pair(listing),
        "contractType": _contract_type(listing),
        "deliveryDate": listing.expiry_ms or PERPETUAL_DELIVERY_MS,
        "onboardDate": 1_569_398_400_000,
        **own,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.base if is_inverse else listing.quote,
        "pricePrecision": -int(listing.tick.as_tuple().exponent),
        "quantityPrecision": -int(listing.lot.as_tuple().exponent),
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.006000",
        "marketTakeBound": "0.30",
        "filters": [
            {"filterType": "PRICE_FILTER", **prices},
            {"filterType": "LOT_SIZE", **lots},
            {"filterType": "MARKET_LOT_SIZE", **lots},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
            *notional,
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "1.1500",
                "multiplierDown": "0.8500",
                "multiplierDecimal": "4",
            },
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


# --- the three markets -----------------------------------------------------------------------------------------------

_SPOT = {
    "time": Endpoint(Binance._time),
    "ping": Endpoint(Binance._ping),
    "exchangeInfo": Endpoint(Binance._exchange, 20),
    "depth": Endpoint(Binance._depth, steps=((100, 5), (500, 25), (1000, 50), (5000, 250)), page=(100, 5000)),
    "trades": Endpoint(Binance._trades, 25),
    "historicalTrades": Endpoint(Binance._trades, 25),
    "aggTrades": Endpoint(Binance._aggregates, 4),
    "klines": Endpoint(Binance._klines, 2),
    "ticker/24hr": Endpoint(Binance._tickers, 2, 80),
    "ticker/bookTicker": Endpoint(Binance._book_tickers, 2, 4),
}
_FUTURES = {
    "time": Endpoint(Binance._time),
    "ping": Endpoint(Binance._ping),
    "exchangeInfo": Endpoint(Binance._exchange),
    "depth": Endpoint(Binance._futures_depth, steps=((50, 2), (100, 5), (500, 10), (1000, 20))),
    "trades": Endpoint(Binance._newest_trades, 5),
    "aggTrades": Endpoint(Binance._futures_aggregates, 20),
    "klines": Endpoint(Binance._klines, steps=((99, 1), (499, 2), (1000, 5), (1500, 10)), page=(500, 1500)),
    "premiumIndex": Endpoint(Binance._premium, 1, 10),
    "fundingRate": Endpoint(Binance._funding, 0, page=(100, 1000), limiter="funding"),
    "fundingInfo": Endpoint(Binance._funding_info, 0, limiter="funding"),
    "openInterest": Endpoint(Binance._interest),
    "ticker/24hr": Endpoint(Binance._tickers, 1, 40),
    "ticker/bookTicker": Endpoint(Binance._book_tickers, 2, 5),
}
_COINM = {
    **_FUTURES,
    "premiumIndex": Endpoint(Binance._premium, 10),
    "fundingRate": Endpoint(Binance._funding, 1, page=(100, 1000), limiter="funding"),
}


def _statistics(weight: int) -> dict[str, Endpoint]:
    return {
        f"futures/data/{name}": Endpoint(answer, weight, page=(30, 500), limiter="statistics")
        for name, answer in (
            ("openInterestHist", Binance._interest_history),
            ("topLongShortPositionRatio", Binance._top_positions),
            ("topLongShortAccountRatio", Binance._top_accounts),
            ("globalLongShortAccountRatio", Binance._all_accounts),
        )
    }


def _below(path: str, endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    return {f"{path}/{name}": endpoint for name, endpoint in endpoints.items()}


_FUTURES_TRADES = {"trade": _futures_trade, "aggTrade": _futures_aggregate}

FACTS = {
    "binance_spot": Facts(
        pool="spot",
        weight_per_minute=6000,
        sockets={"public": "stream"},
        paths=("",),
        rest=("api/v3",),
        endpoints=_below("api/v3", _SPOT),
        intervals_ms=INTERVALS_MS,
        trades={"trade": _trade, "aggTrade": _aggregate},
        depth=_depth,
        has_microseconds=True,
        has_notice=True,
        kline_s=2,
    ),
    "binance_derivatives": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "public/stream", "market": "market/stream"},
        # The old path without a class acknowledges everything and delivers what the public one does.
        paths=("public/", "market/", ""),
        rest=("fapi/v1", "futures/data"),
        endpoints={**_below("fapi/v1", _FUTURES), **_statistics(0)},
        intervals_ms=FUTURES_INTERVALS_MS,
        trades=_FUTURES_TRADES,
        depth=_futures_depth,
        ticker_s=2,
    ),
    "binance_coinm": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "stream"},
        paths=("",),
        rest=("dapi/v1", "futures/data"),
        endpoints={**_below("dapi/v1", _COINM), **_statistics(1)},
        intervals_ms=FUTURES_INTERVALS_MS,
        trades=_FUTURES_TRADES,
        depth=_futures_depth,
        has_ids_of_pairs=True,
    ),
}

"""The server side of Deribit v2: JSON-RPC over one socket, heartbeats, book chains, history.

Prices and amounts are written as JSON numbers. Inverse contracts are counted in USD, everything else in base.
Changes of books and quotes are sent as they happen, one frame an event. Trades are bundled, and everything else is
sent by the clock: for keys somebody subscribed, when there is something new, and once to whoever subscribes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count as numbers
from typing import Any
from zlib import crc32

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Listing, Market, Symbol, TradeEvent, plain
from marketprism_ray.simulator.summaries import (
    STEP_MS,
    RunningCandle,
    RunningDay,
    funding_rate,
    greeks,
    index_price,
    mark_price,
    open_interest,
    volatility,
)
from marketprism_ray.simulator.wire import Client, Wire

RESOLUTIONS_MS = {
    **{str(n): n * 60_000 for n in (1, 3, 5, 10, 15, 30, 60, 120, 180, 360, 720)},
    "1D": 86_400_000,
}
INTERVALS_MS = {"100ms": 100, "agg2": 1_000}
VOLATILITY_STEPS_MS = {"1": 1_000, "60": 60_000, "3600": 3_600_000, "43200": 43_200_000, "1D": 86_400_000}
CONTRACT_SIZES = {"BTC-USD": "10", "ETH-USD": "1", "BTC-USDC": "0.0001"}
VOLATILITY_INDEXES = ("btc_usd", "eth_usd")
CURRENCIES = ("BTC", "ETH", "USDC")
KINDS = ("future", "option", "spot", "future_combo", "option_combo", "any")
NEVER_MS = 32_503_708_800_000
"""How a perpetual's expiry is written."""
HOUR_MS = 3_600_000
BEAT_MS = 100
"""What is sent by the clock is looked at this often."""
SECOND_MS = 1_000
SILENT_MS = 60_000
"""A socket without heartbeat and subscriptions is cut after this."""
TEST_MS = 10_000
"""An unanswered test request ends the session after this."""
LEAST_HEARTBEAT_S = 10
CHANNELS_PER_CALL = 500
REQUESTS_PER_S, REQUEST_BURST = 20.0, 100.0
LISTS_PER_S, LIST_BURST = 1.0, 50.0
TRADES_PER_PAGE, FUNDING_PER_PAGE, VOLATILITY_PER_PAGE, CANDLES_PER_PAGE = 1_000, 744, 1_000, 5_000
TOO_MANY = 10028
VERSION = {"version": "1.2.26"}


class RpcError(Exception):
    """An error answer."""

    def __init__(self, code: int, message: str, detail: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail

    @property
    def content(self) -> dict[str, Any]:
        """What stands under ``error``."""
        more = {} if self.detail is None else {"data": self.detail}
        return {"code": self.code, "message": str(self), **more}


class _Credits:
    """A pool that refills steadily."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._left, self._at = rate, burst, burst, time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Session:
    """What the venue remembers of a socket."""

    def __init__(self, now_ms: int) -> None:
        self.heartbeat_ms: int | None = None
        self.next_beat_ms = 0
        self.tested_ms: int | None = None
        """When the test request was sent that nobody has answered."""
        self.quiet_since_ms = now_ms
        self.is_over = False


class _Listed:
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
        self.currency = _settlement(listing)
        groups = (f"{kind}.{currency}" for kind in (self.kind, "any") for currency in (self.currency, "any"))
        places = (self.name, *groups)
        self.trade_keys = {every: [f"trades.{place}.{every}" for place in places] for every in INTERVALS_MS}
        self.book_keys = [f"book.{self.name}.{every}" for every in INTERVALS_MS]
        self.quote_key = f"quote.{self.name}"
        self.day = RunningDay()
        self.candles: dict[str, RunningCandle] = {}
        """Candles of charts that somebody has watched, by resolution."""
        self.trades = self.books = 0
        self._known: tuple[set[str], set[str]] | None = None
        """Prices of bids and asks, once somebody has asked for the book."""

    def know(self) -> None:
        """Keep track of the prices from now on."""
        if self._known is None:
            bids, asks = self.symbol.book()
            self._known = {price for price, _ in bids}, {price for price, _ in asks}

    def entries(self, event: BookEvent) -> tuple[str, str] | None:
        """Write bids and asks of a change; None if nobody has asked for the book yet."""
        if self._known is None:
            return None
        return _changes(event.bids, self._known[0]), _changes(event.asks, self._known[1])

    def is_in(self, kind: str, currency: str) -> bool:
        """Tell whether it belongs to a group of instruments."""
        return kind in ("any", self.kind) and currency in ("any", self.currency)

    def candle(self, resolution: str, now_ms: int) -> RunningCandle:
        """Give the running candle; one that nobody has watched yet catches up with its interval."""
        if resolution not in self.candles:
            step = RESOLUTIONS_MS[resolution]
            candle = self.candles[resolution] = RunningCandle(step)
            start = bisect_left(self.symbol.truth.times_ms, now_ms // step * step)
            for event in _events(self.symbol, range(start, len(self.symbol.truth.ids))):
                candle.add(event)
        return self.candles[resolution]


@dataclass(frozen=True)
class _Channel:
    """A channel on offer.

    Parameters
    ----------
    topic : what it is about
    place : instrument, index or group
    every_ms : cadence of what is sent by the clock; 0 for what is not
    detail : depth of a window, resolution of a chart
    """

    topic: str
    place: str
    every_ms: int = 0
    detail: str = ""


class Deribit:
    """The simulated market."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self.rate_limited = 0
        self._market = market
        self._wire = wire
        self._numbers = numbers(1)
        self._listed: dict[str, _Listed] = {}
        self._indexes: dict[str, _Listed] = {}
        self._sessions: dict[Client, _Session] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._requests = _Credits(REQUESTS_PER_S, REQUEST_BURST)
        self._lists = _Credits(LISTS_PER_S, LIST_BURST)
        self._beat = 0
        self._bundles: dict[str, dict[str, list[tuple[_Listed, TradeEvent]]]] = {
            every: defaultdict(list) for every in INTERVALS_MS
        }
        """Trades that were not sent yet, by interval and key."""
        self._bundled: dict[str, int] = {}
        self._streams: dict[str, _Channel] = {}
        """Every key that was ever subscribed and is sent by the clock."""
        self._sent: dict[str, tuple[int, Any]] = {}
        """When a key was last sent by the clock, and the state that was sent."""
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get_time": lambda _: _now(),
            "test": lambda _: VERSION,
            "hello": lambda _: VERSION,
            "status": lambda _: {"locked": "false", "locked_indices": []},
            "get_currencies": _get_currencies,
            "get_instruments": self._get_instruments,
            "get_instrument": lambda params: _info(self._of(params).symbol.listing),
            "get_order_book": self._get_order_book,
            "ticker": lambda params: self._ticker(self._of(params), _now()),
            "get_book_summary_by_currency": self._get_summaries,
            "get_last_trades_by_instrument": self._get_trades,
            "get_last_trades_by_instrument_and_time": self._get_trades,
            "get_last_trades_by_currency": self._get_trades_of_many,
            "get_last_trades_by_currency_and_time": self._get_trades_of_many,
            "get_tradingview_chart_data": self._get_chart,
            "get_funding_rate_history": self._get_funding,
            "get_volatility_index_data": self._get_volatility,
            "get_index_price": self._get_index_price,
        }
        self.relist()

    def relist(self) -> None:
        """Look at the list of symbols again, and say what came and went."""
        listed = {symbol.listing.venue_symbol: symbol for symbol in self._market.of_venue(self.name)}
        is_first = not self._listed
        for name, one in list(self._listed.items()):
            if listed.get(name) is not one.symbol:
                del self._listed[name]
                self._announce(one, "inactive")
        for name, symbol in listed.items():
            if name not in self._listed:
                self._listed[name] = _Listed(symbol, next(self._numbers))
                if not is_first:
                    self._announce(self._listed[name], "open")
        self._indexes.clear()
        for one in self._listed.values():
            if one.kind != "option":
                self._indexes.setdefault(_index_name(one.symbol.listing), one)

    def _announce(self, one: _Listed, state: str) -> None:
        data = _json({"timestamp": _now(), "state": state, "instrument_name": one.name})
        for kind in (one.kind, "any"):
            for currency in (one.currency, "any"):
                self._send(f"instrument.state.{kind}.{currency}", lambda: data)

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{self.name}/ws/api/v2", self._socket),
            web.get(f"/{self.name}/api/v2/public/{{method}}", self._rest),
        ]

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URLs."""
        return {"public": f"ws://{host}/{self.name}/ws/api/v2", "rest": f"http://{host}/{self.name}"}

    def notice(self) -> None:
        """Announce maintenance to those who want to know: nobody else is told."""
        self._send("platform_state", lambda: '{"maintenance":true}')

    def misbehave(self, kind: str) -> bool:
        """Know no fault of its own."""
        return False

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._wire.serve(
            request, self.name, "public", self._command, idle_s=None, names=("",), opened=self._open
        )

    def _open(self, client: Client, _: str) -> None:
        self._sessions[client] = _Session(_now())

    def _command(self, client: Client, text: str) -> None:
        session = self._sessions.get(client)
        if session is None or session.is_over:
            return
        begin = time.time_ns() // 1000
        identity = None
        try:
            try:
                command = json.loads(text)
            except ValueError:
                raise RpcError(-32700, "Parse error") from None
            if not isinstance(command, dict):
                raise RpcError(-32600, "Invalid Request")
            identity, method, params = command.get("id"), command.get("method"), command.get("params") or {}
            if not isinstance(method, str):
                raise RpcError(-32600, "Invalid Request")
            if not isinstance(params, dict):
                raise _invalid("params")
            result = self._call(client, session, method, params)
        except RpcError as error:
            answer = _rpc(identity, begin, error=error.content)
            if error.code == TOO_MANY:
                self._end(client, session, answer)
            else:
                client.send(answer)
        else:
            client.send(_rpc(identity, begin, result=result[0] if isinstance(result, tuple) else result))
            if isinstance(result, tuple):
                for key in result[1]:
                    self._greet(client, key)

    def _call(self, client: Client, session: _Session, method: str, params: dict[str, Any]) -> Any:
        """Do what a socket asks; a subscription gives the keys it accepts and those that are new."""
        match method:
            case "public/subscribe":
                return self._subscribe(client, params)
            case "public/unsubscribe":
                keys = [key for key in _keys(params) if self._channel(key) is not None]
                for key in keys:
                    self._wire.unsubscribe(client, key)
                return keys
            case "public/set_heartbeat":
                interval = params.get("interval")
                if not isinstance(interval, int) or interval < LEAST_HEARTBEAT_S:
                    raise RpcError(11050, "bad_request", f"interval must be at least {LEAST_HEARTBEAT_S}")
                session.heartbeat_ms = interval * 1000
                session.next_beat_ms = _now() + session.heartbeat_ms
                return "ok"
            case "public/disable_heartbeat":
                session.heartbeat_ms = session.tested_ms = None
                session.quiet_since_ms = _now()
                return "ok"
            case "public/test":
                session.tested_ms = None
        if not method.startswith("public/"):
            raise RpcError(-32601, "Method not found")
        return self._ask(method.removeprefix("public/"), params)

    def _subscribe(self, client: Client, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        accepted, fresh = [], []
        for key in _keys(params):
            channel = self._channel(key)
            if channel is None:
                continue
            accepted.append(key)
            if key not in client.keys:
                # What is bundled by now is of others: a new listener gets what happens from now on.
                self._send_bundle(key)
                self._wire.subscribe(client, key)
                fresh.append(key)
        return accepted, fresh

    def _greet(self, client: Client, key: str) -> None:
        """Send what a fresh subscription gets at once; one that was there already gets nothing."""
        channel = self._channel(key)
        assert channel is not None
        now_ms = _now()
        if channel.topic == "trades":
            for one in self._members(channel.place):
                truth = one.symbol.truth
                if truth.subscribed_from is None:
                    truth.subscribed_from = one.symbol.trade_id + 1
        elif channel.topic == "book":
            one = self._listed[channel.place]
            one.know()
            client.send(_push(key, _snapshot(one.symbol)))
        elif channel.topic == "quote":
            client.send(_push(key, _json(_quote(self._listed[channel.place].symbol, now_ms))))
        elif channel.every_ms:
            self._streams[key] = channel
            self._sent.setdefault(key, (now_ms, self._state(channel, now_ms)))
            text = self._text(channel, now_ms)
            if text is not None:
                client.send(_push(key, text))

    def _members(self, place: str) -> list[_Listed]:
        """Give the symbols of a group, or the one of that name."""
        if place in self._listed:
            return [self._listed[place]]
        kind, _, currency = place.partition(".")
        return [one for one in self._listed.values() if one.is_in(kind, currency)]

    def _channel(self, key: str) -> _Channel | None:
        """Read a key; None if there is no such channel."""
        match key.split("."):
            case ["trades" | "book" | "ticker" as topic, name, every] if name in self._listed and every in INTERVALS_MS:
                return _Channel(topic, name, INTERVALS_MS[every] if topic == "ticker" else 0)
            case ["perpetual", name, every] if name in self._listed and every in INTERVALS_MS:
                is_perpetual = self._listed[name].symbol.listing.market_type == "perpetual"
                return _Channel("perpetual", name, INTERVALS_MS[every]) if is_perpetual else None
            case ["quote", name] if name in self._listed:
                return _Channel("quote", name)
            case ["book", name, "none", "1" | "10" | "20" as depth, every] if name in self._listed:
                return _Channel("window", name, INTERVALS_MS[every], depth) if every in INTERVALS_MS else None
            case ["trades", kind, currency, every] if _is_group(kind, currency) and every in INTERVALS_MS:
                return _Channel("trades", f"{kind}.{currency}")
            case ["instrument", "state", kind, currency] if _is_group(kind, currency):
                return _Channel("state", f"{kind}.{currency}")
            case ["chart", "trades", name, resolution] if name in self._listed and resolution in RESOLUTIONS_MS:
                return _Channel("chart", name, SECOND_MS, resolution)
            case ["deribit_volatility_index", index] if index in VOLATILITY_INDEXES:
                return _Channel("volatility", index, SECOND_MS)
            case ["deribit_price_index", index] if index in self._indexes:
                return _Channel("index", index, SECOND_MS)
            case ["markprice", "options", index] if index in self._indexes:
                return _Channel("marks", index, SECOND_MS)
            case ["platform_state"]:
                return _Channel("platform", "")
        return None

    def _end(self, client: Client, session: _Session, text: str = "", code: int = 1000) -> None:
        """End a session, after a last word."""
        session.is_over = True
        task = asyncio.get_running_loop().create_task(_close(client, text, code))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    # --- as it happens ---

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        one = self._listed[event.listing.venue_symbol]
        if isinstance(event, TradeEvent):
            self._trade(one, event)
            return
        one.books += 1
        entries = one.entries(event)
        if entries is not None:
            data = _change(event, *entries)
            for key in one.book_keys:
                self._send(key, lambda: data)
        self._send(one.quote_key, lambda: _json(_quote(one.symbol, event.time_ms)))

    def _trade(self, one: _Listed, event: TradeEvent) -> None:
        one.trades += 1
        one.day.add(event)
        for resolution, candle in one.candles.items():
            if candle.trades and event.time_ms // candle.interval_ms * candle.interval_ms != candle.open_ms:
                # The last word about a candle is sent before its successor begins.
                last = _candle(candle)
                self._send(f"chart.trades.{one.name}.{resolution}", lambda last=last: last)  # type: ignore[misc]
            candle.add(event)
            candle.closed.clear()
        for every, bundles in self._bundles.items():
            for key in one.trade_keys[every]:
                bundles[key].append((one, event))

    def _send(self, key: str, data: Callable[[], str]) -> None:
        """Write a frame once, and only if a socket wants it."""
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(_push(key, data()))
            return made[0]

        self._wire.publish(self.name, key, frame)

    # --- by the clock ---

    def tick(self, now_ms: int) -> None:
        """Send what is due: heartbeats, bundles of trades, and what has changed of everything else."""
        if now_ms // BEAT_MS == self._beat:
            return
        self._beat = now_ms // BEAT_MS
        for client, session in list(self._sessions.items()):
            if client not in self._wire.clients:
                del self._sessions[client]
            elif not session.is_over:
                self._look_after(client, session, now_ms)
        for every, every_ms in INTERVALS_MS.items():
            if self._bundled.get(every) != now_ms // every_ms:
                self._bundled[every] = now_ms // every_ms
                for key in list(self._bundles[every]):
                    self._send_bundle(key)
        wanted = {key for client in self._sessions for key in client.keys if key in self._streams}
        for key in self._sent.keys() - wanted:
            del self._sent[key]
        for key in sorted(wanted):
            self._update(key, now_ms)

    def _look_after(self, client: Client, session: _Session, now_ms: int) -> None:
        """Send a heartbeat that is due; end a session that does not answer, or that nobody needs."""
        if session.tested_ms is not None and now_ms > session.tested_ms + TEST_MS:
            self._end(client, session, code=4000)
        elif session.heartbeat_ms is not None:
            if now_ms >= session.next_beat_ms:
                session.next_beat_ms = now_ms + session.heartbeat_ms
                for kind in ("heartbeat", "test_request"):
                    client.send(f'{{"params":{{"type":"{kind}"}},"method":"heartbeat","jsonrpc":"2.0"}}')
                session.tested_ms = session.tested_ms or now_ms
        elif client.keys:
            session.quiet_since_ms = now_ms
        elif now_ms > session.quiet_since_ms + SILENT_MS:
            self._end(client, session)

    def _send_bundle(self, key: str) -> None:
        """Send the trades of a key that wait; nothing for a key that is not about trades."""
        waiting = self._bundles.get(key.rpartition(".")[2], {}).pop(key, None)
        if waiting:
            self._send(key, lambda: f"[{','.join(_trade(one, event) for one, event in waiting)}]")

    def _update(self, key: str, now_ms: int) -> None:
        """Send a stream that is due and has something new."""
        channel = self._streams[key]
        if self._channel(key) is None:
            return
        state = self._state(channel, now_ms)
        sent_ms, sent_state = self._sent.get(key, (0, None))
        if now_ms // channel.every_ms == sent_ms // channel.every_ms or (state is not None and state == sent_state):
            return
        self._sent[key] = now_ms, state
        text = self._text(channel, now_ms)
        if text is not None:
            self._send(key, lambda: text)

    def _state(self, channel: _Channel, now_ms: int) -> Any:
        """Give what differs when a stream has something new to say; None if it always has."""
        match channel.topic:
            case "ticker" | "perpetual":
                one = self._listed[channel.place]
                return one.trades, one.books, now_ms // STEP_MS
            case "window":
                return self._listed[channel.place].books
            case "chart":
                return self._listed[channel.place].trades
        return None

    def _text(self, channel: _Channel, now_ms: int) -> str | None:
        """Write what a stream has to say now; None if that is nothing yet."""
        match channel.topic:
            case "ticker":
                return _json(self._ticker(self._listed[channel.place], now_ms))
            case "perpetual":
                symbol = self._listed[channel.place].symbol
                rate, index = current_funding(symbol.listing, now_ms), _Raw(plain(index_price(symbol)))
                return _json({"timestamp": now_ms, "interest": _exponent(rate), "index_price": index})
            case "window":
                return _json(_window(self._listed[channel.place].symbol, int(channel.detail), now_ms))
            case "chart":
                candle = self._listed[channel.place].candle(channel.detail, now_ms)
                return _candle(candle) if candle.trades else None
            case "volatility":
                value = _Raw(plain(volatility(channel.place, now_ms)))
                return _json({"timestamp": now_ms, "volatility": value, "index_name": channel.place})
            case "index":
                value = _Raw(plain(index_price(self._indexes[channel.place].symbol)))
                return _json({"timestamp": now_ms, "price": value, "index_name": channel.place})
            case _:
                return _json(self._marks(channel.place, now_ms))

    def _marks(self, index: str, now_ms: int) -> list[dict[str, Any]]:
        """Give the marks of options; here volatilities are fractions."""
        return [
            {
                "timestamp": now_ms,
                "instrument_name": one.name,
                "mark_price": _Raw(plain(mark_price(one.symbol))),
                "iv": _Raw(plain(greeks(one.symbol.listing, now_ms).mark_iv)),
            }
            for one in self._listed.values()
            if one.kind == "option" and _index_name(one.symbol.listing) == index
        ]

    # --- what is known of a symbol ---

    def _of(self, params: dict[str, Any]) -> _Listed:
        one = self._listed.get(str(params.get("instrument_name", "")))
        if one is None:
            raise _invalid("instrument_name")
        return one

    def _usd_volume(self, one: _Listed) -> Decimal:
        """Give the volume of the day in USD."""
        if one.symbol.listing.contract is not None:
            return one.day.volume
        return one.day.turnover * (index_price(one.symbol) if one.kind == "option" else 1)

    def _figures(self, one: _Listed, now_ms: int) -> dict[str, Any]:
        """Give what tickers and summaries have in common: marks, funding, what options have."""
        symbol, listing = one.symbol, one.symbol.listing
        figures: dict[str, Any] = {
            "open_interest": _Raw(plain(open_interest(listing, now_ms))),
            "mark_price": _Raw(plain(mark_price(symbol))),
            "estimated_delivery_price": _Raw(plain(index_price(symbol))),
        }
        if listing.market_type == "perpetual":
            figures["funding_8h"] = _Raw(plain(funding_rate(listing, now_ms)))
            figures["current_funding"] = _exponent(current_funding(listing, now_ms))
        if one.kind == "option":
            known = greeks(listing, now_ms)
            figures["underlying_price"] = _Raw(plain(known.underlying))
            figures["underlying_index"] = one.name.rsplit("-", 2)[0]
            figures["mark_iv"] = _Raw(plain(known.mark_iv * 100))
            figures["interest_rate"] = 0.0
        return figures

    def _ticker(self, one: _Listed, now_ms: int) -> dict[str, Any]:
        symbol, day = one.symbol, one.day
        figures = self._figures(one, now_ms)
        mark, usd = mark_price(symbol), _Raw(plain(self._usd_volume(one)))
        ticker = {
            **_quote(symbol, now_ms),
            "state": "open",
            "stats": {
                "high": _raw_or_null(day.high if day.trades else None),
                "low": _raw_or_null(day.low if day.trades else None),
                "price_change": _raw_or_null(day.change_percent),
                "volume": _Raw(plain(day.in_base(symbol.listing))),
                "volume_usd": usd,
                "volume_notional": usd,
            },
            "last_price": _raw_or_null(day.last),
            "index_price": figures["estimated_delivery_price"],
            "min_price": _Raw(plain(mark * Decimal("0.985"))),
            "max_price": _Raw(plain(mark * Decimal("1.015"))),
            "settlement_price": _Raw(plain(symbol.listing.price)),
            **figures,
        }
        if symbol.listing.market_type == "perpetual":
            ticker["interest_value"] = 0.1
        if one.kind == "option":
            known = greeks(symbol.listing, now_ms)
            ticker["bid_iv"], ticker["ask_iv"] = (_Raw(plain(iv * 100)) for iv in (known.bid_iv, known.ask_iv))
            ticker["greeks"] = {
                name: _Raw(plain(getattr(known, name))) for name in ("delta", "gamma", "vega", "theta", "rho")
            }
        return ticker

    # --- requests ---

    async def _rest(self, request: web.Request) -> web.Response:
        begin = time.time_ns() // 1000
        try:
            result = self._ask(request.match_info["method"], dict(request.query))
        except RpcError as error:
            body = _rpc(None, begin, error=error.content)
            return web.Response(
                text=body, status=429 if error.code == TOO_MANY else 400, content_type="application/json"
            )
        return web.Response(text=_rpc(None, begin, result=result), content_type="application/json")

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        if method not in self._methods:
            raise RpcError(-32601, "Method not found")
        if not self._requests.take() or (method == "get_instruments" and not self._lists.take()):
            self.rate_limited += 1
            raise RpcError(TOO_MANY, "too_many_requests")
        return self._methods[method](params)

    def _chosen(self, params: dict[str, Any]) -> list[_Listed]:
        kind, currency = str(params.get("kind") or "any"), str(params.get("currency") or "any")
        if kind not in KINDS:
            raise _invalid("kind")
        if not _is_group(kind, currency):
            raise _invalid("currency")
        return [one for one in self._listed.values() if one.is_in(kind, currency)]

    def _get_instruments(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        chosen = self._chosen(params)
        # None has expired: the only delivery day is far away.
        return [] if str(params.get("expired", "")).lower() == "true" else [_info(one.symbol.listing) for one in chosen]

    def _get_order_book(self, params: dict[str, Any]) -> dict[str, Any]:
        one, depth, now_ms = self._of(params), _whole(params, "depth", 5), _now()
        return {**self._ticker(one, now_ms), **_window(one.symbol, min(max(depth, 1), 10_000), now_ms)}

    def _get_index_price(self, params: dict[str, Any]) -> dict[str, Any]:
        one = self._indexes.get(str(params.get("index_name", "")))
        if one is None:
            raise _invalid("index_name")
        price = _Raw(plain(index_price(one.symbol)))
        return {"index_price": price, "estimated_delivery_price": price}

    def _get_summaries(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        now_ms = _now()
        found = []
        for one in self._chosen(params):
            listing, day = one.symbol.listing, one.day
            (bid, _), (ask, _) = one.symbol.best()
            usd = _Raw(plain(self._usd_volume(one)))
            found.append(
                {
                    "instrument_name": one.name,
                    "creation_timestamp": now_ms,
                    "base_currency": listing.base,
                    "quote_currency": listing.base if one.kind == "option" else listing.quote,
                    "volume": _Raw(plain(day.in_base(listing))),
                    "volume_usd": usd,
                    "volume_notional": usd,
                    "price_change": _raw_or_null(day.change_percent),
                    "high": _raw_or_null(day.high if day.trades else None),
                    "low": _raw_or_null(day.low if day.trades else None),
                    "last": _raw_or_null(day.last),
                    "bid_price": _Raw(bid),
                    "ask_price": _Raw(ask),
                    "mid_price": _Raw(plain(mark_price(one.symbol))),
                    **self._figures(one, now_ms),
                }
            )
        return found

    def _get_trades(self, params: dict[str, Any]) -> dict[str, Any]:
        one = self._of(params)
        truth = one.symbol.truth
        first_id = truth.ids[0] if truth.ids else 0
        low = max(
            _whole(params, "start_seq", first_id) - first_id,
            bisect_left(truth.times_ms, _whole(params, "start_timestamp", 0)),
        )
        high = min(
            _whole(params, "end_seq", first_id + len(truth.ids)) - first_id + 1,
            bisect_right(truth.times_ms, _whole(params, "end_timestamp", NEVER_MS)),
        )
        places = range(low, max(low, high))
        chosen = _page(params, places)
        rows = [_Raw(_trade(one, event)) for event in _events(one.symbol, chosen)]
        return {"trades": rows, "has_more": len(places) > len(chosen)}

    def _get_trades_of_many(self, params: dict[str, Any]) -> dict[str, Any]:
        start, end = _whole(params, "start_timestamp", 0), _whole(params, "end_timestamp", NEVER_MS)
        rows: list[tuple[int, int, int, _Listed]] = []
        for one in self._chosen(params):
            times = one.symbol.truth.times_ms
            places = range(bisect_left(times, start), bisect_right(times, end))
            rows += [(times[place], one.number, place, one) for place in places]
        rows.sort(key=lambda row: row[:3])
        ids = [_trade_id(one.symbol.truth.ids[place], one.number) for _, _, place, one in rows]
        try:
            low = ids.index(str(params["start_id"])) if "start_id" in params else 0
            high = ids.index(str(params["end_id"])) + 1 if "end_id" in params else len(ids)
        except ValueError:
            raise _invalid("start_id, end_id") from None
        places = range(low, max(low, high))
        chosen = _page(params, places)
        found = [
            (one, event) for _, _, place, one in (rows[i] for i in chosen) for event in _events(one.symbol, (place,))
        ]
        return {"trades": [_Raw(_trade(one, event)) for one, event in found], "has_more": len(places) > len(chosen)}

    def _get_chart(self, params: dict[str, Any]) -> dict[str, Any]:
        one, step = self._of(params), RESOLUTIONS_MS.get(str(params.get("resolution")))
        if step is None:
            raise _invalid("resolution")
        times = one.symbol.truth.times_ms
        low = bisect_left(times, _whole(params, "start_timestamp") // step * step)
        high = bisect_left(times, (_whole(params, "end_timestamp") // step + 1) * step)
        candles: list[RunningCandle] = []
        for event in _events(one.symbol, range(low, max(low, high))):
            if not candles or event.time_ms // step * step != candles[-1].open_ms:
                candles.append(RunningCandle(step))
            candles[-1].add(event)
        rows = [_bar(candle) for candle in candles[-CANDLES_PER_PAGE:]]
        names = ("tick", "open", "high", "low", "close", "volume", "cost")
        columns = {"ticks" if name == "tick" else name: [row[name] for row in rows] for name in names}
        return {**columns, "status": "ok" if rows else "no_data"}

    def _get_funding(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        listing = self._of(params).symbol.listing
        if listing.market_type != "perpetual":
            raise _invalid("instrument_name")
        index = _Raw(plain(listing.price))
        found = []
        for at in _times(params, HOUR_MS)[-FUNDING_PER_PAGE:]:
            rate = funding_rate(listing, at)
            found.append(
                {
                    "timestamp": at,
                    "index_price": index,
                    "prev_index_price": index,
                    "interest_8h": _Raw(plain(rate)),
                    "interest_1h": _exponent(rate / 8),
                }
            )
        return found

    def _get_volatility(self, params: dict[str, Any]) -> dict[str, Any]:
        index = f"{str(params.get('currency', '')).lower()}_usd"
        step = VOLATILITY_STEPS_MS.get(str(params.get("resolution", "")))
        if index not in VOLATILITY_INDEXES:
            raise _invalid("currency")
        if step is None:
            raise _invalid("resolution")
        times = _times(params, step)
        page = times[-VOLATILITY_PER_PAGE:]
        rows = []
        for at in page:
            values = [volatility(index, at + i * step // 4) for i in range(4)]
            rows.append([at, *(_Raw(plain(value)) for value in (values[0], max(values), min(values), values[-1]))])
        return {"data": rows, "continuation": page[0] - step if len(times) > len(page) else None}


async def _close(client: Client, text: str, code: int) -> None:
    with contextlib.suppress(ConnectionError):
        if text:
            await client.socket.send_str(text)
        await client.socket.close(code=code)
    client.abort()


# --- figures ---


def current_funding(listing: Listing, at_ms: int) -> Decimal:
    """Give the funding rate of this moment, a fraction: another one than that of the last 8 hours."""
    return (funding_rate(listing, at_ms) / 3).quantize(Decimal("1e-10"))


def _settlement(listing: Listing) -> str:
    return "USDC" if listing.quote == "USDC" else listing.base


def _index_name(listing: Listing) -> str:
    return f"{listing.base}_{listing.quote}".lower()


def _contract_size(listing: Listing) -> str:
    return "1" if listing.market_type == "option" else CONTRACT_SIZES.get(f"{listing.base}-{listing.quote}", "1")


def _trade_id(sequence: int, number: int) -> str:
    """Give the id of a trade, unique among all symbols."""
    return f"40{sequence:09d}{number}"


def _is_group(kind: str, currency: str) -> bool:
    return kind in KINDS and currency in (*CURRENCIES, "any")


def _now() -> int:
    return int(time.time() * 1000)


def _events(symbol: Symbol, places: Iterable[int]) -> list[TradeEvent]:
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
        )
        for i in places
    ]


# --- parameters ---


def _invalid(param: str) -> RpcError:
    return RpcError(-32602, "Invalid params", {"reason": "invalid value", "param": param})


def _whole(params: dict[str, Any], name: str, default: int | None = None) -> int:
    """Read a whole number; without a default it must be there."""
    value = params.get(name, default)
    if isinstance(value, int | str):
        with contextlib.suppress(ValueError):
            return int(value)
    raise _invalid(name)


def _keys(params: dict[str, Any]) -> list[str]:
    """Read the channels of a call, in another order."""
    keys = params.get("channels")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _invalid("channels")
    if not keys or len(keys) > CHANNELS_PER_CALL:
        raise RpcError(11050, "bad_request", f"from 1 to {CHANNELS_PER_CALL} channels")
    if any(key.endswith(".raw") for key in keys):
        raise RpcError(13778, "raw_subscriptions_not_available_for_unauthorized")
    return sorted(set(keys))


def _page(params: dict[str, Any], places: range) -> range:
    """Choose from the rows asked for: the oldest in their order, or the newest backwards."""
    count = min(max(_whole(params, "count", 10), 1), TRADES_PER_PAGE)
    return places[:count] if params.get("sorting") == "asc" else places[-count:][::-1]


def _times(params: dict[str, Any], step_ms: int) -> range:
    """Give the beginnings of steps between the times asked for, none in the future."""
    start, end = _whole(params, "start_timestamp"), min(_whole(params, "end_timestamp"), _now())
    return range(-(-start // step_ms) * step_ms, end + 1, step_ms)


# --- text ---


class _Raw:
    """A number whose text is written as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def _json(value: Any) -> str:
    """Write JSON; `_Raw` texts go in as they are."""
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(str(k))}:{_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(v) for v in value) + "]"
    return json.dumps(value)


def _exponent(value: Decimal) -> _Raw:
    """Write a small number as the venue does: ``8.12e-5``."""
    return _Raw(f"{value.normalize():e}")


def _raw_or_null(value: Decimal | str | None) -> _Raw | None:
    if value is None:
        return None
    return _Raw(value if isinstance(value, str) else plain(value))


def _rpc(identity: Any, begin: int, **content: Any) -> str:
    end = time.time_ns() // 1000
    named = {} if identity is None else {"id": identity}
    return _json(
        {"jsonrpc": "2.0", **named, **content, "usIn": begin, "usOut": end, "usDiff": end - begin, "testnet": False}
    )


def _push(key: str, data: str) -> str:
    return f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":"{key}","data":{data}}}}}'


def _trade(one: _Listed, event: TradeEvent) -> str:
    """Write a trade; what it says of marks follows from the event alone, so that history repeats the stream."""
    listing = event.listing
    index, more = event.price, ""
    if listing.market_type == "option":
        known = greeks(listing, event.time_ms)
        index = plain(index_price(one.symbol))
        more += f',"iv":{plain(known.mark_iv * 100)}'
    if event.is_liquidation:
        more += ',"liquidation":"T"'
    return (
        f'{{"trade_seq":{event.id},"trade_id":"{_trade_id(event.id, one.number)}","timestamp":{event.time_ms},'
        f'"tick_direction":0,"price":{event.price},"mark_price":{event.price},'
        f'"instrument_name":"{listing.venue_symbol}","index_price":{index},'
        f'"direction":"{"sell" if event.taker_sold else "buy"}",'
        f'"contracts":{plain(Decimal(event.quantity) / Decimal(_contract_size(listing)))},'
        f'"amount":{event.quantity}{more}}}'
    )


def _quote(symbol: Symbol, now_ms: int) -> dict[str, Any]:
    (bid, bid_size), (ask, ask_size) = symbol.best()
    return {
        "timestamp": now_ms,
        "instrument_name": symbol.listing.venue_symbol,
        "best_bid_price": _Raw(bid),
        "best_bid_amount": _Raw(bid_size),
        "best_ask_price": _Raw(ask),
        "best_ask_amount": _Raw(ask_size),
    }


def _window(symbol: Symbol, depth: int, now_ms: int) -> dict[str, Any]:
    bids, asks = symbol.book(depth)
    return {
        "timestamp": now_ms,
        "instrument_name": symbol.listing.venue_symbol,
        "change_id": symbol.update_id,
        "bids": _Raw(_pairs(bids)),
        "asks": _Raw(_pairs(asks)),
    }


def _snapshot(symbol: Symbol) -> str:
    bids, asks = ("[" + ",".join(f'["new",{p},{q}]' for p, q in side) + "]" for side in symbol.book())
    return (
        f'{{"type":"snapshot","timestamp":{_now()},"instrument_name":"{symbol.listing.venue_symbol}",'
        f'"change_id":{symbol.update_id},"bids":{bids},"asks":{asks}}}'
    )


def _change(event: BookEvent, bids: str, asks: str) -> str:
    return (
        f'{{"type":"change","timestamp":{event.time_ms},"prev_change_id":{event.previous},'
        f'"instrument_name":"{event.listing.venue_symbol}","change_id":{event.last},"bids":{bids},"asks":{asks}}}'
    )


def _changes(levels: Sequence[tuple[str, str]], known: set[str]) -> str:
    """Write changes of one side, and keep its prices; a level that was not there cannot go."""
    found = []
    for price, amount in levels:
        if amount.strip("0."):
            found.append(f'["{"change" if price in known else "new"}",{price},{amount}]')
            known.add(price)
        elif price in known:
            found.append(f'["delete",{price},0.0]')
            known.remove(price)
    return f"[{','.join(found)}]"


def _pairs(levels: Sequence[tuple[str, str]]) -> str:
    return "[" + ",".join(f"[{price},{amount}]" for price, amount in levels) + "]"


def _bar(candle: RunningCandle) -> dict[str, Any]:
    """Give a candle: ``volume`` in base, ``cost`` in USD or quote."""
    is_usd = candle.listing is not None and candle.listing.contract is not None
    return {
        "tick": candle.open_ms,
        "open": _Raw(candle.open),
        "high": _Raw(candle.high),
        "low": _Raw(candle.low),
        "close": _Raw(candle.close),
        "volume": _Raw(plain(candle.base_of_usd if is_usd else candle.volume)),
        "cost": _Raw(plain(candle.volume if is_usd else candle.turnover)),
    }


def _candle(candle: RunningCandle) -> str:
    return _json(_bar(candle))


def _get_currencies(_: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"currency": name, "currency_long": name, "min_confirmations": 1} for name in CURRENCIES]


def _info(listing: Listing) -> dict[str, Any]:
    is_option = listing.market_type == "option"
    found: dict[str, Any] = {
        "instrument_name": listing.venue_symbol,
        "instrument_id": crc32(listing.venue_symbol.encode()) % 10**6,
        "kind": "option" if is_option else "future",
        "base_currency": listing.base,
        "quote_currency": listing.quote if not is_option else listing.base,
        "counter_currency": listing.quote,
        "settlement_currency": _settlement(listing),
        "instrument_type": "linear" if listing.quote == "USDC" else "reversed",
        "contract_size": _Raw(_contract_size(listing)),
        "tick_size": _Raw(plain(listing.tick)),
        "tick_size_steps": [],
        "min_trade_amount": _Raw(plain(listing.lot)),
        "maker_commission": 0.0,
        "taker_commission": 0.0005,
        "settlement_period": "perpetual" if listing.market_type == "perpetual" else "month",
        "expiration_timestamp": listing.expiry_ms or NEVER_MS,
        "creation_timestamp": 1_534_167_754_000,
        "price_index": _index_name(listing),
        "is_active": True,
        "state": "open",
        "rfq": False,
        "block_trade_commission": 0.0,
        "block_trade_min_trade_amount": 1,
        "block_trade_tick_size": 0.01,
    }
    if is_option:
        found["option_type"] = "call" if listing.option_type == "C" else "put"
        found["strike"] = _Raw(f"{listing.strike}.0")
    return found

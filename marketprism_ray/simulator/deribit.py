"""The server side of Deribit v2: JSON-RPC over one socket, heartbeats, book chains, history.

Prices and amounts are written as JSON numbers. Inverse contracts are counted in USD, everything else in base.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Listing, Market, Symbol, TradeEvent, plain
from marketprism_ray.simulator.summaries import (
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
CONTRACT_SIZES = {"BTC-USD": "10", "ETH-USD": "1", "BTC-USDC": "0.0001"}
VOLATILITY_INDEXES = ("btc_usd", "eth_usd")
NEVER_MS = 32_503_708_800_000
"""How a perpetual's expiry is written."""
SILENT_S = 60.0
"""A socket without heartbeat and subscriptions is cut after this."""
TEST_S = 10.0
"""An unanswered test request ends the session after this."""
REQUESTS_PER_S, REQUEST_BURST = 20.0, 100.0
LISTS_PER_S, LIST_BURST = 1.0, 50.0
TICKER_MS, CHART_MS, INDEX_MS = 500, 1_000, 1_000


class RpcError(Exception):
    """An error answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


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

    def __init__(self) -> None:
        self.heartbeat_s: float | None = None
        self.next_beat = 0.0
        self.tested_at: float | None = None
        self.quiet_since = time.monotonic()


class Deribit:
    """The simulated market."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self.rate_limited = 0
        self._market = market
        self._wire = wire
        self._sessions: dict[Client, _Session] = {}
        self._requests = _Credits(REQUESTS_PER_S, REQUEST_BURST)
        self._lists = _Credits(LISTS_PER_S, LIST_BURST)
        self._due: dict[str, int] = {}
        self._changed: set[str] = set()
        self._fresh: set[tuple[Client, str]] = set()
        self._days: dict[str, RunningDay] = defaultdict(RunningDay)
        self._candles: dict[tuple[str, str], RunningCandle] = {}
        self._touched_candles: set[tuple[str, str]] = set()
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get_time": lambda _: _now(),
            "test": lambda _: {"version": "1.2.26"},
            "hello": lambda _: {"version": "1.2.26"},
            "status": lambda _: {"locked": "false", "locked_indices": []},
            "get_currencies": self._get_currencies,
            "get_instruments": self._get_instruments,
            "get_instrument": lambda p: _info(self._symbol(p)),
            "get_order_book": self._get_order_book,
            "ticker": lambda p: self._ticker(self._symbol(p)),
            "get_book_summary_by_currency": self._get_summaries,
            "get_last_trades_by_instrument": self._get_trades,
            "get_last_trades_by_instrument_and_time": self._get_trades,
            "get_funding_rate_history": self._get_funding,
            "get_volatility_index_data": self._get_volatility,
            "get_index_price": lambda p: {"index_price": 91252.4, "estimated_delivery_price": 91252.4},
        }

    def relist(self) -> None:
        """Do nothing: the list is looked at with each request."""

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
        """Do nothing: this venue announces no shutdown on a socket."""

    def misbehave(self, kind: str) -> bool:
        """Know no fault of its own."""
        return False

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._wire.serve(request, self.name, "public", self._command, idle_s=None)

    def _session(self, client: Client) -> _Session:
        return self._sessions.setdefault(client, _Session())

    def _command(self, client: Client, text: str) -> None:
        session = self._session(client)
        begin = time.time_ns() // 1000
        identity = None
        try:
            try:
                command = json.loads(text)
                identity, method = command.get("id"), str(command["method"])
                params = dict(command.get("params") or {})
            except (ValueError, KeyError, TypeError, AttributeError):
                raise RpcError(-32700, "parse error") from None
            session.tested_at = None
            result = self._call(client, session, method.removeprefix("public/"), params)
        except RpcError as error:
            client.send(_rpc(identity, begin, error={"code": error.code, "message": str(error)}))
            if error.code == 10028:
                client.abort()
        else:
            client.send(_rpc(identity, begin, result=result))
            if method == "public/subscribe":
                for key in result:
                    self._greet(client, key)

    def _call(self, client: Client, session: _Session, method: str, params: dict[str, Any]) -> Any:
        if method in ("subscribe", "unsubscribe"):
            return self._change_subscriptions(client, method, params)
        if method == "set_heartbeat":
            interval = params.get("interval")
            if not isinstance(interval, int) or interval < 10:
                raise RpcError(11050, "bad_request")
            session.heartbeat_s, session.next_beat = float(interval), time.monotonic() + interval
            return "ok"
        if method == "disable_heartbeat":
            session.heartbeat_s = None
            return "ok"
        return self._ask(method, params)

    def _change_subscriptions(self, client: Client, method: str, params: dict[str, Any]) -> list[str]:
        keys = [str(key) for key in params.get("channels") or []]
        if not keys or len(keys) > 500:
            raise RpcError(11050, "bad_request")
        if any(key.endswith(".raw") for key in keys):
            raise RpcError(13778, "raw_subscriptions_not_available_for_unauthorized")
        accepted = []
        for key in sorted(dict.fromkeys(keys)):
            if not self._knows(key):
                continue
            accepted.append(key)
            if method == "unsubscribe":
                self._wire.unsubscribe(client, key)
            elif key not in client.keys:
                self._fresh.add((client, key))
                self._wire.subscribe(client, key)
        return accepted

    def _greet(self, client: Client, key: str) -> None:
        """Send what a fresh subscription gets at once; one that was there already gets nothing."""
        if (client, key) not in self._fresh:
            return
        self._fresh.discard((client, key))
        head, _, rest = key.partition(".")
        symbol = self._market.of_venue_symbol(self.name, rest.split(".")[0])
        if head == "trades":
            for one in [symbol] if symbol is not None else self._market.of_venue(self.name):
                if one.truth.subscribed_from is None:
                    one.truth.subscribed_from = one.trade_id + 1
        elif head == "book" and symbol is not None:
            if ".none." in key:
                client.send(_push(key, self._window(symbol, int(key.split(".")[-2]))))
            else:
                client.send(_push(key, _snapshot(symbol)))
        elif head == "ticker" and symbol is not None:
            client.send(_push(key, self._ticker(symbol)))

    def _knows(self, key: str) -> bool:
        words = key.split(".")
        head = words[0]
        if head == "chart":
            return (
                len(words) == 4
                and words[3] in RESOLUTIONS_MS
                and self._market.of_venue_symbol(self.name, words[2]) is not None
            )
        if head == "deribit_volatility_index":
            return words[1:] in [[name] for name in VOLATILITY_INDEXES]
        if head == "trades" and len(words) == 4:
            return words[1] in ("future", "option", "spot", "any") and words[3] in ("100ms", "agg2")
        if head not in ("trades", "book", "ticker", "quote", "perpetual") or len(words) < 2:
            return False
        known = self._market.of_venue_symbol(self.name, words[1]) is not None
        if head == "quote":
            return known and len(words) == 2
        if head == "book" and len(words) == 5:
            return known and words[2] == "none" and words[3] in ("1", "10", "20") and words[4] in ("100ms", "agg2")
        return known and len(words) == 3 and words[2] in ("100ms", "agg2")

    # --- pushes ---

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        name = event.listing.venue_symbol
        self._changed.add(name)
        if isinstance(event, TradeEvent):
            kind = "option" if event.listing.market_type == "option" else "future"
            for channel in (name, f"{kind}.{event.listing.base}", f"{kind}.any", "any.any"):
                for interval in ("100ms", "agg2"):
                    self._send(f"trades.{channel}.{interval}", lambda: f"[{_trade(event)}]")
            self._days[name].add(event)
            for (watched, resolution), candle in self._candles.items():
                if watched == name:
                    candle.add(event)
                    self._touched_candles.add((watched, resolution))
            return
        for interval in ("100ms", "agg2"):
            self._send(f"book.{name}.{interval}", lambda: _change(event))
        symbol = self._market.symbols[self.name, event.listing.symbol]
        for depth in (1, 10, 20):
            self._send(f"book.{name}.none.{depth}.100ms", lambda depth=depth: self._window(symbol, depth))  # type: ignore[misc]
        self._send(f"quote.{name}", lambda: _json(self._quote(symbol)))

    def _send(self, key: str, data: Callable[[], str]) -> None:
        """Write a frame once, and only if a socket wants it."""
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(_push(key, data()))
            return made[0]

        self._wire.publish(self.name, key, frame)

    def tick(self, now_ms: int) -> None:
        """Send what is due: heartbeats, tickers that changed, candles, indexes."""
        now = time.monotonic()
        for client, session in list(self._sessions.items()):
            if client not in self._wire.clients:
                del self._sessions[client]
            else:
                self._beat(client, session, now)
        if self._is_due("tickers", now_ms, TICKER_MS):
            for symbol in self._market.of_venue(self.name):
                name = symbol.listing.venue_symbol
                if name in self._changed:
                    for interval in ("100ms", "agg2"):
                        self._send(f"ticker.{name}.{interval}", lambda symbol=symbol: self._ticker(symbol))  # type: ignore[misc]
                        self._send(
                            f"perpetual.{name}.{interval}",
                            lambda symbol=symbol: _json(  # type: ignore[misc]
                                {
                                    "timestamp": now_ms,
                                    "interest": _Raw(f"{funding_rate(symbol.listing, now_ms):e}"),
                                    "index_price": _Raw(plain(index_price(symbol))),
                                }
                            ),
                        )
            self._changed.clear()
        if self._is_due("charts", now_ms, CHART_MS):
            self._start_candles()
            for symbol_name, resolution in self._touched_candles:
                candle = self._candles[symbol_name, resolution]
                self._send(f"chart.trades.{symbol_name}.{resolution}", lambda candle=candle: _candle(candle))  # type: ignore[misc]
            self._touched_candles.clear()
        if self._is_due("indexes", now_ms, INDEX_MS):
            for index in VOLATILITY_INDEXES:
                data = {"timestamp": now_ms, "volatility": _Raw(plain(volatility(index, now_ms))), "index_name": index}
                self._send(f"deribit_volatility_index.{index}", lambda data=data: _json(data))  # type: ignore[misc]

    def _is_due(self, what: str, now_ms: int, every_ms: int) -> bool:
        if now_ms < self._due.get(what, 0):
            return False
        self._due[what] = now_ms + every_ms
        return True

    def _start_candles(self) -> None:
        """Keep a candle for every chart that somebody watches."""
        for client in self._wire.clients:
            for key in client.keys if client.venue == self.name else ():
                if key.startswith("chart.trades."):
                    _, _, name, resolution = key.split(".")
                    self._candles.setdefault((name, resolution), RunningCandle(RESOLUTIONS_MS[resolution]))

    def _beat(self, client: Client, session: _Session, now: float) -> None:
        if session.tested_at is not None and now > session.tested_at + TEST_S:
            client.abort()
        elif session.heartbeat_s is not None:
            if now >= session.next_beat:
                session.next_beat = now + session.heartbeat_s
                client.send('{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"heartbeat"}}')
                client.send('{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}')
                session.tested_at = session.tested_at or now
        elif client.keys:
            session.quiet_since = now
        elif now > session.quiet_since + SILENT_S:
            client.abort()

    # --- what is known of a symbol ---

    def _symbol(self, params: dict[str, Any]) -> Symbol:
        symbol = self._market.of_venue_symbol(self.name, str(params.get("instrument_name", "")))
        if symbol is None:
            raise RpcError(-32602, "Invalid params")
        return symbol

    def _quote(self, symbol: Symbol) -> dict[str, Any]:
        (bid, bid_size), (ask, ask_size) = symbol.best()
        return {
            "timestamp": _now(),
            "instrument_name": symbol.listing.venue_symbol,
            "best_bid_price": _Raw(bid),
            "best_bid_amount": _Raw(bid_size),
            "best_ask_price": _Raw(ask),
            "best_ask_amount": _Raw(ask_size),
        }

    def _ticker(self, symbol: Symbol) -> str:
        listing, now = symbol.listing, _now()
        day = self._days[listing.venue_symbol]
        mark = _Raw(plain(mark_price(symbol)))
        in_usd = listing.contract is not None
        stats = {
            "high": _raw_or_null(day.high if day.trades else None),
            "low": _raw_or_null(day.low if day.trades else None),
            "price_change": _raw_or_null(day.change_percent),
            "volume": _Raw(plain(day.in_base(listing))),
            "volume_usd": _Raw(plain(day.volume if in_usd else day.turnover)),
            "volume_notional": _Raw(plain(day.volume if in_usd else day.turnover)),
        }
        ticker = {
            **self._quote(symbol),
            "state": "open",
            "stats": stats,
            "open_interest": _Raw(plain(open_interest(listing, now))),
            "mark_price": mark,
            "last_price": _raw_or_null(day.last),
            "index_price": _Raw(plain(index_price(symbol))),
            "min_price": mark,
            "max_price": mark,
            "settlement_price": mark,
            "estimated_delivery_price": mark,
        }
        if listing.market_type == "perpetual":
            rate = funding_rate(listing, now)
            ticker |= {"funding_8h": _Raw(plain(rate)), "current_funding": _Raw(f"{rate / 3:e}"), "interest_value": 0.1}
        if listing.market_type == "option":
            g = greeks(listing, now)
            ticker |= {
                "underlying_price": _Raw(plain(g.underlying)),
                "underlying_index": listing.venue_symbol.rsplit("-", 2)[0],
                "mark_iv": _Raw(plain(g.mark_iv * 100)),
                "bid_iv": _Raw(plain(g.bid_iv * 100)),
                "ask_iv": _Raw(plain(g.ask_iv * 100)),
                "interest_rate": 0.0,
                "greeks": {name: _Raw(plain(getattr(g, name))) for name in ("delta", "gamma", "vega", "theta", "rho")},
            }
        return _json(ticker)

    def _window(self, symbol: Symbol, depth: int) -> str:
        bids, asks = symbol.book(depth)
        return (
            f'{{"timestamp":{_now()},"instrument_name":"{symbol.listing.venue_symbol}","change_id":{symbol.update_id},'
            f'"bids":{_pairs(bids)},"asks":{_pairs(asks)}}}'
        )

    # --- requests ---

    async def _rest(self, request: web.Request) -> web.Response:
        begin = time.time_ns() // 1000
        try:
            result = self._ask(request.match_info["method"], dict(request.query))
        except RpcError as error:
            status = 429 if error.code == 10028 else 400
            body = _rpc(None, begin, error={"code": error.code, "message": str(error)})
            return web.Response(text=body, status=status, content_type="application/json")
        return web.Response(text=_rpc(None, begin, result=result), content_type="application/json")

    def _ask(self, method: str, params: dict[str, Any]) -> Any:
        if method not in self._methods:
            raise RpcError(-32601, "Method not found")
        if not self._requests.take() or (method == "get_instruments" and not self._lists.take()):
            self.rate_limited += 1
            raise RpcError(10028, "too_many_requests")
        return self._methods[method](params)

    def _get_currencies(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"currency": name, "currency_long": name, "min_confirmations": 1} for name in ("BTC", "ETH", "USDC")]

    def _chosen(self, params: dict[str, Any]) -> list[Symbol]:
        kinds = {"future": ("perpetual", "futures"), "option": ("option",)}
        kind = params.get("kind")
        wanted = kinds.get(str(kind), ()) if kind not in (None, "any") else ("perpetual", "futures", "option")
        currency = str(params.get("currency", "any"))
        return [
            symbol
            for symbol in self._market.of_venue(self.name)
            if symbol.listing.market_type in wanted and currency in ("any", _settlement(symbol.listing))
        ]

    def _get_instruments(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        return [_info(symbol) for symbol in self._chosen(params)]

    def _get_order_book(self, params: dict[str, Any]) -> Any:
        symbol = self._symbol(params)
        try:
            depth = int(params.get("depth", 5))
        except ValueError:
            raise RpcError(-32602, "Invalid params") from None
        return _Raw(self._window(symbol, min(max(depth, 1), 10_000)))

    def _get_summaries(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        now = _now()
        found = []
        for symbol in self._chosen(params):
            day = self._days[symbol.listing.venue_symbol]
            found.append(
                {
                    "instrument_name": symbol.listing.venue_symbol,
                    "creation_timestamp": now,
                    "base_currency": symbol.listing.base,
                    "quote_currency": symbol.listing.quote,
                    "open_interest": _Raw(plain(open_interest(symbol.listing, now))),
                    "mark_price": _Raw(plain(mark_price(symbol))),
                    "volume": _Raw(plain(day.in_base(symbol.listing))),
                    "volume_usd": _Raw(plain(day.volume if symbol.listing.contract else day.turnover)),
                    "last": _raw_or_null(day.last),
                }
            )
        return found

    def _get_trades(self, params: dict[str, Any]) -> dict[str, Any]:
        symbol = self._symbol(params)
        truth = symbol.truth
        first_id = truth.ids[0] if truth.ids else 0
        try:
            count = min(max(int(params.get("count", 10)), 1), 1000)
            low = max(0, int(params["start_seq"]) - first_id) if "start_seq" in params else 0
            high = int(params["end_seq"]) - first_id + 1 if "end_seq" in params else len(truth.ids)
            start_ms, end_ms = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", NEVER_MS))
        except ValueError:
            raise RpcError(-32602, "Invalid params") from None
        places = [i for i in range(low, min(high, len(truth.ids))) if start_ms <= truth.times_ms[i] <= end_ms]
        chosen = places[:count] if params.get("sorting") == "asc" else places[-count:][::-1]
        rows = [
            TradeEvent(
                symbol.listing,
                truth.ids[i],
                truth.prices[i],
                truth.quantities[i],
                truth.taker_sold[i],
                truth.times_ms[i],
                truth.liquidations[i],
            )
            for i in chosen
        ]
        return {"trades": [_Raw(_trade(row)) for row in rows], "has_more": len(places) > count}

    def _times(self, params: dict[str, Any], step_ms: int) -> range:
        try:
            start, end = int(params["start_timestamp"]), min(int(params["end_timestamp"]), _now())
        except (KeyError, ValueError):
            raise RpcError(-32602, "Invalid params") from None
        first = -(-start // step_ms) * step_ms
        return range(max(first, end - 1_000 * step_ms), end + 1, step_ms)

    def _get_funding(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        symbol = self._symbol(params)
        found = []
        for at in self._times(params, 3_600_000)[-744:]:
            rate = funding_rate(symbol.listing, at)
            index = _Raw(plain(symbol.listing.price))
            found.append(
                {
                    "timestamp": at,
                    "index_price": index,
                    "prev_index_price": index,
                    "interest_8h": _Raw(plain(rate)),
                    "interest_1h": _Raw(f"{rate / 8:e}"),
                }
            )
        return found

    def _get_volatility(self, params: dict[str, Any]) -> dict[str, Any]:
        index = f"{str(params.get('currency', '')).lower()}_usd"
        steps = {"1": 1_000, "60": 60_000, "3600": 3_600_000, "43200": 43_200_000, "1D": 86_400_000}
        step = steps.get(str(params.get("resolution", "")))
        if index not in VOLATILITY_INDEXES or step is None:
            raise RpcError(-32602, "Invalid params")
        times = self._times(params, step)
        rows = []
        for at in times:
            values = [volatility(index, at + i * step // 4) for i in range(4)]
            rows.append([at, *(_Raw(plain(v)) for v in (values[0], max(values), min(values), values[-1]))])
        return {"data": rows, "continuation": None}


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


def _trade(event: TradeEvent) -> str:
    listing = event.listing
    size = Decimal(CONTRACT_SIZES.get(f"{listing.base}-{listing.quote}", "1")) if _has_size(listing) else Decimal(1)
    more = ""
    if listing.market_type == "option":
        more += f',"iv":{plain(greeks(listing, event.time_ms).mark_iv * 100)}'
    if event.is_liquidation:
        more += ',"liquidation":"T"'
    return (
        f'{{"trade_seq":{event.id},"trade_id":"{listing.base}-{event.id}7","timestamp":{event.time_ms},'
        f'"tick_direction":0,"price":{event.price},"mark_price":{event.price},'
        f'"instrument_name":"{listing.venue_symbol}","index_price":{event.price},'
        f'"direction":"{"sell" if event.taker_sold else "buy"}","contracts":{plain(Decimal(event.quantity) / size)},'
        f'"amount":{event.quantity}{more}}}'
    )


def _has_size(listing: Listing) -> bool:
    return listing.market_type != "option"


def _snapshot(symbol: Symbol) -> str:
    bids, asks = symbol.book()
    return (
        f'{{"type":"snapshot","timestamp":{_now()},"instrument_name":"{symbol.listing.venue_symbol}",'
        f'"change_id":{symbol.update_id},"bids":{_entries(bids, "new")},"asks":{_entries(asks, "new")}}}'
    )


def _change(event: BookEvent) -> str:
    """Write a change. Whether a level is new makes no difference to a book; the venue tells it all the same."""
    return (
        f'{{"type":"change","timestamp":{event.time_ms},"prev_change_id":{event.previous},'
        f'"instrument_name":"{event.listing.venue_symbol}","change_id":{event.last},'
        f'"bids":{_entries(event.bids, "change")},"asks":{_entries(event.asks, "change")}}}'
    )


def _entries(levels: Sequence[tuple[str, str]], action: str) -> str:
    return (
        "["
        + ",".join(
            f'["delete",{price},0.0]' if not Decimal(amount) else f'["{action}",{price},{amount}]'
            for price, amount in levels
        )
        + "]"
    )


def _pairs(levels: Sequence[tuple[str, str]]) -> str:
    return "[" + ",".join(f"[{price},{amount}]" for price, amount in levels) + "]"


def _candle(candle: RunningCandle) -> str:
    prices = f'"open":{candle.open},"high":{candle.high},"low":{candle.low},"close":{candle.close}'
    listing = candle.listing
    volume, cost = candle.volume, candle.turnover
    if listing is not None and listing.contract is not None:
        volume, cost = candle.base_of_usd, candle.volume
    return f'{{"tick":{candle.open_ms},{prices},"volume":{plain(volume)},"cost":{plain(cost)}}}'


def _settlement(listing: Listing) -> str:
    return "USDC" if listing.quote == "USDC" else listing.base


def _info(symbol: Symbol) -> dict[str, Any]:
    listing = symbol.listing
    is_option, is_linear = listing.market_type == "option", listing.quote == "USDC"
    found: dict[str, Any] = {
        "instrument_name": listing.venue_symbol,
        "instrument_id": abs(hash(listing.venue_symbol)) % 10**6,
        "kind": "option" if is_option else "future",
        "base_currency": listing.base,
        "quote_currency": listing.quote if not is_option else listing.base,
        "counter_currency": listing.quote,
        "settlement_currency": _settlement(listing),
        "instrument_type": "linear" if is_linear else "reversed",
        "contract_size": _Raw(CONTRACT_SIZES.get(f"{listing.base}-{listing.quote}", "1") if not is_option else "1"),
        "tick_size": _Raw(plain(listing.tick)),
        "tick_size_steps": [],
        "min_trade_amount": _Raw(plain(listing.lot)),
        "maker_commission": 0.0,
        "taker_commission": 0.0005,
        "settlement_period": "perpetual" if listing.market_type == "perpetual" else "month",
        "expiration_timestamp": listing.expiry_ms or NEVER_MS,
        "creation_timestamp": 1_534_167_754_000,
        "price_index": f"{listing.base.lower()}_{listing.quote.lower()}",
        "is_active": True,
        "state": "open",
        "rfq": False,
        "block_trade_commission": 0.0,
        "block_trade_min_trade_amount": 1,
        "block_trade_tick_size": 0.01,
    }
    if is_option:
        found |= {
            "option_type": "call" if listing.option_type == "C" else "put",
            "strike": _Raw(f"{listing.strike}.0"),
        }
    return found


def _now() -> int:
    return int(time.time() * 1000)

"""The server side of OKX v5: public and business sockets, one acknowledgement an argument, book chains, summaries.

Trades, books, best prices and liquidations are sent as they happen. Everything else is sent by the clock, for keys
somebody subscribed, and once to whoever subscribes; ``instruments`` says only what changes, and nothing does.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.okx.channels import (
    CHANNELS,
    book_frame,
    counted_trade_frame,
    key_of,
    levels_text,
    liquidation_frame,
    push,
    trade_frame,
)
from marketprism_ray.simulator.okx.figures import Figures
from marketprism_ray.simulator.okx.rest import LIMITS, OkxRest, answer
from marketprism_ray.simulator.okx.rows import (
    TYPES,
    candle_row,
    family_of,
    funding_row,
    index_row,
    interest_row,
    liquidation_row,
    mark_row,
    option_row,
    text,
    ticker_row,
    type_of,
)
from marketprism_ray.simulator.wire import Client, Wire

KEEP_ALIVE_S = 60.0
BEAT_MS = 100
"""What is sent by the clock is looked at this often."""
CONNECTION = "a4d3ae55"


class Okx:
    """One simulated market of this house: ``okx_spot`` or ``okx_derivatives``."""

    def __init__(self, name: str, market: Market, wire: Wire, *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.name = name
        self.rate_limited = 0
        self._keep_alive_ms = keep_alive_s * 1000
        self._market = market
        self._wire = wire
        self._figures: dict[str, Figures] = {}
        self._indices: dict[str, Figures] = {}
        self._families: dict[str, list[Figures]] = defaultdict(list)
        self.relist()
        self._rest_api = OkxRest(self._figures)
        self._spent: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._changed: dict[str, int] = {}
        self._forced: dict[str, TradeEvent] = {}
        """The last liquidation of each type of instrument."""
        self._streams: dict[str, tuple[str, str]] = {}
        """Channel and argument of each key that was ever subscribed and is sent by the clock."""
        self._sent: dict[str, tuple[int, int | None]] = {}
        """When a key was last sent by the clock, and the state that was sent."""
        self._beat = 0

    def relist(self) -> None:
        """Look at the list of symbols again."""
        listed = {symbol.listing.venue_symbol: symbol for symbol in self._market.of_venue(self.name)}
        for gone in self._figures.keys() - listed.keys():
            del self._figures[gone]
        for name, symbol in listed.items():
            if name not in self._figures:
                self._figures[name] = Figures(symbol)
        self._indices.clear()
        self._families.clear()
        for figures in self._figures.values():
            listing = figures.symbol.listing
            if listing.market_type == "option":
                self._families[family_of(listing)].append(figures)
            else:
                self._indices.setdefault(f"{listing.base}-{listing.quote}", figures)

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers of this venue know them."""
        return symbol.truth

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{self.name}/ws/v5/{{path:public|business}}", self._socket),
            web.get(f"/{self.name}/api/v5/{{endpoint:.+}}", self._rest),
        ]

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URL of each socket and of ``rest``."""
        sockets = {path: f"ws://{host}/{self.name}/ws/v5/{path}" for path in ("public", "business")}
        return {**sockets, "rest": f"http://{host}/{self.name}"}

    # --- commands ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._wire.serve(request, self.name, request.match_info["path"], self._command, idle_s=30.0)

    def _command(self, client: Client, message: str) -> None:
        if message == "ping":
            client.send("pong")
            return
        try:
            command = json.loads(message)
            op, args = command["op"], [dict(arg) for arg in command["args"]]
            if op not in ("subscribe", "unsubscribe"):
                raise ValueError(op)
        except (ValueError, KeyError, TypeError):
            client.send(text({"event": "error", "code": "60012", "msg": "Illegal request", "connId": CONNECTION}))
            return
        identity = {"id": command["id"]} if "id" in command else {}
        for arg in args:
            if not self._has(client.path, arg):
                named = next((name for name in ("instId", "instFamily", "uly", "instType") if name in arg), "instId")
                stream = f"channel:{arg.get('channel', '')},{named}:{arg.get(named, '')}"
                error = f"Wrong URL or {stream} doesn't exist. Please use the correct URL"
                client.send(text({**identity, "event": "error", "code": "60018", "msg": error, "connId": CONNECTION}))
                continue
            client.send(text({**identity, "event": op, "arg": arg, "connId": CONNECTION}))
            name = arg["channel"]
            value = arg[CHANNELS[name].parameter]
            key = key_of(name, value)
            if op == "unsubscribe":
                self._wire.unsubscribe(client, key)
            else:
                self._wire.subscribe(client, key)
                self._welcome(client, key, name, value)

    def _has(self, path: str, arg: dict[str, Any]) -> bool:
        """Tell whether an argument names a stream of this socket."""
        channel = CHANNELS.get(str(arg.get("channel")))
        if channel is None or channel.path != path:
            return False
        value = arg.get(channel.parameter)
        if not isinstance(value, str):
            return False
        match channel.argument:
            case "instType":
                return value in TYPES
            case "instFamily":
                return value in self._families
            case "index":
                return value in self._indices
        found = self._figures.get(value)
        return found is not None and type_of(found.symbol.listing) in channel.types

    def _welcome(self, client: Client, key: str, name: str, value: str) -> None:
        """Send what a new listener gets at once."""
        now_ms = self._wire.now_ms()
        if CHANNELS[name].every_ms:
            self._streams[key] = name, value
            self._sent.setdefault(key, (now_ms, self._state(name, value)))
            rows = self._rows(name, value, now_ms)
            if rows:
                self._wire.greet(client, key, push(key, rows))
        elif name == "books":
            self._wire.greet(client, key, self._snapshot(self._figures[value].symbol))
        elif name in ("trades", "trades-all"):
            symbol = self._figures[value].symbol
            if symbol.truth.subscribed_from is None:
                symbol.truth.subscribed_from = symbol.trade_id + 1
        elif name == "liquidation-orders" and value in self._forced:
            self._wire.greet(client, key, push(key, [liquidation_row(self._forced[value])]))

    def _snapshot(self, symbol: Symbol) -> str:
        bids, asks = symbol.book(400)
        return (
            f'{{"arg":{key_of("books", symbol.listing.venue_symbol)},'
            f'"action":"snapshot","data":[{{"asks":{levels_text(asks)},'
            f'"bids":{levels_text(bids)},"ts":"{self._wire.now_ms()}","checksum":0,"prevSeqId":-1,"seqId":{symbol.update_id}}}]}}'
        )

    def notice(self) -> None:
        """Announce a service upgrade on every socket."""
        for client in self._wire.clients:
            if client.venue == self.name:
                message = "The connection will soon be closed for a service upgrade. Please reconnect."
                client.send(text({"event": "notice", "code": "64008", "msg": message, "connId": CONNECTION}))

    # --- as it happens ---

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""
        symbol = event.listing.venue_symbol
        self._figures[symbol].add(event)
        if isinstance(event, BookEvent):
            self._changed[symbol] = event.time_ms
            self._send(key_of("bbo-tbt", symbol), event, self._best)
            self._send(key_of("books", symbol), event, book_frame)
            return
        self._send(key_of("trades-all", symbol), event, trade_frame)
        self._send(key_of("trades", symbol), event, counted_trade_frame)
        if event.is_liquidation:
            kind = type_of(event.listing)
            self._forced[kind] = event
            self._send(key_of("liquidation-orders", kind), event, liquidation_frame)

    def _best(self, key: str, event: BookEvent) -> str:
        bid, ask = self._figures[event.listing.venue_symbol].symbol.best()
        return (
            f'{{"arg":{key},"data":[{{"asks":{levels_text([ask])},"bids":{levels_text([bid])},'
            f'"ts":"{event.time_ms}","seqId":{event.last}}}]}}'
        )

    def _send(self, key: str, event: Any, write: Callable[[str, Any], str]) -> None:
        """Write a frame once, and only if somebody wanted it once."""
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(write(key, event))
            return made[0]

        self._wire.publish(self.name, key, frame)

    # --- by the clock ---

    def tick(self, now_ms: int) -> None:
        """Send what is due by time, and say that books are alive which have not changed for long."""
        for name, figures in self._figures.items():
            if now_ms - self._changed.setdefault(name, now_ms) >= self._keep_alive_ms:
                self._keep_alive(figures.symbol, now_ms)
        if now_ms // BEAT_MS == self._beat:
            return
        self._beat = now_ms // BEAT_MS
        for figures in self._figures.values():
            figures.roll(now_ms)
        wanted = self._wire.known(self.name) & self._streams.keys()
        for key in self._sent.keys() - wanted:
            del self._sent[key]
        for key in sorted(wanted):
            self._update(key, now_ms)
        for figures in self._figures.values():
            figures.closed.clear()

    def _update(self, key: str, now_ms: int) -> None:
        """Send a stream that is due and has changed; a candle that is over at once."""
        name, value = self._streams[key]
        if name.startswith("candle"):
            figures = self._figures[value]
            for bar in figures.closed.get(name.removeprefix("candle"), ()):
                self._send(key, [candle_row(figures, bar, is_closed=True)], push)
        every, state = CHANNELS[name].every_ms, self._state(name, value)
        sent_ms, sent_state = self._sent.get(key, (0, None))
        if now_ms // every == sent_ms // every or (state is not None and state == sent_state):
            return
        self._sent[key] = now_ms, state
        rows = self._rows(name, value, now_ms)
        if rows:
            self._send(key, rows, push)

    def _state(self, name: str, value: str) -> int | None:
        """Give a number that grows when a stream has something new to say; None if it always has."""
        if name == "index-tickers":
            return self._indices[value].trades
        if name.startswith("candle"):
            return self._figures[value].trades
        if name in ("tickers", "books5"):
            figures = self._figures[value]
            return figures.books + (figures.trades if name == "tickers" else 0)
        return None

    def _rows(self, name: str, value: str, now_ms: int) -> list[Any]:
        """Give the rows of a stream that is sent by the clock."""
        match name:
            case "tickers":
                return [ticker_row(self._figures[value], now_ms)]
            case "index-tickers":
                return [index_row(self._indices[value], now_ms)]
            case "mark-price":
                return [mark_row(self._figures[value], now_ms)]
            case "open-interest":
                return [interest_row(self._figures[value], now_ms)]
            case "funding-rate":
                return [funding_row(self._figures[value].symbol.listing, now_ms)]
            case "opt-summary":
                return [option_row(figures, now_ms) for figures in self._families[value]]
            case "books5":
                symbol = self._figures[value].symbol
                bids, asks = ([[p, q, "0", "1"] for p, q in side] for side in symbol.book(5))
                return [{"asks": asks, "bids": bids, "instId": value, "ts": str(now_ms), "seqId": symbol.update_id}]
        figures = self._figures[value]
        figures.roll(now_ms)
        bar = figures.current(name.removeprefix("candle"))
        return [] if bar is None else [candle_row(figures, bar, is_closed=False)]

    def _keep_alive(self, symbol: Symbol, now_ms: int) -> None:
        """Send no levels, and ``prevSeqId`` equal to ``seqId``."""
        name, last = symbol.listing.venue_symbol, symbol.update_id
        self._changed[name] = now_ms
        self._send(key_of("books", name), BookEvent(symbol.listing, last, last, last, (), (), now_ms), book_frame)

    # --- faults of this house ---

    def misbehave(self, kind: str) -> bool:
        """Do a fault that only this house knows; False if it does not."""
        match kind:
            case "reset":
                self.reset()
            case "keep_alive":
                self.keep_alive()
            case _:
                return False
        return True

    def keep_alive(self) -> None:
        """Say of every book that it is alive, now."""
        for figures in self._figures.values():
            self._keep_alive(figures.symbol, self._wire.now_ms())

    def reset(self) -> None:
        """Start the books' sequences afresh, as maintenance does: the next update's seqId is below its prevSeqId."""
        for figures in self._figures.values():
            symbol = figures.symbol
            previous, symbol.update_id = symbol.update_id, 1000
            event = symbol.change(self._wire.now_ms())
            self.publish(
                BookEvent(event.listing, event.first, event.last, previous, event.bids, event.asks, event.time_ms)
            )

    # --- REST ---

    async def _rest(self, request: web.Request) -> web.Response:
        endpoint, query = request.match_info["endpoint"], request.query
        most, counted_by = LIMITS.get(endpoint, (20, ""))
        spent, now = self._spent[endpoint, query.get(counted_by, "")], time.monotonic()
        while spent and spent[0] < now - 2:
            spent.popleft()
        if len(spent) >= most:
            self.rate_limited += 1
            return answer([], code="50011", message="Too Many Requests", status=429)
        spent.append(now)
        return self._rest_api.answer(endpoint, query, self._wire.now_ms())

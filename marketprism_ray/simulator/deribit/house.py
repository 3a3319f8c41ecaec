"""The server side of Deribit v2: JSON-RPC over one socket, heartbeats, book chains, history.

Prices and amounts are written as JSON numbers. Inverse contracts are counted in USD, everything else in base.
Changes of books and quotes are sent as they happen, one frame an event. Trades are bundled, and everything else is
sent by the clock: for keys somebody subscribed, when there is something new, and once to whoever subscribes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable
from itertools import count as numbers
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.deribit.channels import VOLATILITY_INDEXES, Channel, is_group
from marketprism_ray.simulator.deribit.listed import (
    INTERVALS_MS,
    RESOLUTIONS_MS,
    Listed,
    current_funding,
    index_name_of,
)
from marketprism_ray.simulator.deribit.methods import Methods, invalid, keys_of
from marketprism_ray.simulator.deribit.rows import candle_text, change, quote, snapshot, ticker, trade, window
from marketprism_ray.simulator.deribit.session import Session
from marketprism_ray.simulator.deribit.text import TOO_MANY, Raw, RpcError, exponent, json_text, push, rpc
from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth, plain
from marketprism_ray.simulator.summaries import STEP_MS, greeks, index_price, mark_price, volatility
from marketprism_ray.simulator.wire import Client, Wire

BEAT_MS = 100
"""What is sent by the clock is looked at this often."""
SECOND_MS = 1_000
SILENT_MS = 60_000
"""A socket without heartbeat and subscriptions is cut after this."""
TEST_MS = 10_000
"""An unanswered test request ends the session after this."""
LEAST_HEARTBEAT_S = 10


class Deribit:
    """The simulated market."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self._market = market
        self._wire = wire
        self._numbers = numbers(1)
        self._listed: dict[str, Listed] = {}
        self._indexes: dict[str, Listed] = {}
        self._sessions: dict[Client, Session] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._beat = 0
        self._bundles: dict[str, dict[str, list[tuple[Listed, TradeEvent]]]] = {
            every: defaultdict(list) for every in INTERVALS_MS
        }
        """Trades that were not sent yet, by interval and key."""
        self._bundled: dict[str, int] = {}
        self._streams: dict[str, Channel] = {}
        """Every key that was ever subscribed and is sent by the clock."""
        self._sent: dict[str, tuple[int, Any]] = {}
        """When a key was last sent by the clock, and the state that was sent."""
        self._methods = Methods(self._listed, self._indexes, wire.now_ms)
        self.relist()

    @property
    def rate_limited(self) -> int:
        """Requests refused."""
        return self._methods.rate_limited

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
                self._listed[name] = Listed(symbol, next(self._numbers))
                if not is_first:
                    self._announce(self._listed[name], "open")
        self._indexes.clear()
        for one in self._listed.values():
            if one.kind != "option":
                self._indexes.setdefault(index_name_of(one.symbol.listing), one)

    def _announce(self, one: Listed, state: str) -> None:
        data = json_text({"timestamp": self._wire.now_ms(), "state": state, "instrument_name": one.name})
        for kind in (one.kind, "any"):
            for currency in (one.currency, "any"):
                self._send(f"instrument.state.{kind}.{currency}", lambda: data)

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers of this venue know them."""
        return symbol.truth

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
        self._sessions[client] = Session(self._wire.now_ms())

    def _command(self, client: Client, text: str) -> None:
        session = self._sessions.get(client)
        if session is None or session.is_over:
            return
        begin = self._wire.now_us()
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
                raise invalid("params")
            result = self._call(client, session, method, params)
        except RpcError as error:
            answer = rpc(identity, begin, self._wire.now_us(), error=error.content)
            if error.code == TOO_MANY:
                self._end(client, session, answer)
            else:
                client.send(answer)
        else:
            client.send(
                rpc(
                    identity,
                    begin,
                    self._wire.now_us(),
                    result=result[0] if isinstance(result, tuple) else result,
                )
            )
            if isinstance(result, tuple):
                for key in result[1]:
                    self._greet(client, key)

    def _call(self, client: Client, session: Session, method: str, params: dict[str, Any]) -> Any:
        """Do what a socket asks; a subscription gives the keys it accepts and those that are new."""
        match method:
            case "public/subscribe":
                return self._subscribe(client, params)
            case "public/unsubscribe":
                keys = [key for key in keys_of(params) if self._channel(key) is not None]
                for key in keys:
                    self._wire.unsubscribe(client, key)
                return keys
            case "public/set_heartbeat":
                interval = params.get("interval")
                if not isinstance(interval, int) or interval < LEAST_HEARTBEAT_S:
                    raise RpcError(11050, "bad_request", f"interval must be at least {LEAST_HEARTBEAT_S}")
                session.heartbeat_ms = interval * 1000
                session.next_beat_ms = self._wire.now_ms() + session.heartbeat_ms
                return "ok"
            case "public/disable_heartbeat":
                session.heartbeat_ms = session.tested_ms = None
                session.quiet_since_ms = self._wire.now_ms()
                return "ok"
            case "public/test":
                session.tested_ms = None
        if not method.startswith("public/"):
            raise RpcError(-32601, "Method not found")
        return self._methods.answer(method.removeprefix("public/"), params)

    def _subscribe(self, client: Client, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        accepted, fresh = [], []
        for key in keys_of(params):
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
        now_ms = self._wire.now_ms()
        if channel.topic == "trades":
            for one in self._members(channel.place):
                truth = one.symbol.truth
                if truth.subscribed_from is None:
                    truth.subscribed_from = one.symbol.trade_id + 1
        elif channel.topic == "book":
            one = self._listed[channel.place]
            one.know()
            self._wire.greet(client, key, push(key, snapshot(one.symbol, now_ms)))
        elif channel.topic == "quote":
            self._wire.greet(client, key, push(key, json_text(quote(self._listed[channel.place].symbol, now_ms))))
        elif channel.every_ms:
            self._streams[key] = channel
            self._sent.setdefault(key, (now_ms, self._state(channel, now_ms)))
            text = self._text(channel, now_ms)
            if text is not None:
                self._wire.greet(client, key, push(key, text))

    def _members(self, place: str) -> list[Listed]:
        """Give the symbols of a group, or the one of that name."""
        if place in self._listed:
            return [self._listed[place]]
        kind, _, currency = place.partition(".")
        return [one for one in self._listed.values() if one.is_in(kind, currency)]

    def _channel(self, key: str) -> Channel | None:
        """Read a key; None if there is no such channel."""
        match key.split("."):
            case ["trades" | "book" | "ticker" as topic, name, every] if name in self._listed and every in INTERVALS_MS:
                return Channel(topic, name, INTERVALS_MS[every] if topic == "ticker" else 0)
            case ["perpetual", name, every] if name in self._listed and every in INTERVALS_MS:
                is_perpetual = self._listed[name].symbol.listing.market_type == "perpetual"
                return Channel("perpetual", name, INTERVALS_MS[every]) if is_perpetual else None
            case ["quote", name] if name in self._listed:
                return Channel("quote", name)
            case ["book", name, "none", "1" | "10" | "20" as depth, every] if name in self._listed:
                return Channel("window", name, INTERVALS_MS[every], depth) if every in INTERVALS_MS else None
            case ["trades", kind, currency, every] if is_group(kind, currency) and every in INTERVALS_MS:
                return Channel("trades", f"{kind}.{currency}")
            case ["instrument", "state", kind, currency] if is_group(kind, currency):
                return Channel("state", f"{kind}.{currency}")
            case ["chart", "trades", name, resolution] if name in self._listed and resolution in RESOLUTIONS_MS:
                return Channel("chart", name, SECOND_MS, resolution)
            case ["deribit_volatility_index", index] if index in VOLATILITY_INDEXES:
                return Channel("volatility", index, SECOND_MS)
            case ["deribit_price_index", index] if index in self._indexes:
                return Channel("index", index, SECOND_MS)
            case ["markprice", "options", index] if index in self._indexes:
                return Channel("marks", index, SECOND_MS)
            case ["platform_state"]:
                return Channel("platform", "")
        return None

    def _end(self, client: Client, session: Session, text: str = "", code: int = 1000) -> None:
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
            self._add_trade(one, event)
            return
        one.books += 1
        entries = one.entries(event)
        if entries is not None:
            data = change(event, *entries)
            for key in one.book_keys:
                self._send(key, lambda: data)
        self._send(one.quote_key, lambda: json_text(quote(one.symbol, event.time_ms)))

    def _add_trade(self, one: Listed, event: TradeEvent) -> None:
        one.trades += 1
        one.day.add(event)
        for resolution, candle in one.candles.items():
            if candle.trades and event.time_ms // candle.interval_ms * candle.interval_ms != candle.open_ms:
                # The last word about a candle is sent before its successor begins.
                last = candle_text(candle)
                self._send(f"chart.trades.{one.name}.{resolution}", lambda last=last: last)  # type: ignore[misc]
            candle.add(event)
            candle.closed.clear()
        for every, bundles in self._bundles.items():
            for key in one.trade_keys[every]:
                bundles[key].append((one, event))

    def _send(self, key: str, data: Callable[[], str]) -> None:
        """Write a frame once, and only if somebody wanted it once."""
        made: list[str] = []

        def frame(_: Client) -> str:
            if not made:
                made.append(push(key, data()))
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
        wanted = self._wire.known(self.name) & self._streams.keys()
        for key in self._sent.keys() - wanted:
            del self._sent[key]
        for key in sorted(wanted):
            self._update(key, now_ms)

    def _look_after(self, client: Client, session: Session, now_ms: int) -> None:
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
            self._send(key, lambda: f"[{','.join(trade(one, event) for one, event in waiting)}]")

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

    def _state(self, channel: Channel, now_ms: int) -> Any:
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

    def _text(self, channel: Channel, now_ms: int) -> str | None:
        """Write what a stream has to say now; None if that is nothing yet."""
        match channel.topic:
            case "ticker":
                return json_text(ticker(self._listed[channel.place], now_ms))
            case "perpetual":
                symbol = self._listed[channel.place].symbol
                rate, index = current_funding(symbol.listing, now_ms), Raw(plain(index_price(symbol)))
                return json_text({"timestamp": now_ms, "interest": exponent(rate), "index_price": index})
            case "window":
                return json_text(window(self._listed[channel.place].symbol, int(channel.detail), now_ms))
            case "chart":
                candle = self._listed[channel.place].candle(channel.detail, now_ms)
                return candle_text(candle) if candle.trades else None
            case "volatility":
                value = Raw(plain(volatility(channel.place, now_ms)))
                return json_text({"timestamp": now_ms, "volatility": value, "index_name": channel.place})
            case "index":
                value = Raw(plain(index_price(self._indexes[channel.place].symbol)))
                return json_text({"timestamp": now_ms, "price": value, "index_name": channel.place})
            case _:
                return json_text(self._marks(channel.place, now_ms))

    def _marks(self, index: str, now_ms: int) -> list[dict[str, Any]]:
        """Give the marks of options; here volatilities are fractions."""
        return [
            {
                "timestamp": now_ms,
                "instrument_name": one.name,
                "mark_price": Raw(plain(mark_price(one.symbol))),
                "iv": Raw(plain(greeks(one.symbol.listing, now_ms).mark_iv)),
            }
            for one in self._listed.values()
            if one.kind == "option" and index_name_of(one.symbol.listing) == index
        ]

    # --- requests ---

    async def _rest(self, request: web.Request) -> web.Response:
        begin = self._wire.now_us()
        try:
            result = self._methods.answer(request.match_info["method"], dict(request.query))
        except RpcError as error:
            body = rpc(None, begin, self._wire.now_us(), error=error.content)
            return web.Response(
                text=body, status=429 if error.code == TOO_MANY else 400, content_type="application/json"
            )
        return web.Response(text=rpc(None, begin, self._wire.now_us(), result=result), content_type="application/json")


async def _close(client: Client, text: str, code: int) -> None:
    with contextlib.suppress(ConnectionError):
        if text:
            await client.socket.send_str(text)
        await client.socket.close(code=code)
    client.abort()

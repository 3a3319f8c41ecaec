"""The server side of Deribit v2: JSON-RPC over one socket, heartbeats, book chains, history.

Prices and amounts are written as JSON numbers. Inverse contracts are counted in USD, everything else in base.
Quotes are sent as they happen. Changes of books and trades wait for the end of their interval, and everything else is
sent by the clock as well: for keys somebody subscribed, when there is something new, and once to whoever subscribes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.deribit.books import Chain
from marketprism_ray.simulator.deribit.channels import Channel
from marketprism_ray.simulator.deribit.combos import Combo
from marketprism_ray.simulator.deribit.listed import INTERVALS_MS, Listed, index_name_of
from marketprism_ray.simulator.deribit.methods import Methods, invalid, keys_of
from marketprism_ray.simulator.deribit.rows import STATES, candle_text, quote, trade
from marketprism_ray.simulator.deribit.session import Session
from marketprism_ray.simulator.deribit.streams import BEAT_MS, Streams
from marketprism_ray.simulator.deribit.text import TOO_MANY, RpcError, json_text, push, rpc
from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.wire import Client, Wire

SOCKETS = 32
"""Sockets that one address may have open."""
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
        self._numbers: dict[str, int] = {}
        """Numbers in trade ids; what is listed again keeps its own."""
        self._listed: dict[str, Listed] = {}
        self._past: dict[str, Listed] = {}
        """Instruments that are not listed any more: their history can be asked for."""
        self._combos: dict[str, Combo] = {}
        self._legs: dict[int, tuple[Combo, TradeEvent]] = {}
        """First legs of spreads whose second leg has not come yet, by number."""
        self._states: dict[str, str] = {}
        self._chains: dict[str, Chain] = {}
        """Books that somebody subscribed once, by key."""
        self._indexes: dict[str, Listed] = {}
        self._sessions: dict[Client, Session] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._beat = 0
        self._bundles: dict[str, dict[str, list[str]]] = {every: defaultdict(list) for every in INTERVALS_MS}
        """Trades that were not sent yet, by interval and key."""
        self._bundled: dict[str, int] = {}
        self._streams: dict[str, Channel] = {}
        """Every key that was ever subscribed and is sent by the clock."""
        self._sent: dict[str, tuple[int, Any]] = {}
        """When a key was last sent by the clock, and the state that was sent."""
        self._channels = Streams(self._listed, self._combos, self._indexes)
        self._methods = Methods(self._listed, self._past, self._combos, self._indexes, wire.now_ms)
        self.relist()

    @property
    def rate_limited(self) -> int:
        """Requests refused."""
        return self._methods.rate_limited

    def relist(self) -> None:
        """Look at the list of symbols again, and say what came and went."""
        listed = {symbol.listing.venue_symbol: symbol for symbol in self._market.of_venue(self.name)}
        is_first = not self._states
        for name in list(self._listed):
            if name not in listed:
                gone = self._past[name] = self._listed.pop(name)
                for every in INTERVALS_MS:
                    self._chains.pop(f"book.{name}.{every}", None)
                self._announce(gone, "delivered" if gone.symbol.listing.expiry_ms else "inactive")
                self._states.pop(name)
        for name, symbol in listed.items():
            if name not in self._listed:
                number = self._numbers.setdefault(name, len(self._numbers) + 1)
                self._listed[name] = self._past.pop(name) if name in self._past else Listed(symbol, number)
                if not is_first:
                    self._announce(self._listed[name], "created")
            if self._states.get(name, symbol.state) != symbol.state:
                self._announce(self._listed[name], STATES[symbol.state])
            self._states[name] = symbol.state
        self._indexes.clear()
        for one in self._listed.values():
            if one.kind != "option":
                self._indexes.setdefault(index_name_of(one.symbol.listing), one)
        self._list_combos()

    def _list_combos(self) -> None:
        """List the spreads whose legs are listed; one that goes keeps its trades for when it comes again."""
        for one in self._listed.values():
            listing = one.symbol.listing
            perpetual = self._market.symbols.get((self.name, f"{listing.base}-{listing.quote}-SWAP"))
            if listing.market_type != "futures" or perpetual is None:
                continue
            combo = Combo(one, self._listed[perpetual.listing.venue_symbol], one.number)
            self._combos.setdefault(combo.name, combo)

    def _announce(self, one: Listed, state: str) -> None:
        """Say what became of an instrument; what is new is said on a channel of its own as well."""
        said = "open" if state == "created" else state
        data = json_text({"timestamp": self._wire.now_ms(), "state": said, "instrument_name": one.name})
        for kind in (one.kind, "any"):
            for currency in (one.currency, "any"):
                self._send(f"instrument.state.{kind}.{currency}", lambda: data)
                if state == "created":
                    self._send(f"instrument.creation.{kind}.{currency}", lambda: data)

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers of this venue know them."""
        return symbol.truth

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes."""
        return [
            web.get(f"/{self.name}/ws/api/v2", self._socket),
            *(web.get(f"/{self.name}/{host}api/v2/public/{{method}}", self._rest) for host in ("", "history/")),
            *(web.post(f"/{self.name}/{host}api/v2/public/{{method}}", self._post) for host in ("", "history/")),
            *(web.post(f"/{self.name}/api/v2{end}", self._post) for end in ("", "/")),
        ]

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URLs."""
        return {"public": f"ws://{host}/{self.name}/ws/api/v2", "rest": f"http://{host}/{self.name}"}

    def refusal(self, status: int) -> str:
        """Give the body of an answer that a fault makes of this HTTP status."""
        error = RpcError(TOO_MANY, "too_many_requests") if status == 429 else RpcError(11094, "internal_server_error")
        now_us = self._wire.now_us()
        return rpc(None, now_us, now_us, error=error.content)

    def notice(self) -> None:
        """Announce maintenance to those who want to know: nobody else is told."""
        self._send("platform_state", lambda: '{"maintenance":true}')

    def misbehave(self, kind: str) -> bool:
        """Know no fault of its own."""
        return False

    # --- sockets ---

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        address = request.remote
        if sum(session.address == address for session in self._sessions.values()) >= SOCKETS:
            return web.Response(status=429, text="Too many connections")

        def opened(client: Client, _: str) -> None:
            self._sessions[client] = Session(self._wire.now_ms(), address)

        return await self._wire.serve(
            request, self.name, "public", self._command, idle_s=None, names=("",), opened=opened
        )

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
                self._methods.take("subscribe", session.address)
                return self._subscribe(client, params)
            case "public/unsubscribe_all":
                for key in list(client.keys):
                    self._wire.unsubscribe(client, key)
                return "ok"
            case "public/unsubscribe":
                keys = [key for key in keys_of(params) if self._channels.channel(key) is not None]
                for key in keys:
                    self._wire.unsubscribe(client, key)
                self._methods.take("requests", session.address)
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
        return self._methods.answer(method.removeprefix("public/"), params, session.address, is_socket=True)

    def _subscribe(self, client: Client, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        accepted, fresh = [], []
        for key in keys_of(params):
            channel = self._channels.channel(key)
            if channel is None:
                continue
            accepted.append(key)
            if key not in client.keys:
                # What is bundled by now is of others: a new listener gets what happens from now on.
                self._send_bundle(key)
                if channel.topic == "book" and key not in self._chains:
                    self._chains[key] = Chain(self._listed[channel.place].symbol)
                self._send_book(key)
                if channel.topic == "incremental":
                    self._send_now(key, channel, self._wire.now_ms())
                self._wire.subscribe(client, key)
                fresh.append(key)
        return accepted, fresh

    def _greet(self, client: Client, key: str) -> None:
        """Send what a fresh subscription gets at once; one that was there already gets nothing."""
        channel = self._channels.channel(key)
        assert channel is not None
        now_ms = self._wire.now_ms()
        if channel.topic == "trades":
            for one in self._channels.members(channel.place):
                truth = one.symbol.truth
                if truth.subscribed_from is None:
                    truth.subscribed_from = one.symbol.trade_id + 1
        elif channel.topic == "book":
            self._wire.greet(client, key, push(key, self._chains[key].snapshot(now_ms)))
        elif channel.topic == "quote":
            self._wire.greet(client, key, push(key, json_text(quote(self._listed[channel.place].symbol, now_ms))))
        elif channel.every_ms:
            self._streams[key] = channel
            self._sent.setdefault(key, (now_ms, self._channels.state(channel, now_ms)))
            text = self._channels.first_text(channel, now_ms)
            if text is not None:
                self._wire.greet(client, key, push(key, text))

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
            self._add_leg(one, event)
            self._add_trade(one, event)
            return
        one.books += 1
        for every in INTERVALS_MS:
            if (chain := self._chains.get(f"book.{one.name}.{every}")) is not None:
                chain.add(event)
        self._send(one.quote_key, lambda: json_text(quote(one.symbol, event.time_ms)))

    def _add_leg(self, one: Listed, event: TradeEvent) -> None:
        """Take note of a leg of a spread; with the second one the spread itself is traded."""
        number = event.combo
        if number is None:
            return
        if number not in self._legs:
            combo = next(combo for combo in self._combos.values() if combo.legs[0] is one)
            self._legs[number] = combo, event
            for leg in combo.legs:
                leg.combos[number] = combo.name, combo.trade_id(len(combo.trades))
            return
        combo, first = self._legs.pop(number)
        combo.trades.append((first, event))
        text = combo.row(len(combo.trades) - 1, trade).text
        for every, bundles in self._bundles.items():
            for place in combo.places():
                bundles[f"trades.{place}.{every}"].append(text)

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
        text = trade(one, event)
        for every, bundles in self._bundles.items():
            for key in one.trade_keys[every]:
                bundles[key].append(text)

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
                for key in [key for key in self._chains if key.endswith(f".{every}")]:
                    self._send_book(key)
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
            self._send(key, lambda: f"[{','.join(waiting)}]")

    def _send_book(self, key: str) -> None:
        """Send what has changed of a book; nothing for a key that is not one."""
        change = self._chains[key].change(self._wire.now_ms()) if key in self._chains else None
        if change is not None:
            self._send(key, lambda: change)

    def _update(self, key: str, now_ms: int) -> None:
        """Send a stream that is due and has something new."""
        channel = self._streams[key]
        if self._channels.channel(key) is None:
            return
        state = self._channels.state(channel, now_ms)
        sent_ms, sent_state = self._sent.get(key, (0, None))
        if now_ms // channel.every_ms == sent_ms // channel.every_ms or (state is not None and state == sent_state):
            return
        self._sent[key] = now_ms, state
        self._send_now(key, channel, now_ms)

    def _send_now(self, key: str, channel: Channel, now_ms: int) -> None:
        text = self._channels.text(channel, now_ms)
        if text is not None:
            self._send(key, lambda: text)

    # --- requests ---

    async def _rest(self, request: web.Request) -> web.Response:
        return self._answer(request, None, request.match_info["method"], dict(request.query))

    async def _post(self, request: web.Request) -> web.Response:
        """Answer JSON-RPC: the method is in the body or in the path, parameters are in the body."""
        try:
            body = await request.json()
            if not isinstance(body, dict):
                raise ValueError
        except ValueError:
            return self._answer(request, None, "", {}, RpcError(-32700, "Parse error"))
        method = body.get("method", f"public/{request.match_info.get('method', '')}")
        params = body.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict):
            return self._answer(request, body.get("id"), "", {}, RpcError(-32600, "Invalid Request"))
        if not method.startswith("public/"):
            return self._answer(request, body.get("id"), "", {}, RpcError(-32601, "Method not found"))
        return self._answer(request, body.get("id"), method.removeprefix("public/"), params)

    def _answer(
        self,
        request: web.Request,
        identity: Any,
        method: str,
        params: dict[str, Any],
        error: RpcError | None = None,
    ) -> web.Response:
        begin = self._wire.now_us()
        is_history = request.path.startswith(f"/{self.name}/history/")
        try:
            if error is not None:
                raise error
            result = self._methods.answer(method, params, request.remote, is_history=is_history)
        except RpcError as refused:
            body = rpc(identity, begin, self._wire.now_us(), error=refused.content)
            status = 429 if refused.code == TOO_MANY else 400
            return web.Response(text=body, status=status, content_type="application/json")
        body = rpc(identity, begin, self._wire.now_us(), result=result)
        return web.Response(text=body, content_type="application/json")


async def _close(client: Client, text: str, code: int) -> None:
    with contextlib.suppress(ConnectionError):
        if text:
            await client.socket.send_str(text)
        await client.socket.close(code=code)
    client.abort()

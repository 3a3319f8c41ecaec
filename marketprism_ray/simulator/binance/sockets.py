"""One simulated market of this house: its sockets and its REST API.

What a wrong stream gets is an acknowledgement and silence, as in life; so does a good one on the wrong path.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.binance.beats import Beats
from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import Ask, Body, class_of
from marketprism_ray.simulator.binance.frames import book_ticker, is_combined, json_answer
from marketprism_ray.simulator.binance.limits import Refused, limiter_of
from marketprism_ray.simulator.binance.markets import FACTS
from marketprism_ray.simulator.market import BookEvent, Market, TradeEvent
from marketprism_ray.simulator.wire import Client, Wire


class Binance:
    """One simulated market of this house: ``binance_spot``, ``binance_derivatives`` or ``binance_coinm``."""

    def __init__(self, name: str, market: Market, wire: Wire) -> None:
        self.name = name
        self.rate_limited = 0
        self._facts = FACTS[name]
        self.rules = self._facts.rules
        self._market = market
        self._wire = wire
        self._desk = Desk(name, self._facts, market)
        self._beats = Beats(self._desk, wire, self._send)
        self._limiters = {
            None: limiter_of(wire, self._facts.pool, self._facts.weight_per_minute, 60),
            "funding": limiter_of(wire, "funding", 500, 300),
            "statistics": limiter_of(wire, "statistics", 1000, 300),
        }

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self._desk.relist()
        self._beats.relist()

    def tick(self, now_ms: int) -> None:
        """Send what is due by time."""
        self._beats.tick(now_ms)

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
            rules=self.rules,
            names=started,
            opened=self._subscribe,
        )

    def _subscribe(self, client: Client, name: str) -> None:
        if self.rules.streams is not None and len(client.keys | {name}) > self.rules.streams:
            self._wire.refuse(client, "Too many streams")
            return
        if len(self._facts.paths) > 1 and class_of(name) != (client.path.rpartition("/")[0] or "public"):
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
                event = {"e": "serverShutdown", "E": self._wire.now_ms()}
                client.send(json.dumps({"stream": "!serverShutdown", "data": event} if is_combined(client) else event))

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
        """Write each form of a frame once, and only if somebody wanted it once."""
        made: dict[bool, str] = {}

        def frame(client: Client) -> str:
            is_micro = client.in_microseconds and self._facts.has_microseconds
            if is_micro not in made:
                made[is_micro] = body(event, time_ms * 1000 if is_micro else time_ms)
            text = made[is_micro]
            return f'{{"stream":"{key}","data":{text}}}' if is_combined(client) else text

        self._wire.publish(self.name, key, frame)

    def _best(self, event: BookEvent, at: int) -> str:
        return book_ticker(self._market.symbols[self.name, event.listing.symbol], at)

    async def _rest(self, request: web.Request) -> web.Response:
        name, query = request.match_info["endpoint"], request.query
        endpoint = self._facts.endpoints.get(f"{request.match_info['below']}/{name}")
        default, highest = endpoint.page if endpoint else (1, 1)
        try:
            limit = max(1, int(query.get("limit", default)))
            numbers = {n: int(query[n]) for n in ("fromId", "startTime", "endTime") if n in query}
        except ValueError:
            return json_answer({"code": -1100, "msg": "Illegal characters found in a parameter."}, 400, {})
        is_of_all = not query.keys() & {"symbol", "pair"}
        used, allowed = self._limiters[None].spend(endpoint.cost(limit, is_of_all=is_of_all) if endpoint else 1)
        headers = {"X-MBX-USED-WEIGHT-1M": str(used)}
        if allowed and endpoint is not None and endpoint.limiter is not None:
            _, allowed = self._limiters[endpoint.limiter].spend(1)
        if not allowed:
            self.rate_limited += 1
            headers["Retry-After"] = "5"
            return json_answer({"code": -1003, "msg": "Too much request weight used."}, 429, headers)
        if endpoint is None:
            return json_answer({"code": -1, "msg": f"unknown endpoint {name}"}, 404, headers)
        try:
            answer = endpoint.answer(self._desk, Ask(query, min(limit, highest), numbers, self._wire.now_ms()))
        except Refused as refused:
            return json_answer({"code": refused.code, "msg": refused.message}, 400, headers)
        return json_answer(answer, 200, headers)

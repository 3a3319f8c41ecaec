"""One simulated market of this house: its sockets and its REST API.

What a wrong stream gets is an acknowledgement and silence, as in life; so does a good one on the wrong path.
"""

from __future__ import annotations

import json
import math
import time
from functools import partial

from aiohttp import web

from marketprism_ray.simulator.binance.beats import Beats
from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import UNIVERSES, Ask, Body, class_of
from marketprism_ray.simulator.binance.frames import is_combined
from marketprism_ray.simulator.binance.limits import Refused, pool_of
from marketprism_ray.simulator.binance.markets import FACTS
from marketprism_ray.simulator.binance.rows import json_answer
from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth
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
        self._desk = Desk(name, self._facts, market, self._send)
        self._beats = Beats(self._desk, self._send)
        self._beats.relist(wire.now_ms())
        self._pool = pool_of(wire, self._facts.pool, self._facts.weight_per_minute)

    @property
    def snapshot_lag_ms(self) -> int:
        """By how much a snapshot is late at most; 0 for never."""
        return self._desk.lag.most_ms

    @snapshot_lag_ms.setter
    def snapshot_lag_ms(self, most_ms: int) -> None:
        self._desk.lag.most_ms = most_ms

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers know them: fills on spot, aggregates of them on futures."""
        return symbol.truth if self.name not in UNIVERSES else self._desk.tapes[symbol].told

    def relist(self) -> None:
        """Look at the list of symbols again."""
        self._desk.relist()
        self._beats.relist(self._wire.now_ms())
        for name in self._wire.known(self.name):
            self._watch(name)  # who asked for a symbol before it was listed gets it now

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
        self._watch(name)

    def _watch(self, name: str) -> None:
        """Begin a stream, if its name is right and its symbol listed."""
        self._beats.watch(name, self._wire.now_ms())
        text, _, channel = name.partition("@")
        symbol = self._market.of_venue_symbol(self.name, text.upper()) if text == text.lower() else None
        if symbol is None:
            return
        self._desk.books.watch(name, symbol, channel)
        if channel in ("trade", "aggTrade") and symbol.truth.subscribed_from is None:
            symbol.truth.subscribed_from = symbol.trade_id + 1
        if channel == "aggTrade" and self._desk.tapes[symbol].told.subscribed_from is None:
            self._desk.tapes[symbol].told.subscribed_from = self._desk.tapes[symbol].next_id

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

    def refusal(self, status: int) -> str:
        """Give the body of an answer that a fault makes of this HTTP status."""
        code = -1003 if status in (418, 429) else -1000
        return f'{{"code":{code},"msg":"injected"}}'

    def notice(self) -> None:
        """Announce a shutdown on every socket; futures do not."""
        if not self._facts.has_notice:
            return
        for client in self._wire.clients:
            if client.venue == self.name:
                event = {"e": "serverShutdown", "E": self._wire.now_ms()}
                client.send(json.dumps({"stream": "!serverShutdown", "data": event} if is_combined(client) else event))

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it: at once, or with the next batch."""
        symbol = self._market.symbols[self.name, event.listing.symbol]
        if isinstance(event, BookEvent):
            self._desk.books.take(symbol, event)
            return
        stream = event.listing.venue_symbol.lower()
        self._send(f"{stream}@trade", partial(self._facts.trade, event))
        for one in self._desk.tapes[symbol].take(event):
            self._send(f"{stream}@aggTrade", partial(self._facts.aggregate, one, event.time_ms + 2))

    def _send(self, key: str, body: Body) -> None:
        """Write each form of a frame once, and only if somebody wanted it once."""
        made: dict[int, str] = {}

        def frame(client: Client) -> str:
            scale = 1000 if client.in_microseconds and self._facts.has_microseconds else 1
            if scale not in made:
                made[scale] = body(scale)
            text = made[scale]
            return f'{{"stream":"{key}","data":{text}}}' if is_combined(client) else text

        self._wire.publish(self.name, key, frame)

    # --- REST ---

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
        headers: dict[str, str] = {}
        weight = endpoint.cost(limit, is_of_all=is_of_all) if endpoint else 1
        refused = self._refusal(weight, endpoint.quota if endpoint else None, headers)
        if refused is not None:
            self.rate_limited += 1
            return refused
        if endpoint is None:
            return json_answer({"code": -1, "msg": f"unknown endpoint {name}"}, 404, headers)
        if endpoint.needs_key and not request.headers.get("X-MBX-APIKEY"):
            return json_answer({"code": -2014, "msg": "API-key format invalid."}, 401, headers)
        try:
            answer = endpoint.answer(self._desk, Ask(query, min(limit, highest), numbers, self._wire.now_ms()))
        except Refused as error:
            return json_answer({"code": error.code, "msg": error.message}, error.status, headers)
        return json_answer(answer, 200, headers)

    def _refusal(self, weight: int, quota: str | None, headers: dict[str, str]) -> web.Response | None:
        """Count a request; give the refusal if it is too much, and fill in what each answer tells of the limits."""
        now, pool = time.monotonic(), self._pool
        status, wait_s = pool.guard.ask(weight, now)
        headers.update(dict.fromkeys(("X-MBX-USED-WEIGHT", "X-MBX-USED-WEIGHT-1M"), str(pool.guard.quota.used)))
        words = (
            f"Too much request weight used; current limit is {pool.guard.quota.limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        for name in ("raw", quota):
            if status == 200 and name is not None and not pool.quotas[name].spend(1, now):
                status, wait_s = 429, pool.quotas[name].left_s(now)
                words = f"Too many requests; current limit is {pool.quotas[name].limit} requests per 5 MINUTE."
        if status == 200:
            return None
        if status == 418:
            until_ms = self._wire.now_ms() + int(wait_s * 1000)
            words = (
                f"Way too much request weight used; IP banned until {until_ms}. "
                "Please use WebSocket Streams for live updates to avoid bans."
            )
        headers["Retry-After"] = str(math.ceil(wait_s))
        return json_answer({"code": -1003, "msg": words}, status, headers)

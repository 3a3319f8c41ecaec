"""All simulated venues on one port, with a control interface.

========================================  ==========================================================================
``GET /control/endpoints``                venue -> {"rest": url, socket name: url}
``GET /control/ledger``                   per venue and symbol: trades since the first subscription, trades emitted
                                          since the beginning, first and last id, first subscribed id, state of the
                                          instrument (``gone`` if it is not listed any more)
``GET /control/truth``                    what the truth ledger holds (``truth.py``): rows and pages of each part
``GET /control/truth/frames?page=``       a page of pushed frames, and of ``answers``: Arrow IPC
``GET /control/truth/happenings``         faults, sockets, subscriptions, pauses
``GET /control/sockets``                  who is connected: venue, number, path, streams
``GET /control/trades?venue=&symbol=``    Arrow IPC stream of every trade from the first subscription on, as the venue
                                          tells them: fills, or aggregates of fills
``GET /control/book?venue=&symbol=``      the true book: levels as text, update id
``POST /control/fault``                   inject a fault, see ``wire.Fault``
``POST /control/market``                  let something befall an instrument, see ``unrest``: halt, auction, resume,
                                          expire, delist, list
``POST /control/pause``, ``resume``       stop and go on with the market
========================================  ==========================================================================
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from typing import Any, Protocol

import pyarrow as pa
from aiohttp import web

from marketprism_ray.simulator.binance import Binance
from marketprism_ray.simulator.deribit.house import Deribit
from marketprism_ray.simulator.market import BookEvent, Listing, Market, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.okx.house import KEEP_ALIVE_S, Okx
from marketprism_ray.simulator.unrest import Command, Unrest, carry_out
from marketprism_ray.simulator.wire import Fault, Wire

VENUES = (
    "binance_spot",
    "binance_derivatives",
    "binance_coinm",
    "okx_spot",
    "okx_derivatives",
    "deribit_derivatives",
)
BEAT_S = 0.005


class House(Protocol):
    """The server side of one venue."""

    name: str

    @property
    def rate_limited(self) -> int:
        """Requests refused by its limiter."""

    def relist(self) -> None:
        """Look at the market's list of symbols again."""

    def routes(self) -> list[web.RouteDef]:
        """Give the HTTP routes, all below ``/<name>/``."""

    def endpoints(self, host: str) -> dict[str, str]:
        """Give the URL of each socket and of ``rest``, as ``exchanges.<venue>.endpoints`` takes them."""

    def publish(self, event: TradeEvent | BookEvent) -> None:
        """Send an event to whoever subscribed it."""

    def tick(self, now_ms: int) -> None:
        """Send what is due by time: tickers, candles, marks, open interest. Called each few milliseconds."""

    def told(self, symbol: Symbol) -> Truth:
        """Give the trades of a symbol as followers of this venue know them."""

    def refusal(self, status: int) -> str:
        """Give the body of an answer that a fault makes of this HTTP status."""

    def notice(self) -> None:
        """Announce a shutdown on every socket, where the venue does."""

    def misbehave(self, kind: str) -> bool:
        """Do a fault only this venue knows (``reset``, ``keep_alive``); False if it does not."""


def _house(name: str, market: Market, wire: Wire, keep_alive_s: float) -> House:
    if name.startswith("binance"):
        return Binance(name, market, wire)
    if name.startswith("okx"):
        return Okx(name, market, wire, keep_alive_s=keep_alive_s)
    return Deribit(name, market, wire)


class Simulator:
    """The simulated venues.

    Parameters
    ----------
    rate : market events a second over all venues; 0 is as fast as the machine allows
    extra : made-up coins that each venue lists besides
    unrest : how many halts, auctions, listings and delistings a minute befall the instruments, see ``unrest``
    keep_alive_s : time without a change after which a house that does so says that a book is alive
    clock_offset_ms : by how much the venues' clock is ahead of the machine's
    """

    def __init__(
        self,
        venues: Sequence[str] = VENUES,
        *,
        seed: int = 1,
        rate: float = 200.0,
        extra: int = 0,
        unrest: float = 0.0,
        keep_alive_s: float = KEEP_ALIVE_S,
        clock_offset_ms: int = 0,
    ) -> None:
        unknown = set(venues) - set(VENUES)
        if unknown:
            raise ValueError(f"cannot simulate {', '.join(sorted(unknown))}; known: {', '.join(VENUES)}")
        self.market = Market(venues, seed, extra=extra)
        self._unrest = Unrest(self.market, seed, unrest)
        self.wire = Wire(clock_offset_ms)
        self.rate = rate
        self.paused = False
        self.port = 0
        self.events = 0
        self._houses = {name: _house(name, self.market, self.wire, keep_alive_s) for name in venues}
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on loopback and let the market run."""
        app = web.Application(middlewares=[self._misbehave])
        for house in self._houses.values():
            app.add_routes(house.routes())
        app.add_routes(
            [
                web.get("/control/endpoints", self._endpoints),
                web.get("/control/ledger", self._ledger),
                web.get("/control/truth", self._truth),
                web.get("/control/truth/{part:frames|answers}", self._truth_page),
                web.get("/control/truth/happenings", self._happenings),
                web.get("/control/sockets", self._sockets),
                web.get("/control/trades", self._trades),
                web.get("/control/book", self._book),
                web.post("/control/fault", self._fault),
                web.post("/control/market", self._befall),
                web.post("/control/{word:pause|resume}", self._pause),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop the market and close everything."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for client in list(self.wire.clients):
            client.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    def endpoints(self) -> dict[str, dict[str, str]]:
        """Give the URLs of each venue, as `exchanges.<venue>.endpoints` takes them."""
        host = f"127.0.0.1:{self.port}"
        return {name: house.endpoints(host) for name, house in self._houses.items()}

    def enter(self, listing: Listing) -> None:
        """List a symbol."""
        self.market.enter(listing)
        self._relist()

    def leave(self, venue: str, symbol: str) -> None:
        """Take a symbol off the list."""
        self.market.leave(venue, symbol)
        self._relist()

    def _relist(self) -> None:
        for house in self._houses.values():
            house.relist()

    async def _run(self) -> None:
        owed = 0.0
        last = time.monotonic()
        while True:
            await asyncio.sleep(BEAT_S if self.rate else 0)
            now = time.monotonic()
            # After a stall the market does not catch up more than a tenth of a second.
            owed = min(owed + (now - last) * self.rate, self.rate / 10 + 1) if self.rate else 100.0
            last = now
            for house in self._houses.values():
                house.tick(self.wire.now_ms())
            if self.paused:
                owed = 0.0
                await asyncio.sleep(BEAT_S)
                continue
            now_ms = self.wire.now_ms()
            for command in self._unrest.due(now_ms):
                self.befall(command)
            if self.market.expired(now_ms):
                self._relist()
            while owed >= 1:
                owed -= self.step()

    def step(self) -> int:
        """Let something happen somewhere and send it; give the number of events, at least 1."""
        return max(1, self._publish(self.market.step(self.wire.now_ms())))

    def befall(self, command: Command) -> None:
        """Let something befall an instrument; raises ValueError where that cannot be."""
        events = carry_out(self.market, command, self.wire.now_ms())
        self.wire.truth.happened(
            "market", command.venue, action=command.action, symbol=command.symbol, expiry_ms=command.expiry_ms
        )
        self._relist()
        self._publish(events)

    def _publish(self, events: Sequence[TradeEvent | BookEvent]) -> int:
        for event in events:
            self._houses[event.listing.venue].publish(event)
        self.events += len(events)
        return len(events)

    # --- control ---

    @web.middleware
    async def _misbehave(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        parts = request.path.split("/")
        if not _is_rest(parts):
            return await handler(request)
        body = await request.text()
        answer = await self._answered(request, handler, parts[1])
        answer.headers["Date"] = formatdate(self.wire.now_ms() / 1000, usegmt=True)
        if isinstance(answer, web.Response):
            client = f"{request.remote} {request.headers.get('User-Agent', '')}"
            path = "/".join(["", *parts[2:]])
            self.wire.truth.answer(
                *(parts[1], request.method, path, request.query_string, body, answer.status, answer.text or "", client)
            )
        return answer

    async def _answered(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], venue: str
    ) -> web.StreamResponse:
        """Let a venue answer, or a fault in its place."""
        if (fault := self.wire.active(venue, "delay", "status", "html", "hangup")) is not None:
            if fault.kind == "delay":
                await asyncio.sleep(max(fault.seconds, 0.1))
            elif fault.kind == "hangup":
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=503)  # for the ledger: nobody gets it
            elif fault.kind == "html":
                return web.Response(text="<html><body>Just a moment...</body></html>", content_type="text/html")
            else:
                headers = {"Retry-After": "1"} if fault.status in (418, 429) else {}
                body = self._houses[venue].refusal(fault.status)
                return web.Response(text=body, status=fault.status, headers=headers, content_type="application/json")
        return await handler(request)

    async def _truth(self, _: web.Request) -> web.Response:
        return web.json_response(self.wire.truth.summary())

    async def _truth_page(self, request: web.Request) -> web.Response:
        truth = self.wire.truth
        pages = truth.frames if request.match_info["part"] == "frames" else truth.answers
        number = request.query.get("page", "0")
        page = pages.page(int(number)) if number.isdecimal() else None
        if page is None:
            raise web.HTTPNotFound(text=f"no page {number!r}: there are {pages.pages}")
        return web.Response(body=page)

    async def _happenings(self, _: web.Request) -> web.Response:
        return web.json_response(self.wire.truth.happenings)

    async def _endpoints(self, _: web.Request) -> web.Response:
        return web.json_response(self.endpoints())

    async def _ledger(self, _: web.Request) -> web.Response:
        symbols = []
        for (venue, name), symbol in {**self.market.symbols, **self.market.gone}.items():
            told = self._houses[venue].told(symbol)
            symbols.append(
                {
                    "venue": venue,
                    "symbol": name,
                    "trades": _from_subscription(told)[1],
                    "emitted": len(told.ids),
                    "first_id": told.ids[0] if told.ids else None,
                    "last_id": told.ids[-1] if told.ids else None,
                    "state": symbol.state if (venue, name) in self.market.symbols else "gone",
                    "subscribed_from": told.subscribed_from,
                }
            )
        limited = sum(house.rate_limited for house in self._houses.values())
        return web.json_response({"events": self.events, "rate_limited": limited, "symbols": symbols})

    async def _sockets(self, _: web.Request) -> web.Response:
        clients = sorted(self.wire.clients, key=lambda client: client.number)
        return web.json_response(
            [{"venue": c.venue, "number": c.number, "path": c.path, "streams": sorted(c.keys)} for c in clients]
        )

    def _symbol(self, request: web.Request) -> Symbol:
        place = (request.query.get("venue", ""), request.query.get("symbol", ""))
        symbol = self.market.symbols.get(place) or self.market.gone.get(place)
        if symbol is None:
            raise web.HTTPNotFound(text=f"no symbol {place[1]!r} at {place[0]!r}")
        return symbol

    async def _trades(self, request: web.Request) -> web.Response:
        symbol = self._symbol(request)
        truth = self._houses[symbol.listing.venue].told(symbol)
        start, _ = _from_subscription(truth)
        table = pa.table(
            {
                "trade_id": pa.array(truth.ids[start:], pa.int64()),
                "price": pa.array(truth.prices[start:], pa.string()),
                "quantity": pa.array(truth.quantities[start:], pa.string()),
                "is_buyer_maker": pa.array(truth.taker_sold[start:], pa.bool_()),
                "time_ms": pa.array(truth.times_ms[start:], pa.int64()),
            }
        )
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return web.Response(body=stream.getvalue().to_pybytes())

    async def _book(self, request: web.Request) -> web.Response:
        symbol = self._symbol(request)
        bids, asks = symbol.book()
        return web.json_response({"update_id": symbol.update_id, "bids": bids, "asks": asks})

    async def _fault(self, request: web.Request) -> web.Response:
        values: dict[str, Any] = await request.json()
        try:
            fault = Fault(**values)
        except (TypeError, ValueError) as error:
            return web.Response(text=str(error), status=400)
        if fault.venue not in self._houses:
            return web.Response(text=f"venue {fault.venue!r} is not simulated", status=400)
        house = self._houses[fault.venue]
        self.wire.truth.happened("fault", fault.venue, fault=values)
        if fault.kind == "disconnect":
            return web.json_response({"cut": self.wire.disconnect(fault.venue, fault.stream, fault.connection)})
        if fault.kind == "notice":
            house.notice()
        elif fault.kind in ("reset", "keep_alive"):
            if not house.misbehave(fault.kind):
                return web.Response(text=f"{fault.venue} has no {fault.kind}", status=400)
        else:
            self.wire.faults.append(fault)
        return web.json_response({"active": len(self.wire.faults)})

    async def _befall(self, request: web.Request) -> web.Response:
        values: dict[str, Any] = await request.json()
        try:
            self.befall(Command(**values))
        except (TypeError, ValueError) as error:
            return web.Response(text=str(error), status=400)
        return web.json_response({"symbols": [list(place) for place in self.market.symbols]})

    async def _pause(self, request: web.Request) -> web.Response:
        self.paused = request.match_info["word"] == "pause"
        self.wire.truth.happened("paused" if self.paused else "resumed")
        return web.json_response({"paused": self.paused, "events": self.events})


def _is_rest(parts: Sequence[str]) -> bool:
    """Tell a request to a venue's REST API by the second part of its path."""
    return len(parts) > 2 and parts[2] in ("api", "fapi", "dapi", "futures") and parts[1] in VENUES


def _from_subscription(truth: Truth) -> tuple[int, int]:
    """Give position and number of the trades since somebody first subscribed them."""
    if truth.subscribed_from is None or not truth.ids:
        return len(truth.ids), 0
    start = max(0, truth.subscribed_from - truth.ids[0])
    return start, len(truth.ids) - start


async def serve(
    venues: Sequence[str],
    *,
    seed: int,
    rate: float,
    port: int,
    extra: int = 0,
    unrest: float = 0.0,
    clock_offset_ms: int = 0,
) -> None:
    """Run until cancelled; print one JSON line when ready."""
    simulator = Simulator(venues, seed=seed, rate=rate, extra=extra, unrest=unrest, clock_offset_ms=clock_offset_ms)
    await simulator.start(port)
    print(json.dumps({"port": simulator.port, "endpoints": simulator.endpoints()}), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await simulator.stop()

"""A bench for the simulated Binance: its market moves only by ``step`` and its clock only by ``wait`` and ``beat``."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from marketprism_ray.simulator.market import BookEvent, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.server import Simulator

SPOT = ("binance_spot", "BTC-USDT")
USDM = ("binance_derivatives", "BTC-USDT-SWAP")
COINM = ("binance_coinm", "BTC-USD-SWAP")
NAMES = {SPOT: "BTCUSDT", USDM: "BTCUSDT", COINM: "BTCUSD_PERP"}
PUBLIC = {SPOT: "binance_spot/stream", USDM: "binance_derivatives/public/stream", COINM: "binance_coinm/stream"}
MARKET = {**PUBLIC, USDM: "binance_derivatives/market/stream"}
PREFIX = {USDM: "binance_derivatives/fapi/v1", COINM: "binance_coinm/dapi/v1"}
FUTURES = pytest.mark.parametrize("place", [USDM, COINM], ids=["usdm", "coinm"])


class Bench:
    """A simulator whose market moves only by ``step`` and whose clock is set by ``beat``."""

    def __init__(self, simulator: Simulator, http: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.http = http
        self.host = f"127.0.0.1:{simulator.port}"
        self.at = int(time.time()) * 1000 - 600_000
        """The time of this market: some minutes ago, so that the servers behind REST know all of it."""

    def symbol(self, place: tuple[str, str]) -> Symbol:
        return self.simulator.market.symbols[place]

    def step(self, place: tuple[str, str], kind: str, time_ms: int | None = None) -> TradeEvent | BookEvent:
        at = self.at if time_ms is None else time_ms
        event = self.symbol(place).trade(at) if kind == "trade" else self.symbol(place).change(at)
        self.simulator._houses[place[0]].publish(event)
        return event

    def wait(self, venue: str, ms: int) -> None:
        """Let time pass: what is due by then is sent."""
        self.at += ms
        self.beat(venue, self.at)

    def told(self, place: tuple[str, str]) -> Truth:
        return self.simulator._houses[place[0]].told(self.symbol(place))

    def beat(self, venue: str, time_ms: int) -> None:
        self.simulator._houses[venue].tick(time_ms)

    async def get(self, path: str) -> Any:
        async with self.http.get(f"http://{self.host}/{path}") as answer:
            return await answer.json()

    async def raw(self, path: str) -> tuple[int, dict[str, str], Any]:
        async with self.http.get(f"http://{self.host}/{path}") as answer:
            return answer.status, dict(answer.headers), await answer.json()

    async def socket(self, path: str, *names: str) -> aiohttp.ClientWebSocketResponse:
        """Open a socket and subscribe; the acknowledgement has come."""
        socket = await self.http.ws_connect(f"ws://{self.host}/{path}")
        if names:
            await socket.send_json({"method": "SUBSCRIBE", "params": list(names), "id": 1})
            assert await frame(socket) == {"result": None, "id": 1}
        return socket


@asynccontextmanager
async def bench(*venues: str) -> AsyncIterator[Bench]:
    simulator = Simulator(venues, rate=0.001)
    for house in simulator._houses.values():
        house.rules = Rules()  # type: ignore[attr-defined]
        house.snapshot_lag_ms = 0  # type: ignore[attr-defined]
    await simulator.start()
    assert simulator._task is not None
    simulator._task.cancel()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(simulator, http)
        finally:
            await simulator.stop()


async def frame(socket: aiohttp.ClientWebSocketResponse) -> Any:
    return json.loads(await socket.receive_str(timeout=5))


async def frames(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    return [await frame(socket) for _ in range(count)]


async def waiting(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """Give what is on the way: what answers last was sent last."""
    await socket.send_json({"method": "NONSENSE", "id": "last"})
    found = []
    while (one := await frame(socket)).get("id") != "last":
        found.append(one)
    return found


def future_minute() -> int:
    """Give the start of a minute that the simulator's own clock does not reach in a test."""
    return (int(time.time() * 1000) // 60_000 + 60) * 60_000


def change(side: dict[str, str], levels: list[list[str]]) -> None:
    for price, quantity in levels:
        if Decimal(quantity):
            side[price] = quantity
        else:
            side.pop(price, None)


def best_first(side: dict[str, str], *, bids: bool) -> list[tuple[str, str]]:
    return sorted(side.items(), key=lambda level: Decimal(level[0]), reverse=bids)

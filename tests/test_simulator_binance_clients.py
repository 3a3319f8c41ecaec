"""Clients of other makers at the simulated Binance: each follows it as it would the venue, and ends with its book."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from binance_bench import COINM, USDM

from marketprism_ray.simulator.server import Simulator

# --- an independent client ---


def client_of(ccxt: Any, venue: str, host: str) -> Any:
    """Make the client, with the simulator's addresses for the venue's; it routes the paths of USD-M by itself."""
    options = {"enableRateLimit": False, "newUpdates": True}
    if venue == "binance_derivatives":
        client = ccxt.binanceusdm(options)
        client.urls["api"]["fapiPublic"] = f"http://{host}/{venue}/fapi/v1"
        client.urls["api"]["ws"]["linear"] = f"ws://{host}/{venue}/ws"
    else:
        client = ccxt.binancecoinm(options)
        client.urls["api"]["dapiPublic"] = f"http://{host}/{venue}/dapi/v1"
        client.urls["api"]["ws"]["inverse"] = f"ws://{host}/{venue}/ws"
    return client


async def until(condition: Callable[[], bool], what: str, tasks: list[asyncio.Task[None]]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline, f"waited 20 s for {what}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", ["trade", "aggTrade"])
@pytest.mark.parametrize(
    ("place", "markets"),
    [
        (USDM, {"BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT:USDT-291228"}),
        (COINM, {"BTC/USD:BTC", "ETH/USD:ETH", "BTC/USD:BTC-291228"}),
    ],
    ids=["usdm", "coinm"],
)
async def test_independent_client_ends_with_the_simulators_own_book_and_trades(
    place: tuple[str, str], markets: set[str], stream: str
) -> None:
    ccxt = pytest.importorskip("ccxt.pro", reason="ccxt is a development dependency")
    simulator = Simulator([place[0]], rate=400)
    await simulator.start()
    client = client_of(ccxt, place[0], f"127.0.0.1:{simulator.port}")
    seen: list[tuple[int, str, str]] = []
    books: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        await client.load_markets()
        assert set(client.symbols) == markets
        market = "BTC/USDT:USDT" if place == USDM else "BTC/USD:BTC"

        async def watch_trades() -> None:
            while True:
                for trade in await client.watch_trades(market, params={"name": stream}):
                    assert trade["info"]["e"] == stream
                    seen.append((int(trade["id"]), trade["info"]["p"], trade["info"]["q"]))

        async def watch_book() -> None:
            while True:
                books[:] = [await client.watch_order_book(market)]

        tasks += [asyncio.create_task(watch_trades()), asyncio.create_task(watch_book())]
        await until(lambda: bool(seen and books), "the first trade and book", tasks)
        start = simulator.events
        await until(lambda: simulator.events > start + 500, "the market", tasks)
        simulator.paused = True
        truth = simulator.market.symbols[place]
        told = truth.truth if stream == "trade" else simulator._houses[place[0]].told(truth)
        await until(
            lambda: seen[-1][0] == told.ids[-1] and books[0]["nonce"] == truth.update_id,
            f"the end: {truth.trade_id}, {truth.update_id}",
            tasks,
        )
        first = told.ids.index(seen[0][0])
        assert seen == list(zip(told.ids, told.prices, told.quantities, strict=True))[first:]
        for side, levels in zip(("bids", "asks"), truth.book(100), strict=True):
            assert [tuple(level[:2]) for level in books[0][side][:100]] == [
                (float(price), float(quantity)) for price, quantity in levels
            ]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await simulator.stop()

"""The simulated OKX, seen by OKX's own Python client: it forms the requests, reads the answers and joins the sockets.

The client is no part of the development environment: ``pip install python-okx`` (the extra ``clients``) brings it, and
without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest

from marketprism_ray.simulator.server import Simulator

pytest.importorskip("okx", reason="python-okx is not installed (the extra `clients`)")

import websockets
from okx.MarketData import MarketAPI
from okx.PublicData import PublicAPI
from okx.TradingData import TradingDataAPI
from okx.websocket.WsPublicAsync import WsPublicAsync

VENUES = ("okx_spot", "okx_derivatives")
SWAP = "BTC-USDT-SWAP"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    running = Simulator(VENUES, rate=400)
    await running.start()
    yield running
    await running.stop()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - a condition of the client's, that tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
def rest(simulator: Simulator) -> Iterator[Callable[..., Any]]:
    with ExitStack() as stack:

        def client(kind: Any, venue: str = "okx_derivatives") -> Any:
            return stack.enter_context(kind(domain=simulator.endpoints()[venue]["rest"]))

        yield client


async def rows(ask: Callable[..., Any], *args: str, **more: str) -> Any:
    answer = await asyncio.to_thread(ask, *args, **more)
    assert (answer["code"], answer["msg"]) == ("0", "")
    return answer["data"]


async def test_its_requests_are_understood_and_its_refusals_are_the_venues(rest: Callable[..., Any]) -> None:
    public, market = rest(PublicAPI), rest(MarketAPI)
    for kind, count in (("SWAP", 3), ("FUTURES", 1)):
        assert len(await rows(public.get_instruments, kind)) == count
        assert len(await rows(public.get_open_interest, kind)) == count
        assert len(await rows(public.get_mark_price, kind)) == count
        assert len(await rows(market.get_tickers, kind)) == count
    assert len(await rows(public.get_instruments, "OPTION", instFamily="BTC-USD")) == 2
    assert len(await rows(public.get_opt_summary, instFamily="BTC-USD")) == 2
    assert len(await rows(public.funding_rate_history, SWAP, limit="5")) == 5
    assert len(await rows(public.get_funding_rate, SWAP)) == 1
    assert len(await rows(rest(TradingDataAPI).get_open_interest_history, SWAP)) == 100
    for ask, arguments, code in (
        (market.get_ticker, ("BTC-USDX",), "51001"),
        (public.get_instruments, ("OPTION",), "50014"),
        (market.get_candlesticks, (SWAP, "", "", "7m"), "51000"),
    ):
        assert (await asyncio.to_thread(ask, *arguments))["code"] == code
    answers = [await asyncio.to_thread(public.get_system_time) for _ in range(12)]
    assert [answer["code"] for answer in answers if answer["code"] != "0"][:1] in (["50011"], [])


async def test_paging_back_through_trades_and_candles_gives_all_that_happened(
    simulator: Simulator, rest: Callable[..., Any]
) -> None:
    market = rest(MarketAPI, "okx_spot")
    truth = simulator.market.symbols["okx_spot", "BTC-USDT"].truth
    await until(lambda: len(truth.ids) > 250)
    simulator.paused = True
    found: list[dict[str, str]] = []
    while page := await rows(market.get_history_trades, "BTC-USDT", after=found[-1]["tradeId"] if found else ""):
        assert len(page) <= 100
        found += page
        await asyncio.sleep(0.2)  # the venue's limit is 10 in 2 s
    assert [int(row["tradeId"]) for row in found[::-1]] == truth.ids
    assert [row["px"] for row in found[::-1]] == truth.prices
    candles = await rows(market.get_candlesticks, "BTC-USDT", bar="1s", limit="300")
    opens = [int(row[0]) for row in candles]
    assert opens == list(range(opens[0], opens[-1] - 1, -1000)), "intervals without trades have candles as well"
    assert sum(Decimal(row[5]) for row in candles) == sum(Decimal(quantity) for quantity in truth.quantities)


async def test_its_sockets_get_a_chain_that_rebuilds_the_book_and_trades_that_merge_fills(simulator: Simulator) -> None:
    url = simulator.endpoints()["okx_derivatives"]["public"]
    client = WsPublicAsync(url)

    async def connect() -> Any:
        # It insists on TLS; all else is its own.
        client.factory.websocket = await websockets.connect(url)
        return client.factory.websocket

    client.factory.connect = connect
    heard: list[dict[str, Any]] = []
    reading = await client.start()
    args = [{"channel": channel, "instId": SWAP} for channel in ("books", "trades")]
    await client.subscribe(args, lambda message: heard.append(json.loads(message)), id="c1")
    symbol = simulator.market.symbols["okx_derivatives", SWAP]

    def books() -> list[dict[str, Any]]:
        return [one["data"][0] for one in heard if one["arg"]["channel"] == "books" and "data" in one]

    await until(lambda: len(books()) > 25 and any("data" in one and one["arg"]["channel"] == "trades" for one in heard))
    simulator.paused = True
    await until(lambda: books()[-1]["seqId"] == symbol.update_id)
    acknowledged = [one["arg"] for one in heard if one.get("event") == "subscribe"]
    assert acknowledged == args
    sides: dict[str, dict[str, str]] = {"bids": {}, "asks": {}}
    last = -1
    for row in books():
        assert row["prevSeqId"] == last
        last = row["seqId"]
        for side, book in sides.items():
            for price, size, *_ in row[side]:
                if size == "0":
                    book.pop(price, None)
                else:
                    book[price] = size
    bids, asks = symbol.book(400)
    assert sides == {"bids": dict(bids), "asks": dict(asks)}
    trades = [one["data"][0] for one in heard if one["arg"]["channel"] == "trades" and "data" in one]
    covered = [
        number
        for trade in trades
        for number in range(int(trade["tradeId"]) - int(trade["count"]) + 1, int(trade["tradeId"]) + 1)
    ]
    assert covered == symbol.truth.ids[-len(covered) :]
    await client.unsubscribe(args, client.callback)
    await until(lambda: [one["arg"] for one in heard if one.get("event") == "unsubscribe"] == args)
    await client.stop()
    await reading

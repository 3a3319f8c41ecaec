"""The simulated venues by themselves: the market, the wire, the faults and the ledger, seen by plain clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import aiohttp
import pyarrow as pa
import pytest

from marketprism_ray.simulator.binance import Binance
from marketprism_ray.simulator.market import BookEvent, Market, TradeEvent
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.server import VENUES, Simulator
from marketprism_ray.simulator.summaries import candles

Levels = dict[str, str]


@asynccontextmanager
async def simulated(*venues: str, rate: float = 0.001, **more: Any) -> AsyncIterator[tuple[Simulator, Wires]]:
    """Run simulated venues in this loop; with the default rate, the market moves only by ``step``."""
    simulator = Simulator(venues, rate=rate, **more)
    for house in simulator._houses.values():
        if isinstance(house, Binance):
            house.rules = Rules()  # a test talks faster than the venue allows
            house.snapshot_lag_ms = 0
    await simulator.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield simulator, Wires(simulator, http)
        finally:
            await simulator.stop()


class Wires:
    """Plain HTTP and websocket access to a simulator."""

    def __init__(self, simulator: Simulator, http: aiohttp.ClientSession) -> None:
        self.http = http
        self._host = f"127.0.0.1:{simulator.port}"

    async def get(self, path: str) -> Any:
        async with self.http.get(f"http://{self._host}/{path}") as answer:
            return await answer.json()

    async def raw(self, path: str) -> tuple[int, dict[str, str], str]:
        async with self.http.get(f"http://{self._host}/{path}") as answer:
            return answer.status, dict(answer.headers), await answer.text()

    async def fault(self, kind: str, venue: str, **more: Any) -> dict[str, Any]:
        body = {"kind": kind, "venue": venue, **more}
        async with self.http.post(f"http://{self._host}/control/fault", json=body) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def socket(self, path: str, *requests: dict[str, Any]) -> aiohttp.ClientWebSocketResponse:
        socket = await self.http.ws_connect(f"ws://{self._host}/{path}")
        for request in requests:
            await socket.send_json(request)
        return socket

    async def okx(self, venue: str, channel: str, *symbols: str, path: str = "public") -> Any:
        args = [{"channel": channel, "instId": symbol} for symbol in symbols]
        return await self.socket(f"{venue}/ws/v5/{path}", {"op": "subscribe", "args": args})


async def text(socket: aiohttp.ClientWebSocketResponse) -> str:
    return await socket.receive_str(timeout=5)


async def frames(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    return [json.loads(await text(socket)) for _ in range(count)]


async def silent(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Tell whether nothing is on the way: what answers last was sent last."""
    await socket.send_str("ping")
    answer = await text(socket)
    return answer == "pong" or '"code":3' in answer


def step(simulator: Simulator, place: tuple[str, str], kind: str) -> TradeEvent | BookEvent:
    """Let one event of a kind happen to one symbol, and send it."""
    symbol = simulator.market.symbols[place]
    now = int(time.time() * 1000)
    event = symbol.trade(now) if kind == "trade" else symbol.change(now)
    simulator._houses[place[0]].publish(event)
    return event


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, f"waited 5 s for {what}"
        await asyncio.sleep(0.005)


def change(side: Levels, levels: list[list[str]]) -> None:
    for price, quantity, *_ in levels:
        if Decimal(quantity):
            side[price] = quantity
        else:
            side.pop(price, None)


def best_first(side: Levels, *, bids: bool) -> list[tuple[str, str]]:
    return sorted(side.items(), key=lambda level: Decimal(level[0]), reverse=bids)


SPOT = ("binance_spot", "BTC-USDT")
OKX = ("okx_spot", "BTC-USDT")
SWAP = ("okx_derivatives", "BTC-USD-SWAP")


# --- market ---


def test_the_same_seed_gives_the_same_events_at_the_same_logical_times() -> None:
    one, other, third = (Market(VENUES, seed) for seed in (7, 7, 8))
    events = [[market.step(time_ms) for time_ms in range(2000)] for market in (one, other, third)]
    assert events[0] == events[1]
    assert events[0] != events[2]


@pytest.mark.parametrize("place", [SPOT, OKX, SWAP])
def test_books_never_cross_and_ids_never_skip(place: tuple[str, str]) -> None:
    symbol = Market([place[0]], 3).symbols[place]
    update, trade = symbol.update_id, symbol.trade_id
    for _ in range(3000):
        event = symbol.change(0)
        assert (event.previous, event.first) == (update, update + 1)
        update = event.last
        assert update > event.previous
        trade += 1
        assert symbol.trade(0).id == trade
        bid, ask = symbol.best()
        assert Decimal(bid[0]) < Decimal(ask[0])
    bids, asks = symbol.book()
    assert len(bids) > 900
    assert len(asks) > 900


def test_prices_are_written_as_each_venue_writes_them() -> None:
    market = Market(VENUES, 1)
    spot, swap = market.symbols[SPOT].trade(0), market.symbols["okx_derivatives", "BTC-USDT-SWAP"].trade(0)
    assert len(spot.price.partition(".")[2]) == len(spot.quantity.partition(".")[2]) == 8
    for number in (swap.price, swap.quantity):
        assert not ("." in number and number.endswith(("0", ".")))


def test_candles_sum_the_truth_exactly() -> None:
    symbol = Market(["binance_spot"], 1).symbols[SPOT]
    for time_ms in range(0, 180_000, 500):
        symbol.trade(time_ms)
    found = candles(symbol.truth, 60_000)
    assert [(c.open_ms, c.trades) for c in found] == [(0, 120), (60_000, 120), (120_000, 120)]
    assert sum((c.volume for c in found), Decimal()) == sum(map(Decimal, symbol.truth.quantities), Decimal())
    assert [c.first_id for c in found[1:]] == [c.last_id + 1 for c in found[:-1]]


# --- Binance ---


async def test_binance_snapshot_and_held_changes_splice_to_the_exact_book() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        socket = await wires.socket("binance_spot/ws/btcusdt@depth@100ms")
        await until(lambda: bool(simulator.wire.clients), "the socket")
        for _ in range(20):
            step(simulator, SPOT, "book")
        await until(lambda: simulator.wire.truth.frames.count > 0, "a batch")
        for _ in range(20):
            step(simulator, SPOT, "book")
        snapshot = await wires.get("binance_spot/api/v3/depth?symbol=BTCUSDT&limit=5000")
        for _ in range(300):
            step(simulator, SPOT, "book")
        bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
        last = snapshot["lastUpdateId"]
        events = []
        target = simulator.market.symbols[SPOT].update_id
        while not events or events[-1]["u"] < target:
            events += await frames(socket, 1)
        assert len(events) < 340
        events = [event for event in events if event["u"] > last]
        assert events[0]["U"] <= last + 1 <= events[0]["u"]
        for before, event in pairwise(events):
            assert event["U"] == before["u"] + 1
        last = events[-1]["u"]
        for event in events:
            change(bids, event["b"])
            change(asks, event["a"])
        truth = await wires.get("control/book?venue=binance_spot&symbol=BTC-USDT")
        assert last == truth["update_id"]
        assert best_first(bids, bids=True) == [tuple(level) for level in truth["bids"]]
        assert best_first(asks, bids=False) == [tuple(level) for level in truth["asks"]]


async def test_binance_small_snapshot_leaves_levels_outside() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        snapshot = await wires.get("binance_spot/api/v3/depth?symbol=BTCUSDT&limit=100")
        assert len(snapshot["bids"]) == len(snapshot["asks"]) == 100
        assert len(simulator.market.symbols[SPOT].book()[0]) > 1000


async def test_binance_commands_are_answered_as_the_venue_does() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        names = ["btcusdt@trade", "nosuch@trade", "BTCUSDT@trade"]
        socket = await wires.socket(
            "binance_spot/ws",
            {"method": "SUBSCRIBE", "params": names, "id": 1},
            {"method": "UNSUBSCRIBE", "params": ["nosuch@trade"], "id": "two"},
            {"method": "LIST_SUBSCRIPTIONS", "id": 3},
            {"method": "NONSENSE", "id": 4},
            {"method": "SUBSCRIBE", "params": 5, "id": 6},
        )
        answers = await frames(socket, 5)
        assert answers[0] == {"result": None, "id": 1}
        assert answers[1] == {"result": None, "id": "two"}
        assert answers[2] == {"result": ["BTCUSDT@trade", "btcusdt@trade"], "id": 3}
        assert answers[3] == {"code": 2, "msg": "Invalid request: unknown variant", "id": 4}
        assert answers[4]["code"] == 3
        event = step(simulator, SPOT, "trade")
        assert isinstance(event, TradeEvent)
        (frame,) = await frames(socket, 1)
        assert (frame["e"], frame["t"], frame["p"]) == ("trade", event.id, event.price)
        assert await silent(socket)


async def test_a_stream_in_capitals_is_acknowledged_silent_and_no_subscription() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        socket = await wires.socket("binance_spot/ws", {"method": "SUBSCRIBE", "params": ["BTCUSDT@trade"], "id": 1})
        assert (await frames(socket, 1))[0] == {"result": None, "id": 1}
        step(simulator, SPOT, "trade")
        assert await silent(socket)
        assert simulator.market.symbols[SPOT].truth.subscribed_from is None


async def test_binance_combined_and_microsecond_forms_carry_the_same_trade() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        raw = await wires.socket("binance_spot/ws/btcusdt@trade")
        combined = await wires.socket("binance_spot/stream?streams=btcusdt@trade/btcusdt@aggTrade&timeUnit=MICROSECOND")
        await until(lambda: len(simulator.wire.clients) == 2, "both sockets")
        step(simulator, SPOT, "trade")
        (one,) = await frames(raw, 1)
        trade, aggregate = await frames(combined, 2)
        assert trade["stream"] == "btcusdt@trade"
        assert trade["data"] == {**one, "E": one["E"] * 1000, "T": one["T"] * 1000}
        assert (aggregate["data"]["f"], aggregate["data"]["l"], aggregate["data"]["p"]) == (
            one["t"],
            one["t"],
            one["p"],
        )


async def test_binance_history_pages_through_every_trade() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        for _ in range(250):
            step(simulator, SPOT, "trade")
        truth = simulator.market.symbols[SPOT].truth
        found: list[dict[str, Any]] = []
        while page := await wires.get(
            "binance_spot/api/v3/historicalTrades?symbol=BTCUSDT&limit=100"
            f"&fromId={found[-1]['id'] + 1 if found else truth.ids[0]}"
        ):
            found += page
        assert [(t["id"], t["price"], t["qty"]) for t in found] == list(
            zip(truth.ids, truth.prices, truth.quantities, strict=True)
        )
        for path in ("aggTrades?symbol=BTCUSDT&limit=1000", "klines?symbol=BTCUSDT&interval=1m"):
            rows = await wires.get(f"binance_spot/api/v3/{path}")
            assert (len(rows) if path.startswith("agg") else sum(row[8] for row in rows)) == 250
        assert (await wires.get("binance_spot/api/v3/ticker/24hr?symbol=BTCUSDT"))["count"] == 250
        assert (await wires.get("binance_spot/api/v3/trades?symbol=NOSUCH"))["code"] == -1121
        assert (await wires.raw("binance_spot/api/v3/depth?symbol=BTCUSDT&limit=x"))[0] == 400


async def test_binance_weight_is_counted_and_runs_out() -> None:
    async with simulated("binance_spot") as (_, wires):
        used = []
        for limit in (100, 500, 1000, 5000):
            _, headers, _ = await wires.raw(f"binance_spot/api/v3/depth?symbol=BTCUSDT&limit={limit}")
            used.append(int(headers["X-MBX-USED-WEIGHT-1M"]))
        assert used == [5, 30, 80, 330]
        statuses = [await wires.raw("binance_spot/api/v3/depth?symbol=BTCUSDT&limit=5000") for _ in range(23)]
        assert [status for status, _, _ in statuses] == [200] * 22 + [429]
        assert int(statuses[-1][1]["Retry-After"]) > 0
        assert (await wires.get("control/ledger"))["rate_limited"] == 1


# --- OKX ---


@pytest.mark.parametrize("place", [OKX, SWAP])
async def test_okx_chain_gives_the_exact_400_levels_across_keep_alive_and_reset(place: tuple[str, str]) -> None:
    async with simulated(place[0]) as (simulator, wires):
        socket = await wires.okx(place[0], "books", place[1])
        acknowledged, snapshot = await frames(socket, 2)
        assert acknowledged["event"] == "subscribe"
        assert snapshot["action"] == "snapshot"
        (content,) = snapshot["data"]
        assert (content["prevSeqId"], content["checksum"]) == (-1, 0)
        bids, asks = ({level[0]: level[1] for level in content[side]} for side in ("bids", "asks"))
        assert len(bids) == len(asks) == 400
        for _ in range(200):
            step(simulator, place, "book")
        await wires.fault("keep_alive", place[0])
        await wires.fault("reset", place[0])
        for _ in range(200):
            step(simulator, place, "book")
        truth = await wires.get(f"control/book?venue={place[0]}&symbol={place[1]}")
        last, alive, resets = content["seqId"], 0, 0
        while last != truth["update_id"]:
            ((content,),) = [frame["data"] for frame in await frames(socket, 1)]
            assert content["prevSeqId"] == last
            alive += content["seqId"] == last and not content["bids"] and not content["asks"]
            resets += content["seqId"] < last
            last = content["seqId"]
            change(bids, content["bids"])
            change(asks, content["asks"])
        assert (alive, resets) == (1, 1)
        assert best_first(bids, bids=True) == [tuple(level) for level in truth["bids"][:400]]
        assert best_first(asks, bids=False) == [tuple(level) for level in truth["asks"][:400]]


async def test_okx_says_that_a_book_without_changes_is_alive() -> None:
    async with simulated("okx_spot", keep_alive_s=0.05) as (_, wires):
        socket = await wires.okx("okx_spot", "books", "BTC-USDT")
        _, snapshot, *alive = await frames(socket, 4)
        for frame in alive:
            (content,) = frame["data"]
            assert content["seqId"] == content["prevSeqId"] == snapshot["data"][0]["seqId"]
            assert content["asks"] == content["bids"] == []


async def test_okx_acknowledges_each_argument_and_refuses_what_is_elsewhere() -> None:
    async with simulated("okx_spot") as (simulator, wires):
        socket = await wires.socket(
            "okx_spot/ws/v5/public",
            {
                "id": "a1",
                "op": "subscribe",
                "args": [
                    {"channel": "trades", "instId": "BTC-USDT"},
                    {"channel": "trades", "instId": "NO-SUCH"},
                    {"channel": "trades-all", "instId": "BTC-USDT"},
                    {"channel": "trades", "instId": "ETH-USDT"},
                ],
            },
            {"op": "subscribe", "args": "nonsense"},
            {"op": "nonsense", "args": []},
        )
        answers = await frames(socket, 6)
        assert [a.get("code") for a in answers] == [None, "60018", "60018", None, "60013", "60012"]
        assert {a["id"] for a in answers[:4]} == {"a1"}
        assert await silent(socket)
        assert simulator.market.symbols[OKX].truth.subscribed_from is not None
        business = await wires.okx("okx_spot", "trades-all", "BTC-USDT", path="business")
        assert (await frames(business, 1))[0]["event"] == "subscribe"
        event = step(simulator, OKX, "trade")
        assert isinstance(event, TradeEvent)
        for one in (socket, business):
            (frame,) = await frames(one, 1)
            assert frame["data"][0]["tradeId"] == str(event.id)


async def test_okx_history_pages_backwards_and_forwards() -> None:
    async with simulated("okx_spot") as (simulator, wires):
        for _ in range(250):
            step(simulator, OKX, "trade")
        truth = simulator.market.symbols[OKX].truth
        path = "okx_spot/api/v5/market/history-trades?instId=BTC-USDT&limit=100"
        found: list[int] = []
        while page := (await wires.get(path + (f"&after={found[-1]}" if found else "")))["data"]:
            found += [int(trade["tradeId"]) for trade in page]
        assert found == truth.ids[::-1]
        newer = (await wires.get(f"{path}&before={truth.ids[-4]}"))["data"]
        assert [int(trade["tradeId"]) for trade in newer] == truth.ids[:-4:-1]
        by_time = (await wires.get(f"{path}&type=2&before={truth.times_ms[-1] + 1}"))["data"]
        assert by_time == []


async def test_okx_requests_are_limited_per_endpoint() -> None:
    async with simulated("okx_derivatives") as (_, wires):
        path = "okx_derivatives/api/v5/market/history-trades?instId=BTC-USD-SWAP"
        answers = [await wires.raw(path) for _ in range(11)]
        assert [status for status, _, _ in answers] == [200] * 10 + [429]
        assert json.loads(answers[-1][2])["code"] == "50011"
        found = (await wires.get("okx_derivatives/api/v5/public/instruments?instType=SWAP"))["data"]
        assert {i["instId"]: (i["ctVal"], i["ctType"], i["settleCcy"]) for i in found} == {
            "BTC-USDT-SWAP": ("0.01", "linear", "USDT"),
            "ETH-USDT-SWAP": ("0.1", "linear", "USDT"),
            "BTC-USD-SWAP": ("100", "inverse", "BTC"),
        }
        assert len((await wires.get("okx_derivatives/api/v5/market/tickers?instType=SWAP"))["data"]) == 3
        assert (await wires.get("okx_derivatives/api/v5/market/books?instId=NO"))["code"] == "51001"


# --- faults ---


async def trades_seen(fault: dict[str, Any], count: int, seen: int) -> tuple[list[int], list[str]]:
    """Let trades happen under a fault; give their numbers (from 0) as one of two sockets sees them, and the rest."""
    async with simulated("binance_spot") as (simulator, wires):
        sockets = [await wires.socket("binance_spot/ws/btcusdt@trade") for _ in range(2)]
        await until(lambda: len(simulator.wire.clients) == 2, "both sockets")
        await wires.fault(venue="binance_spot", **fault)
        first = simulator.market.symbols[SPOT].trade_id + 1
        for _ in range(count):
            step(simulator, SPOT, "trade")
        views = []
        for socket in sockets:
            texts = [await text(socket) for _ in range(seen)]
            assert await silent(socket)
            whole = [json.loads(one)["t"] - first for one in texts if one.endswith("}")]
            views.append((whole, [one for one in texts if not one.endswith("}")]))
        assert views[0] == views[1] or "connection" in fault
        return views[0]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "drop", "count": 2}, [2, 3, 4]),
        ({"kind": "repeat", "count": 2}, [0, 0, 1, 1, 2, 3, 4]),
        ({"kind": "reorder"}, [1, 0, 2, 3, 4]),
        ({"kind": "reorder", "count": 2}, [1, 0, 3, 2, 4]),
        ({"kind": "silence", "seconds": 60}, []),
        ({"kind": "drop", "stream": "ethusdt"}, [0, 1, 2, 3, 4]),
    ],
)
async def test_stream_fault_does_what_it_says_to_every_socket(fault: dict[str, Any], expected: list[int]) -> None:
    assert await trades_seen(fault, 5, len(expected)) == (expected, [])


async def test_corrupt_frame_is_cut_short() -> None:
    whole, broken = await trades_seen({"kind": "corrupt", "count": 2}, 5, 5)
    assert whole == [2, 3, 4]
    assert len(broken) == 2


async def test_fault_of_one_connection_spares_the_other() -> None:
    async with simulated("okx_spot") as (simulator, wires):
        spared, hit = [await wires.okx("okx_spot", "trades", "BTC-USDT") for _ in range(2)]
        for socket in (spared, hit):
            await frames(socket, 1)
        numbers = [entry["number"] for entry in await wires.get("control/sockets")]
        await wires.fault("drop", "okx_spot", connection=numbers[1])
        for _ in range(2):
            step(simulator, OKX, "trade")
        assert len(await frames(spared, 2)) == 2
        assert len(await frames(hit, 1)) == 1
        assert await silent(hit)
        assert (await wires.fault("disconnect", "okx_spot", connection=numbers[1]))["cut"] == 1
        assert (await hit.receive(timeout=5)).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
        assert await silent(spared)


async def test_reorder_swaps_neighbours_of_one_stream_only() -> None:
    async with simulated("okx_spot") as (simulator, wires):
        socket = await wires.okx("okx_spot", "trades", "BTC-USDT", "ETH-USDT")
        await frames(socket, 2)
        await wires.fault("reorder", "okx_spot", stream="trades")
        for symbol in ("BTC-USDT", "ETH-USDT", "BTC-USDT"):
            step(simulator, ("okx_spot", symbol), "trade")
        found = [(f["arg"]["instId"], int(f["data"][0]["tradeId"])) for f in await frames(socket, 3)]
        btc = simulator.market.symbols[OKX].trade_id
        eth = simulator.market.symbols["okx_spot", "ETH-USDT"].trade_id
        assert found == [("ETH-USDT", eth), ("BTC-USDT", btc), ("BTC-USDT", btc - 1)]


async def test_refused_sockets_come_back_after_the_fault() -> None:
    async with simulated("okx_spot") as (_, wires):
        await wires.fault("refuse", "okx_spot")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await wires.socket("okx_spot/ws/v5/public")
        assert await silent(await wires.socket("okx_spot/ws/v5/public"))


async def test_rest_faults_last_as_many_requests_as_they_say() -> None:
    async with simulated("binance_spot") as (_, wires):
        for fault, status in (({"status": 429}, 429), ({"status": 418}, 418), ({"status": 500}, 500)):
            await wires.fault("status", "binance_spot", count=2, **fault)
            answers = [await wires.raw("binance_spot/api/v3/ping") for _ in range(3)]
            assert [answer[0] for answer in answers] == [status, status, 200]
            assert ("Retry-After" in answers[0][1]) == (status in (418, 429))
        await wires.fault("html", "binance_spot")
        _, headers, body = await wires.raw("binance_spot/api/v3/ping")
        assert headers["Content-Type"].startswith("text/html")
        assert body.startswith("<html>")
        await wires.fault("delay", "binance_spot", seconds=0.2)
        started = time.monotonic()
        await wires.get("binance_spot/api/v3/ping")
        assert time.monotonic() - started >= 0.2


async def test_notices_are_sent_in_each_house_s_words() -> None:
    async with simulated("binance_spot", "okx_spot") as (_, wires):
        combined = await wires.socket("binance_spot/stream")
        okx = await wires.socket("okx_spot/ws/v5/business")
        assert await silent(combined)
        assert await silent(okx)
        await wires.fault("notice", "binance_spot")
        await wires.fault("notice", "okx_spot")
        (one,), (other,) = await frames(combined, 1), await frames(okx, 1)
        assert (one["stream"], one["data"]["e"]) == ("!serverShutdown", "serverShutdown")
        assert (other["event"], other["code"]) == ("notice", "64008")


async def test_an_unknown_fault_is_refused_with_the_allowed_ones() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        url = f"http://127.0.0.1:{simulator.port}/control/fault"
        for body, words in (
            ({"kind": "explode", "venue": "binance_spot"}, "allowed: drop"),
            ({"kind": "drop", "venue": "nowhere"}, "not simulated"),
            ({"kind": "reset", "venue": "binance_spot"}, "has no reset"),
            ({"kind": "drop", "venue": "binance_spot", "until": 3}, "until"),
        ):
            async with wires.http.post(url, json=body) as answer:
                assert answer.status == 400
                assert words in await answer.text()


# --- ledger and process ---


async def test_ledger_has_every_trade_with_and_without_listeners() -> None:
    async with simulated("binance_spot") as (simulator, wires):
        for _ in range(3):
            step(simulator, SPOT, "trade")
        socket = await wires.socket("binance_spot/ws", {"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": 1})
        await frames(socket, 1)
        for _ in range(10):
            step(simulator, SPOT, "trade")
        seen = await frames(socket, 10)
        await socket.close()
        for _ in range(2):
            step(simulator, SPOT, "trade")
        entry = next(e for e in (await wires.get("control/ledger"))["symbols"] if e["symbol"] == "BTC-USDT")
        assert (entry["emitted"], entry["trades"]) == (15, 12)
        assert entry["subscribed_from"] == seen[0]["t"] == entry["first_id"] + 3
        assert entry["last_id"] == seen[-1]["t"] + 2
        url = f"http://127.0.0.1:{simulator.port}/control/trades?venue=binance_spot&symbol=BTC-USDT"
        async with wires.http.get(url) as answer:
            rows = pa.ipc.open_stream(await answer.read()).read_all().to_pylist()
        assert [(r["trade_id"], r["price"], r["quantity"], r["is_buyer_maker"], r["time_ms"]) for r in rows[:10]] == [
            (t["t"], t["p"], t["q"], t["m"], t["T"]) for t in seen
        ]
        assert len(rows) == 12


def test_process_starts_pauses_and_stops_and_nothing_moves_while_paused() -> None:
    with SimulatorProcess(["okx_spot"], rate=2000, seed=5) as simulator:
        assert set(simulator.endpoints["okx_spot"]) == {"public", "business", "rest"}
        deadline = time.monotonic() + 10
        while simulator.ledger()["events"] < 100:
            assert time.monotonic() < deadline
        simulator.pause()
        before = simulator.ledger(), simulator.book("okx_spot", "BTC-USDT")
        assert (simulator.ledger(), simulator.book("okx_spot", "BTC-USDT")) == before
        assert simulator.trades("okx_spot", "BTC-USDT").num_rows == 0
        simulator.resume()
        while simulator.ledger()["events"] == before[0]["events"]:
            assert time.monotonic() < deadline

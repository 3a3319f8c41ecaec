"""The simulated Deribit, seen by a plain client: answers, refusals, book chain, history, limits, heartbeats."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from marketprism_ray.simulator.deribit import house as deribit
from marketprism_ray.simulator.deribit.session import Credits
from marketprism_ray.simulator.server import Simulator

NAME = "deribit_derivatives"
PERPETUAL = "BTC-PERPETUAL"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    running = Simulator([NAME], rate=500)
    await running.start()
    yield running
    await running.stop()


class Client:
    """One socket, and REST beside it."""

    def __init__(self, simulator: Simulator) -> None:
        self._urls = simulator.endpoints()[NAME]
        self._id = 0
        self._pushed: deque[Any] = deque()
        """What came while an answer was waited for."""

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(self._urls["public"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._session.close()

    async def receive(self) -> Any:
        message = await self._socket.receive(10)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        return json.loads(message.data, parse_float=Decimal)

    async def call(self, method: str, **params: Any) -> Any:
        self._id += 1
        await self._socket.send_json({"jsonrpc": "2.0", "id": self._id, "method": f"public/{method}", "params": params})
        while True:
            answer = await self.receive()
            if answer is None or answer.get("id") == self._id:
                return answer
            self._pushed.append(answer)

    async def push(self, channel: str) -> Any:
        while True:
            message = self._pushed.popleft() if self._pushed else await self.receive()
            if message.get("params", {}).get("channel") == channel:
                return message["params"]["data"]

    async def rest(self, method: str, **params: Any) -> tuple[int, Any]:
        url = f"{self._urls['rest']}/api/v2/public/{method}"
        async with self._session.get(url, params=params) as answer:
            return answer.status, json.loads(await answer.text(), parse_float=Decimal)


async def test_what_is_accepted_is_listed_and_what_is_unknown_is_left_out(simulator: Simulator) -> None:
    async with Client(simulator) as client:
        asked = [f"trades.{PERPETUAL}.100ms", f"book.{PERPETUAL}.100ms", "trades.NOTHING.100ms", "nonsense"]
        answer = await client.call("subscribe", channels=asked)
        assert set(answer["result"]) == set(asked[:2])
        assert {"usIn", "usOut", "usDiff", "testnet"} <= set(answer)
        assert (await client.call("subscribe", channels=["nonsense"]))["result"] == []


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("subscribe", {"channels": [f"trades.{PERPETUAL}.raw"]}, 13778),
        ("subscribe", {"channels": []}, 11050),
        ("subscribe", {"channels": [f"quote.X{n}" for n in range(501)]}, 11050),
        ("set_heartbeat", {"interval": 5}, 11050),
        ("no_such_method", {}, -32601),
        ("ticker", {"instrument_name": "NOTHING"}, -32602),
    ],
)
async def test_what_is_wrong_gets_the_venues_error(
    simulator: Simulator, method: str, params: dict[str, Any], code: int
) -> None:
    async with Client(simulator) as client:
        assert (await client.call(method, **params))["error"]["code"] == code


async def test_the_chain_of_changes_rebuilds_the_true_book_and_a_second_subscription_brings_no_snapshot(
    simulator: Simulator,
) -> None:
    channel = f"book.{PERPETUAL}.100ms"
    async with Client(simulator) as client:
        await client.call("subscribe", channels=[channel])
        data = await client.push(channel)
        assert data["type"] == "snapshot"
        sides: dict[str, dict[Decimal, Decimal]] = {"bids": {}, "asks": {}}
        last, changes = None, 0
        await client.call("subscribe", channels=[channel])
        while True:
            for side, levels in sides.items():
                for action, price, amount in data[side]:
                    assert (action == "new") is (Decimal(price) not in levels)
                    if action == "delete":
                        del levels[Decimal(price)]
                    else:
                        levels[Decimal(price)] = Decimal(amount)
            if last is not None:
                assert data["type"] == "change"
                assert data["prev_change_id"] == last
                changes += 1
            last = data["change_id"]
            if changes > 30:
                simulator.paused = True
                if last == simulator.market.symbols[NAME, "BTC-USD-SWAP"].update_id:
                    break
            data = await client.push(channel)
        bids, asks = simulator.market.symbols[NAME, "BTC-USD-SWAP"].book()
        assert sides["bids"] == {Decimal(p): Decimal(q) for p, q in bids}
        assert sides["asks"] == {Decimal(p): Decimal(q) for p, q in asks}


async def test_history_goes_by_sequence_both_ways(simulator: Simulator) -> None:
    truth = simulator.market.symbols[NAME, "BTC-USD-SWAP"].truth
    channel = f"trades.{PERPETUAL}.100ms"
    async with Client(simulator) as client:
        await client.call("subscribe", channels=[channel])
        while len(truth.ids) < 30:
            (row, *_) = await client.push(channel)
            at = truth.ids.index(row["trade_seq"])
            assert Decimal(row["price"]) == Decimal(truth.prices[at])
            assert row["direction"] == ("sell" if truth.taker_sold[at] else "buy")
            assert row["contracts"] * 10 == Decimal(truth.quantities[at])
        first = truth.ids[5]
        asked = {"instrument_name": PERPETUAL, "start_seq": first, "end_seq": first + 9, "count": 5}
        status, up = await client.rest("get_last_trades_by_instrument", **asked, sorting="asc")
        assert status == 200
        assert [t["trade_seq"] for t in up["result"]["trades"]] == list(range(first, first + 5))
        assert up["result"]["has_more"]
        _, down = await client.rest("get_last_trades_by_instrument", **asked, sorting="desc")
        assert [t["trade_seq"] for t in down["result"]["trades"]] == list(range(first + 9, first + 4, -1))


async def test_too_many_requests_are_refused_and_end_a_session(simulator: Simulator) -> None:
    house: Any = simulator._houses[NAME]
    house._methods.requests = Credits(0.001, 3)
    async with Client(simulator) as client:
        for _ in range(3):
            assert (await client.rest("get_time"))[0] == 200
        status, body = await client.rest("get_time")
        assert (status, body["error"]["code"]) == (429, 10028)
        answer = await client.call("get_time")
        assert answer is None or answer["error"]["code"] == 10028
        assert await client.receive() is None, "the session is over"
    assert simulator._houses[NAME].rate_limited == 2


@pytest.mark.parametrize("answers", [True, False])
async def test_a_test_request_wants_an_answer(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(deribit, "TEST_MS", 300)
    house: Any = simulator._houses[NAME]
    async with Client(simulator) as client:
        assert (await client.call("set_heartbeat", interval=10))["result"] == "ok"
        (session,) = house._sessions.values()
        session.heartbeat_ms, session.next_beat_ms = 200, 0
        seen = []
        for _ in range(8):
            message = await client.receive()
            if message is None:
                break
            if message.get("method") == "heartbeat":
                seen.append(message["params"]["type"])
                if answers and seen[-1] == "test_request":
                    assert "version" in (await client.call("test"))["result"]
        assert "test_request" in seen
        assert (message is None) is not answers

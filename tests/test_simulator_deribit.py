"""The simulated Deribit, seen by a plain client: answers, refusals, book chain, history, limits, heartbeats."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from marketprism_ray.simulator.deribit import house as deribit
from marketprism_ray.simulator.deribit.session import Credits
from marketprism_ray.simulator.market import EXPIRY, Symbol
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.simulator.summaries import volatility
from marketprism_ray.simulator.unrest import Command

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
        try:
            self._socket = await self._session.ws_connect(self._urls["public"])
        except aiohttp.ClientError:
            await self._session.close()
            raise
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
        """Give the next message of a channel; those of others wait."""
        seen = 0
        while True:
            if seen == len(self._pushed):
                self._pushed.append(await self.receive())
            message = self._pushed[seen]
            if message.get("params", {}).get("channel") == channel:
                del self._pushed[seen]
                return message["params"]["data"]
            seen += 1

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
    house._methods._pools["requests", "127.0.0.1"] = Credits(0.001, 3)
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


# --- what the venue's own words are ---


class Still:
    """The venue with a market that moves by hand alone, and one client."""

    def __init__(self, running: Simulator, client: Client, session: aiohttp.ClientSession) -> None:
        self.running, self.client, self._session = running, client, session
        self.house: Any = running._houses[NAME]

    def symbol(self, name: str) -> Symbol:
        return self.running.market.symbols[NAME, name]

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        url = self.running.endpoints()[NAME]["rest"] + path
        async with self._session.post(url, json=body) as answer:
            return answer.status, json.loads(await answer.text(), parse_float=Decimal)

    async def get(self, path: str, **query: str) -> Any:
        async with self._session.get(self.running.endpoints()[NAME]["rest"] + path, params=query) as answer:
            return json.loads(await answer.text(), parse_float=Decimal)


@pytest.fixture
async def still() -> AsyncIterator[Still]:
    running = Simulator([NAME], rate=0.001)
    await running.start()
    async with aiohttp.ClientSession() as session, Client(running) as client:
        yield Still(running, client, session)
    await running.stop()


async def test_json_rpc_by_post_answers_as_get_does(still: Still) -> None:
    still.symbol("BTC-USD-SWAP").trade(still.running.wire.now_ms())
    got = (await still.get("/api/v2/public/get_last_trades_by_instrument", instrument_name=PERPETUAL))["result"]
    assert len(got["trades"]) == 1
    params = {"instrument_name": PERPETUAL}
    body = {"jsonrpc": "2.0", "id": 7, "method": "public/get_last_trades_by_instrument", "params": params}
    for path in ("/api/v2", "/api/v2/", "/api/v2/public/get_last_trades_by_instrument"):
        status, answer = await still.post(path, body)
        assert (status, answer["id"], answer["result"]) == (200, 7, got)
    for wrong, code in (
        ({**body, "method": "public/no_such"}, -32601),
        ({**body, "method": "private/buy"}, -32601),
        ({**body, "params": []}, -32600),
        ([body], -32700),
    ):
        status, answer = await still.post("/api/v2", wrong)
        assert (status, answer["error"]["code"]) == (400, code)


@pytest.mark.parametrize("currency", ["BTC", "ETH", "USDC", "USDT", "EURR", "SOL", "any"])
async def test_every_currency_is_known_also_without_instruments(still: Still, currency: str) -> None:
    found = await still.client.call("get_instruments", currency=currency)
    names = [one["instrument_name"] for one in found["result"]]
    assert bool(names) is (currency in ("BTC", "ETH", "USDC", "any"))
    assert (await still.client.call("get_instruments", currency="DOGE"))["error"]["code"] == -32602


async def test_changes_of_an_interval_come_in_one_message_and_each_interval_has_its_own_chain(still: Still) -> None:
    channels = [f"book.{PERPETUAL}.{every}" for every in ("100ms", "agg2")]
    await still.client.call("subscribe", channels=channels)
    symbol = still.symbol("BTC-USD-SWAP")
    books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    last: dict[str, int] = {}
    for channel in channels:
        data = await still.client.push(channel)
        assert (data["type"], data["prev_change_id"]) == ("snapshot", None)
        last[channel] = data["change_id"]
        books[channel] = {
            side: {Decimal(price): Decimal(amount) for _, price, amount in data[side]} for side in ("bids", "asks")
        }
    for _ in range(60):
        for event in symbol.act(still.running.wire.now_ms(), is_trade=False):
            still.house.publish(event)
    bids, asks = symbol.book()
    for channel in channels:
        messages = 0
        while last[channel] != symbol.update_id:
            data = await still.client.push(channel)
            messages += 1
            assert (data["type"], data["prev_change_id"]) == ("change", last[channel])
            assert data["change_id"] - last[channel] > len(data["bids"]) + len(data["asks"]), "ids are of all books"
            last[channel] = data["change_id"]
            for side, book in books[channel].items():
                assert len({price for _, price, _ in data[side]}) == len(data[side])
                for action, price, amount in data[side]:
                    assert (action == "new") is (Decimal(price) not in book)
                    if action == "delete":
                        del book[Decimal(price)]
                    else:
                        book[Decimal(price)] = Decimal(amount)
        assert messages <= 2, "60 changes"
        assert books[channel] == {
            "bids": {Decimal(p): Decimal(q) for p, q in bids},
            "asks": {Decimal(p): Decimal(q) for p, q in asks},
        }


async def test_unsubscribe_all_leaves_nothing(still: Still) -> None:
    await still.client.call("subscribe", channels=[f"quote.{PERPETUAL}", f"ticker.{PERPETUAL}.100ms"])
    assert (await still.client.call("unsubscribe_all"))["result"] == "ok"
    assert [client.keys for client in still.running.wire.clients] == [set()]


async def test_an_incremental_ticker_adds_up_to_the_ticker(still: Still) -> None:
    channel = f"incremental_ticker.{PERPETUAL}"
    await still.client.call("subscribe", channels=[channel])
    known = await still.client.push(channel)
    assert known.pop("type") == "snapshot"
    symbol = still.symbol("BTC-USD-SWAP")
    for _ in range(5):
        still.house.publish(symbol.trade(still.running.wire.now_ms()))
        still.house.publish(symbol.change(still.running.wire.now_ms()))
        change = await still.client.push(channel)
        assert change.pop("type") == "change"
        assert "min_price" not in change or len(change) < len(known)
        known.update(change)
    (bid, _), (ask, _) = symbol.best()
    assert (Decimal(known["best_bid_price"]), Decimal(known["best_ask_price"])) == (Decimal(bid), Decimal(ask))
    assert Decimal(known["last_price"]) == Decimal(symbol.truth.prices[-1])


async def test_a_grouped_book_puts_levels_together(still: Still) -> None:
    await still.client.call("subscribe", channels=[f"book.{PERPETUAL}.10.10.100ms", f"book.{PERPETUAL}.7.10.100ms"])
    data = await still.client.push(f"book.{PERPETUAL}.10.10.100ms")
    bids, asks = still.symbol("BTC-USD-SWAP").book()
    for side, levels, down in (("bids", bids, True), ("asks", asks, False)):
        assert len(data[side]) == 10
        for price, amount in ((Decimal(p), Decimal(q)) for p, q in data[side]):
            assert price % 5 == 0
            near = [
                Decimal(q)
                for p, q in levels
                if (price <= Decimal(p) < price + 5 if down else price - 5 < Decimal(p) <= price)
            ]
            assert sum(near) == amount
    assert all(key.count(".7.") == 0 for client in still.running.wire.clients for key in client.keys)


async def test_large_round_amounts_are_written_with_an_exponent(still: Still) -> None:
    async with aiohttp.ClientSession() as session:
        url = still.running.endpoints()[NAME]["rest"] + "/api/v2/public/get_order_book"
        async with session.get(url, params={"instrument_name": PERPETUAL, "depth": "1000"}) as answer:
            text = await answer.text()
    assert re.search(r",\d\.\d+e\d+\]", text)
    amounts = {Decimal(p): Decimal(q) for p, q in json.loads(text, parse_float=Decimal)["result"]["bids"]}
    bids, _ = still.symbol("BTC-USD-SWAP").book(1000)
    assert amounts == {Decimal(p): Decimal(q) for p, q in bids}


async def test_a_trade_of_a_spread_appears_on_the_spread_and_on_each_leg(still: Still) -> None:
    combo, dated = "BTC-FS-28DEC29_PERP", "BTC-28DEC29"
    channels = [f"trades.{name}.100ms" for name in (combo, dated, PERPETUAL)]
    answer = await still.client.call("subscribe", channels=[*channels, "trades.future_combo.BTC.100ms"])
    assert len(answer["result"]) == 4
    legs = [still.symbol("BTC-USD-291228"), still.symbol("BTC-USD-SWAP")]
    for number in (1, 2):
        for leg, sold in zip(legs, (True, False), strict=True):
            still.house.publish(leg.trade(still.running.wire.now_ms(), number, sold=sold, lots=3))
    spreads, first, second = [await still.client.push(channel) for channel in channels]
    assert await still.client.push("trades.future_combo.BTC.100ms") == spreads
    assert [one["trade_seq"] for one in spreads] == [1, 2]
    for spread, *parts in zip(spreads, first, second, strict=True):
        assert spread["legs"] == parts
        assert Decimal(spread["price"]) == Decimal(parts[0]["price"]) - Decimal(parts[1]["price"])
        assert {part["combo_id"] for part in parts} == {combo}
        assert {part["combo_trade_id"] for part in parts} == {spread["trade_id"]}
        assert (spread["direction"], parts[1]["direction"]) == ("sell", "buy")
    history = await still.client.call("get_last_trades_by_instrument", instrument_name=combo, sorting="asc")
    assert history["result"]["trades"] == spreads
    kinds = {one["kind"] for one in (await still.client.call("get_instruments", currency="BTC"))["result"]}
    assert "future_combo" in kinds


async def test_old_trades_are_on_a_host_of_their_own_that_is_seconds_behind(still: Still) -> None:
    symbol, now = still.symbol("BTC-USD-SWAP"), still.running.wire.now_ms()
    old, recent, new = [symbol.trade(at).id for at in (now - 90_000_000, now - 60_000, now)]
    query = {"instrument_name": PERPETUAL, "count": "10", "sorting": "asc"}

    async def ids(host: str) -> list[int]:
        answer = await still.get(f"{host}/api/v2/public/get_last_trades_by_instrument", **query)
        return [one["trade_seq"] for one in answer["result"]["trades"]]

    assert await ids("") == [recent, new]
    assert await ids("/history") == [old, recent]
    assert (await still.get("/history/api/v2/public/get_time"))["error"]["code"] == -32601


async def test_the_last_volatility_candle_is_unfinished_and_continuation_leads_back(
    still: Still, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = still.running.wire.now_ms() // 60_000 * 60_000
    asked = {"currency": "BTC", "start_timestamp": minute - 1_500 * 60_000, "resolution": "60"}
    closes = set()
    for second in (5, 30, 59, 120):
        monkeypatch.setattr(still.house._methods, "_now_ms", lambda second=second: minute + second * 1_000)
        answer = await still.client.call("get_volatility_index_data", **asked, end_timestamp=minute + 59_999)
        rows, continuation = answer["result"]["data"], answer["result"]["continuation"]
        assert rows[-1][0] == minute
        closes.add(rows[-1][4])
    assert len(closes) >= 3
    assert rows[-1][2] == max(volatility("btc_usd", minute + at * 1_000) for at in range(60))
    assert (len(rows), continuation) == (1_000, rows[0][0] - 60_000)
    older = await still.client.call("get_volatility_index_data", **asked, end_timestamp=continuation)
    assert older["result"]["continuation"] is None
    assert len(older["result"]["data"]) == 501


async def test_subscribing_has_credits_of_its_own_and_running_out_ends_the_session(still: Still) -> None:
    still.house._methods._pools["subscribe", "127.0.0.1"] = Credits(0.001, 10)
    for _ in range(10):
        assert (await still.client.call("subscribe", channels=[f"quote.{PERPETUAL}"]))["result"]
    assert (await still.client.call("subscribe", channels=[f"quote.{PERPETUAL}"]))["error"]["code"] == 10028
    assert await still.client.receive() is None


async def test_lists_of_instruments_are_scarcer_on_sockets(still: Still) -> None:
    for _ in range(5):
        assert (await still.client.call("get_instruments", currency="BTC"))["result"]
    assert (await still.client.call("get_instruments", currency="BTC"))["error"]["code"] == 10028
    assert len((await still.get("/api/v2/public/get_instruments", currency="any"))["result"]) > 6


async def test_an_address_has_32_sockets(still: Still) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(31):
            await stack.enter_async_context(Client(still.running))
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            await stack.enter_async_context(Client(still.running))


async def test_what_befalls_an_instrument_is_announced_and_its_history_stays(still: Still) -> None:
    state, creation = "instrument.state.future.BTC", "instrument.creation.any.any"
    await still.client.call("subscribe", channels=[state, creation])
    dated = "BTC-USD-291228"
    trade = still.symbol(dated).trade(still.running.wire.now_ms())
    for action, word in (("halt", "halted"), ("resume", "open")):
        still.running.befall(Command(action, NAME, dated))
        assert (await still.client.push(state))["state"] == word
        found = await still.client.call("get_instrument", instrument_name="BTC-28DEC29")
        assert found["result"]["state"] == word
    with pytest.raises(ValueError, match="shows no auction"):
        still.running.befall(Command("auction", NAME, dated))
    still.running.befall(Command("list", NAME, dated, EXPIRY[1] - 86_400_000))
    assert (await still.client.push(creation))["instrument_name"] == "BTC-27DEC29"
    assert (await still.client.push(state))["state"] == "open"
    still.running.befall(Command("expire", NAME, dated))
    said = await still.client.push(state)
    assert (said["instrument_name"], said["state"]) == ("BTC-28DEC29", "delivered")
    past = await still.get("/api/v2/public/get_instruments", currency="BTC", expired="true")
    assert [(one["instrument_name"], one["is_active"]) for one in past["result"]] == [("BTC-28DEC29", False)]
    query = {"instrument_name": "BTC-28DEC29"}
    (row,) = (await still.get("/api/v2/public/get_last_trades_by_instrument", **query))["result"]["trades"]
    assert row["trade_seq"] == trade.id
    assert (await still.client.call("ticker", **query))["error"]["code"] == -32602

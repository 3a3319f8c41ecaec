"""What simulated venues refuse: messages, streams, connections, silence and age of sockets, weight of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from binance_bench import COINM, PREFIX, USDM, bench
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.simulator.binance.limits import PATIENCE, Guard, Quota
from marketprism_ray.simulator.rules import Attempts, Conduct, Rules
from marketprism_ray.simulator.server import Simulator


@asynccontextmanager
async def simulated(venue: str, rules: Rules | None = None) -> AsyncIterator[tuple[Simulator, aiohttp.ClientSession]]:
    simulator = Simulator([venue], rate=0.001)
    house = simulator._houses[venue]
    if rules is not None:
        house.rules = rules  # type: ignore[attr-defined]
    await simulator.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{simulator.port}") as http:
        try:
            yield simulator, http
        finally:
            await simulator.stop()


async def close_code(socket: aiohttp.ClientWebSocketResponse) -> tuple[int | None, object]:
    while (message := await socket.receive(timeout=10)).type in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG):
        pass
    return socket.close_code, message.extra


# --- the rules ---


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 10))
def test_so_many_messages_fit_into_any_second(times: list[float], most: int) -> None:
    conduct = Conduct(Rules(messages=most), 0.0)
    times.sort()
    for i, now in enumerate(times):
        within = sum(1 for at in times[: i + 1] if at > now - 1)
        assert conduct.hears(now) == (within <= most)


def test_a_ping_wants_a_pong_with_its_own_payload() -> None:
    conduct = Conduct(Rules(ping_s=20, pong_s=60), 0.0)
    assert conduct.ping(19.9) is None
    first = conduct.ping(20.0)
    assert first is not None
    conduct.pong(b"unasked")
    assert conduct.verdict(79.9) is None
    assert conduct.verdict(80.0) == (1008, "Pong timeout")
    conduct.pong(first)
    assert conduct.verdict(80.0) is None


def test_a_later_pong_answers_what_was_asked_before() -> None:
    conduct = Conduct(Rules(ping_s=20, pong_s=60), 0.0)
    conduct.ping(20.0)
    second = conduct.ping(40.0)
    assert second is not None
    conduct.pong(second)
    assert conduct.wakes_at() == 60.0
    assert conduct.verdict(1000.0) is None


def test_a_socket_ends_with_its_age() -> None:
    conduct = Conduct(Rules(lifetime_s=86_400), 5.0)
    assert conduct.wakes_at() == 86_405.0
    assert conduct.verdict(86_404.9) is None
    assert conduct.verdict(86_405.0) == (1001, "lifetime")
    assert Conduct(Rules(), 0.0).wakes_at() is None


def test_attempts_count_also_where_they_are_refused() -> None:
    attempts = Attempts()
    assert [attempts.allows((2, 10.0), now) for now in (0.0, 1.0, 2.0, 11.5, 12.5)] == [True, True, False, True, True]
    assert attempts.allows(None, 0.0)


# --- as clients see them ---


@pytest.mark.parametrize(("venue", "most"), [("binance_spot", 5), ("binance_derivatives", 10), ("binance_coinm", 10)])
@pytest.mark.parametrize("kind", ["json", "ping", "pong"])
async def test_who_says_too_much_is_disconnected(venue: str, most: int, kind: str) -> None:
    async with simulated(venue) as (_, http):
        path = "/binance_derivatives/public/ws" if venue == "binance_derivatives" else f"/{venue}/ws"
        socket = await http.ws_connect(path)
        say = {
            "json": lambda: socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1}),
            "ping": socket.ping,
            "pong": socket.pong,
        }[kind]
        for _ in range(most + 1):
            await say()
        assert await close_code(socket) == (1008, "Too many requests")


async def test_more_streams_than_a_socket_may_have_end_it() -> None:
    async with simulated("binance_spot") as (simulator, http):
        socket = await http.ws_connect("/binance_spot/ws")
        names = [f"c{i}usdt@trade" for i in range(1024)]
        await socket.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
        assert await socket.receive_json(timeout=5) == {"result": None, "id": 1}
        await socket.send_json({"method": "SUBSCRIBE", "params": [*names, "btcusdt@trade"], "id": 2})
        assert await close_code(socket) == (1008, "Too many streams")
        refused = [one for one in simulator.wire.truth.happenings if one["kind"] == "refused"]
        assert refused[0]["reason"] == "Too many streams"


async def test_connections_of_an_address_are_counted() -> None:
    rules = Rules(connects=(3, 300))
    async with simulated("binance_spot", rules) as (_, http):
        for _ in range(3):
            await (await http.ws_connect("/binance_spot/ws")).close()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect("/binance_spot/ws")
        assert refused.value.status == 429


async def test_a_socket_is_pinged_and_cut_if_it_does_not_answer() -> None:
    rules = Rules(ping_s=0.05, pong_s=0.3)
    async with simulated("binance_spot", rules) as (_, http):
        silent = await http.ws_connect("/binance_spot/ws", autoping=False)
        loud = await http.ws_connect("/binance_spot/ws", autoping=False)
        pinged = asyncio.Event()

        async def answer() -> None:
            for _ in range(12):
                message = await loud.receive(timeout=5)
                assert message.type is WSMsgType.PING
                await loud.pong(message.data)
            pinged.set()

        task = asyncio.create_task(answer())
        assert await close_code(silent) == (1008, "Pong timeout")
        await asyncio.wait_for(pinged.wait(), 10)
        await task
        assert not loud.closed


async def test_a_socket_lives_for_its_time() -> None:
    rules = Rules(lifetime_s=0.1)
    async with simulated("binance_derivatives", rules) as (_, http):
        socket = await http.ws_connect("/binance_derivatives/market/ws")
        assert await close_code(socket) == (1001, "lifetime")


async def test_the_clock_of_a_venue_may_be_another() -> None:
    one, other = (
        Simulator(["binance_spot"], rate=0.001),
        Simulator(["binance_spot"], rate=0.001, clock_offset_ms=-90_000),
    )
    await one.start()
    await other.start()
    try:
        async with aiohttp.ClientSession() as http:
            times = []
            for simulator in (other, one):
                async with http.get(f"http://127.0.0.1:{simulator.port}/binance_spot/api/v3/time") as answer:
                    times.append((await answer.json())["serverTime"])
        assert times[1] - times[0] >= 90_000
        event = other.market.symbols["binance_spot", "BTC-USDT"].trade(other.wire.now_ms())
        assert abs(event.time_ms - times[0]) < 60_000
    finally:
        await one.stop()
        await other.stop()


def test_rules_are_those_of_the_documentation() -> None:
    houses = Simulator(["binance_spot", "binance_derivatives", "binance_coinm"])._houses
    spot = Rules(messages=5, streams=1024, connects=(300, 300), ping_s=20, pong_s=60, lifetime_s=86_400)
    futures = replace(spot, messages=10, connects=None, ping_s=180, pong_s=600)
    found = {name: house.rules for name, house in houses.items()}  # type: ignore[attr-defined]
    assert found == {"binance_spot": spot, "binance_derivatives": futures, "binance_coinm": futures}


# --- weight ---


def test_who_goes_on_after_a_refusal_is_banned_and_longer_the_next_time() -> None:
    guard = Guard(Quota(100, 60))
    assert guard.ask(100, 0.0) == (200, 0.0)
    assert guard.ask(1, 15.0) == (429, 45.0)
    # The cheapest call is refused as well, however long ago the dear one was.
    assert [guard.ask(0, 30.0)[0] for _ in range(PATIENCE)] == [429] * PATIENCE
    assert guard.ask(1, 31.0) == (418, 120.0)
    assert guard.ask(1, 61.0) == (418, 90.0)
    assert [guard.ask(1, 62.0)[0] for _ in range(PATIENCE - 1)] == [418] * (PATIENCE - 1)
    assert guard.ask(1, 63.0) == (418, 240.0)
    assert guard.ask(100, 303.0) == (200, 0.0)
    assert guard.ask(1, 304.0) == (429, 59.0)
    assert [guard.ask(1, 305.0) for _ in range(PATIENCE + 1)][-1] == (418, 480.0)


def test_who_waits_as_told_is_served_again() -> None:
    guard = Guard(Quota(100, 60))
    guard.ask(100, 0.0)
    status, wait_s = guard.ask(1, 10.0)
    assert (status, guard.ask(100, 10.0 + wait_s)) == (429, (200, 0.0))


async def test_a_refusal_has_the_venues_words_and_stands_for_every_call() -> None:
    async with simulated("binance_derivatives") as (simulator, http):
        house: Any = simulator._houses["binance_derivatives"]
        house._pool.guard.quota.limit = 41

        async def ask(path: str) -> tuple[int, dict[str, str], Any]:
            async with http.get(f"/binance_derivatives/fapi/v1/{path}") as answer:
                return answer.status, dict(answer.headers), await answer.json()

        for used in (20, 40):
            status, headers, _ = await ask("depth?symbol=BTCUSDT&limit=1000")
            assert (status, headers["X-MBX-USED-WEIGHT"], headers["X-MBX-USED-WEIGHT-1M"]) == (
                200,
                str(used),
                str(used),
            )
        status, headers, body = await ask("depth?symbol=BTCUSDT&limit=5")
        assert (status, body["code"]) == (429, -1003)
        assert body["msg"].startswith("Too much request weight used; current limit is 41 request weight per 1 MINUTE.")
        assert 0 < int(headers["Retry-After"]) <= 60
        statuses = [(await ask("ping"))[0] for _ in range(PATIENCE)]
        assert statuses == [429] * PATIENCE
        status, headers, body = await ask("ping")
        assert (status, body["code"], int(headers["Retry-After"])) == (418, -1003, 120)
        assert "IP banned until" in body["msg"]


async def test_both_futures_markets_spend_one_weight() -> None:
    async with bench("binance_spot", "binance_derivatives", "binance_coinm") as one:
        used = []
        for path in (
            f"{PREFIX[USDM]}/depth?symbol=BTCUSDT&limit=50",
            f"{PREFIX[USDM]}/depth?symbol=BTCUSDT&limit=100",
            f"{PREFIX[COINM]}/depth?symbol=BTCUSD_PERP&limit=500",
            f"{PREFIX[COINM]}/depth?symbol=BTCUSD_PERP&limit=1000",
            f"{PREFIX[USDM]}/klines?symbol=BTCUSDT&interval=1m&limit=1500",
            f"{PREFIX[COINM]}/premiumIndex",
            f"{PREFIX[USDM]}/ticker/24hr",
            "binance_spot/api/v3/ping",
            "binance_derivatives/futures/data/openInterestHist?symbol=BTCUSDT&period=5m",
            "binance_coinm/futures/data/openInterestHist?pair=BTCUSD&period=5m",
        ):
            used.append(int((await one.raw(path))[1]["X-MBX-USED-WEIGHT-1M"]))
        assert used == [2, 7, 17, 37, 47, 57, 97, 1, 97, 98]
        for _ in range((2400 - 98) // 20):
            assert (await one.raw(f"{PREFIX[USDM]}/aggTrades?symbol=BTCUSDT"))[0] == 200
        status, headers, body = await one.raw(f"{PREFIX[COINM]}/aggTrades?symbol=BTCUSD_PERP")
        assert (status, body["code"]) == (429, -1003)
        assert int(headers["Retry-After"]) > 0
        assert (await one.raw("binance_spot/api/v3/ping"))[0] == 200
        assert (await one.get("control/ledger"))["rate_limited"] == 1


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("fapi/v1/fundingRate?symbol=BTCUSDT&limit=1", 500),
        ("futures/data/topLongShortAccountRatio?symbol=BTCUSDT&period=5m&limit=1", 1000),
    ],
)
async def test_some_endpoints_have_limits_of_their_own(path: str, limit: int) -> None:
    async with bench("binance_derivatives") as one:
        statuses = [(await one.raw(f"binance_derivatives/{path}"))[0] for _ in range(limit + 1)]
        assert statuses == [200] * limit + [429]
        assert (await one.raw("binance_derivatives/fapi/v1/ping"))[0] == 200

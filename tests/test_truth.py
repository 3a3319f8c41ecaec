"""The truth ledger of the simulated venues: what it keeps, also of what nobody heard."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pyarrow as pa
from test_simulator import simulated, until

from marketprism_ray.simulator.truth import FRAMES, Pages

SPOT = "binance_spot"


def rows(pages: Pages) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pages.table().to_pylist()
    return found


async def step_until(simulator: Any, condition: Any) -> None:
    while not condition():
        simulator.step()
        await asyncio.sleep(0)


async def test_frames_are_kept_from_the_first_subscription_on_in_plain_words() -> None:
    async with simulated(SPOT) as (simulator, wires):
        for _ in range(50):
            simulator.step()
        frames = simulator.wire.truth.frames
        assert frames.count == 0, "nobody has subscribed yet"
        socket = await wires.socket(f"{SPOT}/stream?streams=btcusdt@trade&timeUnit=MICROSECOND")
        await step_until(simulator, lambda: frames.count >= 3)
        heard = json.loads(await socket.receive_str())
        kept = rows(frames)
        first = json.loads(kept[0]["text"])
        assert (kept[0]["key"], kept[0]["sent"], kept[0]["eaten"]) == ("btcusdt@trade", 1, "")
        assert (first["t"], first["T"] * 1000) == (heard["data"]["t"], heard["data"]["T"])
        await socket.close()
        await until(lambda: not simulator.wire.clients, "the end of the socket")
        before = frames.count
        await step_until(simulator, lambda: frames.count >= before + 2)
        assert {(row["sent"], row["eaten"]) for row in rows(frames)[before:]} == {(0, "unheard")}
        kinds = [event["kind"] for event in simulator.wire.truth.happenings]
        assert kinds == ["opened", "subscribed", "closed"]


async def test_what_a_fault_ate_is_kept_and_named() -> None:
    async with simulated(SPOT) as (simulator, wires):
        socket = await wires.socket(f"{SPOT}/ws/btcusdt@trade")
        await wires.fault("drop", SPOT, stream="btcusdt@trade", count=2)
        frames = simulator.wire.truth.frames
        await step_until(simulator, lambda: frames.count >= 3)
        assert [row["eaten"] for row in rows(frames)[:3]] == ["drop", "drop", ""]
        assert simulator.wire.truth.happenings[-1]["fault"]["kind"] == "drop"
        await socket.close()


async def test_answers_are_kept_with_their_requests_and_served_by_the_page() -> None:
    async with simulated("okx_spot", SPOT) as (simulator, wires):
        answer = await wires.get("okx_spot/api/v5/public/instruments?instType=SPOT")
        await wires.fault("status", SPOT, status=429)
        await wires.raw(f"{SPOT}/api/v3/time")
        async with wires.http.get(f"http://127.0.0.1:{simulator.port}/control/truth/answers?page=0") as page:
            kept = pa.ipc.open_stream(await page.read()).read_all().to_pylist()
        assert [(row["venue"], row["path"], row["query"], row["status"]) for row in kept] == [
            ("okx_spot", "/api/v5/public/instruments", "instType=SPOT", 200),
            (SPOT, "/api/v3/time", "", 429),
        ]
        assert json.loads(kept[0]["body"]) == answer
        status, _, _ = await wires.raw("control/truth/answers?page=7")
        assert status == 404


async def test_a_greeting_is_kept_for_the_socket_it_was_for() -> None:
    async with simulated("okx_spot") as (simulator, wires):
        arg = {"channel": "books", "instId": "BTC-USDT"}
        socket = await wires.socket("okx_spot/ws/v5/public", {"op": "subscribe", "args": [arg]})
        await socket.receive_str()
        snapshot = await socket.receive_str()
        (kept,) = rows(simulator.wire.truth.frames)
        (client,) = simulator.wire.clients
        assert (kept["text"], kept["socket"]) == (snapshot, client.number)


def test_pages_are_sealed_read_back_and_bounded() -> None:
    pages = Pages(FRAMES, limit_bytes=40_000)
    for number in range(40_000):
        pages.add(400, number, SPOT, "btcusdt@trade", f"frame {number * 7919}", 0, 1, "")
    kept = rows(pages)
    assert pages.count == 40_000
    assert pages.forgotten > 0
    assert [row["number"] for row in kept] == list(range(pages.forgotten, 40_000))
    assert pages.page(0) is None
    assert pages.page(pages.pages) is None

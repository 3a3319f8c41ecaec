"""The shells against real local servers: the simulated venues, a bare websocket server, an HTTP server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from marketprism_ray.book_stream import BookStream
from marketprism_ray.budget import SECOND, CircuitBreaker, RequestBudget
from marketprism_ray.config import Config, validate
from marketprism_ray.connection import ConnectionSettings, backoff
from marketprism_ray.errors import CircuitOpen, RateLimited, TransportError, VenueError
from marketprism_ray.feed import Feed
from marketprism_ray.rest import RestClient, RestSettings, retry_after_s
from marketprism_ray.session import Session, Shard
from marketprism_ray.simulator.binance.limits import Guard, Quota
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.simulator.wire import Fault
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import Budget, Priority, Request, Rest
from marketprism_ray.venues import VENUES

QUICK = {"backoff_min_s": 0.05, "backoff_max_s": 0.1}


def config(endpoints: dict[str, dict[str, str]], **networking: Any) -> Config:
    exchanges = {venue: {"symbols": ["*"], "endpoints": urls} for venue, urls in endpoints.items()}
    return validate({"exchanges": exchanges, "networking": {**QUICK, **networking}}, "test")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    running = Simulator(rate=800)
    await running.start()
    yield running
    await running.stop()


async def until(check: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - other tasks change it
            await asyncio.sleep(0.01)


async def session_of(simulator: Simulator, venue: str, **networking: Any) -> Session:
    symbols = [s.listing.symbol for s in simulator.market.of_venue(venue)]
    shard = Shard(venue, venue, tuple((d, s) for s in symbols for d in ("trade", "orderbook")))
    session = Session(shard, config(simulator.endpoints(), **networking))
    await session.start()
    await until(lambda: is_live(session) and all(t.frames > 5 for t in trades_of(session)))
    return session


def books_of(session: Session) -> list[BookStream]:
    return [s for s in session.streams if isinstance(s, BookStream)]


def trades_of(session: Session) -> list[TradeStream]:
    return [s for s in session.streams if isinstance(s, TradeStream)]


def is_live(session: Session) -> bool:
    return all(book.sync.is_live for book in books_of(session))


def equals_the_truth(session: Session, simulator: Simulator) -> bool:
    for stream in session.streams:
        symbol = simulator.market.symbols[session.venue.name, stream.instrument.symbol_name]
        if isinstance(stream, TradeStream):
            told = simulator._houses[session.venue.name].told(symbol)
            if stream.last != told.ids[-1] or stream.gaps:
                return False
        elif isinstance(stream, BookStream):
            if not stream.sync.is_live or stream.sync.last != symbol.update_id:
                return False
            found = [[(x.price, x.quantity) for x in side] for side in stream.sync.top(400)]
            if found != list(symbol.book(400)):
                return False
    return True


async def check_against_truth(session: Session, simulator: Simulator) -> list[int]:
    """Pause the market, wait until everything equals the truth; give the trades that were missing and came back.

    What is lost at the end of a stream shows with the next message: every stream gets a few more first.
    """
    before = {stream.key: stream.frames for stream in session.streams}
    await until(lambda: all(stream.frames >= before[stream.key] + 3 for stream in session.streams))
    simulator.paused = True
    rows: dict[str, list[int]] = {}

    def drained() -> bool:
        """Take what there is: only what has left is stored, and closes holes."""
        for batch in session.drain(force=True):
            if batch.data_type == "trade":
                for row in batch.data.select(["symbol_name", "sequence"]).to_pylist():
                    rows.setdefault(row["symbol_name"], []).append(row["sequence"])
        return equals_the_truth(session, simulator) and not session.batcher.pending_rows

    await until(drained)
    for symbol, sequences in rows.items():
        truth = simulator._houses[session.venue.name].told(simulator.market.symbols[session.venue.name, symbol])
        wanted = [i for i in truth.ids if i >= min(sequences)]
        assert sorted(sequences) == wanted
    simulator.paused = False
    return [stream.repaired for stream in trades_of(session)]


@pytest.mark.parametrize(
    "venue", ["binance_spot", "binance_derivatives", "binance_coinm", "okx_spot", "okx_derivatives"]
)
async def test_a_cut_socket_comes_back_and_nothing_is_missing(simulator: Simulator, venue: str) -> None:
    session = await session_of(simulator, venue)
    connects = sum(c.counts["connects"] for c in session.connections)
    assert simulator.wire.disconnect(venue) == len(session.connections)
    await until(lambda: sum(c.counts["connects"] for c in session.connections) >= 2 * connects and is_live(session))
    repaired = await check_against_truth(session, simulator)
    assert sum(repaired) > 0
    await session.stop()


@pytest.mark.parametrize("kind", ["drop", "repeat", "reorder", "corrupt"])
@pytest.mark.parametrize("venue", ["binance_spot", "binance_derivatives", "okx_derivatives"])
async def test_faults_on_the_wire_harm_no_data(simulator: Simulator, venue: str, kind: str) -> None:
    session = await session_of(simulator, venue)
    trade = "@aggTrade" if venue == "binance_derivatives" else "trade"
    faults = [Fault(kind, venue, stream=part, count=2) for part in (trade, "@depth" if "binance" in venue else "books")]
    simulator.wire.faults += faults
    await until(lambda: all(fault.count <= 0 for fault in faults))
    await check_against_truth(session, simulator)
    if kind in ("drop", "corrupt"):
        assert sum(t.missing for t in trades_of(session)) > 0
        assert sum(b.gaps_opened for b in books_of(session)) > 0
    await session.stop()


async def test_a_sequence_reset_by_maintenance_is_no_gap(simulator: Simulator) -> None:
    session = await session_of(simulator, "okx_spot")
    simulator._houses["okx_spot"].reset()  # type: ignore[union-attr]
    await check_against_truth(session, simulator)
    assert sum(book.gaps_opened for book in books_of(session)) == 0
    await session.stop()


@pytest.mark.parametrize("venue", ["binance_spot", "okx_spot"])
async def test_a_shutdown_notice_is_answered_by_a_replacement_without_a_hole(simulator: Simulator, venue: str) -> None:
    session = await session_of(simulator, venue)
    simulator._houses[venue].notice()
    await until(lambda: all(c.counts["replaced"] == 1 for c in session.connections))
    repaired = await check_against_truth(session, simulator)
    assert sum(repaired) == 0
    assert sum(book.gaps_opened for book in books_of(session)) == 0
    assert len([c for c in simulator.wire.clients if c.venue == venue]) == len(session.connections)
    await session.stop()


async def test_a_socket_that_dies_while_its_replacement_catches_up_leaves_it_the_streams(simulator: Simulator) -> None:
    session = await session_of(simulator, "binance_spot")
    slow = Fault("delay", "binance_spot", seconds=60, count=10**6)
    simulator.wire.faults.append(slow)  # snapshots of the replacement's books do not come
    simulator._houses["binance_spot"].notice()
    await until(lambda: all(c.state == "replacing" for c in session.connections))
    await until(lambda: all(b._standby is not None and b._standby._held for b in books_of(session)))
    assert sum(connection.cut() for connection in session.connections) == len(session.connections)
    await until(lambda: all(c.counts["replaced"] == 1 for c in session.connections))
    simulator.wire.faults.remove(slow)
    await until(lambda: is_live(session))
    await check_against_truth(session, simulator)
    assert [c.counts["connects"] for c in session.connections] == [2] * len(session.connections)
    await session.stop()


async def test_refused_sockets_and_failing_rest_are_retried_until_it_works(simulator: Simulator) -> None:
    session = await session_of(simulator, "binance_spot")
    simulator.wire.faults += [
        Fault("refuse", "binance_spot", seconds=0.5),
        Fault("status", "binance_spot", status=429, count=1),
        Fault("html", "binance_spot", count=1),
    ]
    simulator.wire.disconnect("binance_spot")
    await until(lambda: sum(c.counts["failures"] for c in session.connections) > 0)
    await until(lambda: is_live(session), 30)
    await check_against_truth(session, simulator)
    assert session.rest.counts["rate_limited"] == 1
    assert session.rest.counts["failures"] >= 1
    await session.stop()


async def test_an_unknown_symbol_is_named_and_the_others_go_on(simulator: Simulator) -> None:
    shard = Shard("x", "okx_spot", (("trade", "NO-SUCH"), ("trade", "BTC-USDT")))
    session = Session(shard, config(simulator.endpoints()))
    await session.start()
    await until(lambda: trades_of(session)[0].frames > 0)
    assert session.status()["unlisted"] == ["NO-SUCH"]
    assert [stream.key for stream in session.streams] == ["okx_spot/trade/BTC-USDT"]
    await session.stop()


async def test_a_connection_that_ends_by_an_unforeseen_error_begins_anew_and_is_counted(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await session_of(simulator, "okx_spot")
    stream = trades_of(session)[0]
    connection = next(c for c in session.connections if c.feed is not None and stream in c.feed.streams)
    make_feed = connection._make_feed
    failures = [ZeroDivisionError("first"), RuntimeError("second")]

    def fail(standby: bool) -> Feed:
        if failures:
            raise failures.pop(0)
        return make_feed(standby)

    monkeypatch.setattr(connection, "_make_feed", fail)
    frames = stream.frames
    connection.cut()
    await until(lambda: not failures and stream.frames > frames and is_live(session))
    assert session.status()["crashes"] == 2
    assert connection.counts["crashes"] == 2
    await session.stop()


async def test_a_frame_above_the_limit_closes_the_socket_with_a_named_reason_and_it_reconnects(
    simulator: Simulator,
) -> None:
    huge = asyncio.Event()

    async def handle(socket: ServerConnection) -> None:
        async for _ in socket:
            if not huge.is_set():
                huge.set()
                await socket.send("x" * 50_000_000)

    async with serve(handle, "127.0.0.1", 0, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        endpoints = simulator.endpoints()
        endpoints["binance_spot"]["public"] = f"ws://127.0.0.1:{port}/"
        shard = Shard("b", "binance_spot", (("trade", "BTC-USDT"),))
        session = Session(shard, config(endpoints))
        await session.start()
        (connection,) = session.connections
        await until(lambda: connection.counts["connects"] >= 2)
        assert "a frame above networking.max_frame_bytes (16,777,216)" in connection.last_error
        await session.stop()


def test_backoff_grows_to_its_limit_and_is_spread_by_chance() -> None:
    delays = backoff(ConnectionSettings(), random.Random(1))
    found = [next(delays) for _ in range(100)]
    assert 0.5 <= found[0] <= 1.0
    assert all(15 <= delay <= 30 for delay in found[10:])
    assert len(set(found)) == 100


# --- REST ---


async def rest_client(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], **settings: Any
) -> tuple[RestClient, TestServer]:
    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    client = RestClient(
        VENUES["binance_spot"], str(server.make_url("")), RestSettings(**{"backoff_s": 0.01, "attempts": 3, **settings})
    )
    await client.open()
    return client, server


REQUEST = Request("/api/v3/time", {}, (("weight", 1),))


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (200, "<html>", TransportError, "not JSON: <html>"),
        (500, '{"code":-1000,"msg":"oops"}', TransportError, "oops"),
        (400, '{"code":-1121,"msg":"Invalid symbol."}', VenueError, "Invalid symbol"),
        (200, "x" * 200_000, TransportError, "above 100000 bytes"),
    ],
)
async def test_bad_answers_are_named_errors(status: int, body: str, kind: type[Exception], text: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    client, server = await rest_client(answer, max_body_bytes=100_000)
    with pytest.raises(kind, match=f"binance_spot: GET /api/v3/time: .*{text}" if kind is TransportError else text):
        await client.get(REQUEST)
    await client.close()
    await server.close()


async def test_a_429_is_waited_out_and_tried_again() -> None:
    seen = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 1:
            return web.Response(status=429, headers={"Retry-After": "0"}, text="{}")
        return web.Response(text="{}")

    client, server = await rest_client(answer)
    assert (await client.get(REQUEST)).body == b"{}"
    assert client.counts["rate_limited"] == 1
    await client.close()
    await server.close()


async def test_a_server_that_keeps_failing_is_not_asked_any_more() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=502, text="bad gateway")

    client, server = await rest_client(answer)
    for _ in range(2):
        with pytest.raises(TransportError):
            await client.get(REQUEST)
    with pytest.raises(CircuitOpen):
        await client.get(REQUEST)
    await client.close()
    await server.close()


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 5)), max_size=60))
def test_no_window_ever_holds_more_than_the_budget(steps: list[tuple[int, float]]) -> None:
    budget = RequestBudget((Budget("w", 100, 10.0),), fraction=1.0)
    now, sent = 0, []
    for weight, pause in steps:
        now += int(pause * SECOND)
        request = Request("/", {}, (("w", weight),))
        while (delay := budget.delay_s(request, now)) > 0:
            now += max(1, int(delay * SECOND))
        budget.spend(request, now)
        sent.append((now, weight))
    for start, _ in sent:
        assert sum(w for at, w in sent if start <= at < start + 10 * SECOND) <= 100


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(1, 90)), max_size=60))
def test_many_processes_with_a_share_each_keep_the_rate_together(processes: int, steps: list[tuple[int, int]]) -> None:
    shares = [RequestBudget((Budget("w", 100, 10.0),), fraction=1.0, share=1 / processes) for _ in range(processes)]
    clocks = [0] * processes
    total = 0
    for process, weight in steps:
        budget, request = shares[process % processes], Request("/", {}, (("w", weight),))
        now = clocks[process % processes]
        while (delay := budget.delay_s(request, now)) > 0:
            now += max(1, int(delay * SECOND))
        budget.spend(request, now)
        clocks[process % processes] = now
        total += weight
    # The last request of each process may weigh more than its share; everything before it was paid in time.
    assert total <= 100 * (1 + max(clocks) / (10 * SECOND)) + 90 * processes


def test_a_share_may_change_while_the_process_runs() -> None:
    budget = RequestBudget((Budget("w", 100, 60.0),), fraction=1.0, share=0.5)
    fifty = Request("/", {}, (("w", 50),))
    budget.spend(fifty, 0)
    assert budget.delay_s(fifty, 0) == pytest.approx(60)
    budget.set_share(1.0)
    assert budget.delay_s(fifty, 0) == 0
    budget.set_share(0.1)
    assert budget.delay_s(Request("/", {}, (("w", 1),)), 0) == pytest.approx(60)


def test_what_other_processes_use_of_the_limit_does_not_stop_ours() -> None:
    budget = RequestBudget((Budget("w", 100, 60.0, "USED"),), fraction=1.0, share=0.25)
    budget.observe({"USED": "70"}, 0)
    assert budget.delay_s(Request("/", {}, (("w", 25),)), 0) == 0
    budget.observe({"USED": "90"}, 0)
    assert budget.delay_s(Request("/", {}, (("w", 25),)), 0) > 0
    assert budget.delay_s(Request("/", {}, (("w", 10),)), 0) == 0


@pytest.mark.parametrize(
    ("text", "status", "seconds"),
    [
        ("7", 429, 7.0),
        ("2.5", 429, 2.5),
        ("0", 429, 1.0),
        ("0", 418, 120.0),
        ("600", 418, 600.0),
        ("", 429, 5.0),
        ("", 418, 120.0),
        ("soon", 429, 5.0),
        ("-3", 429, 5.0),
        ("inf", 429, 5.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 429, 40.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(text: str, status: int, seconds: float) -> None:
    assert retry_after_s({"Retry-After": text} if text else {}, status, 60.0) == seconds


async def test_a_request_does_not_wait_for_one_with_another_budget(unused_tcp_port: int) -> None:
    venue = replace(VENUES["binance_spot"], rest=Rest((Budget("a", 1, 3600), Budget("b", 10, 1)), lambda *_: None))
    app = web.Application()
    app.add_routes([web.get("/x", _answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    client = RestClient(
        venue, f"http://127.0.0.1:{unused_tcp_port}", budget=RequestBudget(venue.rest.budgets, fraction=1)
    )
    await client.open()
    spent = Request("/x", {}, (("a", 1),), Priority.SNAPSHOT)
    await client.get(spent)
    stuck = asyncio.create_task(client.get(spent))
    try:
        await client.get(Request("/x", {}, (("b", 1),), Priority.METADATA))
        assert not stuck.done()
    finally:
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        await client.close()
        await runner.cleanup()


class Venue:
    """A bare REST server that notes what it is asked, and its client."""

    def __init__(self, *budgets: Budget, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self._status, self._headers = status, headers or {}
        self._budgets = budgets

    async def __aenter__(self) -> RestClient:
        app = web.Application()
        app.add_routes([web.get("/{name}", self._serve)])
        self._server = TestServer(app)
        await self._server.start_server()
        venue = replace(VENUES["binance_spot"], rest=Rest(self._budgets, lambda *_: None))
        budget = RequestBudget(self._budgets, fraction=1)
        self.client = RestClient(venue, str(self._server.make_url("")), RestSettings(attempts=1), budget)
        await self.client.open()
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self._server.close()

    async def _serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.match_info["name"])
        return web.Response(text="{}", status=self._status, headers=self._headers)


async def test_the_more_urgent_request_goes_first_and_of_equals_the_older() -> None:
    venue = Venue(Budget("w", 1, 0.05))
    async with venue as client:
        await client.get(Request("/first", {}, (("w", 1),)))
        tasks = []
        for name in ("METADATA", "POLL", "BACKFILL", "SNAPSHOT", "POLL"):
            request = Request(f"/{name}{len(tasks)}", {}, (("w", 1),), Priority[name])
            tasks.append(asyncio.create_task(client.get(request)))
        await asyncio.gather(*tasks)
    assert venue.asked == ["first", "SNAPSHOT3", "BACKFILL2", "POLL1", "POLL4", "METADATA0"]


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    venue = Venue(Budget("w", 1, 0.3))
    async with venue as client:
        await client.get(Request("/first", {}, (("w", 1),)))
        given_up = asyncio.create_task(client.get(Request("/urgent", {}, (("w", 1),), Priority.SNAPSHOT)))
        waiting = asyncio.create_task(client.get(Request("/patient", {}, (("w", 1),), Priority.POLL)))
        await asyncio.sleep(0)
        given_up.cancel()
        await waiting
    assert venue.asked == ["first", "patient"]


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.sets(st.sampled_from("ab"), min_size=1)), max_size=12))
@settings(deadline=None, max_examples=30)
def test_every_request_gets_its_turn(wanted: list[tuple[Priority, set[str]]]) -> None:
    async def run() -> int:
        client = RestClient(VENUES["binance_spot"], budget=RequestBudget((Budget("a", 3, 0.01), Budget("b", 2, 0.01))))
        turns = [
            client._wait_for_turn(Request("/", {}, tuple((name, 1) for name in sorted(names)), priority))
            for priority, names in wanted
        ]
        async with asyncio.timeout(10):
            await asyncio.gather(*turns)
        return sum(map(len, client._queues.values()))

    assert asyncio.run(run()) == 0


@pytest.mark.parametrize(("status", "headers", "least"), [(429, {"Retry-After": "30"}, 29), (418, {}, 119)])
async def test_a_limit_or_a_ban_silences_the_whole_venue_for_as_long_as_it_says(
    status: int, headers: dict[str, str], least: float
) -> None:
    venue = Venue(Budget("w", 100, 1), status=status, headers=headers)
    async with venue as client:
        with pytest.raises(RateLimited, match=f"HTTP {status}"):
            await client.get(Request("/x", {}, (("w", 1),)))
        assert client.budget.delay_s(Request("/y", {}, ()), time.monotonic_ns()) > least
        assert client.counts["rate_limited"] == 1


async def test_a_request_that_is_not_answered_in_time_is_tried_again() -> None:
    seen = 0

    async def slow_once(_: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 1:
            await asyncio.Event().wait()
        return web.Response(text="{}")

    app = web.Application()
    app.add_routes([web.get("/x", slow_once)])
    server = TestServer(app)
    await server.start_server()
    venue = replace(VENUES["binance_spot"], rest=Rest((), lambda *_: None))
    client = RestClient(venue, str(server.make_url("")), RestSettings(timeout_s=0.2, attempts=2, backoff_s=0.01))
    await client.open()
    assert (await client.get(Request("/x"))).body == b"{}"
    assert (seen, client.counts["failures"], client.counts["retries"]) == (2, 1, 1)
    await client.close()
    await server.close()


async def _answer(_: web.Request) -> web.Response:
    return web.Response(text="{}")


def test_the_venues_own_count_and_its_block_are_believed() -> None:
    budget = RequestBudget((Budget("w", 100, 60.0, "USED"),), fraction=1.0)
    budget.observe({"USED": "95"}, 0)
    assert budget.delay_s(Request("/", {}, (("w", 10),)), 0) == pytest.approx(60)
    budget.block(90, 0)
    assert budget.delay_s(Request("/", {}, ()), 0) == pytest.approx(90)


def test_an_open_circuit_lets_a_probe_through_now_and_then() -> None:
    breaker = CircuitBreaker(failures=2, open_s=10)
    breaker.failed(0)
    assert breaker.allows(0)
    breaker.failed(0)
    assert not breaker.allows(SECOND)
    assert breaker.allows(11 * SECOND)
    assert not breaker.allows(12 * SECOND)
    breaker.succeeded()
    assert breaker.allows(12 * SECOND)


def test_rate_limited_says_how_long() -> None:
    assert RateLimited("slow down", 2.5).retry_after_s == 2.5


async def test_a_collector_that_meets_the_venues_limit_waits_as_told_and_is_never_banned() -> None:
    simulator = Simulator(["binance_spot"], rate=100, extra=3)
    house: Any = simulator._houses["binance_spot"]
    house._pool.guard = Guard(Quota(600, 2))  # two snapshots, and no third for two seconds
    await simulator.start()
    symbols = [s.listing.symbol for s in simulator.market.of_venue("binance_spot")]
    shard = Shard("binance_spot", "binance_spot", tuple(("orderbook", symbol) for symbol in symbols))
    session = Session(shard, config(simulator.endpoints()))
    await session.start()
    await until(lambda: is_live(session), 60)
    statuses = [row["status"] for row in simulator.wire.truth.answers.table().to_pylist()]
    assert house.rate_limited == statuses.count(429) > 0
    assert 418 not in statuses
    await session.stop()
    await simulator.stop()

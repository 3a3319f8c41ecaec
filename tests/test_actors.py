"""The actors as plain classes, with a cluster made of ten honest lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_encoding import trade

from actors.cluster import ActorGone
from actors.collector import Collector
from actors.sinks import NotFenced, Refused, SinkActor
from marketprism_ray.batching import Batch
from marketprism_ray.config import Config, validate
from marketprism_ray.errors import BadBatch, SinkUnavailable
from marketprism_ray.extents import Claim, Run
from marketprism_ray.placement import plan_shards
from marketprism_ray.reconcile import Kill, Observed, StartCollector, StartSink, StopCollector, reconcile
from marketprism_ray.resume import Stored
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.session import Shard
from marketprism_ray.sinks.memory import MemorySink

KEY = "okx_derivatives/trade/BTC-USDT-SWAP"
PLACES = {KEY: ("trade", "okx_derivatives", "perpetual", "BTC-USDT-SWAP")}
CONFIG = validate({"cluster": {"lease_s": 60}, "clickhouse": {"insert_s": 0.01}}, "test")


def claim(first: int, last: int, since: int = 0) -> Claim:
    """Give what a batch of these rows says; all of them are of one moment."""
    at = trade().timestamp
    return Claim((Run(first, last, at, at),), since)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what collectors keep on disk away from the checkout."""
    monkeypatch.chdir(tmp_path)


def rows(first: int, last: int) -> pa.RecordBatch:
    return batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(first, last + 1)])


def sequences(sink: MemorySink) -> list[int]:
    return [n for batch in sink.batches for n in batch.column("sequence").to_pylist()]


class Session:
    """Makes numbered trades when asked."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.batches: list[Batch] = []
        self.number = 0
        self.stopped = self.paused = False

    def make(self, first: int, last: int) -> None:
        self.number += 1
        self.batches.append(Batch(f"c/1/{self.number}", "trade", rows(first, last), {KEY: claim(first, last)}))

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    def drain(self, *, force: bool = False) -> list[Batch]:
        taken, self.batches = self.batches, []
        return taken

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def delivered(self, claims: Any) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


class Cluster:
    """Calls plain objects; the ones in ``dead`` are gone."""

    def __init__(self, **actors: SinkActor) -> None:
        self.actors = actors
        self.dead: set[str] = set()
        self.die_after_call: set[str] = set()

    def find(self, name: str) -> str | None:
        return name if name in self.actors and name not in self.dead else None

    async def call(self, handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if handle in self.dead:
            raise ActorGone(handle)
        answer = await getattr(self.actors[handle], method)(*arguments)
        if handle in self.die_after_call:
            self.die_after_call.discard(handle)
            raise ActorGone(f"{handle} died before its answer arrived")
        return answer


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 - other tasks change it
            await asyncio.sleep(0.002)


def collector(cluster: Cluster, config: Config = CONFIG) -> tuple[Collector, Session]:
    session = Session()
    made = Collector(
        Shard("c", "okx_derivatives", ()), config, 1, {}, {"clickhouse": "a", "nats": "b"},
        make_session=lambda *_, **__: session, cluster=cluster,  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    return made, session


def sink(tmp_path: Path, target: Any = None) -> SinkActor:
    """Make a sink actor that knows who collects."""
    actor = SinkActor("memory", target or MemorySink(), tmp_path)
    actor._epochs.update(dict.fromkeys(("a", "c", *(f"c{n}" for n in range(12))), 1))
    return actor


async def test_every_batch_reaches_every_sink_once_and_memory_is_given_back(tmp_path: Path) -> None:
    first, second = MemorySink(), MemorySink()
    actor, session = collector(Cluster(a=sink(tmp_path, first), b=sink(tmp_path, second)))
    await actor.start()
    for n in range(0, 50, 5):
        session.make(n, n + 4)
        await asyncio.sleep(0)
    await until(lambda: len(sequences(first)) == len(sequences(second)) == 50)
    assert sequences(first) == sequences(second) == list(range(50))
    assert await actor.stop()
    assert (await actor.status())["retained_bytes"] == 0


async def test_a_sink_that_dies_before_it_answers_gets_the_same_call_again_and_nothing_is_doubled(
    tmp_path: Path,
) -> None:
    target = MemorySink()
    cluster = Cluster(a=sink(tmp_path, target), b=sink(tmp_path))
    cluster.die_after_call.add("a")
    actor, session = collector(cluster)
    await actor.start()
    session.make(1, 5)
    session.make(6, 9)
    await until(lambda: len(sequences(target)) == 9)
    cluster.actors["a"] = sink(tmp_path, target)  # the replacement writes to the same store
    session.make(10, 12)
    assert await actor.stop()
    assert sequences(target) == list(range(1, 13))


def bounded(tmp_path: Path, **cluster: float) -> Config:
    system = {"data_dir": str(tmp_path)}
    return validate({"system": system, "cluster": {"lease_s": 60, **cluster}, "clickhouse": {"insert_s": 0.01}}, "t")


async def test_while_a_sink_is_dead_reading_pauses_at_the_limit_and_goes_on_after(tmp_path: Path) -> None:
    target = MemorySink()
    cluster = Cluster(a=sink(tmp_path, target), b=sink(tmp_path))
    cluster.dead.add("a")
    actor, session = collector(cluster, bounded(tmp_path, retention_bytes=3000, spill_bytes=0))
    await actor.start()
    session.make(1, 50)
    await until(lambda: session.paused)
    cluster.dead.clear()
    await until(lambda: not session.paused)
    assert sequences(target) == list(range(1, 51))
    await actor.stop()


async def test_what_memory_does_not_hold_while_a_sink_is_dead_waits_on_disk_and_comes_in_order(tmp_path: Path) -> None:
    away, there = MemorySink(), MemorySink()
    cluster = Cluster(a=sink(tmp_path, away), b=sink(tmp_path, there))
    cluster.dead.add("a")
    actor, session = collector(cluster, bounded(tmp_path, retention_bytes=30_000, spill_bytes=1 << 20))
    await actor.start()
    for n in range(0, 1000, 20):
        session.make(n, n + 19)
    await until(lambda: len(sequences(there)) == 1000)
    status = await actor.status()
    assert status["spilled_bytes"] > 30_000 >= status["retained_bytes"] > 0
    assert not session.paused
    cluster.dead.clear()
    await until(lambda: len(sequences(away)) == 1000)
    assert sequences(away) == sequences(there) == list(range(1000))
    assert await actor.stop()
    status = await actor.status()
    assert status["spilled_bytes"] == status["retained_bytes"] == 0


class Slow(MemorySink):
    """Takes one write at a time when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Semaphore(0)

    async def write(self, batches: Any, token: str) -> int:
        await self.turn.acquire()
        return await super().write(batches, token)


async def test_a_stop_waits_while_a_slow_server_goes_on_taking_and_not_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.collector.CALL_ROWS", 20)
    target = Slow()
    actor, session = collector(Cluster(a=sink(tmp_path, target), b=sink(tmp_path)))
    await actor.start()
    for n in range(0, 200, 20):
        session.make(n, n + 19)
    await until(lambda: actor._unacknowledged == 10)
    waits = 0

    async def wait_for(flushed: Any, timeout_s: float) -> None:
        """Let the server take one write a wait, eight in all."""
        nonlocal waits
        waits += 1
        flushed.close()
        if waits <= 8:
            target.turn.release()
            await until(lambda: actor._unacknowledged == 10 - waits)
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "wait_for", wait_for)
        assert await actor.stop() is False, "nothing more is taken"
    assert waits == 9
    assert sequences(target) == list(range(160))


async def test_reading_does_not_pause_and_resume_by_turns_while_much_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.collector.KEPT_BYTES", 2_000)
    target = MemorySink()
    cluster = Cluster(a=sink(tmp_path, target), b=sink(tmp_path))
    cluster.dead.add("a")
    actor, session = collector(cluster, bounded(tmp_path, retention_bytes=10_000, spill_bytes=1 << 20))
    turns: list[bool] = []
    session.pause = lambda: turns.append(True)  # type: ignore[method-assign]
    session.resume = lambda: turns.append(False)  # type: ignore[method-assign]
    await actor.start()
    for n in range(0, 400, 20):
        session.make(n, n + 19)
    await until(lambda: bool(turns))
    for _ in range(5):
        actor._collect([])
    assert turns == [True]
    cluster.dead.clear()
    await until(lambda: len(sequences(target)) == 400)
    await until(lambda: turns == [True, False])
    await actor.stop()


async def test_a_full_disk_pauses_reading_and_nothing_is_lost(tmp_path: Path) -> None:
    target = MemorySink()
    cluster = Cluster(a=sink(tmp_path, target), b=sink(tmp_path))
    cluster.dead.add("a")
    actor, session = collector(cluster, bounded(tmp_path, retention_bytes=10_000, spill_bytes=20_000))
    await actor.start()
    for n in range(0, 400, 20):
        session.make(n, n + 19)
    await until(lambda: session.paused)
    cluster.dead.clear()
    await until(lambda: not session.paused)
    session.make(400, 419)
    assert await actor.stop()
    assert sequences(target) == list(range(420))


async def test_a_fence_refuses_the_old_epoch_tells_how_far_it_came_and_stops_it(tmp_path: Path) -> None:
    target = MemorySink()
    a = sink(tmp_path, target)
    actor, session = collector(Cluster(a=a, b=sink(tmp_path)))
    await actor.start()
    session.make(1, 7)
    await until(lambda: len(sequences(target)) == 7)
    assert await a.fence("c", 2, PLACES) == ({KEY: Stored(claim(1, 7))}, [])
    session.make(8, 9)
    await until(lambda: session.stopped)
    assert sequences(target) == list(range(1, 8))
    assert (await actor.status())["state"] == "lapsed"
    with pytest.raises(Refused, match="epoch 1 is over"):
        await a.take("c", 1, [])


async def test_a_collector_that_hears_nothing_for_its_lease_stops_itself(tmp_path: Path) -> None:
    short = validate({"cluster": {"lease_s": 0.05}, "clickhouse": {"insert_s": 0.01}}, "t")
    actor, session = collector(Cluster(a=sink(tmp_path), b=sink(tmp_path)), short)
    await actor.start()
    await until(lambda: session.stopped)
    assert (await actor.status())["state"] == "lapsed"


class Gated(MemorySink):
    """Writes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.sizes: list[int] = []

    async def write(self, batches: Any, token: str) -> int:
        await self.gate.wait()
        self.sizes.append(len(batches))
        return await super().write(batches, token)


async def test_what_comes_from_several_collectors_during_a_write_is_the_next_write(tmp_path: Path) -> None:
    target = Gated()
    actor = sink(tmp_path, target)
    first = asyncio.create_task(actor.take("a", 1, [("a/1/1", "trade", rows(1, 1), {})]))
    await until(lambda: not actor._queues["trade"] and bool(actor._waiting))
    others = [
        asyncio.create_task(actor.take(f"c{n}", 1, [(f"c{n}/1/1", "trade", rows(n, n), {})])) for n in range(2, 12)
    ]
    again = asyncio.create_task(actor.take("c2", 1, [("c2/1/1", "trade", rows(2, 2), {})]))
    await until(lambda: len(actor._queues["trade"]) == 10 and actor.counts["repeats"] == 1)
    target.gate.set()
    await asyncio.gather(first, *others, again)
    assert target.sizes == [1, 10]
    assert sorted(sequences(target)) == list(range(1, 12))


async def test_a_fence_does_not_wait_for_ever_on_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.sinks.FENCE_S", 0.01)
    target = Gated()
    actor = sink(tmp_path, target)
    under_way = asyncio.create_task(actor.take("c", 1, [("c/1/1", "trade", rows(1, 3), {KEY: claim(1, 3)})]))
    await until(lambda: not actor._queues["trade"] and bool(actor._waiting))
    queued = asyncio.create_task(actor.take("c", 1, [("c/1/2", "trade", rows(4, 5), {KEY: claim(4, 5)})]))
    await until(lambda: len(actor._queues["trade"]) == 1)
    assert await actor.fence("c", 2) == ({}, [])
    target.gate.set()
    await under_way
    with pytest.raises(Refused, match="epoch 1 is over"):
        await queued
    assert sequences(target) == [1, 2, 3], "what was being written when the fence came is written, nothing after it"


async def test_a_fence_asks_the_store_what_it_has_of_streams_that_this_actor_has_not_written(tmp_path: Path) -> None:
    target = MemorySink()
    earlier = sink(tmp_path, target)
    await earlier.take("c", 1, [("c/1/1", "trade", rows(1, 3), {KEY: claim(1, 3)})])
    actor = sink(tmp_path, target)
    assert await actor.fence("c", 2) == ({}, [])
    assert await actor.fence("c", 2, PLACES) == ({KEY: Stored(claim(1, 3))}, [])
    await actor.take("c", 2, [("c/2/1", "trade", rows(4, 5), {KEY: claim(4, 5)})])
    target.batches.clear()
    assert await actor.fence("c", 3, PLACES) == ({KEY: Stored(claim(1, 5))}, []), "what it has written itself it knows"
    empty = SinkActor("memory", MemorySink(), tmp_path)
    assert await empty.fence("c", 3, PLACES, {KEY: claim(1, 5)}) == ({KEY: Stored()}, []), "the store has lost it"


class Mute(MemorySink):
    """Cannot be asked so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def stored(self, streams: Any) -> Any:
        if self.times:
            self.times -= 1
            raise SinkUnavailable("the server is away")
        return await super().stored(streams)


async def test_a_store_that_cannot_be_asked_is_asked_again_and_then_said_to_be_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.sinks.RETRY_S", (0.001,))
    target = Mute(3)
    target.batches = [rows(1, 3)]
    assert await sink(tmp_path, target).fence("c", 2, PLACES) == ({KEY: Stored(claim(1, 3))}, [])
    monkeypatch.setattr("actors.sinks.ASK_S", 0.05)
    actor = sink(tmp_path, Mute(10**9))
    assert await actor.fence("c", 2, PLACES) == ({}, [KEY])
    assert "the server is away" in (await actor.status())["last_error"]
    found = await sink(tmp_path, Mute(10**9)).fence("c", 2, PLACES, {KEY: claim(1, 2)})
    assert found == ({KEY: Stored(claim(1, 2))}, []), "what was known of the actor before is certain"


async def test_a_new_actor_takes_nothing_before_it_knows_who_owns_the_shard(tmp_path: Path) -> None:
    target = MemorySink()
    new = SinkActor("memory", target, tmp_path)
    actor, session = collector(Cluster(a=new, b=sink(tmp_path)))
    await actor.start()
    session.make(1, 3)
    await until(lambda: actor._lanes[0].retries > 2)
    assert sequences(target) == []
    await new.fence("c", 1)
    await until(lambda: sequences(target) == [1, 2, 3])
    await new.take("coordinator", 0, [("x/1", "trade", rows(7, 7), {})])
    with pytest.raises(NotFenced):
        await new.take("d", 9, [])
    assert await actor.stop()


async def test_rows_that_are_durable_are_not_written_again_and_others_of_their_batch_are(tmp_path: Path) -> None:
    target = MemorySink()
    actor = sink(tmp_path, target)
    await actor.take("c", 1, [("c/1/1", "trade", rows(1, 5), {KEY: claim(1, 5)})])
    await actor.take("c", 1, [("c/1/2", "trade", rows(4, 8), {KEY: claim(4, 8)})])
    await actor.take("c", 1, [("c/1/3", "trade", rows(2, 3), {KEY: claim(2, 3)})])
    assert sequences(target) == list(range(1, 9))
    await actor.take("c", 1, [("c/1/4", "trade", rows(2, 3), {KEY: claim(2, 3, since=7)})])
    assert sequences(target)[-2:] == [2, 3], "the venue has counted afresh: these are others"
    assert (await actor.status())["repeated_rows"] == 4


class Moody(MemorySink):
    """Fails as told, and refuses sequence 5."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def write(self, batches: Any, token: str) -> int:
        if self.failures:
            self.failures -= 1
            raise SinkUnavailable("away")
        if any(5 in batch.column("sequence").to_pylist() for batch in batches):
            raise BadBatch("row 5 is bad")
        return await super().write(batches, token)


async def test_an_absent_server_is_waited_for_and_a_bad_row_is_set_aside_alone(tmp_path: Path) -> None:
    target = Moody(failures=2)
    actor = sink(tmp_path, target)
    await actor.take("c", 1, [("c/1/1", "trade", rows(1, 10), {KEY: claim(1, 10)})])
    assert sorted(sequences(target)) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    (letter,) = tmp_path.glob("*.arrow")
    assert pa.ipc.open_file(letter).read_all()["sequence"].to_pylist() == [5]
    status = await actor.status()
    assert (status["dead_letters"], status["retries"]) == (1, 2)


async def test_a_row_that_a_server_refuses_for_good_is_claimed_by_nobody(tmp_path: Path) -> None:
    first = sink(tmp_path / "a", Moody(failures=0))
    cluster = Cluster(a=first, b=sink(tmp_path / "b"))
    cluster.die_after_call.add("a")
    actor, session = collector(cluster)
    delivered: list[Claim] = []
    session.delivered = lambda claims: delivered.append(claims[KEY])  # type: ignore[method-assign]
    await actor.start()
    session.make(4, 6)
    await until(lambda: bool(delivered))
    assert [(run.low, run.high) for run in delivered[0].runs] == [(4, 4), (6, 6)]
    stored, _ = await first.fence("c", 2, PLACES)
    assert stored[KEY].claim == delivered[0]


async def test_a_batch_id_seen_before_is_acknowledged_and_not_written_again(tmp_path: Path) -> None:
    target = MemorySink()
    actor = sink(tmp_path, target)
    for _ in range(2):
        await actor.take("c", 1, [("c/1/1", "trade", rows(1, 3), {})])
    assert sequences(target) == [1, 2, 3]


# --- the pure parts ---

SHARD = Shard("v#0", "v", (("trade", "A"),))
READY = {"clickhouse": Observed("alive", last_heard=100), "nats": Observed("alive", last_heard=100)}
KINDS = ("clickhouse", "nats")


def step(
    collectors: dict[str, Observed], sinks: dict[str, Observed] = READY, now: int = 100, **shards: Shard
) -> list[Any]:
    wanted = {shard.name: shard for shard in (shards.values() or [SHARD])}
    return reconcile(wanted, KINDS, collectors, sinks, now, lease_ns=50, start_ns=500)


def test_sinks_come_before_collectors() -> None:
    assert step({}, {}) == [StartSink("clickhouse"), StartSink("nats")]
    starting = {**READY, "nats": Observed("starting", last_heard=100)}
    assert step({}, starting) == []
    assert step({}) == [StartCollector(SHARD, 1, after_loss=False)]


def test_a_dead_collector_is_replaced_with_the_next_epoch() -> None:
    assert step({"v#0": Observed("dead", 4)}) == [StartCollector(SHARD, 5, after_loss=True)]


def test_an_actor_not_heard_for_its_lease_is_killed_and_replaced() -> None:
    assert step({"v#0": Observed("alive", 4, 40, SHARD)}) == [Kill("v#0", "not heard"), StartCollector(SHARD, 5, True)]
    lost = {**READY, "nats": Observed("alive", last_heard=10)}
    assert step({"v#0": Observed("alive", 4, 100, SHARD)}, lost) == [Kill("nats", "not heard"), StartSink("nats")]


def test_what_is_as_desired_is_left_alone_and_what_is_not_is_stopped() -> None:
    assert step({"v#0": Observed("alive", 4, 100, SHARD)}) == []
    assert step({"v#0": Observed("starting", 4, 60, SHARD)}) == []
    changed = Shard("v#0", "v", (("trade", "B"),))
    assert step({"v#0": Observed("alive", 4, 100, changed)}) == [StopCollector("v#0", "its streams changed")]
    found = step({"v#0": Observed("alive", 4, 100, SHARD), "w#0": Observed("alive", 1, 100)})
    assert found == [StopCollector("w#0", "no longer wanted")]


def test_symbols_stay_together_and_where_they_are() -> None:
    symbols = [f"S{n}" for n in range(10)]
    first = plan_shards("v", symbols, ["trade", "orderbook"], 8)
    assert [len(shard.streams) for shard in first] == [8, 6, 6]
    assert {s for shard in first for s in shard.streams} == {(d, s) for s in symbols for d in ("trade", "orderbook")}
    second = plan_shards("v", [*symbols[1:], "NEW"], ["trade", "orderbook"], 8, {shard.name: shard for shard in first})
    moved = sum(len(set(b.streams) - set(a.streams)) for a, b in zip(first, second, strict=True))
    assert moved == 2, "only the new symbol's two streams"
    assert plan_shards("v", [], ["trade"], 8) == []

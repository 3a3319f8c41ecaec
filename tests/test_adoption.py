"""What a collector had received when it was killed is delivered, once, before its successor looks for holes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_actors import Cluster, Session, bounded, rows, until

from actors.cluster import ActorGone
from actors.collector import Collector
from actors.sinks import SinkActor
from actors.takeover import Takeover
from marketprism_ray.batching import Batch
from marketprism_ray.config import Config
from marketprism_ray.encoding import data_type_of
from marketprism_ray.extents import Claim, Run
from marketprism_ray.session import Shard
from marketprism_ray.sinks.memory import MemorySink
from marketprism_ray.spill import leftovers, spill_folder

SYMBOL = "BTC-USDT-SWAP"
KEY = f"okx_derivatives/trade/{SYMBOL}"
SHARD = Shard("c", "okx_derivatives", (("trade", SYMBOL),))


def sequences(sink: MemorySink) -> list[int]:
    return [n for b in sink.batches if data_type_of(b) == "trade" for n in b.column("sequence").to_pylist()]


class Claiming(Session):
    """Makes numbered trades that say which they are."""

    def make(self, first: int, last: int) -> None:
        self.number += 1
        claim = Claim((Run(first, last, first, last),))
        self.batches.append(Batch(f"c/1/{self.number}", "trade", rows(first, last), {KEY: claim}))


class System:
    """Two sinks, a collector, and who hands its shard over; a kill is an end without a word."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        self.config = config or bounded(folder)
        self.folder = spill_folder(self.config.system.data_dir)
        self.targets = {"clickhouse": MemorySink(), "nats": MemorySink()}
        self.cluster = Cluster(**{kind: SinkActor(kind, t, folder) for kind, t in self.targets.items()})
        sinks = {kind: SimpleNamespace(kind=kind, handle=kind) for kind in self.targets}
        self.takeover = Takeover(self.cluster, sinks, lambda: self.config, lambda *_: None)  # type: ignore[arg-type]
        self.takeover.places = lambda _: {KEY: ("trade", "okx_derivatives", "perpetual", SYMBOL)}  # type: ignore[method-assign]

    async def collect(self, epoch: int) -> tuple[Collector, Claiming]:
        session = Claiming()
        made = Collector(
            SHARD, self.config, epoch, {}, {kind: kind for kind in self.targets},
            make_session=lambda *_, **__: session, cluster=self.cluster,  # type: ignore[arg-type,return-value]
        )  # fmt: skip
        await made.start()
        return made, session

    def kill(self, collector: Collector) -> None:
        for task in collector._tasks:
            task.cancel()

    def left(self) -> list[Any]:
        return [one for remains in leftovers(self.folder, "c") for one in remains.batches()]


async def test_what_a_killed_collector_had_is_delivered_before_holes_are_looked_for(tmp_path: Path) -> None:
    system = System(tmp_path)
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    session.make(1, 5)
    await until(lambda: all(len(sequences(sink)) == 5 for sink in system.targets.values()))
    system.cluster.dead.update(("clickhouse", "nats"))
    for first in range(6, 100, 5):
        session.make(first, first + 4)
    await until(lambda: len(system.left()) == 19)
    system.kill(collector)
    system.cluster.dead.clear()
    await system.takeover.fence(SHARD, 2, after_loss=True)
    for target in system.targets.values():
        assert sequences(target) == list(range(1, 101))
    assert not list((system.folder / "c").glob("*"))
    successor, _ = await system.collect(2)
    assert await successor.stop()


async def test_only_the_sink_that_lacks_a_batch_gets_it(tmp_path: Path) -> None:
    system = System(tmp_path)
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    system.cluster.dead.add("clickhouse")
    session.make(1, 5)
    session.make(6, 9)
    await until(lambda: len(sequences(system.targets["nats"])) == 9)
    await until(lambda: {one.sinks for one in system.left()} == {("clickhouse",)})
    system.kill(collector)
    system.cluster.dead.clear()
    calls: list[tuple[str, int]] = []
    call = system.cluster.call

    async def listening(handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "take" and arguments[0] == "c":
            calls.append((handle, len(arguments[2])))
        return await call(handle, method, *arguments, timeout_s=timeout_s)

    system.cluster.call = listening  # type: ignore[method-assign]
    await system.takeover.fence(SHARD, 2, after_loss=True)
    assert sequences(system.targets["clickhouse"]) == list(range(1, 10))
    assert sequences(system.targets["nats"]) == list(range(1, 10))
    assert calls == [("clickhouse", 2)]


async def test_while_a_sink_is_away_the_successor_does_not_wait_for_ever_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.takeover.ADOPT_S", 0.05)
    system = System(tmp_path, bounded(tmp_path, step_s=0.01))
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    system.cluster.dead.add("clickhouse")
    session.make(1, 5)
    await until(lambda: len(sequences(system.targets["nats"])) == 5)
    system.kill(collector)
    call = system.cluster.call

    async def only_take_fails(handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "take" and handle in system.cluster.dead:
            raise ActorGone(handle)
        return await getattr(system.cluster.actors[handle], method)(*arguments)

    system.cluster.call = only_take_fails  # type: ignore[method-assign]
    await system.takeover.fence(SHARD, 2, after_loss=True)
    assert len(system.left()) == 1
    # It ends as well: a second successor finds the same, and the first's delivery is refused.
    await system.takeover.fence(SHARD, 3, after_loss=True)
    assert len(system.left()) == 1
    system.cluster.dead.clear()
    system.cluster.call = call  # type: ignore[method-assign]
    await until(lambda: not system.left())
    assert sequences(system.targets["clickhouse"]) == list(range(1, 6))


async def test_a_torn_end_is_no_batch_and_keeps_nothing_else_back(tmp_path: Path) -> None:
    system = System(tmp_path)
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    system.cluster.dead.update(("clickhouse", "nats"))
    session.make(1, 5)
    session.make(6, 9)
    await until(lambda: len(system.left()) == 2)
    system.kill(collector)
    (file,) = (system.folder / "c").glob("*")
    file.write_bytes(file.read_bytes()[:-7])
    system.cluster.dead.clear()
    await system.takeover.fence(SHARD, 2, after_loss=True)
    assert sequences(system.targets["clickhouse"]) == list(range(1, 6))
    assert not list((system.folder / "c").glob("*"))


async def test_a_stop_that_cannot_deliver_leaves_its_batches_for_the_next_start(tmp_path: Path) -> None:
    system = System(tmp_path)
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    system.cluster.dead.update(("clickhouse", "nats"))
    session.make(1, 5)
    await until(lambda: len(system.left()) == 1)
    assert not await collector.stop(timeout_s=0.05)
    system.cluster.dead.clear()
    await system.takeover.fence(SHARD, 2, after_loss=True)
    assert sequences(system.targets["nats"]) == list(range(1, 6))


BOOK = f"okx_derivatives/orderbook/{SYMBOL}"


def told(sink: MemorySink) -> list[tuple[int, int | None, str]]:
    """Give what the newest rows say of holes: first, last, status."""
    newest: dict[int, dict[str, Any]] = {}
    for batch in sink.batches:
        if data_type_of(batch) == "gap":
            for row in batch.to_pylist():
                if row["revision"] >= newest.get(row["first_missing"], row)["revision"]:
                    newest[row["first_missing"]] = row
    return [(first, row["last_missing"], row["status"]) for first, row in sorted(newest.items())]


async def test_changes_of_a_book_that_will_still_be_delivered_are_an_open_hole_until_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.takeover.ADOPT_S", 0.05)
    monkeypatch.setattr("test_adoption.KEY", BOOK)
    system = System(tmp_path, bounded(tmp_path, step_s=0.01))
    system.takeover.places = lambda _: {BOOK: ("orderbook_delta", "okx_derivatives", "perpetual", SYMBOL)}  # type: ignore[method-assign]
    await system.takeover.fence(SHARD, 1, after_loss=False)
    collector, session = await system.collect(1)
    session.make(1, 5)
    await until(lambda: all(len(sequences(sink)) == 5 for sink in system.targets.values()) and not system.left())
    system.cluster.dead.add("clickhouse")
    session.make(6, 9)
    await until(lambda: len(sequences(system.targets["nats"])) == 9)
    system.kill(collector)
    call = system.cluster.call

    async def only_rows_fail(handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "take" and arguments[0] == "c" and handle in system.cluster.dead:
            raise ActorGone(handle)
        return await getattr(system.cluster.actors[handle], method)(*arguments)

    system.cluster.call = only_rows_fail  # type: ignore[method-assign]
    plans = await system.takeover.fence(SHARD, 2, after_loss=True)
    assert plans[BOOK].last == 9, "what comes after is lost, not what is on its way"
    for target in system.targets.values():
        assert told(target) == [(6, 9, "open"), (10, None, "open")]
    system.cluster.call = call  # type: ignore[method-assign]
    system.cluster.dead.clear()
    for target in system.targets.values():
        await until(lambda sink=target: told(sink) == [(6, 9, "repaired"), (10, None, "open")])  # type: ignore[misc]
    assert sequences(system.targets["clickhouse"]) == list(range(1, 10))
    assert not list((system.folder / "c").glob("1-*"))

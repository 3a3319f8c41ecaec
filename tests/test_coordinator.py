"""The coordinator as a plain class: a venue that cannot be reached holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from msgspec import structs

from actors.cluster import ActorGone
from actors.coordinator import Coordinator
from marketprism_ray import __version__
from marketprism_ray.config import validate
from marketprism_ray.errors import MarketPrismError
from marketprism_ray.extents import Claim, Run
from marketprism_ray.instruments import InstrumentTable
from marketprism_ray.resume import OpenGap, Resume, Stored
from marketprism_ray.session import fetch_instruments
from marketprism_ray.simulator.market import made_up
from marketprism_ray.simulator.server import Simulator


class Cluster:
    """Starts nothing, but remembers; every call is answered as a live sink or collector would."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.alive: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.owned: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self.stored: tuple[dict[str, Stored], list[str]] = ({}, [])
        self.gone: set[str] = set()
        self.unlisted: dict[str, list[str]] = {}
        self.resumed: dict[str, Any] = {}
        self.told: list[tuple[str, pa.RecordBatch]] = []
        self.servers_answer = asyncio.Event()
        self.servers_answer.set()

    def start(self, kind: str, name: str, plain: type, *arguments: Any) -> str:
        self.started.append((kind, name))
        self.alive[name] = kind
        if kind == "collector":
            self.owned[name] = arguments[0].streams
            self.resumed[name] = arguments[3]
        return name

    def find(self, name: str) -> str | None:
        return name if name in self.alive else None

    async def call(self, handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        self.calls.append((handle, method))
        if handle in self.gone:
            self.gone.discard(handle)
            raise ActorGone(handle)
        if method == "fence":
            self.asked.update(arguments[2])
            return self.stored
        if method == "open_gaps":
            return {}
        if method == "take":
            await self.servers_answer.wait()
            self.told.append((handle, arguments[2][0][2]))
        if method == "status":
            return {"open": True, "claims": {}, "epochs": {}, "kind": handle}
        if method == "renew":
            return {
                "version": __version__,
                "epoch": 1,
                "state": "live",
                "error": "",
                "unlisted": self.unlisted.get(handle, []),
                "shard": handle.partition("collector-")[2],
                "owned": self.owned[handle],
            }
        return True

    def kill(self, handle: str) -> None:
        self.alive.pop(handle, None)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not check():  # noqa: ASYNC110 - the control loop changes it
            await asyncio.sleep(0.01)


async def test_a_venue_that_cannot_be_reached_is_reported_and_holds_up_no_other(tmp_path: Path) -> None:
    simulator = Simulator(("okx_spot",), rate=10)
    await simulator.start()
    config = validate(
        {
            "system": {"data_dir": str(tmp_path), "log_level": "error"},
            "cluster": {"step_s": 0.1},
            "networking": {"request_timeout_s": 0.3},
            "exchanges": {
                "binance_spot": {"symbols": ["*"], "endpoints": {"rest": "http://127.0.0.1:9"}},
                "okx_spot": {"symbols": ["BTC-*"], "endpoints": simulator.endpoints()["okx_spot"]},
            },
        },
        "test",
    )
    cluster = Cluster()
    coordinator = Coordinator(config, {}, cluster=cluster)  # type: ignore[arg-type]
    collector = ("collector", "marketprism-collector-okx_spot#0")
    settings = {"clickhouse": object(), "nats": object()}
    coordinator._settings = settings  # type: ignore[assignment]
    await until(lambda: collector in cluster.started)
    await until(lambda: "binance_spot" in str(coordinator._errors))
    status = await coordinator.status()
    assert [c["shard"] for c in status["collectors"]] == ["okx_spot#0"]
    assert cluster.started[:2] == [("sink", "marketprism-sink-clickhouse"), ("sink", "marketprism-sink-nats")]
    fences = [handle for handle, method in cluster.calls if method == "fence"]
    assert fences[:2] == ["marketprism-sink-clickhouse", "marketprism-sink-nats"], (
        "every sink is fenced before a collector"
    )
    assert cluster.asked["okx_spot/orderbook/BTC-USDT"] == ("orderbook_delta", "okx_spot", "spot", "BTC-USDT")
    assert cluster.asked["okx_spot/trade/BTC-USDT"] == ("trade", "okx_spot", "spot", "BTC-USDT")

    coordinator._loop.cancel()
    again = Coordinator(config, settings, cluster=cluster)  # type: ignore[arg-type]
    await until(lambda: again._actors["okx_spot#0"].state == "alive")
    assert cluster.started.count(collector) == 1, "a restarted coordinator adopts what runs"
    again._loop.cancel()
    await simulator.stop()


async def test_a_collector_that_dies_while_the_servers_are_away_is_replaced_and_its_gaps_are_told_when_they_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.takeover.TELL_S", 0.05)
    simulator = Simulator(("okx_spot",), rate=10)
    await simulator.start()
    exchanges = {"okx_spot": {"symbols": ["BTC-*"], "endpoints": simulator.endpoints()["okx_spot"]}}
    system = {"data_dir": str(tmp_path), "log_level": "error"}
    config = validate({"system": system, "cluster": {"step_s": 0.05}, "exchanges": exchanges}, "test")
    cluster = Cluster()
    settings = {"clickhouse": object(), "nats": object()}
    coordinator = Coordinator(config, settings, cluster=cluster)  # type: ignore[arg-type]
    name = "marketprism-collector-okx_spot#0"
    await until(lambda: "okx_spot#0" in coordinator._actors and coordinator._actors["okx_spot#0"].state == "alive")
    trade, book = "okx_spot/trade/BTC-USDT", "okx_spot/orderbook/BTC-USDT"
    there = Claim((Run(1, 100, 1, 10**18),))
    cluster.stored = ({trade: Stored(there)}, [book])
    cluster.servers_answer.clear()
    cluster.gone.add(name)
    await until(lambda: cluster.started.count(("collector", name)) == 2)
    lost = OpenGap(10**18, None, 101, None, "collector_lost")
    assert cluster.resumed[name] == {trade: Resume(100, 10**18, there, (lost,))}
    assert not cluster.told
    cluster.gone.add("marketprism-sink-nats")  # and one of the sinks dies before it could write
    cluster.servers_answer.set()
    await until(lambda: {handle for handle, _ in cluster.told} == {f"marketprism-sink-{kind}" for kind in settings})
    rows = cluster.told[0][1].to_pylist()
    assert [(row["data_type"], row["first_missing"], row["status"]) for row in rows] == [
        ("trade", 101, "open"),
        ("orderbook_delta", None, "open"),
    ]
    coordinator._loop.cancel()
    await simulator.stop()


@pytest.mark.parametrize("venue", ["binance_spot", "okx_spot"])
async def test_what_is_listed_enters_and_what_leaves_or_expires_goes_while_the_others_go_on(
    tmp_path: Path, venue: str
) -> None:
    simulator = Simulator((venue,), rate=10)
    await simulator.start()
    config = validate(
        {
            "system": {"data_dir": str(tmp_path), "log_level": "error"},
            "cluster": {"step_s": 0.05},
            "scheduler": {"jobs": {"instruments": 0.3}},
            "exchanges": {
                venue: {
                    "symbols": ["*-USDT", "SOL-USDT"],
                    "data_types": ["trade"],
                    "endpoints": simulator.endpoints()[venue],
                },
            },
        },
        "test",
    )
    coordinator = Coordinator(config, {"clickhouse": object(), "nats": object()}, cluster=Cluster())  # type: ignore[arg-type,dict-item]

    def symbols() -> set[str]:
        return {symbol for shard in coordinator._shards.values() for _, symbol in shard.streams}

    await until(lambda: symbols() == {"BTC-USDT", "ETH-USDT", "SOL-USDT"})
    (new,) = made_up(venue, 1)
    simulator.enter(new)
    await until(lambda: symbols() == {"BTC-USDT", "ETH-USDT", "SOL-USDT", "C000-USDT"})
    simulator.leave(venue, "SOL-USDT")
    await until(lambda: symbols() == {"BTC-USDT", "ETH-USDT", "C000-USDT"})
    problem = str((await coordinator.status())["errors"])
    assert f"'SOL-USDT' matches none of the 3 instruments of {venue}; nearest:" in problem
    coordinator._loop.cancel()
    await simulator.stop()


def alive(coordinator: Coordinator, shard: str) -> bool:
    return shard in coordinator._actors and coordinator._actors[shard].state == "alive"


def make(tmp_path: Path, simulator: Simulator, cluster: Cluster, run: str = "", **more: Any) -> Coordinator:
    exchanges = {
        venue: {"symbols": ["BTC-*"], "data_types": ["trade"], "endpoints": urls}
        for venue, urls in simulator.endpoints().items()
    }
    sections = {"cluster": {"step_s": 0.05}, "scheduler": {"jobs": {"instruments": 0.2}}} | more
    values = {"system": {"data_dir": str(tmp_path), "log_level": "error"}, "exchanges": exchanges, **sections}
    return Coordinator(
        validate(values, "test"),
        {"clickhouse": object(), "nats": object()},  # type: ignore[dict-item]
        cluster=cluster,  # type: ignore[arg-type]
        run=run,
    )


async def end(coordinator: Coordinator) -> None:
    """Stop it with all that it has begun: nobody writes its state any more."""
    coordinator._loop.cancel()
    await asyncio.gather(coordinator._loop, *coordinator._tasks, return_exceptions=True)


async def test_a_venue_that_halts_everything_is_collected_on_and_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = "live"

    async def fetch(*arguments: Any) -> InstrumentTable:
        table = await fetch_instruments(*arguments)
        return InstrumentTable(table.venue, [structs.replace(i, status=status) for i in table])

    monkeypatch.setattr("marketprism_ray.session.fetch_instruments", fetch)
    simulator = Simulator(("binance_spot",), rate=10)
    await simulator.start()
    cluster = Cluster()
    coordinator = make(tmp_path, simulator, cluster)
    await until(lambda: alive(coordinator, "binance_spot#0"))
    status = "BREAK"
    await until(lambda: "instruments of binance_spot" in coordinator._errors)
    assert coordinator._errors["instruments of binance_spot"] == "not traded now, kept: BTC-USDT (BREAK)"
    assert list(coordinator._shards) == ["binance_spot#0"]
    assert not any(method == "stop" for _, method in cluster.calls)
    status = "live"
    await until(lambda: "instruments of binance_spot" not in coordinator._errors)
    await end(coordinator)
    await simulator.stop()


async def test_a_symbol_that_a_collector_finds_unlisted_makes_a_new_plan(tmp_path: Path) -> None:
    simulator = Simulator(("binance_spot",), rate=10)
    await simulator.start()
    cluster = Cluster()
    coordinator = make(tmp_path, simulator, cluster, scheduler={"jobs": {"instruments": 3600}})
    await until(lambda: alive(coordinator, "binance_spot#0"))
    simulator.leave("binance_spot", "BTC-USDT")
    cluster.unlisted["marketprism-collector-binance_spot#0"] = ["BTC-USDT"]
    await until(lambda: "binance_spot#0" not in coordinator._shards)
    assert "goes on without BTC-USDT: not listed any more" in "; ".join(coordinator.story)
    await end(coordinator)
    await simulator.stop()


async def test_apply_restarts_collectors_for_what_is_built_into_them_and_refuses_the_rest_by_name(
    tmp_path: Path,
) -> None:
    simulator = Simulator(("binance_spot", "okx_spot"), rate=10)
    await simulator.start()
    cluster = Cluster()
    coordinator = make(tmp_path, simulator, cluster, run="a")
    await until(lambda: alive(coordinator, "binance_spot#0") and alive(coordinator, "okx_spot#0"))
    before = list(cluster.started)
    running = coordinator._config
    networking = running.networking.model_copy(update={"silence_s": 5.0})
    assert "networking.silence_s (every collector restarts)" in await coordinator.apply(
        running.model_copy(update={"networking": networking})
    )
    await until(lambda: len(cluster.started) == len(before) + 2)
    fixed = running.cluster.model_copy(update={"num_cpus": 7, "step_s": 0.06})
    with pytest.raises(MarketPrismError, match=r"^cluster.num_cpus cannot change"):
        await coordinator.apply(running.model_copy(update={"cluster": fixed}))
    assert coordinator._config.cluster.step_s == 0.05
    await end(coordinator)
    again = make(tmp_path, simulator, cluster, run="a")
    assert again._config.networking.silence_s == 5.0, "what was applied outlives the coordinator"
    await end(again)
    await simulator.stop()


async def test_a_coordinator_whose_state_is_damaged_goes_on_with_the_copy_before_and_with_higher_epochs(
    tmp_path: Path,
) -> None:
    simulator = Simulator(("binance_spot",), rate=10)
    await simulator.start()
    cluster = Cluster()
    coordinator = make(tmp_path, simulator, cluster)
    await until(lambda: alive(coordinator, "binance_spot#0"))
    await end(coordinator)
    state = tmp_path / "state" / "coordinator.json"
    state.write_text("")
    again = make(tmp_path, simulator, cluster)
    assert "coordinator.json cannot be read (0 characters)" in again._errors["state"]
    await until(lambda: alive(again, "binance_spot#0"))
    await end(again)
    for path in (state, state.with_suffix(".bak")):
        path.write_text("{")
    cluster.alive.clear()
    last = make(tmp_path, simulator, cluster)
    await until(lambda: alive(last, "binance_spot#0"))
    assert last._actors["binance_spot#0"].epoch > 1_000_000
    await end(last)
    await simulator.stop()


async def test_no_epoch_is_used_twice_also_where_the_first_came_to_nothing(tmp_path: Path) -> None:
    simulator = Simulator(("okx_spot",), rate=10)
    await simulator.start()
    config = validate(
        {
            "system": {"data_dir": str(tmp_path), "log_level": "error"},
            "cluster": {"step_s": 0.1},
            "exchanges": {"okx_spot": {"symbols": ["BTC-*"], "endpoints": simulator.endpoints()["okx_spot"]}},
        },
        "test",
    )
    epochs: list[int] = []

    class Failing(Cluster):
        async def call(self, handle: str, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
            if method == "fence":
                epochs.append(arguments[1])
                if len(set(epochs)) == 1:
                    raise TimeoutError("not heard")
            return await super().call(handle, method, *arguments, timeout_s=timeout_s)

    cluster = Failing()
    coordinator = Coordinator(config, {"clickhouse": object(), "nats": object()}, cluster=cluster)  # type: ignore[dict-item]
    await until(lambda: any(kind == "collector" for kind, _ in cluster.started))
    coordinator._loop.cancel()
    await simulator.stop()
    assert sorted(set(epochs)) == [1, 2], "rows about holes that the first has written have revisions of their own"

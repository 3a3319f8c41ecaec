"""One run: simulated venues through the whole pipeline, disturbed or not, and a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marketprism_ray.config import Config, Nats, validate
from marketprism_ray.errors import MarketPrismError
from marketprism_ray.proof.disk import CannotTry, UnsyncedDisk, small_disk
from marketprism_ray.proof.drills import Instrument, Mishap, Targets
from marketprism_ray.proof.injector import Injector, change_table
from marketprism_ray.proof.probes import Freshness, Latency
from marketprism_ray.proof.recovery import Injected, Recovery
from marketprism_ray.proof.scenarios import SCENARIOS, make_plan
from marketprism_ray.proof.verdict import Verdict, judge, wait_for_quiet
from marketprism_ray.query import Store
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.simulator.market import LISTINGS
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.simulator.server import VENUES as SIMULATED
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.venues import VENUES

EXTERNAL_NATS = Nats(mode="external")
"""While tables are made: no server of ours."""
BEAT_S = 0.05
LOOK_S = 0.25
LIVE_S = 180.0
"""For everything to come up, on a machine that has other things to do as well."""

Show = Callable[[dict[str, Any], Latency, float], None]
"""Called with status, latency and the seconds that passed."""


@dataclass(frozen=True)
class Order:
    """What to run.

    Parameters
    ----------
    scenario : name of the scenario; None disturbs nothing
    seconds : how long the market runs
    rate : market events a second over all venues
    at_s : when the first mishap happens; None draws it
    intensity : mishaps in 10 s, of scenarios that have as many as they like
    keep : data directory to keep; None for one that is thrown away
    """

    seconds: float
    rate: float
    scenario: str | None = None
    seed: int = 1
    at_s: float | None = None
    intensity: float = 1.0
    keep: Path | None = None


def demo_config(simulator: SimulatorProcess, data_dir: Path, scenario: str | None) -> Config:
    """Give the configuration of a run."""
    more = {} if scenario is None else SCENARIOS[scenario].config
    exchanges = {
        venue: {
            "symbols": ["*"],
            "data_types": list(VENUES[venue].data_types),
            "endpoints": urls,
            "orderbook": {"interval_s": 0.5},
        }
        for venue, urls in simulator.endpoints.items()
    }
    system = {"data_dir": str(data_dir), "log_level": "error"}
    return validate({"system": system, "exchanges": exchanges, **more}, "demo")


def run(order: Order, say: Callable[[str], None], show: Show | None = None) -> Verdict:
    """Run and judge.

    Parameters
    ----------
    say : takes lines about what goes on
    show : takes what a screen may show
    """
    from marketprism_ray.logs import configure

    configure("error")
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="marketprism-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        data_dir = order.keep or folder / "data"
        disk = stack.enter_context(_disk(order, data_dir, folder / "disk"))
        simulator = stack.enter_context(SimulatorProcess(SIMULATED, rate=order.rate, seed=order.seed))
        say("starting simulated venues, NATS, ClickHouse and Ray ...")
        return _prove(order, simulator, data_dir, disk, say, show)


@contextlib.contextmanager
def _disk(order: Order, data_dir: Path, image: Path) -> Iterator[UnsyncedDisk | None]:
    """Give the data directory a disk of its own where the scenario is about that.

    Raises
    ------
    CannotTry
        If there can be none.
    """
    scenario = None if order.scenario is None else SCENARIOS[order.scenario]
    if scenario is None or (scenario.disk_bytes is None and scenario.unsynced_bytes is None):
        yield None
        return
    if order.keep is not None:
        raise CannotTry("the data lies on a disk of its own that is thrown away: leave --data-dir out")
    if scenario.unsynced_bytes is not None:
        with UnsyncedDisk(data_dir, image, scenario.unsynced_bytes) as disk:
            yield disk
    else:
        assert scenario.disk_bytes is not None
        with small_disk(data_dir, scenario.disk_bytes):
            yield None


def _prove(
    order: Order,
    simulator: SimulatorProcess,
    data_dir: Path,
    disk: UnsyncedDisk | None,
    say: Callable[[str], None],
    show: Show | None,
) -> Verdict:
    from actors.app import System

    config = demo_config(simulator, data_dir, order.scenario)
    if order.scenario is not None:
        _drift_before(config, SCENARIOS[order.scenario].drift, say)
    verdict = Verdict()
    system = System(config)
    system.start()
    latency = Latency(system.settings["nats"])
    freshness = Freshness(system.settings["clickhouse"])
    try:
        system.wait_live(LIVE_S)
        latency.start()
        freshness.start()
        run = _Run(system, simulator, latency, order, disk, say)
        run.go(show)
        verdict.seconds = order.seconds
        freshness.stop()
        verdict.store_age_ms = freshness.percentiles()
        say("stopping the market, comparing with the truth ledger ...")
        simulator.pause()
        try:
            system.wait_live(LIVE_S)
        except MarketPrismError as error:
            verdict.problems.append(str(error))
        _wait_delivered(system)
        run.end(verdict)
        store = Store(system.settings["clickhouse"])
        wait_for_quiet(simulator, store)
        status = system.status()
        verdict.frames = sum(c.get("frames", 0) for c in status["collectors"])
        verdict.count_repeats(status)
        sizes = [c["resident_bytes"] for c in status["collectors"] if c.get("resident_bytes")]
        verdict.collector_mib = max(sizes) >> 20 if sizes else None
        verdict.latency_ms = latency.percentiles()
        judge(simulator, store, system.settings["nats"], verdict)
        store.close()
    finally:
        latency.stop() if latency.is_alive() else None
        freshness.stop() if freshness.is_alive() else None
        system.stop()
    return verdict


def _drift_before(config: Config, drift: Sequence[tuple[str, str]], say: Callable[[str], None]) -> None:
    """Make the tables, and change them, before anything runs: as another version would have left them."""
    from actors.app import sink_settings

    if not drift:
        return
    with EmbeddedServers(config.system.data_dir.absolute(), nats=None) as servers:
        settings = sink_settings(config.model_copy(update={"nats": EXTERNAL_NATS}), servers)["clickhouse"]

        async def make() -> None:
            sink = ClickHouseSink(settings)
            await sink.open()
            await sink.close()

        asyncio.run(make())
        for table, change in drift:
            say(f"before the start: {change_table(settings, table, change)}")


class _Run:
    """The time of the market: carries out the plan, each mishap in a thread, and looks how the system bears it."""

    def __init__(
        self,
        system: Any,
        simulator: SimulatorProcess,
        latency: Latency,
        order: Order,
        disk: UnsyncedDisk | None,
        say: Callable[[str], None],
    ) -> None:
        self._system = system
        self._latency = latency
        self._order = order
        self._say = say
        self._over = threading.Event()
        self._ended = threading.Event()
        self._injector = Injector(system, simulator, system.config.system.data_dir, self._over, disk)
        self._recovery = Recovery()
        self._threads: list[threading.Thread] = []
        self._plan: list[Mishap] = []
        self._may_miss = order.scenario is None or SCENARIOS[order.scenario].may_miss
        if order.scenario is not None:
            shards = sorted(collector["shard"] for collector in system.status()["collectors"])
            dated = {(i.venue, i.symbol): i.expiry_ms is not None for i in LISTINGS}
            places = sorted((symbol["venue"], symbol["symbol"]) for symbol in simulator.ledger()["symbols"])
            instruments = [Instrument(*place, is_dated=dated[place]) for place in places]
            targets = Targets(sorted(simulator.venues), shards, instruments)
            self._plan = make_plan(order.scenario, order.seconds, order.seed, targets, order.at_s, order.intensity)

    def go(self, show: Show | None) -> None:
        """Let the market run for its time."""
        for mishap in self._plan:
            self._say(f"planned: {mishap.in_words()}")
        watcher = threading.Thread(target=self._watch, args=(show,), daemon=True)
        self._threads.append(watcher)
        begin = self._begin = time.monotonic()
        watcher.start()
        left = list(self._plan)
        while (passed := time.monotonic() - begin) < self._order.seconds:
            while left and passed >= left[0].at_s:
                thread = threading.Thread(target=self._carry_out, args=(left.pop(0),), daemon=True)
                self._threads.append(thread)
                thread.start()
            time.sleep(BEAT_S)
        self._over.set()
        for thread in self._threads[1:]:
            thread.join(90)

    def end(self, verdict: Verdict) -> None:
        """Wait until every mishap is over, and say in the verdict what happened."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        injected = self._recovery.injected
        verdict.faults = [i.words for i in injected if not i.failed]
        verdict.injected = [i.as_json() for i in injected]
        verdict.recovery_s = self._recovery.seconds()
        failed = [f"drill: {i.kind} {i.target}: {i.failed}" for i in injected if i.failed]
        failed += [f"drill: {m.kind} {m.target}: the run was over" for m in self._plan[len(injected) :]]
        if len(failed) == len(self._plan) or not self._may_miss:
            verdict.problems += failed
            verdict.undone = len(failed)

    def _carry_out(self, mishap: Mishap) -> None:
        injected = Injected(mishap.kind, mishap.target, time.time_ns())
        self._recovery.injected.append(injected)
        try:
            injected.words = self._injector.carry_out(mishap)
        except (MarketPrismError, OSError) as error:
            injected.failed = str(error)
        injected.ended, injected.ended_s = time.time_ns(), time.monotonic()
        passed = time.monotonic() - self._begin
        self._say(f"{passed:6.1f} s  {injected.words or f'{mishap.target}: not done: {injected.failed}'}")

    def _watch(self, show: Show | None) -> None:
        """Look at the system until the end; one that does not answer is not well."""
        while not self._ended.wait(LOOK_S):
            asked = time.monotonic()
            try:
                with self._injector.calm:
                    status = self._system.status()
            except MarketPrismError:
                continue
            self._recovery.look(status, asked)
            if show is not None and not self._over.is_set():
                show(status, self._latency, time.monotonic() - self._begin)


def _wait_delivered(system: Any, limit_s: float = 60.0) -> None:
    """Wait until every sink has acknowledged what the collectors had for it; else the verdict says what is missing."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        lanes = [lane for collector in system.status()["collectors"] for lane in collector.get("lanes", {}).values()]
        if lanes and not any(lane["rows"] for lane in lanes):
            return
        time.sleep(0.2)

"""``demo`` and ``prove``: simulated venues through the whole pipeline, disturbed or not, and a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.live import Live
from rich.table import Table

from marketprism_ray.config import Config, validate
from marketprism_ray.errors import MarketPrismError
from marketprism_ray.query import Store
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.simulator.server import VENUES as SIMULATED
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings, connect
from marketprism_ray.venues import VENUES
from marketprism_ray.verdict import Verdict, judge, wait_for_quiet

FRESHNESS_S = 1.0
NEWEST = (
    "SELECT toUnixTimestamp64Nano(max(timestamp)) AS at FROM trade "
    "WHERE timestamp > now64(9) - INTERVAL 1 MINUTE SETTINGS final = 0"
)
SCENARIOS = {
    "kill-collector": "SIGKILL to a collector process while its venue goes on",
    "kill-clickhouse-sink": "SIGKILL to the ClickHouse sink's process",
    "kill-nats-server": "SIGKILL to nats-server; its supervisor starts it again",
    "kill-coordinator": "SIGKILL to the coordinator's process, then to a collector's",
    "kill-all": "SIGKILL to coordinator, sinks, collectors and both servers at once, as when a machine goes down",
    "stall-servers": "nats-server and ClickHouse stop answering for a while; collectors keep what comes on local disk",
    "disconnect": "every socket of one venue is cut",
    "drop-delta": "book changes of two venues are lost on the wire",
}


class Latency(threading.Thread):
    """Subscribes trades like any consumer and notes how old they are on arrival."""

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(daemon=True)
        self.samples: deque[float] = deque(maxlen=200_000)
        self.count = 0
        self._settings = settings
        self._ended = threading.Event()

    def run(self) -> None:
        """Listen until told to stop."""
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        async def quiet(_: Exception) -> None:
            """Say nothing: the server may be killed on purpose, and the client reconnects."""

        client = await connect(self._settings, error_cb=quiet)

        async def take(message: Any) -> None:
            now = time.time_ns()
            self.count += 1
            data: bytes = message.data
            at = data.find(b'"timestamp":"') + 13
            with contextlib.suppress(pa.ArrowInvalid):
                text = data[at : at + 29].decode()
                stamp = pa.scalar(text).cast(pa.timestamp("ns")).value
                self.samples.append((now - stamp) / 1e6)

        await client.subscribe("trades-data.>", cb=take, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 30)
        while not self._ended.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.1)
        await client.close()

    def stop(self) -> None:
        """Stop listening."""
        self._ended.set()
        self.join(5)

    def percentiles(self) -> dict[str, float | None]:
        """Give p50 and p99 in ms."""
        return _percentiles(self.samples)


class Freshness(threading.Thread):
    """Reads the store like any user, now and then, and notes how old the newest trade is there."""

    def __init__(self, settings: ClickHouseSettings) -> None:
        super().__init__(daemon=True)
        self.samples: deque[float] = deque(maxlen=20_000)
        self._settings = settings
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until told to stop; a server that is away is asked again."""
        store: Store | None = None
        while not self._ended.wait(FRESHNESS_S):
            try:
                store = store or Store(self._settings)
                (row,) = store.query(NEWEST).to_pylist()
            except MarketPrismError:
                store = None
                continue
            if row["at"]:
                self.samples.append((time.time_ns() - row["at"]) / 1e6)
        if store is not None:
            store.close()

    def stop(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join(10)

    def percentiles(self) -> dict[str, float | None]:
        """Give p50 and p99 in ms."""
        return _percentiles(self.samples)


def _percentiles(values: Iterable[float]) -> dict[str, float | None]:
    samples = pa.array(list(values), pa.float64())
    if not len(samples):
        return {"p50": None, "p99": None}
    p50, p99 = pc.quantile(samples, q=[0.5, 0.99]).to_pylist()
    return {"p50": round(p50, 2), "p99": round(p99, 2)}


class Drill:
    """What goes wrong during a run, and when, as a part of its length."""

    def __init__(self, system: Any, simulator: SimulatorProcess, verdict: Verdict) -> None:
        self._system = system
        self._simulator = simulator
        self._verdict = verdict

    def _note(self, text: str) -> None:
        self._verdict.faults.append(text)

    def kill_collector(self) -> None:
        """Kill the first collector's process."""
        collector = self._system.status()["collectors"][0]
        os.kill(collector["pid"], signal.SIGKILL)
        self._note(f"collector {collector['shard']} killed")

    def kill_coordinator(self) -> None:
        """Kill the coordinator's process; Ray restarts it, and it must still replace what dies."""
        status = self._system.status()
        os.kill(status["pid"], signal.SIGKILL)
        self._note("coordinator killed")
        os.kill(status["collectors"][0]["pid"], signal.SIGKILL)
        self._note(f"collector {status['collectors'][0]['shard']} killed")

    def kill_sink(self) -> None:
        """Kill the ClickHouse sink's process."""
        sink = next(s for s in self._system.status()["sinks"] if s["kind"] == "clickhouse")
        os.kill(sink["pid"], signal.SIGKILL)
        self._note("ClickHouse sink killed")

    def kill_nats(self) -> None:
        """Kill nats-server."""
        os.kill(self._system.servers.state()["nats"]["pid"], signal.SIGKILL)
        self._note("nats-server killed")

    def kill_all(self) -> None:
        """Kill every process of ours: nothing is left that remembers how far the streams came, but the stores."""
        status = self._system.status()
        actors = [status, *status["sinks"], *status["collectors"]]
        for actor in actors:
            os.kill(actor["pid"], signal.SIGKILL)
        self._signal_servers(signal.SIGKILL)
        self._note(f"coordinator, {len(actors) - 1} sinks and collectors, nats-server and ClickHouse killed")

    def stall_servers(self) -> None:
        """Stop both servers' processes, as an overloaded disk would."""
        self._signal_servers(signal.SIGSTOP)
        self._note("nats-server and ClickHouse stopped")

    def continue_servers(self) -> None:
        """Let them go on."""
        spilled = sum(collector.get("spilled_bytes", 0) for collector in self._system.status()["collectors"])
        self._signal_servers(signal.SIGCONT)
        self._note(f"both go on; {spilled / 1024:,.0f} KiB had been kept on local disk")

    def _signal_servers(self, number: signal.Signals) -> None:
        servers = self._system.servers.state()
        for name in ("nats", "clickhouse"):
            os.kill(servers[name]["pid"], number)

    def disconnect(self) -> None:
        """Cut the sockets of the last venue."""
        venue = self._simulator.venues[-1]
        self._simulator.fault("disconnect", venue)
        self._note(f"sockets of {venue} cut")

    def drop_delta(self) -> None:
        """Lose book changes on the wire."""
        for venue in self._simulator.venues[:2]:
            self._simulator.fault("drop", venue, stream=VENUES[venue].channel("orderbook").name, count=3)
            self._note(f"3 book changes of {venue} dropped")

    def plan(self, name: str | None, *, chaos: bool) -> list[tuple[float, Callable[[], None]]]:
        """Give (part of the run, what to do)."""
        if chaos:
            return [(0.35, self.kill_collector), (0.6, self.disconnect)]
        if name == "stall-servers":
            return [(0.2, self.stall_servers), (0.7, self.continue_servers)]
        single = {
            "kill-collector": self.kill_collector,
            "kill-clickhouse-sink": self.kill_sink,
            "kill-nats-server": self.kill_nats,
            "kill-coordinator": self.kill_coordinator,
            "kill-all": self.kill_all,
            "disconnect": self.disconnect,
            "drop-delta": self.drop_delta,
        }
        return [] if name is None else [(0.4, single[name])]


def demo_config(simulator: SimulatorProcess, data_dir: Path, scenario: str | None) -> Config:
    """Give the configuration of a demo."""
    little = {"cluster": {"retention_bytes": 512 << 10}} if scenario == "stall-servers" else {}
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
    return validate({"system": system, "exchanges": exchanges, **little}, "demo")


def run(*, seconds: float, rate: float, scenario: str | None, chaos: bool, quiet: bool, keep: Path | None) -> Verdict:
    """Run the demo and judge it."""
    from actors.app import System
    from marketprism_ray.logs import configure

    configure("error")
    console = Console(stderr=True)
    verdict = Verdict()
    with tempfile.TemporaryDirectory(prefix="marketprism-", ignore_cleanup_errors=True) as temporary:
        data_dir = keep or Path(temporary)
        with SimulatorProcess(SIMULATED, rate=rate) as simulator:
            console.print("starting simulated venues, NATS, ClickHouse and Ray ...", style="dim")
            system = System(demo_config(simulator, data_dir, scenario))
            system.start()
            latency = Latency(system.settings["nats"])
            freshness = Freshness(system.settings["clickhouse"])
            try:
                system.wait_live()
                latency.start()
                freshness.start()
                _watch(
                    system,
                    latency,
                    Drill(system, simulator, verdict).plan(scenario, chaos=chaos),
                    seconds,
                    console,
                    quiet,
                )
                verdict.seconds = seconds
                freshness.stop()
                verdict.store_age_ms = freshness.percentiles()
                console.print("stopping the market, comparing with the truth ledger ...", style="dim")
                simulator.pause()
                system.wait_live()
                _wait_delivered(system)
                store = Store(system.settings["clickhouse"])
                wait_for_quiet(simulator, store)
                status = system.status()
                verdict.frames = sum(c.get("frames", 0) for c in status["collectors"])
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


def _wait_delivered(system: Any, limit_s: float = 60.0) -> None:
    """Wait until every sink has acknowledged what the collectors had for it; else the verdict says what is missing."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        lanes = [lane for collector in system.status()["collectors"] for lane in collector.get("lanes", {}).values()]
        if lanes and not any(lane["rows"] for lane in lanes):
            return
        time.sleep(0.2)


def _watch(
    system: Any,
    latency: Latency,
    plan: list[tuple[float, Callable[[], None]]],
    seconds: float,
    console: Console,
    quiet: bool,
) -> None:
    """Show what goes on, and let go wrong what is planned."""
    begin = time.monotonic()
    steps = list(plan)
    last: dict[str, tuple[float, float]] = {}
    with Live(console=console, refresh_per_second=4, transient=True) if not quiet else contextlib.nullcontext() as live:
        while (passed := time.monotonic() - begin) < seconds:
            if steps and passed >= steps[0][0] * seconds:
                steps.pop(0)[1]()
            if live is not None:
                live.update(_table(system.status(), latency, passed, seconds, last))
            time.sleep(0.25)


def _table(
    status: dict[str, Any], latency: Latency, passed: float, seconds: float, last: dict[str, tuple[float, float]]
) -> Table:
    p = latency.percentiles()
    delay = f"p50 {p['p50']} ms, p99 {p['p99']} ms" if p["p50"] is not None else "-"
    table = Table(
        title=f"MarketPrism Ray  {passed:.0f} of {seconds:.0f} s   trade to subscriber: {delay}", title_justify="left"
    )
    for name in ("actor", "state", "epoch", "rows", "rows/s", "books live", "gaps repaired/found", "retries"):
        table.add_column(name, justify="left" if name in ("actor", "state") else "right")
    for collector in status["collectors"]:
        rows = collector.get("records", 0)
        table.add_row(
            collector["shard"],
            collector["state"],
            str(collector["epoch"]),
            f"{rows:,}",
            _rate(collector["shard"], rows, last),
            f"{collector.get('books_live', 0)}/{collector.get('books', 0)}",
            f"{collector.get('trades_repaired', 0)}/{collector.get('trades_missing', 0)}",
            str(sum(lane["retries"] for lane in collector.get("lanes", {}).values())),
        )
    for sink in status["sinks"]:
        rows = sink.get("rows", 0)
        table.add_row(
            f"sink {sink['kind']}",
            sink["state"],
            "",
            f"{rows:,}",
            _rate(sink["kind"], rows, last),
            "",
            "",
            str(sink.get("retries", 0)),
        )
    return table


def _rate(name: str, rows: int, last: dict[str, tuple[float, float]]) -> str:
    now = time.monotonic()
    before, since = last.get(name, (rows, now))
    if now - since > 2 or name not in last or rows < before:
        last[name] = (rows, now)
    return f"{(rows - before) / (now - since):,.0f}" if now > since and rows >= before else "-"


def _finish(verdict: Verdict, as_json: bool) -> None:
    words = verdict.in_words()
    for line in words:
        click.echo(line, err=as_json)
    latency = verdict.latency_ms
    if latency["p50"] is not None:
        click.echo(f"Latency, venue to NATS subscriber: p50 {latency['p50']} ms, p99 {latency['p99']} ms.", err=as_json)
    age = verdict.store_age_ms
    if age["p50"] is not None:
        click.echo(f"Newest trade in the store, its age: p50 {age['p50']} ms, p99 {age['p99']} ms.", err=as_json)
    if as_json:
        click.echo(json.dumps(verdict.as_json()))
    sys.exit(0 if verdict.is_clean else 1)


_OPTIONS = [
    click.option("--rate", default=300.0, show_default=True, help="Market events a second over all venues."),
    click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON in the last line of stdout."),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the data here instead of throwing it away."),
]


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option("--seconds", default=30.0, show_default=True, help="How long the market runs.")
@click.option("--chaos", is_flag=True, help="Kill a collector and cut sockets midway.")
@_with_options
def demo(seconds: float, chaos: bool, rate: float, as_json: bool, data_dir: Path | None) -> None:
    """Run simulated venues through the whole pipeline and prove the result.

    Starts simulated venues, NATS, ClickHouse and a local Ray; at the end compares store and stream with the truth
    ledger. The exit status is 1 if anything is missing, doubled or unequal.

    \b
    Example:
      marketprism demo --seconds 60 --chaos
    """
    quiet = as_json or not sys.stderr.isatty()
    _finish(run(seconds=seconds, rate=rate, scenario=None, chaos=chaos, quiet=quiet, keep=data_dir), as_json)


@click.command()
@click.argument("scenario", type=click.Choice(list(SCENARIOS)))
@click.option("--seconds", default=20.0, show_default=True, help="How long the market runs.")
@_with_options
def prove(scenario: str, seconds: float, rate: float, as_json: bool, data_dir: Path | None) -> None:
    """Inject one fault into a running demo and judge the data.

    \b
    SCENARIO is one of:
      kill-collector        SIGKILL to a collector process
      kill-clickhouse-sink  SIGKILL to the ClickHouse sink's process
      kill-nats-server      SIGKILL to nats-server
      kill-coordinator      SIGKILL to the coordinator, then to a collector
      kill-all              SIGKILL to coordinator, sinks, collectors and both servers
      stall-servers         both servers stop answering for half the time
      disconnect            every socket of one venue is cut
      drop-delta            book changes are lost on the wire

    \b
    Example:
      marketprism prove kill-collector --json
    """
    quiet = as_json or not sys.stderr.isatty()
    _finish(run(seconds=seconds, rate=rate, scenario=scenario, chaos=False, quiet=quiet, keep=data_dir), as_json)

"""The table of scenarios: what ``prove`` can let go wrong. Help texts and README are made from it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marketprism_ray.proof import drills
from marketprism_ray.proof.drills import Draw, Mishap, Planner, Targets


@dataclass(frozen=True)
class Scenario:
    """One way in which things go wrong.

    Parameters
    ----------
    words : what happens, for help texts
    plan : draws the mishaps
    config : what differs from the configuration of a demo
    seconds : length of a run that shows it in full
    drift : (table, change) made to the empty tables before the start
    disk_bytes : size of the disk that the data directory is on; None for whatever there is
    unsynced_bytes : size of such a disk that loses what was not synced when its power is cut
    may_miss : somebody who is to be hit may be gone already: it goes on without
    """

    words: str
    plan: Planner
    config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 20.0
    drift: Sequence[tuple[str, str]] = ()
    disk_bytes: int | None = None
    unsynced_bytes: int | None = None
    may_miss: bool = False


_OFTEN = {"scheduler": {"jobs": {"instruments": 2.0}}}
_DISK = 192 << 20

SCENARIOS: dict[str, Scenario] = {
    "kill-collector": Scenario("SIGKILL to a collector while its venue goes on", drills.kill()),
    "kill-collector-late": Scenario(
        "the same shortly before the market ends: little comes that would show the hole",
        drills.kill(earliest=0.75, latest=0.95),
    ),
    "crash-loop": Scenario(
        "SIGKILL to one collector again and again within seconds of its start", drills.crash_loop, seconds=60
    ),
    "kill-clickhouse-sink": Scenario("SIGKILL to the ClickHouse sink", drills.kill("sink clickhouse")),
    "kill-nats-sink": Scenario("SIGKILL to the NATS sink", drills.kill("sink nats")),
    "kill-clickhouse-server": Scenario("SIGKILL to the embedded ClickHouse", drills.kill("server clickhouse")),
    "kill-nats-server": Scenario("SIGKILL to nats-server", drills.kill("server nats")),
    "kill-coordinator": Scenario("SIGKILL to the coordinator, then to a collector", drills.kill_coordinator),
    "kill-all": Scenario("SIGKILL to coordinator, sinks, collectors and both servers at once", drills.kill_all),
    "power-cut": Scenario(
        "the machine is off at once: what was not synced to disk is gone; then it starts again",
        drills.power_cut,
        {"nats": {"max_bytes": 256 << 20}},
        unsynced_bytes=1 << 30,
    ),
    "stall-collector": Scenario(
        "a collector stands still for longer than its lease and wakes beside its successor",
        drills.stall_collector,
        seconds=30,
    ),
    "stall-servers": Scenario(
        "both servers stop answering for half the time; what comes is kept on local disk",
        drills.stall_servers,
        {"cluster": {"retention_bytes": 512 << 10}},
    ),
    "clickhouse-away": Scenario("ClickHouse is away for half the time", drills.away("clickhouse"), seconds=600),
    "nats-away": Scenario("nats-server is away for half the time", drills.away("nats"), seconds=600),
    "disk-full": Scenario(
        "the disk of servers, spill and state is full for a third of the time",
        drills.disk_full,
        {"nats": {"max_bytes": _DISK // 2}},
        seconds=30,
        disk_bytes=_DISK,
    ),
    "schema-drift": Scenario(
        "tables lack columns at the start, and are changed while rows come; then the sink restarts",
        drills.schema_drift,
        drift=drills.DRIFT_BEFORE,
    ),
    "clock-step": Scenario(
        "the wall clock of each venue's collectors jumps, up to an hour, and back", drills.clock_step
    ),
    "disconnect": Scenario("every socket of one venue is cut", drills.disconnect),
    "flapping-link": Scenario("sockets of two venues are cut each few seconds", drills.flapping_link, seconds=30),
    "drop-delta": Scenario("book changes of two venues are lost on the wire", drills.drop_delta),
    "reorder": Scenario("neighbouring frames of trades and books come in the wrong order", drills.reorder),
    "duplicate-storm": Scenario("every frame comes twice for half the time", drills.duplicate_storm),
    "rest-down": Scenario(
        "REST answers 500 and 503 or hangs up while sockets are cut and a collector is killed",
        drills.rest_trouble(500, 503, hangs_up=True),
    ),
    "rate-limited": Scenario(
        "REST answers 429 and 418 while sockets are cut and a collector is killed",
        drills.rest_trouble(429, 418),
        seconds=30,
    ),
    "quiet-market": Scenario("the market falls silent right after trades were lost", drills.quiet_market),
    "halt-and-expiry": Scenario(
        "a venue halts all instruments, a contract expires and its collector is killed",
        drills.halt_and_expiry,
        _OFTEN,
        seconds=30,
    ),
    "chaos": Scenario("a collector is killed, then the sockets of a venue are cut", drills.chaos),
    "soak": Scenario(
        "all of these, drawn from the seed, any number at once; --intensity says how many",
        drills.soak,
        {"cluster": {"retention_bytes": 8 << 20}},
        seconds=600,
        may_miss=True,
    ),
}


def make_plan(
    name: str, seconds: float, seed: int, targets: Targets, at_s: float | None = None, intensity: float = 1.0
) -> list[Mishap]:
    """Draw the plan of a scenario.

    Parameters
    ----------
    seconds : length of the run
    at_s : when the first mishap happens; None draws it as well
    intensity : mishaps in 10 s, of those plans that have as many as they like
    """
    draw = Draw(seconds, random.Random(f"{name}/{seed}"), targets, intensity)
    plan = sorted(SCENARIOS[name].plan(draw), key=lambda mishap: mishap.at_s)
    return plan if at_s is None else drills.moved(plan, at_s, seconds)


def reference() -> str:
    """Give one line a scenario, aligned, as the help text of ``prove`` shows them."""
    width = max(map(len, SCENARIOS))
    return "\n".join(f"  {name:{width}}  {scenario.words}" for name, scenario in SCENARIOS.items())


def markdown_table() -> str:
    """Give the table of the README."""
    rows = [f"| `{name}` | {scenario.words} |" for name, scenario in SCENARIOS.items()]
    return "\n".join(["| scenario | what happens |", "|---|---|", *rows])

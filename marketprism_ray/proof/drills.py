"""What goes wrong, where and when: plans drawn from a seed. Pure; ``injector.py`` carries them out.

A plan is a list of mishaps. The same scenario, seed, length and targets give the same plan, so that a run that found
something can be had again. A time that is given (``--at``) moves the plan and changes nothing else in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SINKS = ("clickhouse", "nats")
SERVERS = ("clickhouse", "nats")
CHECKED = ("trade", "orderbook")
"""Data types with sequences: frames of others that are lost without a word leave no trace to find."""
LEASE_S = 10.0
"""A collector cut off for longer than this has a successor while it still lives."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One thing that goes wrong.

    Parameters
    ----------
    at_s : seconds after the beginning of the run
    kind : what happens: a key of the injector's table
    target : who is hit: ``collector SHARD``, ``sink nats``, ``server clickhouse``, ``venue NAME``, ...
    seconds : how long it lasts; 0 where it is over at once
    more : what else the injector needs
    """

    at_s: float
    kind: str
    target: str
    seconds: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)

    def in_words(self) -> str:
        """Say it in one line."""
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        details = ", ".join(f"{key} {value}" for key, value in self.more.items() if isinstance(value, str | int))
        return f"{self.at_s:6.1f} s  {self.kind} {self.target}{lasting}" + (f" ({details})" if details else "")


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument that can be hit; ``is_dated`` if it has a delivery."""

    venue: str
    symbol: str
    is_dated: bool


@dataclass(frozen=True, slots=True)
class Targets:
    """Who can be hit."""

    venues: Sequence[str]
    shards: Sequence[str]
    instruments: Sequence[Instrument] = ()


class Draw:
    """What a plan is drawn from.

    Parameters
    ----------
    seconds : length of the run
    intensity : mishaps in 10 s, of plans that have as many as they like
    """

    def __init__(self, seconds: float, chance: random.Random, targets: Targets, intensity: float = 1.0) -> None:
        self.seconds = seconds
        self.chance = chance
        self.targets = targets
        self.intensity = intensity

    def moment(self, earliest: float, latest: float) -> float:
        """Draw a time in s; bounds are parts of the run."""
        return self.chance.uniform(earliest, latest) * self.seconds

    def collector(self) -> str:
        """Draw a collector."""
        return f"collector {self.chance.choice(self.targets.shards)}"

    def venue(self) -> str:
        """Draw a venue."""
        return f"venue {self.chance.choice(self.targets.venues)}"

    def venues(self, count: int) -> list[str]:
        """Draw several venues."""
        return [f"venue {name}" for name in self.chance.sample(self.targets.venues, count)]


def moved(plan: Sequence[Mishap], at_s: float, seconds: float) -> list[Mishap]:
    """Move a plan so that it begins at a given time; what would come after the end of the run moves closer.

    Parameters
    ----------
    at_s : seconds after the beginning of the run
    seconds : length of the run
    """
    first, last = plan[0].at_s, plan[-1].at_s
    room = 0.95 * (seconds - at_s)
    closer = min(1.0, room / (last - first)) if last > first else 1.0
    times = [at_s + (mishap.at_s - first) * closer for mishap in plan]
    return [
        replace(mishap, at_s=at, seconds=min(mishap.seconds, seconds - at))
        for mishap, at in zip(plan, times, strict=True)
    ]


Planner = Callable[[Draw], list[Mishap]]


def kill(target: str | None = None, earliest: float = 0.2, latest: float = 0.6) -> Planner:
    """Kill a process; a collector that is drawn if none is given."""

    def plan(draw: Draw) -> list[Mishap]:
        return [Mishap(draw.moment(earliest, latest), "kill", target or draw.collector())]

    return plan


def crash_loop(draw: Draw) -> list[Mishap]:
    """Kill one collector again and again, within seconds of each start: also while it repairs."""
    delays = [draw.chance.choice((0.0, 0.3, 1.0, 2.5)) * draw.chance.random() for _ in range(100)]
    return [Mishap(draw.moment(0.1, 0.3), "crash_loop", draw.collector(), draw.seconds * 0.45, more={"delays": delays})]


def kill_coordinator(draw: Draw) -> list[Mishap]:
    """Kill the coordinator, and a collector that it must still replace."""
    at = draw.moment(0.2, 0.6)
    return [Mishap(at, "kill", "coordinator"), Mishap(at, "kill", draw.collector())]


def kill_all(draw: Draw) -> list[Mishap]:
    """Kill every process of ours."""
    return [Mishap(draw.moment(0.2, 0.6), "kill_all", "everything")]


def stall_servers(draw: Draw) -> list[Mishap]:
    """Let both servers stop answering for half of the run."""
    at = draw.moment(0.15, 0.3)
    return [Mishap(at, "stall", f"server {name}", draw.seconds / 2) for name in SERVERS]


def stall_collector(draw: Draw) -> list[Mishap]:
    """Let a collector stand still for longer than its lease: it wakes beside its successor."""
    return [Mishap(draw.moment(0.05, 0.1), "stall", draw.collector(), max(draw.seconds * 0.6, LEASE_S * 1.2))]


def away(server: str) -> Planner:
    """Let a server be away for half of the run: nobody listens on its port."""

    def plan(draw: Draw) -> list[Mishap]:
        return [Mishap(draw.moment(0.1, 0.3), "away", f"server {server}", draw.seconds / 2)]

    return plan


def disk_full(draw: Draw) -> list[Mishap]:
    """Fill the disk that servers, spill and state are on; later there is room again."""
    return [Mishap(draw.moment(0.2, 0.3), "fill", "disk", draw.seconds * 0.35)]


def disconnect(draw: Draw) -> list[Mishap]:
    """Cut the sockets of one venue."""
    return [Mishap(draw.moment(0.2, 0.6), "disconnect", draw.venue())]


def drop_delta(draw: Draw) -> list[Mishap]:
    """Lose three book changes of each of two venues."""
    at = draw.moment(0.2, 0.6)
    return [Mishap(at, "drop", venue, more={"data_type": "orderbook", "count": 3}) for venue in draw.venues(2)]


def reorder(draw: Draw) -> list[Mishap]:
    """Swap neighbouring frames, of trades and books at every venue."""
    return [
        Mishap(draw.moment(0.1, 0.6), "reorder", f"venue {venue}", more={"data_type": name, "count": 5})
        for venue in draw.targets.venues
        for name in CHECKED
    ]


def duplicate_storm(draw: Draw) -> list[Mishap]:
    """Send every frame of every venue twice for half of the run, and again what was sent before a cut."""
    at = draw.moment(0.1, 0.3)
    storm = [Mishap(at, "repeat", f"venue {venue}", draw.seconds / 2) for venue in draw.targets.venues]
    return [*storm, Mishap(at + draw.seconds / 5, "disconnect", draw.venue())]


def flapping_link(draw: Draw) -> list[Mishap]:
    """Cut the sockets of a venue each few seconds, and refuse new ones in between."""
    pauses = [draw.chance.uniform(0.2, 3.0) for _ in range(200)]
    return [
        Mishap(draw.moment(0.1, 0.3), "flap", venue, draw.seconds * 0.5, {"pauses": pauses}) for venue in draw.venues(2)
    ]


def rest_trouble(*statuses: int, hangs_up: bool = False) -> Planner:
    """Let the REST API of each venue refuse for a third of the run, and cut sockets, so that it is needed."""

    def plan(draw: Draw) -> list[Mishap]:
        at, lasting = draw.moment(0.15, 0.3), draw.seconds / 3
        found = []
        for venue in draw.targets.venues:
            status = draw.chance.choice(statuses)
            found.append(Mishap(at, "rest", f"venue {venue}", lasting, {"status": status}))
            if hangs_up:
                found.append(Mishap(at + lasting, "hang_up", f"venue {venue}", more={"count": 3}))
        cuts = [Mishap(at + 0.5, "disconnect", venue) for venue in draw.venues(2)]
        return [*found, *cuts, Mishap(at + 1, "kill", draw.collector())]

    return plan


def quiet_market(draw: Draw) -> list[Mishap]:
    """Lose trades right before the market falls silent: no next trade shows the hole."""
    at = draw.moment(0.4, 0.8)
    return [
        Mishap(at, "kill", draw.collector()),
        Mishap(at, "disconnect", draw.venue()),
        Mishap(at + 1.0, "quiet", "market"),
    ]


def halt_and_expiry(draw: Draw) -> list[Mishap]:
    """Halt every instrument of a venue over a refresh; let a contract expire, then kill its collector."""
    at = draw.moment(0.1, 0.2)
    halted = draw.chance.choice(draw.targets.venues)
    dated = [i for i in draw.targets.instruments if i.is_dated and i.venue != halted]
    found = [
        Mishap(at, "befall", f"instrument {i.venue} {i.symbol}", draw.seconds * 0.4, {"action": "halt"})
        for i in draw.targets.instruments
        if i.venue == halted
    ]
    if dated:
        expiring = draw.chance.choice(dated)
        name = f"instrument {expiring.venue} {expiring.symbol}"
        shards = [shard for shard in draw.targets.shards if shard.startswith(f"{expiring.venue}#")]
        found.append(Mishap(at, "befall", name, more={"action": "expire"}))
        found.append(Mishap(at + 1.0, "kill", f"collector {draw.chance.choice(shards)}"))
    return found


def schema_drift(draw: Draw) -> list[Mishap]:
    """Change tables under the sink while it runs, then restart it."""
    at = draw.moment(0.2, 0.5)
    changes = [Mishap(at, "drift", f"table {table}", more={"change": change}) for table, change in DRIFT_RUNNING]
    return [*changes, Mishap(at + draw.seconds / 5, "kill", "sink clickhouse")]


DRIFT_BEFORE = (
    ("trade", "DROP COLUMN quote_quantity"),
    ("ticker", "DROP COLUMN best_bid_price"),
    ("gap", "DROP COLUMN repaired_count"),
)
"""What an older version's tables lacked: before the first row, so that nothing stored is lost."""
DRIFT_RUNNING = (
    ("open_interest", "DROP COLUMN change_24h"),
    ("trade", "ADD COLUMN note String DEFAULT 'mine'"),
    ("orderbook_delta", "MODIFY COLUMN is_snapshot UInt8"),
)
"""Columns that are null in each row so far, a column of the user's, another type that holds the same values."""


def clock_step(draw: Draw) -> list[Mishap]:
    """Let the wall clock of each venue's collectors jump an hour or a few seconds, and back."""
    return [
        Mishap(
            draw.moment(0.1, 0.4),
            "clock",
            f"venue {venue}",
            draw.seconds * draw.chance.uniform(0.1, 0.4),
            {"step_s": draw.chance.choice((-3600, -5, 5, 3600))},
        )
        for venue in draw.targets.venues
    ]


def power_cut(draw: Draw) -> list[Mishap]:
    """Switch the machine off: what was not synced to disk is gone; then everything starts again."""
    return [Mishap(draw.moment(0.2, 0.5), "power_cut", "machine")]


def chaos(draw: Draw) -> list[Mishap]:
    """Kill a collector, then cut the sockets of a venue."""
    at = draw.moment(0.25, 0.4)
    return [
        Mishap(at, "kill", draw.collector()),
        Mishap(at + draw.seconds / 4, "disconnect", draw.venue()),
    ]


def soak(draw: Draw) -> list[Mishap]:
    """Draw mishaps of all kinds, any number at once; the last 15 % of the run bring no new ones."""
    count = max(3, round(draw.seconds * 0.85 * draw.intensity / 10))
    kinds = [kind for kind, weight in _SOAK.items() for _ in range(weight)]
    found = []
    for _ in range(count):
        mishap = draw.chance.choice(kinds)(draw, draw.moment(0.02, 0.8))
        found.append(replace(mishap, seconds=min(mishap.seconds, 0.85 * draw.seconds - mishap.at_s)))
    return found


def _spoil(kind: str) -> Callable[[Draw, float], Mishap]:
    def make(draw: Draw, at: float) -> Mishap:
        more = {"data_type": draw.chance.choice(CHECKED), "count": draw.chance.randint(1, 20)}
        return Mishap(at, kind, draw.venue(), more=more)

    return make


def _soak_stall(draw: Draw, at: float) -> Mishap:
    who = draw.chance.choice((draw.collector(), *(f"sink {name}" for name in SINKS), "server nats", "coordinator"))
    return Mishap(at, "stall", who, draw.chance.uniform(1, 1.5 * LEASE_S))


def _soak_halt(draw: Draw, at: float) -> Mishap:
    if not draw.targets.instruments:
        return Mishap(at, "disconnect", draw.venue())
    hit = draw.chance.choice(draw.targets.instruments)
    return Mishap(at, "befall", f"instrument {hit.venue} {hit.symbol}", draw.chance.uniform(1, 20), {"action": "halt"})


def _soak_crash_loop(draw: Draw, at: float) -> Mishap:
    delays = [draw.chance.uniform(0, 2) for _ in range(100)]
    return Mishap(at, "crash_loop", draw.collector(), draw.chance.uniform(5, 30), {"delays": delays})


def _soak_flap(draw: Draw, at: float) -> Mishap:
    pauses = [draw.chance.uniform(0.2, 4) for _ in range(100)]
    return Mishap(at, "flap", draw.venue(), draw.chance.uniform(3, 20), {"pauses": pauses})


_SOAK: dict[Callable[[Draw, float], Mishap], int] = {
    lambda draw, at: Mishap(at, "kill", draw.collector()): 6,
    lambda draw, at: Mishap(at, "kill", f"sink {draw.chance.choice(SINKS)}"): 3,
    lambda draw, at: Mishap(at, "kill", f"server {draw.chance.choice(SERVERS)}"): 2,
    lambda draw, at: Mishap(at, "kill", "coordinator"): 2,
    lambda draw, at: Mishap(at, "kill_all", "everything"): 1,
    lambda draw, at: Mishap(at, "away", f"server {draw.chance.choice(SERVERS)}", draw.chance.uniform(2, 20)): 2,
    lambda draw, at: Mishap(at, "disconnect", draw.venue()): 4,
    lambda draw, at: Mishap(at, "repeat", draw.venue(), draw.chance.uniform(1, 20)): 1,
    lambda draw, at: Mishap(
        at, "rest", draw.venue(), draw.chance.uniform(1, 20), {"status": draw.chance.choice((500, 503, 429))}
    ): 2,
    lambda draw, at: Mishap(at, "hang_up", draw.venue(), more={"count": draw.chance.randint(1, 5)}): 1,
    lambda draw, at: Mishap(
        at, "clock", draw.venue(), draw.chance.uniform(1, 20), {"step_s": draw.chance.choice((-3600, -5, 5, 3600))}
    ): 1,
    _spoil("drop"): 3,
    _spoil("reorder"): 2,
    _spoil("corrupt"): 1,
    _soak_stall: 3,
    _soak_crash_loop: 1,
    _soak_flap: 2,
    _soak_halt: 2,
}

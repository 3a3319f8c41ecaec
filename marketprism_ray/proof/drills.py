"""What goes wrong, where and when: plans drawn from a seed. Pure; ``injector.py`` carries them out.

A plan is a list of mishaps. The same scenario, seed, length and targets give the same plan, so that a run that found
something can be had again. A time that is given (``--at``) moves the plan and changes nothing else in it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SINKS = ("clickhouse", "nats")
SERVERS = ("clickhouse", "nats")


@dataclass(frozen=True, slots=True)
class Mishap:
    """One thing that goes wrong.

    Parameters
    ----------
    at_s : seconds after the beginning of the run
    kind : what happens: a method of the injector
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
        return f"{self.at_s:6.1f} s  {self.kind} {self.target}{lasting}"


@dataclass(frozen=True, slots=True)
class Targets:
    """Who can be hit."""

    venues: Sequence[str]
    shards: Sequence[str]


class Draw:
    """What a plan is drawn from.

    Parameters
    ----------
    seconds : length of the run
    at_s : when the first mishap happens; None draws it as well
    """

    def __init__(self, seconds: float, chance: random.Random, targets: Targets, at_s: float | None = None) -> None:
        self.seconds = seconds
        self.chance = chance
        self.targets = targets
        self._at_s = at_s

    def begin(self, earliest: float, latest: float) -> float:
        """Give the time of the first mishap in s; bounds are parts of the run."""
        drawn = self.chance.uniform(earliest, latest) * self.seconds
        return drawn if self._at_s is None else self._at_s

    def collector(self) -> str:
        """Draw a collector."""
        return f"collector {self.chance.choice(self.targets.shards)}"

    def venue(self) -> str:
        """Draw a venue."""
        return f"venue {self.chance.choice(self.targets.venues)}"

    def venues(self, count: int) -> list[str]:
        """Draw several venues."""
        return [f"venue {name}" for name in self.chance.sample(self.targets.venues, count)]


def kill_collector(draw: Draw) -> list[Mishap]:
    """Kill one collector; its venue goes on."""
    return [Mishap(draw.begin(0.2, 0.6), "kill", draw.collector())]


def kill_sink(draw: Draw) -> list[Mishap]:
    """Kill the ClickHouse sink."""
    return [Mishap(draw.begin(0.2, 0.6), "kill", "sink clickhouse")]


def kill_nats(draw: Draw) -> list[Mishap]:
    """Kill nats-server."""
    return [Mishap(draw.begin(0.2, 0.6), "kill", "server nats")]


def kill_coordinator(draw: Draw) -> list[Mishap]:
    """Kill the coordinator, and a collector that it must still replace."""
    at = draw.begin(0.2, 0.6)
    return [Mishap(at, "kill", "coordinator"), Mishap(at, "kill", draw.collector())]


def kill_all(draw: Draw) -> list[Mishap]:
    """Kill every process of ours."""
    return [Mishap(draw.begin(0.2, 0.6), "kill_all", "everything")]


def stall_servers(draw: Draw) -> list[Mishap]:
    """Let both servers stop answering for half of the run."""
    at = draw.begin(0.15, 0.3)
    return [Mishap(at, "stall", f"server {name}", draw.seconds / 2) for name in SERVERS]


def disconnect(draw: Draw) -> list[Mishap]:
    """Cut the sockets of one venue."""
    return [Mishap(draw.begin(0.2, 0.6), "disconnect", draw.venue())]


def drop_delta(draw: Draw) -> list[Mishap]:
    """Lose three book changes of each of two venues."""
    at = draw.begin(0.2, 0.6)
    return [Mishap(at, "drop", venue, more={"data_type": "orderbook", "count": 3}) for venue in draw.venues(2)]


def chaos(draw: Draw) -> list[Mishap]:
    """Kill a collector, then cut the sockets of a venue."""
    at = draw.begin(0.25, 0.4)
    return [
        Mishap(at, "kill", draw.collector()),
        Mishap(at + draw.seconds / 4, "disconnect", draw.venue()),
    ]

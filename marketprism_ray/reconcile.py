"""One step from what is towards what should be. Pure: states and time in, actions out.

Rules: sinks come first, for a collector without sinks would only fill its memory. A shard has at most one collector
per epoch; before a successor starts, every sink refuses the epochs before its own (fence). An actor that was not heard
for the lease is dead, whatever it thinks: it stops itself by the same clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from marketprism_ray.session import Shard

State = Literal["absent", "starting", "alive", "dead"]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of one actor."""

    state: State
    epoch: int = 0
    last_heard: int = 0
    """ns; of a starting actor, when it was started."""
    shard: Shard | None = None


@dataclass(frozen=True, slots=True)
class StartSink:
    """Create the sink actor of this kind."""

    kind: str


@dataclass(frozen=True, slots=True)
class StartCollector:
    """Fence the epochs before, then create the collector of this shard with this epoch."""

    shard: Shard
    epoch: int
    after_loss: bool


@dataclass(frozen=True, slots=True)
class StopCollector:
    """Drain and end the collector of this shard."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End an actor that is not heard any more: it may be cut off and running on."""

    name: str
    reason: str


Action = StartSink | StartCollector | StopCollector | Kill


def reconcile(
    shards: Mapping[str, Shard],
    sink_kinds: tuple[str, ...],
    collectors: Mapping[str, Observed],
    sinks: Mapping[str, Observed],
    now: int,
    *,
    lease_ns: int,
    start_ns: int,
) -> list[Action]:
    """Give the actions of one step.

    Parameters
    ----------
    shards : desired, by name
    collectors : observed, by shard name; epochs of dead ones count
    sinks : observed, by kind
    now : ns
    lease_ns : an alive actor not heard for this is dead
    start_ns : a starting actor that was not heard for this is dead
    """
    actions: list[Action] = []
    ready = True
    for kind in sink_kinds:
        sink = sinks.get(kind, Observed("absent"))
        if _is_lost(sink, now, lease_ns, start_ns):
            actions.append(Kill(kind, "not heard"))
            sink = Observed("dead")
        if sink.state in ("absent", "dead"):
            actions.append(StartSink(kind))
        ready = ready and sink.state == "alive"
    for name, collector in collectors.items():
        if name not in shards and collector.state in ("alive", "starting"):
            actions.append(StopCollector(name, "no longer wanted"))
    for name, shard in shards.items():
        collector = collectors.get(name, Observed("absent"))
        if _is_lost(collector, now, lease_ns, start_ns):
            actions.append(Kill(name, "not heard"))
            collector = Observed("dead", collector.epoch)
        if collector.state == "alive" and collector.shard is not None and collector.shard != shard:
            actions.append(StopCollector(name, "its streams changed"))
        elif collector.state in ("absent", "dead") and ready:
            actions.append(StartCollector(shard, collector.epoch + 1, after_loss=collector.state == "dead"))
    return actions


def _is_lost(actor: Observed, now: int, lease_ns: int, start_ns: int) -> bool:
    limit = {"alive": lease_ns, "starting": start_ns}.get(actor.state)
    return limit is not None and now - actor.last_heard > limit

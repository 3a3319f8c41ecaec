"""The control loop's step: whatever dies and whatever is wanted, it ends where everything wanted runs, once."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.reconcile import Action, Kill, Observed, StartCollector, StartSink, StopCollector, reconcile
from marketprism_ray.session import Shard

SINKS = ("clickhouse", "nats")
LEASE, START = 10, 60


def shard(name: str, *symbols: str) -> Shard:
    return Shard(name, "v", tuple(("trade", symbol) for symbol in symbols))


@dataclass
class World:
    """Actors that do at once what they are told."""

    collectors: dict[str, Observed] = field(default_factory=dict)
    sinks: dict[str, Observed] = field(default_factory=dict)
    now: int = 1_000
    started: list[tuple[str, int]] = field(default_factory=list)

    def step(self, wanted: dict[str, Shard]) -> list[Action]:
        self.now += 1
        for table in (self.collectors, self.sinks):
            for name, seen in table.items():
                if seen.state == "alive":
                    table[name] = Observed("alive", seen.epoch, self.now, seen.shard)
        actions = reconcile(wanted, SINKS, self.collectors, self.sinks, self.now, lease_ns=LEASE, start_ns=START)
        for action in actions:
            match action:
                case StartSink(kind):
                    self.sinks[kind] = Observed("alive", 0, self.now)
                case StartCollector(new, epoch, _):
                    assert self.collectors.get(new.name, Observed("absent")).state != "alive", "two owners of a shard"
                    self.started.append((new.name, epoch))
                    self.collectors[new.name] = Observed("alive", epoch, self.now, new)
                case StopCollector(name, _):
                    self.collectors[name] = Observed("dead", self.collectors[name].epoch)
                case Kill(name, _):
                    table = self.sinks if name in SINKS else self.collectors
                    table[name] = Observed("dead", table[name].epoch)
        return actions


NAMES = ("v#0", "v#1", "v#2")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.sampled_from(NAMES), st.sampled_from(("a", "b"))),
        st.tuples(st.just("drop"), st.sampled_from(NAMES), st.just("")),
        st.tuples(st.just("die"), st.sampled_from((*NAMES, *SINKS)), st.just("")),
        st.tuples(st.just("step"), st.just(""), st.just("")),
    ),
    max_size=40,
)


@given(EVENTS)
def test_it_settles_with_every_wanted_shard_running_once_and_nothing_else(events: list[tuple[str, str, str]]) -> None:
    world, wanted = World(), {}
    for what, name, symbol in events:
        if what == "want":
            wanted[name] = shard(name, symbol)
        elif what == "drop":
            wanted.pop(name, None)
        elif what == "die":
            table = world.sinks if name in SINKS else world.collectors
            if name in table:
                table[name] = Observed("dead", table[name].epoch)
        else:
            world.step(wanted)
    for _ in range(6):
        world.step(wanted)
    assert world.step(wanted) == []
    running = {name: seen.shard for name, seen in world.collectors.items() if seen.state == "alive"}
    assert running == wanted
    assert all(world.sinks[kind].state == "alive" for kind in SINKS)
    for name in NAMES:
        epochs = [epoch for started, epoch in world.started if started == name]
        assert epochs == sorted(set(epochs)), "an epoch never comes again"


def test_no_collector_starts_before_every_sink_is_there() -> None:
    wanted = {"v#0": shard("v#0", "a")}
    sinks = {"clickhouse": Observed("alive", 0, 100), "nats": Observed("starting", 0, 100)}
    assert reconcile(wanted, SINKS, {}, sinks, 101, lease_ns=LEASE, start_ns=START) == []


def test_who_is_not_heard_for_its_lease_is_killed_and_succeeded_with_a_new_epoch() -> None:
    wanted = {"v#0": shard("v#0", "a")}
    sinks = {kind: Observed("alive", 0, 200) for kind in SINKS}
    heard = {"v#0": Observed("alive", 3, 190, wanted["v#0"])}
    assert reconcile(wanted, SINKS, heard, sinks, 200, lease_ns=LEASE, start_ns=START) == []
    actions = reconcile(wanted, SINKS, heard, sinks, 201, lease_ns=LEASE, start_ns=START)
    assert actions == [Kill("v#0", "not heard"), StartCollector(wanted["v#0"], 4, after_loss=True)]


def test_a_starting_actor_gets_longer_than_a_lease() -> None:
    wanted = {"v#0": shard("v#0", "a")}
    sinks = {kind: Observed("alive", 0, 200) for kind in SINKS}
    starting = {"v#0": Observed("starting", 1, 150)}
    assert reconcile(wanted, SINKS, starting, sinks, 200, lease_ns=LEASE, start_ns=START) == []
    sinks = {kind: Observed("alive", 0, 211) for kind in SINKS}
    actions = reconcile(wanted, SINKS, starting, sinks, 211, lease_ns=LEASE, start_ns=START)
    assert actions == [Kill("v#0", "not heard"), StartCollector(wanted["v#0"], 2, after_loss=True)]

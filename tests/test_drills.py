"""Plans of what goes wrong, and when everything was well again: pure, from seeds and literals."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.proof.drills import Instrument, Targets
from marketprism_ray.proof.injector import Injector
from marketprism_ray.proof.recovery import Injected, Recovery
from marketprism_ray.proof.scenarios import SCENARIOS, make_plan
from marketprism_ray.simulator.market import LISTINGS
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.simulator.server import VENUES

TARGETS = Targets(
    VENUES,
    tuple(f"{venue}#0" for venue in VENUES),
    tuple(Instrument(i.venue, i.symbol, i.expiry_ms is not None) for i in LISTINGS),
)
names = st.sampled_from(sorted(SCENARIOS))
seeds = st.integers(0, 10_000)


@given(names, seeds, st.floats(25, 1000))
def test_a_plan_is_the_same_each_time_in_order_and_within_the_run(name: str, seed: int, seconds: float) -> None:
    plan = make_plan(name, seconds, seed, TARGETS)
    assert plan
    assert plan == make_plan(name, seconds, seed, TARGETS)
    assert [m.at_s for m in plan] == sorted(m.at_s for m in plan)
    assert all(0 <= m.at_s < seconds and m.at_s + m.seconds <= seconds for m in plan)


@given(names, seeds, st.floats(0, 99))
def test_a_given_time_moves_the_plan_and_hits_the_same(name: str, seed: int, at_s: float) -> None:
    drawn, moved = make_plan(name, 100.0, seed, TARGETS), make_plan(name, 100.0, seed, TARGETS, at_s)
    assert moved[0].at_s == at_s
    assert all(m.at_s + m.seconds <= 100.001 for m in moved)
    assert [replace(m, at_s=0, seconds=0) for m in drawn] == [replace(m, at_s=0, seconds=0) for m in moved]


@given(names, seeds)
def test_every_mishap_can_be_carried_out(name: str, seed: int) -> None:
    injector = Injector(None, SimulatorProcess(VENUES), Path(), threading.Event())
    assert {m.kind for m in make_plan(name, 100.0, seed, TARGETS)} <= injector.kinds


@given(seeds, st.floats(0.2, 5))
def test_a_soak_grows_with_its_intensity_and_ends_calmly(seed: int, intensity: float) -> None:
    plan = make_plan("soak", 600.0, seed, TARGETS, intensity=intensity)
    assert len(plan) == max(3, round(51 * intensity))
    assert all(m.at_s + m.seconds <= 0.8501 * 600 for m in plan)


def test_soaks_have_mishaps_of_every_kind() -> None:
    kinds = {m.kind for seed in range(20) for m in make_plan("soak", 600.0, seed, TARGETS)}
    single = {m.kind for name in SCENARIOS for m in make_plan(name, 100.0, 1, TARGETS)}
    # The store itself loses what is dropped, after silence nothing comes, and a disk to be filled must be its own.
    assert single - kinds == {"drift", "quiet", "fill", "power_cut"}


def test_seeds_hit_every_collector_and_every_venue() -> None:
    hit = {m.target for seed in range(100) for m in make_plan("kill-collector", 10.0, seed, TARGETS)}
    assert hit == {f"collector {venue}#0" for venue in VENUES}
    hit = {m.target for seed in range(100) for m in make_plan("disconnect", 10.0, seed, TARGETS)}
    assert hit == {f"venue {venue}" for venue in VENUES}


def status(**changes: Any) -> dict[str, Any]:
    collector = {
        "shard": "a#0",
        "state": "live",
        "heard_s": 0.5,
        "books": 2,
        "books_live": 2,
        "connections": [{"state": "open"}],
        "lanes": {"nats": {"rows": 5}},
    }
    return {"collectors": [collector | changes], "sinks": [{"state": "alive", "heard_s": 0.2}]}


@pytest.mark.parametrize(
    "unwell",
    [
        {"state": "dead"},
        {"books_live": 1},
        {"connections": [{"state": "backoff"}]},
        {"spilled_bytes": 1},
        {"lanes": {"nats": {"rows": 5000}}},
    ],
)
def test_a_mishap_is_over_when_everything_is_well_again(unwell: dict[str, Any]) -> None:
    recovery = Recovery()
    recovery.look(status(), 1.0)
    recovery.injected.append(injected := Injected("kill", "collector a#0", 0, ended=1, ended_s=10.0))
    recovery.look(status(), 10.4)  # what the coordinator knows is older than the mishap
    recovery.look(status(**unwell), 12.0)
    assert injected.recovered_s is None
    recovery.look(status(), 13.5)
    assert injected.recovered_s == 3.5
    assert recovery.seconds() == {"p50": 3.5, "max": 3.5}


def test_a_collector_that_is_missing_is_not_well() -> None:
    recovery = Recovery()
    recovery.look(status(), 1.0)
    recovery.injected.append(injected := Injected("kill", "collector a#0", 0, ended=1, ended_s=10.0))
    recovery.look({**status(), "collectors": []}, 12.0)
    assert injected.recovered_s is None


def test_who_was_never_well_again_has_no_time() -> None:
    recovery = Recovery()
    recovery.injected.append(Injected("stall", "server nats", 0))
    recovery.look(status(), 20.0)
    assert recovery.seconds() == {"p50": None, "max": None}

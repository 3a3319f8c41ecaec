"""The wall clock steps: deadlines stay where they were, and a row says that timestamps cannot be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_connection import is_live, session_of, simulator, trades_of, until
from test_streams import SECOND, T0, Bench, trade

from marketprism_ray.clock import TOLERANCE_NS, Clock, StepWatch
from marketprism_ray.feed import Reconnect, Send
from marketprism_ray.simulator.server import Simulator

__all__ = ["simulator"]
HOUR = 3600 * SECOND
STEPS = st.integers(-HOUR, HOUR).filter(lambda step: abs(step) > TOLERANCE_NS)


@given(st.lists(st.tuples(st.integers(0, SECOND), st.one_of(st.just(0), STEPS)), max_size=30))
def test_a_watch_finds_each_step_once_and_by_its_length(looks: list[tuple[int, int]]) -> None:
    wall, monotonic = T0, 5
    watch = StepWatch(wall, monotonic)
    for passed, step in looks:
        wall, monotonic = wall + passed + step, monotonic + passed
        assert watch.look(wall, monotonic) == step


@given(st.lists(st.integers(-TOLERANCE_NS // 100, TOLERANCE_NS // 100), max_size=500))
def test_a_watch_follows_drift(drifts: list[int]) -> None:
    wall = monotonic = T0
    watch = StepWatch(wall, monotonic)
    for drift in drifts:
        wall, monotonic = wall + SECOND + drift, monotonic + SECOND
        assert watch.look(wall, monotonic) == 0


def test_listeners_hear_of_a_step_before_anybody_gets_the_new_time() -> None:
    clock = Clock()
    heard: list[tuple[int, int]] = []
    clock.on_step(lambda now, moved: heard.append((now, moved)))
    clock.shift(HOUR)
    now = clock.tick_ns()
    ((told, moved),) = heard
    assert told == now
    assert abs(moved - HOUR) < TOLERANCE_NS
    clock.tick_ns()
    assert len(heard) == 1


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_deadlines_of_a_feed_move_with_the_clock(step: int) -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0 + SECOND)
    bench.feed.tick(T0 + 2 * SECOND)
    bench.feed.actions.clear()
    bench.feed.clock_stepped(T0 + 2 * SECOND + step, step)
    for stream in bench.feed.streams:
        stream.clock_stepped(step)
    bench.feed.tick(T0 + 3 * SECOND + step)
    assert not bench.feed.actions
    # What is really silent is found out as late as without the step.
    silent_s = bench.feed.venue.heartbeat.silent_s
    bench.feed.frame(trade(2), T0 + 4 * SECOND + step)
    bench.feed.tick(T0 + 4 * SECOND + step)
    bench.feed.tick(T0 + int((3 + silent_s) * SECOND) + step)
    assert not [a for a in bench.feed.actions if isinstance(a, Reconnect)]
    bench.feed.tick(T0 + int((5 + silent_s) * SECOND) + step)
    assert [a for a in bench.feed.actions if isinstance(a, Reconnect)]


def test_without_being_told_a_feed_takes_a_step_for_silence() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0 + SECOND)
    bench.feed.tick(T0 + 2 * SECOND)
    bench.feed.tick(T0 + 3 * SECOND + HOUR)
    assert [a for a in bench.feed.actions if isinstance(a, (Reconnect, Send))]


@pytest.mark.parametrize("step", [HOUR, -HOUR])
async def test_a_session_goes_on_and_notes_that_its_clock_stepped(simulator: Simulator, step: int) -> None:
    session = await session_of(simulator, "okx_derivatives")
    session.drain(force=True)
    session.clock.shift(step)
    before = {stream.key: stream.frames for stream in session.streams}
    await until(lambda: session.clock.steps == 1)
    batches = session.drain()
    await until(lambda: all(stream.frames > before[stream.key] + 3 for stream in trades_of(session)))
    assert is_live(session)
    assert [c.counts["disconnects"] for c in session.connections] == [0] * len(session.connections)
    assert [c.feed.counts["alarms"] for c in session.connections if c.feed] == [0] * len(session.connections)
    batches += session.drain(force=True)
    (note,) = [row for batch in batches if batch.data_type == "gap" for row in batch.data.to_pylist()]
    assert (note["data_type"], note["reason"], note["missing_count"]) == ("clock", "clock_stepped", 0)
    assert abs((note["closed_at"] - note["opened_at"]).total_seconds() - 3600) < 1
    await session.stop()

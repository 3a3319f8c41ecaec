"""Polls: what is asked when, what is kept, and what happens when the answer is bad."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import instrument
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.batching import Batcher
from marketprism_ray.config import Jobs
from marketprism_ray.errors import TransportError, VenueError
from marketprism_ray.instruments import Instrument
from marketprism_ray.polling import NewRows, Poller, Task
from marketprism_ray.records import OpenInterest
from marketprism_ray.rest import RestAnswer
from marketprism_ray.venue import Priority, Request
from marketprism_ray.venue_clock import VenueClock
from marketprism_ray.venues import VENUES

NOW = 1_795_132_800_000_000_000
USD_M, OKX, DERIBIT = (VENUES[n] for n in ("binance_derivatives", "okx_derivatives", "deribit_derivatives"))


def swap(base: str, venue: str = "binance_derivatives", **more: Any) -> Instrument:
    fields = {"symbol_name": f"{base}-USDT-SWAP", "venue_symbol": f"{base}USDT", "market_type": "perpetual"}
    return instrument(exchange_name=venue, base=base, **{**fields, **more})


def interest(symbol: str, time: int, value: str = "1") -> OpenInterest:
    return OpenInterest(
        exchange_name="x", market_type="perpetual", symbol_name=symbol, timestamp=time,
        receive_timestamp=time, source="poll", open_interest=value,
    )  # fmt: skip


class Rest:
    """Answers as told, and remembers what was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[Request] = []
        self.clock = VenueClock()

    def wall_ns(self) -> int:
        return NOW

    async def get(self, request: Request) -> RestAnswer:
        self.asked.append(request)
        answer = self.answers[request.params.get("symbol") or request.params.get("currency") or request.path]
        if isinstance(answer, Exception):
            raise answer
        return RestAnswer(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), NOW)


def poller(rest: Rest, wanted: list[tuple[str, Instrument]], venue: Any = USD_M) -> tuple[Poller, Batcher]:
    batcher = Batcher("c", 1)
    return Poller(venue, wanted, rest, batcher, Jobs()), batcher  # type: ignore[arg-type]


def rows(batcher: Batcher) -> list[dict[str, Any]]:
    return [row for batch in batcher.drain(NOW, force=True) for row in batch.data.to_pylist()]


ANSWERS = st.lists(
    st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 20), st.sampled_from("123")), max_size=8), max_size=8
)


@given(ANSWERS)
def test_a_row_is_let_through_once_for_everything_that_is_said_of_it(answers: list[list[tuple[str, int, str]]]) -> None:
    new, given_out = NewRows(), []
    for answer in answers:
        given_out += [
            (r.symbol_name, r.timestamp, r.open_interest) for r in new.of([interest(s, t, v) for s, t, v in answer])
        ]
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) == {row for answer in answers for row in answer}
    assert new.corrected == len(given_out) - len({row[:2] for row in given_out})


def test_rows_older_than_what_is_remembered_are_not_given_again() -> None:
    new = NewRows(remembered=3)
    assert [r.timestamp for r in new.of([interest("A", t) for t in (5, 6, 7, 8)])] == [5, 6, 7, 8]
    assert new.of([interest("A", t) for t in (5, 6, 7, 8)]) == []
    assert [r.timestamp for r in new.of([interest("A", 6, "2"), interest("B", 1)])] == [1, 6]


async def test_an_answer_that_corrects_a_row_outranks_it_and_one_that_lags_behind_does_not() -> None:
    rest = Rest({"BTCUSDT": {"symbol": "BTCUSDT", "openInterest": "7", "time": NOW // 10**6}})
    made, batcher = poller(rest, [("open_interest", swap("BTC"))])
    (task,) = made.tasks
    found = []
    for figure in ("7", "8", "7", "8"):
        rest.answers["BTCUSDT"]["openInterest"] = figure
        await made.run(task)
        found += [(row["open_interest"], row["revision"]) for row in rows(batcher)]
    assert [value for value, _ in found] == [7, 8]
    assert found[0][1] < found[1][1]
    later, other = poller(rest, [("open_interest", swap("BTC"))])
    other.epoch += 1
    await later.run(later.tasks[0])
    assert rows(other)[0]["revision"] > found[1][1]


async def test_each_instrument_is_asked_and_what_was_there_before_is_not_given_again() -> None:
    rest = Rest({s: {"symbol": s, "openInterest": "7", "time": NOW // 10**6} for s in ("BTCUSDT", "ETHUSDT")})
    made, batcher = poller(rest, [("open_interest", swap("BTC")), ("open_interest", swap("ETH"))])
    (task,) = made.tasks
    await made.run(task)
    assert {row["symbol_name"] for row in rows(batcher)} == {"BTC-USDT-SWAP", "ETH-USDT-SWAP"}
    await made.run(task)
    assert rows(batcher) == []
    rest.answers["BTCUSDT"]["time"] += 300_000
    await made.run(task)
    assert [row["symbol_name"] for row in rows(batcher)] == ["BTC-USDT-SWAP"]
    assert all(request.priority is Priority.POLL for request in rest.asked)


async def test_an_answer_that_fails_holds_up_no_other_and_is_counted() -> None:
    good = {"symbol": "XRPUSDT", "openInterest": "7", "time": NOW // 10**6}
    answers = {
        "BTCUSDT": VenueError("refused"),
        "ETHUSDT": TransportError("gone"),
        "SOLUSDT": b"<html>",
        "XRPUSDT": good,
        "ADAUSDT": {**good, "symbol": "ADAUSDT", "openInterest": "NaN"},
    }
    made, batcher = poller(Rest(answers), [("open_interest", swap(s.removesuffix("USDT"))) for s in answers])
    (task,) = made.tasks
    await made.run(task)
    assert [row["symbol_name"] for row in rows(batcher)] == ["XRP-USDT-SWAP"]
    assert (task.failures, task.rows) == (3, 2)
    assert batcher.rejected_total == 1
    assert made.status()["/fapi/v1/openInterest"]["failures"] == 3


def test_requests_that_are_equal_are_sent_once() -> None:
    (poll,) = [p for p in DERIBIT.polls if p.data_type == "volatility_index"]
    items = [
        swap("BTC", "deribit_derivatives", quote="USD", symbol_name=name, venue_symbol=name) for name in ("a", "b", "c")
    ]
    task = Task(DERIBIT, poll, [*items, swap("ETH", "deribit_derivatives", quote="USD"), swap("SOL", quote="USDC")], 60)
    requests = [request for request, _ in task.requests(NOW)]
    assert [request.params["currency"] for request in requests] == ["BTC", "ETH"]
    assert requests[0].params["end_timestamp"] == str(NOW // 10**6)


def test_polls_are_only_for_what_is_wanted_and_for_instruments_that_have_it() -> None:
    dated = swap("BTC", market_type="futures", symbol_name="BTC-USDT-291228", venue_symbol="BTCUSDT_291228")
    made, _ = poller(Rest({}), [("funding_rate", dated), ("trade", swap("BTC"))])
    assert made.tasks == []
    made, _ = poller(Rest({}), [("funding_rate", dated), ("funding_rate", swap("BTC"))])
    assert [task.poll.data_type for task in made.tasks] == ["funding_rate"]
    assert [r.params["symbol"] for r, _ in made.tasks[0].requests(NOW)] == ["BTCUSDT"]


@pytest.mark.parametrize("venue", [name for name, venue in VENUES.items() if venue.polls])
def test_every_poll_has_a_job_an_interval_and_a_budget_that_it_fits(venue: str) -> None:
    capacity = {budget.name: budget.capacity for budget in VENUES[venue].rest.budgets}
    for poll in VENUES[venue].polls:
        assert poll.job in Jobs.model_fields
        request = poll.request(swap("BTC", venue, quote="USD"), NOW)
        assert request.path == poll.answer.path
        assert request.costs
        assert all(weight <= capacity[name] for name, weight in request.costs)


async def test_funding_is_asked_right_after_each_full_hour_as_well() -> None:
    from datetime import UTC, datetime, timedelta

    made, _ = poller(Rest({}), [("funding_rate", swap("BTC"))])
    trigger = made._trigger("funding_rate")
    at = datetime(2026, 11, 20, 11, 59, 59, tzinfo=UTC)
    following = trigger.get_next_fire_time(at, at)
    assert timedelta(0) < following - at <= timedelta(seconds=30)
    assert following.minute == 0


def of(batcher: Batcher, data_type: str) -> list[dict[str, Any]]:
    batches = [batch for batch in batcher.drain(NOW, force=True) if batch.data_type == data_type]
    return [row for batch in batches for row in batch.data.to_pylist()]


async def test_a_poll_that_fails_is_a_hole_of_its_instrument_until_one_succeeds() -> None:
    at = NOW // 10**6
    answers: dict[str, Any] = {s: {"symbol": s, "openInterest": "7", "time": at} for s in ("BTCUSDT", "ETHUSDT")}
    rest = Rest(answers)
    made, batcher = poller(rest, [("open_interest", swap("BTC")), ("open_interest", swap("ETH"))])
    (task,) = made.tasks
    await made.run(task)
    answers["BTCUSDT"] = TransportError("gone")
    await made.run(task)
    await made.run(task)
    (gap,) = of(batcher, "gap")
    assert (gap["symbol_name"], gap["reason"], gap["status"]) == ("BTC-USDT-SWAP", "poll_failed", "open")
    assert (gap["opened_at"].value, gap["closed_at"]) == (NOW, None)
    answers["BTCUSDT"] = {"symbol": "BTCUSDT", "openInterest": "7", "time": at + 900_000}
    heard: list[Any] = []

    class Filler:
        def hole(self, place: Any, hole: Any, *, is_written: bool) -> None:
            heard.append((place.data_type, hole.closed_at, is_written))

    made.filler = Filler()
    await made.run(task)
    (gap,) = of(batcher, "gap")
    assert (gap["closed_at"].value, gap["missing_count"]) == (NOW + 900 * 10**9, 2)
    assert heard == [("open_interest", NOW + 900 * 10**9, True)]


async def test_an_answer_that_holds_what_a_failed_poll_would_have_brought_closes_its_hole() -> None:
    hour = 3_600_000
    rows_then = [{"symbol": "BTCUSDT", "fundingRate": "0.1", "fundingTime": NOW // 10**6 - n * hour} for n in (2, 1)]
    answers: dict[str, Any] = {"BTCUSDT": rows_then}
    made, batcher = poller(Rest(answers), [("funding_rate", swap("BTC"))])
    (task,) = made.tasks
    await made.run(task)
    answers["BTCUSDT"] = VenueError("no")
    await made.run(task)
    answers["BTCUSDT"] = [*rows_then, {"symbol": "BTCUSDT", "fundingRate": "0.1", "fundingTime": NOW // 10**6}]
    await made.run(task)
    gaps = of(batcher, "gap")
    assert [(gap["status"], gap["missing_count"], gap["channel"]) for gap in gaps] == [
        ("open", None, "poll"), ("repaired", 0, "poll")]  # fmt: skip


async def test_a_poll_that_was_not_made_in_its_time_is_a_hole() -> None:
    made, batcher = poller(
        Rest({"BTCUSDT": {"symbol": "BTCUSDT", "openInterest": "7", "time": NOW // 10**6}}),
        [("open_interest", swap("BTC"))],
    )
    await made.run(made.tasks[0])
    made.tick(NOW + 301 * 10**9)
    assert of(batcher, "gap") == []
    made.tick(NOW + 601 * 10**9)
    assert [gap["reason"] for gap in of(batcher, "gap")] == ["poll_missed"]

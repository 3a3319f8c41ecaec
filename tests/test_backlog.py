"""Holes are filled page by page, each row once, whatever fails in between, and said to be whole only when they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import instrument
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.backlog import AGES_NS, Backlog, is_kept, job_of, outcome
from marketprism_ray.batching import Batch, Batcher
from marketprism_ray.clock import Clock
from marketprism_ray.continuity import Hole
from marketprism_ray.errors import TransportError
from marketprism_ray.gaps import Place
from marketprism_ray.records import LsrAllAccount, Record
from marketprism_ray.repair import Repairer
from marketprism_ray.rest import RestAnswer
from marketprism_ray.venue import Answer, History, Priority, Request
from marketprism_ray.venue_clock import VenueClock
from marketprism_ray.venues import VENUES

SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND
STEP = 300 * SECOND
PLACE = Place("binance_spot", "spot", "BTC-USDT", "lsr_all_account", "")


def ratio(number: int) -> LsrAllAccount:
    return LsrAllAccount(
        exchange_name="binance_spot", market_type="spot", symbol_name="BTC-USDT", timestamp=T0 + number * STEP,
        receive_timestamp=T0, source="poll", long_short_ratio="1", period="5m",
    )  # fmt: skip


def history(page: int, longest_s: float | None = None, keeps_s: float | None = None) -> History:
    answer = Answer("lsr_all_account", "/r", lambda *_: ())
    span = lambda item, first, last, _: Request("/r", {"first": str(first), "last": str(last)})  # noqa: E731
    return History(answer, span, page, 300, keeps_s, longest_s)


@given(
    st.sets(st.integers(0, 60)),
    st.integers(1, 12),
    st.sampled_from([None, 900.0]),
    st.lists(st.booleans(), max_size=30),
    st.booleans(),
)
def test_every_row_of_the_history_is_taken_once_whatever_fails(
    rows: set[int], page: int, longest_s: float | None, failing: list[bool], is_newest_first: bool
) -> None:
    backlog = Backlog()
    hole = Hole(T0 + 5 * STEP, T0 + 50 * STEP, "poll_failed")
    backlog.add(job_of(PLACE, instrument(), history(page, longest_s), hole))
    failures, stored, now = iter(failing), [], T0 + 50 * STEP + AGES_NS + 1
    while (job := backlog.take(now)) is not None:
        if next(failures, False):
            backlog.failed(job, now)
            assert backlog.take(now) is None
            now = job.not_before
            continue
        params = job.request().params
        inside = [n for n in sorted(rows) if int(params["first"]) <= T0 + n * STEP <= int(params["last"])]
        assert len(inside) <= page, "a page may not be asked for more rows than it holds"
        extra = [n for n in rows if n not in inside][:2]  # venues send neighbours now and then
        answer: list[Record] = [ratio(n) for n in (*inside, *inside, *extra)]
        stored += [record.timestamp for record in job.rows(answer[::-1] if is_newest_first else answer)]
        if job.cursor > job.last:
            known = outcome(job, now)
            assert known is not None
            assert known.missing == len(job.found)
            backlog.finished(job)
        else:
            backlog.put_back(job)
    assert sorted(stored) == [T0 + n * STEP for n in sorted(rows) if 5 < n < 50]
    assert len(backlog) == 0


def candles(count: int, missing: int | None = None) -> Hole:
    return Hole(T0 - 60 * SECOND, T0 + count * 60 * SECOND, "disconnected", missing or count)


KLINES = Place("binance_spot", "spot", "BTC-USDT", "kline", "1m")
SPOT = VENUES["binance_spot"]


def rows_of(first: int, count: int) -> list[list[Any]]:
    start = T0 // 1_000_000
    return [
        [start + n * 60_000, "1", "1", "1", "1", "1", start + n * 60_000 + 59_999, "1", 1, "1", "1", "0"]
        for n in range(first, first + count)
    ]


class Rest:
    """Answers in turn, the last answer for ever."""

    def __init__(self, *answers: Any, received: int, offset: int = 0) -> None:
        self.answers, self.received = list(answers), received
        self.asked: list[Request] = []
        self.clock = VenueClock()
        self.clock.head(received - offset, received)

    async def get(self, request: Request) -> RestAnswer:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return RestAnswer(json.dumps(answer).encode(), self.received)


class Bench:
    def __init__(self, *answers: Any, now: int, offset: int = 0) -> None:
        self.batcher, self.rest = Batcher("c", 1), Rest(*answers, received=now, offset=offset)
        self.now = now
        self.drained: list[Batch] = []
        self.repairer = Repairer(
            SPOT,
            {("spot", "BTC-USDT"): instrument()},
            self.rest,
            self.batcher,
            Clock(lambda: self.now),  # type: ignore[arg-type]
            lambda: self.now,
        )

    async def work(self) -> None:
        while (job := self.repairer.backlog.take(self.now)) is not None:
            await self.repairer.step(job)

    def rows(self, data_type: str) -> list[dict[str, Any]]:
        """Give the rows of a data type that were not given before; what is drained is durable at once."""
        while batches := self.batcher.drain(self.now, force=True):
            self.drained += batches
        found = [batch for batch in self.drained if batch.data_type == data_type]
        self.drained = [batch for batch in self.drained if batch.data_type != data_type]
        return [row for batch in found for row in batch.data.to_pylist()]


async def test_missing_candles_are_fetched_and_the_hole_closed_after_them() -> None:
    bench = Bench(rows_of(0, 3), now=T0 + 240 * SECOND)
    bench.repairer.hole(KLINES, candles(3), is_written=True)
    await bench.work()
    klines, gaps = bench.rows("kline"), bench.rows("gap")
    assert [(row["source"], row["is_closed"]) for row in klines] == [("backfill", True)] * 3
    assert [(g["status"], g["missing_count"], g["repaired_count"]) for g in gaps] == [("repaired", 3, 3)]
    (request,) = bench.rest.asked
    assert request.priority is Priority.BACKFILL


async def test_a_hole_is_not_called_repaired_before_its_rows_are_durable() -> None:
    bench = Bench(rows_of(0, 3), now=T0 + 240 * SECOND)
    bench.batcher = bench.repairer._batcher = Batcher("c", 1, confirmed=True)
    bench.repairer.hole(KLINES, candles(3), is_written=True)
    await bench.work()
    (batch,) = bench.batcher.drain(T0, force=True)
    assert bench.rows("gap") == []
    ((owner, count),) = batch.receipts
    assert count == 3
    owner.stored(count)
    assert [gap["status"] for gap in bench.rows("gap")] == ["repaired"]


async def test_an_unfinished_candle_is_not_taken_and_asked_for_again() -> None:
    bench = Bench(rows_of(0, 3), rows_of(0, 3), now=T0 + 179 * SECOND)
    bench.repairer.hole(KLINES, candles(3), is_written=True)
    await bench.work()
    assert len(bench.rows("kline")) == 2
    assert len(bench.repairer.backlog) == 1
    bench.now = bench.rest.received = T0 + 182 * SECOND
    await bench.work()
    assert len(bench.rows("kline")) == 1
    assert len(bench.repairer.backlog) == 0


@pytest.mark.parametrize("offset_s", [-3_600, -70, 4, 3_600])
async def test_whether_a_candle_has_ended_is_judged_by_the_clock_of_the_venue(offset_s: int) -> None:
    ours = T0 + 179 * SECOND + offset_s * SECOND
    bench = Bench(rows_of(0, 3), now=ours, offset=offset_s * SECOND)
    bench.repairer.hole(KLINES, candles(3), is_written=True)
    await bench.work()
    assert len(bench.rows("kline")) == 2
    bench.now = bench.rest.received = ours + 3 * SECOND
    await bench.work()
    (last,) = bench.rows("kline")
    assert last["receive_timestamp"].value == ours + 3 * SECOND


async def test_a_history_that_fails_is_asked_for_ever_and_the_hole_stays_open() -> None:
    bench = Bench(TransportError("away"), now=T0 + 240 * SECOND)
    bench.repairer.hole(KLINES, candles(3), is_written=False)
    for _ in range(40):
        await bench.work()
        bench.now += 1_000 * SECOND
    assert len(bench.rest.asked) >= 30
    assert [gap["status"] for gap in bench.rows("gap")] == ["open"]
    bench.rest.answers = [rows_of(0, 3)]
    bench.rest.received = bench.now
    await bench.work()
    assert len(bench.rows("kline")) == 3
    assert [gap["status"] for gap in bench.rows("gap")] == ["repaired"]


async def test_a_candle_that_the_venue_does_not_have_either_is_not_missing() -> None:
    bench = Bench(rows_of(0, 1) + rows_of(2, 1), now=T0 + 200 * SECOND)
    bench.repairer.hole(KLINES, candles(3), is_written=True)
    await bench.work()
    assert [gap["status"] for gap in bench.rows("gap")] == []
    bench.now = bench.rest.received = T0 + 180 * SECOND + AGES_NS + 10 * SECOND
    await bench.work()
    (gap,) = bench.rows("gap")
    assert (gap["status"], gap["missing_count"], gap["repaired_count"]) == ("repaired", 2, 2)


async def test_a_routine_hole_that_is_filled_leaves_no_row() -> None:
    bench = Bench(rows_of(0, 1), now=T0 + 65 * SECOND)
    bench.repairer.hole(KLINES, Hole(T0 - 60 * SECOND, T0 + 60 * SECOND, "bar_missing", 1, True), is_written=False)
    await bench.work()
    assert len(bench.rows("kline")) == 1
    assert bench.rows("gap") == []


async def test_what_the_venue_no_longer_keeps_is_said() -> None:
    job = job_of(PLACE, instrument(), history(10, keeps_s=3_000), Hole(T0, T0 + 20 * STEP, "collector_lost"))
    assert is_kept(job, T0 + 2_999 * SECOND)
    assert not is_kept(job, T0 + 3_001 * SECOND)


async def test_a_hole_that_turned_out_to_be_none_is_forgotten() -> None:
    bench = Bench(rows_of(0, 1), now=T0 + 65 * SECOND)
    bench.repairer.hole(KLINES, candles(1), is_written=True)
    bench.repairer.hole(KLINES, Hole(T0 - 60 * SECOND, T0 - 60 * SECOND, "disconnected", 0), is_written=True)
    await bench.work()
    assert bench.rest.asked == []

"""What is to be fetched from venues' histories: holes in time, page by page, until they are whole. Pure.

A hole is asked for from old to new, a page at a time, so that it goes on where it was after a failure. It is never
given up while the venue keeps its past: a failure, or a history that does not have the rows yet, only makes it wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from marketprism_ray.bars import SECOND, candles_between, following, shortest
from marketprism_ray.continuity import Hole
from marketprism_ray.gaps import Place
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Kline, Record
from marketprism_ray.venue import History, Request

RETRY_S = (2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
AGES_NS = 120 * SECOND
"""What a history does not have this long after its time, it will not have: the venue has no such row."""


@dataclass(slots=True)
class Job:
    """One hole and how far it is filled."""

    place: Place
    instrument: Instrument
    history: History
    hole: Hole
    first: int
    """The earliest row that is missing, ns; of candles its open time."""
    last: int
    """Nothing is missing after this, ns."""
    cursor: int
    found: set[int] = field(default_factory=set)
    """Times of the rows that were brought back."""
    failures: int = 0
    not_before: int = 0
    """When it is due, ns of a clock that is never set."""
    is_written: bool = False
    """A row of it is in the ledger."""

    @property
    def interval(self) -> str:
        """Length of its candles; empty if it is not about candles."""
        return self.place.channel if self.place.data_type == "kline" else ""

    @property
    def done(self) -> float:
        """Give the part of its time that has been asked for, 0 to 1."""
        return min(1.0, (self.cursor - self.first) / max(1, self.last - self.first))

    def page_end(self) -> int:
        """Give the last moment of the next page: never more rows than an answer holds."""
        history = self.history
        step = shortest(self.interval) if self.interval else int(history.step_s * SECOND)
        span = step * history.page - 1
        if history.longest_s is not None:
            span = min(span, int(history.longest_s * SECOND))
        return min(self.last, self.cursor + span)

    def request(self) -> Request:
        """Give the request of the next page."""
        return self.history.request(self.instrument, self.cursor, self.page_end(), self.interval)

    def rows(self, records: Sequence[Record]) -> list[Record]:
        """Take a page: give what of it belongs into the hole and is new; candles only if they are finished."""
        until = self.page_end()
        wanted = []
        for record in sorted(records, key=_time):
            at = _time(record)
            is_ours = record.table == self.place.data_type and record.symbol_name == self.place.symbol_name
            is_finished = not isinstance(record, Kline) or record.is_closed
            if is_ours and is_finished and self.first <= at <= self.last and at not in self.found:
                self.found.add(at)
                wanted.append(record)
        self.cursor = until + 1
        self.failures = 0
        return wanted


def _time(record: Record) -> int:
    return record.open_time if isinstance(record, Kline) else record.timestamp


def job_of(place: Place, instrument: Instrument, history: History, hole: Hole) -> Job:
    """Give the job that fills a hole; it must have ended."""
    assert hole.closed_at is not None
    first = hole.opened_at + 1
    if place.data_type == "kline":
        first = following(hole.opened_at, place.channel)
    return Job(place, instrument, history, hole, first, hole.closed_at - 1, first)


class Backlog:
    """The holes of one session that wait to be filled, oldest failure last."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[Place, int], Job] = {}
        self._taken: set[tuple[Place, int]] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Give what is waiting or under way."""
        return tuple(self._jobs.values())

    def add(self, job: Job) -> None:
        """Take a hole; one that is there already is known by its place and beginning, and may have grown."""
        self._jobs[job.place, job.hole.opened_at] = job

    def drop(self, place: Place, opened_at: int) -> None:
        """Forget a hole that turned out to be none."""
        self._jobs.pop((place, opened_at), None)

    def take(self, now: int) -> Job | None:
        """Give a job that is due, until it is put back or done; ``now`` by a clock that is never set, ns."""
        due = [key for key, job in self._jobs.items() if job.not_before <= now and key not in self._taken]
        if not due:
            return None
        key = min(due, key=lambda key: (self._jobs[key].failures, self._jobs[key].not_before))
        self._taken.add(key)
        return self._jobs[key]

    def put_back(self, job: Job) -> None:
        """Let a job be taken again."""
        self._taken.discard((job.place, job.hole.opened_at))

    def failed(self, job: Job, now: int) -> None:
        """Ask again later, and later each time; ``now`` by a clock that is never set, ns."""
        job.not_before = now + int(RETRY_S[min(job.failures, len(RETRY_S) - 1)] * SECOND)
        job.failures += 1
        self.put_back(job)

    def finished(self, job: Job) -> None:
        """Forget a job."""
        self.put_back(job)
        if self._jobs.get((job.place, job.hole.opened_at)) is job:
            del self._jobs[job.place, job.hole.opened_at]


def outcome(job: Job, now: int) -> Hole | None:
    """Give the hole as it is after its last page: with ``missing`` as the venue's history tells; None to ask again.

    A hole is whole when all of its rows are there. Candles can be counted; of other rows there are as many as the
    history has, once it had time to get them.

    Parameters
    ----------
    now : time at the venue, ns
    """
    assert job.hole.closed_at is not None
    found = len(job.found)
    expected = candles_between(job.first, job.last + 1, job.interval) if job.interval else None
    if found == expected or (expected is None and found) or now - job.last > AGES_NS:
        return replace(job.hole, missing=found)
    return None


def is_kept(job: Job, now: int) -> bool:
    """Tell whether the venue still has the whole of a hole; ``now`` is the time there, ns."""
    keeps_s = job.history.keeps_s
    return keeps_s is None or job.first > now - int(keeps_s * SECOND)

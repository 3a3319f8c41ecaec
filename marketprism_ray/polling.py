"""What is asked by the clock: data types that venues give through REST only.

Jobs run on APScheduler inside the process that owns the streams, so that polled rows take the same way as streamed
ones. Requests go through the venue's request budget with the priority of polls: snapshots and repairs go first.
A row that was there in an earlier answer is not given again, unless the venue has corrected it: then it comes under a
higher revision. A poll that failed or was not made is a hole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import structlog
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from marketprism_ray.batching import Batcher
from marketprism_ray.config import Jobs
from marketprism_ray.continuity import Hole, Polls
from marketprism_ray.errors import DECODE_ERRORS, TransportError, VenueError, shorten
from marketprism_ray.extents import Claim
from marketprism_ray.gaps import Filler, Place, write_gap
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Record
from marketprism_ray.rest import RestClient
from marketprism_ray.sinks.inherited import Inherited, Way
from marketprism_ray.venue import Poll, Request, Venue

log = structlog.get_logger("polling")
# A run that is still waiting for its turn when the next one is due goes on; that is no news.
logging.getLogger("apscheduler").setLevel(logging.ERROR)

SETTLEMENT_JOBS = ("funding_rate",)
"""Jobs that also run right after each full hour: funding is charged then."""
SETTLED_AFTER_S = 20
REMEMBERED_ROWS = 100
"""Rows of one kind and symbol whose content is remembered: more than any poll asks for."""


class PolledRows:
    """The owner of polled rows of one data type: hears of rows that could not be records."""

    marked_by = ""
    since = 0

    def __init__(self, key: str, instrument: Instrument) -> None:
        self.key = key
        self.instrument = instrument
        self.errors = 0
        self.last_error = ""

    def durable(self, claim: Claim, now: int) -> None:
        """Nothing waits for it."""

    def rejected(self, sequence: int, error: str) -> None:
        """Count a row that could not be a record."""
        self.errors += 1
        self.last_error = error


class PolledLine(PolledRows):
    """The rows of one poll about one instrument, and what is missing of them."""

    def __init__(self, task: Task, place: Place, instrument: Instrument, every_s: float) -> None:
        super().__init__(f"{task.owner.key}/{place.symbol_name}", instrument)
        self.place = place
        self.time = Polls(int(every_s * 1e9), shows_past=task.poll.shows_past)
        self.way = Way(place.data_type, place.market_type, place.symbol_name, False, "")
        self.holes: list[Hole] = []
        """Holes of rows that could not be records."""

    def rejected(self, sequence: int, error: str) -> None:
        """Note that a row of this time came and could not be a record."""
        super().rejected(sequence, error)
        self.holes.append(Hole(sequence, sequence, "malformed", 1))


class NewRows:
    """Lets a row through once, and again when the venue corrects it. Pure.

    A row is known by its natural key. One that says something new is a correction; one that says what was said of it
    before comes from a server that lags behind, and is none.
    """

    def __init__(self, remembered: int = REMEMBERED_ROWS) -> None:
        self._remembered = remembered
        self._said: dict[tuple[object, ...], dict[int, tuple[int, ...]]] = {}
        """Data type, symbol and what else is in the key -> time -> hashes of everything that was said of it."""
        self.corrected = 0

    def of(self, records: Sequence[Record]) -> list[Record]:
        """Give the records that are new or say something new, oldest first."""
        found = []
        for record in sorted(records, key=lambda record: record.timestamp):
            rows = self._said.setdefault(_place(record), {})
            said = rows.get(record.timestamp, ())
            if not said and len(rows) >= self._remembered and record.timestamp < min(rows):
                continue  # too long ago to know whether it was there
            content = hash(msgspec.structs.replace(record, receive_timestamp=0))
            if content in said:
                continue
            self.corrected += bool(said)
            rows[record.timestamp] = (*said, content)
            if len(rows) > self._remembered:
                del rows[min(rows)]
            found.append(record)
        return found


def _place(record: Record) -> tuple[object, ...]:
    more = (getattr(record, name) for name in record.key if name not in ("timestamp", "digest"))
    return (record.table, record.exchange_name, record.symbol_name, *more)


class Task:
    """One poll with the requests it takes for the instruments that are wanted."""

    def __init__(self, venue: Venue, poll: Poll, instruments: Sequence[Instrument], every_s: float) -> None:
        self.poll = poll
        self.instruments = [instrument for instrument in instruments if poll.applies(instrument)]
        self.lookup = {instrument.venue_symbol: instrument for instrument in self.instruments}.get
        self.runs = 0
        self.rows = 0
        self.failures = 0
        self.owner = PolledRows(f"{venue.name}/{poll.data_type}/poll", instruments[0])
        self.lines: dict[str, PolledLine] = {}
        """By the symbol that rows are filed under."""
        self._names: dict[str, str] = {}
        for instrument in self.instruments:
            channel = venue.gap_channel(poll, instrument)
            place = Place(venue.name, *venue.filed_under(poll.data_type, instrument), poll.data_type, channel)
            self.lines.setdefault(place.symbol_name, PolledLine(self, place, instrument, every_s))
            self._names[instrument.venue_symbol] = place.symbol_name

    def requests(self, now: int) -> list[tuple[Request, list[PolledLine]]]:
        """Give the requests of one run, equal ones once, each with the lines it is about."""
        found: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Request, list[PolledLine]]] = {}
        for instrument in self.instruments:
            request = self.poll.request(instrument, now)
            _, lines = found.setdefault((request.path, tuple(sorted(request.params.items()))), (request, []))
            line = self.lines[self._names[instrument.venue_symbol]]
            if line not in lines:
                lines.append(line)
        return list(found.values())


class Poller:
    """The polls of one shard.

    Parameters
    ----------
    wanted : (data type, instrument)
    """

    def __init__(
        self,
        venue: Venue,
        wanted: Sequence[tuple[str, Instrument]],
        rest: RestClient,
        batcher: Batcher,
        jobs: Jobs,
    ) -> None:
        self.venue = venue
        self.tasks: list[Task] = []
        self._rest = rest
        self._batcher = batcher
        self._jobs = jobs
        self._new = NewRows()
        self._scheduler: AsyncIOScheduler | None = None
        self._stopping = False
        self.filler: Filler | None = None
        self._log = log.bind(venue=venue.name)
        for poll in venue.polls:
            instruments = [instrument for data_type, instrument in wanted if data_type == poll.data_type]
            if instruments:
                task = Task(venue, poll, instruments, float(getattr(jobs, poll.job)))
                if task.instruments:
                    self.tasks.append(task)

    def start(self, more: Sequence[tuple[str, Callable[[], None]]] = ()) -> None:
        """Run every job now and then at its interval.

        Parameters
        ----------
        more : (job name, function) of jobs that ask nobody
        """
        scheduler = AsyncIOScheduler(
            executors={"default": AsyncIOExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )
        for task in self.tasks:
            scheduler.add_job(self.run, self._trigger(task.poll.job), [task], next_run_time=datetime.now(UTC))
        for name, function in more:
            scheduler.add_job(function, self._trigger(name))
        scheduler.start()
        self._scheduler = scheduler

    def _trigger(self, job: str) -> IntervalTrigger | OrTrigger:
        every = IntervalTrigger(seconds=float(getattr(self._jobs, job)), timezone=UTC)
        if job not in SETTLEMENT_JOBS:
            return every
        return OrTrigger([every, CronTrigger(minute=0, second=SETTLED_AFTER_S, timezone=UTC)])

    def run_all(self) -> None:
        """Run every job now and then at its interval again: the wall clock, which they go by, has stepped."""
        if self._scheduler is not None:
            for job in self._scheduler.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))

    async def stop(self) -> None:
        """End all jobs; a request under way is given up."""
        self._stopping = True
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
            self._scheduler = None
        await asyncio.sleep(0)

    async def run(self, task: Task) -> None:
        """Do one poll: ask, decode, keep what is new. A request that fails holds up no other."""
        task.runs += 1
        try:
            now = self._rest.wall_ns()
            for request, lines in task.requests(self._rest.clock.at(now) or now):
                await self._ask(task, request, lines)
        except asyncio.CancelledError:
            if not self._stopping:
                raise

    async def _ask(self, task: Task, request: Request, lines: Sequence[PolledLine]) -> None:
        try:
            answer = await self._rest.get(request)
            found = task.poll.answer.decode(answer.body, request.params, task.lookup, answer.received)
        except (VenueError, TransportError) as error:
            self._failed(task, request, lines, str(error))
        except DECODE_ERRORS as error:
            self._failed(task, request, lines, f"{type(error).__name__}: {error}")
        else:
            for record in self._new.of(found):
                task.rows += 1
                # Of one key the newest word counts, also over what a predecessor wrote.
                revised = msgspec.structs.replace(record, revision=self._batcher.revision())
                self._batcher.record(task.lines.get(record.symbol_name, task.owner), revised, answer.received)
            for line in lines:
                times = [record.timestamp for record in found if record.symbol_name == line.place.symbol_name]
                self._write(line, line.time.succeeded(times, answer.received), answer.received)

    def _failed(self, task: Task, request: Request, lines: Sequence[PolledLine], error: str) -> None:
        task.failures += 1
        task.owner.errors += 1
        text = f"{request.path}: {shorten(error)}"
        if text != task.owner.last_error:
            self._log.warning("poll_failed", job=task.poll.job, data_type=task.poll.data_type, error=text)
        task.owner.last_error = text
        now = self._rest.wall_ns()
        for line in lines:
            self._write(line, line.time.failed(now), now)

    def _write(self, line: PolledLine, holes: Sequence[Hole], now: int) -> None:
        """Write holes down, and have them filled where the venue keeps its past."""
        has_past = self.venue.history(line.place.data_type, line.instrument) is not None
        for hole in holes:
            write_gap(self._batcher, line, line.place, hole, now, may_be_repaired=has_past)
            if has_past and self.filler is not None:
                self.filler.hole(line.place, hole, is_written=True)

    @property
    def lines(self) -> list[PolledLine]:
        """Give what has holes of its own."""
        return [line for task in self.tasks for line in task.lines.values()]

    def inherit(self, inherited: Inherited, now: int) -> None:
        """Go on where a predecessor ended."""
        for line in self.lines:
            holes, lasting = inherited.of(line.place)
            for hole in holes:
                if self.filler is not None:
                    self.filler.hole(line.place, hole, is_written=True)
            last = inherited.newest.get(line.way)
            if last is not None:
                self._write(line, line.time.resume(last, *lasting), now)

    def tick(self, now: int) -> None:
        """Look at the time: polls may not have been made. Call a few times a second."""
        for line in self.lines:
            self._write(line, [*line.holes, *line.time.tick(now)], now)
            line.holes.clear()

    def clock_stepped(self, moved: int) -> None:
        """Move along with the clock: jobs go by it."""
        for line in self.lines:
            line.time.clock_stepped(moved)
        self.run_all()

    def status(self) -> dict[str, dict[str, object]]:
        """Give what an operator wants to know of each poll, by path."""
        return {
            task.poll.answer.path: {
                "data_type": task.poll.data_type,
                "every_s": float(getattr(self._jobs, task.poll.job)),
                "runs": task.runs,
                "rows": task.rows,
                "failures": task.failures,
                "error": task.owner.last_error,
            }
            for task in self.tasks
        }

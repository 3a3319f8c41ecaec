"""Fills holes from venues' histories: the shell around the `Backlog`. Requests draw from the venue's budget.

The row that says ``repaired`` is written when all rows of the hole are durable, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
import structlog

from marketprism_ray.backlog import Backlog, Job, is_kept, job_of, outcome
from marketprism_ray.batching import Awaiting, Batcher
from marketprism_ray.clock import Clock
from marketprism_ray.continuity import Hole
from marketprism_ray.errors import DECODE_ERRORS, TransportError, VenueError, shorten
from marketprism_ray.extents import Claim
from marketprism_ray.gaps import Place, write_gap
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Kline
from marketprism_ray.rest import RestClient
from marketprism_ray.venue import Venue

log = structlog.get_logger("repair")

IDLE_S = 0.2
WORKERS = 2
"""Holes filled at once: one that is refused holds up no other."""


class RepairedRows(Awaiting):
    """The owner of rows brought back into one hole: knows when all of them are durable."""

    marked_by = ""
    since = 0

    def __init__(self, key: str, instrument: Instrument) -> None:
        self.key = key
        self.instrument = instrument
        self.waiting = 0
        """Rows that are on their way."""
        self.rejected_rows = 0
        self.last_error = ""
        self._then: Callable[[], None] | None = None

    def durable(self, claim: Claim, now: int) -> None:
        """Claims are of sequences; these rows have none."""

    def stored(self, rows: int) -> None:
        """Count rows that are durable."""
        self._arrived(rows)

    def rejected(self, sequence: int, error: str) -> None:
        """Count a row that could not be a record: it will not come."""
        self.rejected_rows += 1
        self.last_error = error
        self._arrived(1)

    def when_stored(self, then: Callable[[], None]) -> None:
        """Have something done once no row is on its way any more; at once if none is."""
        self._then = then
        self._arrived(0)

    def _arrived(self, rows: int) -> None:
        self.waiting -= rows
        if self._then is not None and self.waiting <= 0:
            then, self._then = self._then, None
            then()


class Repairer:
    """Fills the holes of one session.

    Parameters
    ----------
    instruments : the (market type, symbol) that rows are filed under -> instrument to ask for
    """

    def __init__(
        self,
        venue: Venue,
        instruments: Mapping[tuple[str, str], Instrument],
        rest: RestClient,
        batcher: Batcher,
        clock: Clock,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.venue = venue
        self.backlog = Backlog()
        self.repaired = 0
        """Holes that are whole again."""
        self.rows = 0
        """Rows brought back."""
        self.failures = 0
        self.last_error = ""
        self._instruments = dict(instruments)
        self._rest = rest
        self._batcher = batcher
        self._clock = clock
        self._monotonic_ns = monotonic_ns
        self._owners: dict[tuple[Place, int], RepairedRows] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._log = log.bind(venue=venue.name)

    def start(self) -> None:
        """Begin to fill."""
        self._tasks = [asyncio.get_running_loop().create_task(self._run()) for _ in range(WORKERS)]

    async def stop(self) -> None:
        """Stop; what is left stays open in the store, where a successor finds it."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def can_fill(self, place: Place) -> bool:
        """Tell whether the venue keeps the past of such a stream."""
        instrument = self._instruments.get((place.market_type, place.symbol_name))
        return instrument is not None and self.venue.history(place.data_type, instrument) is not None

    def hole(self, place: Place, hole: Hole, *, is_written: bool) -> None:
        """Hear of a hole that the venue's history may fill, and of its end.

        Parameters
        ----------
        is_written : a row of it is in the ledger
        """
        if hole.missing == 0:
            self.backlog.drop(place, hole.opened_at)
            return
        instrument = self._instruments.get((place.market_type, place.symbol_name))
        if hole.closed_at is None or instrument is None:
            return
        history = self.venue.history(place.data_type, instrument)
        if history is not None:
            job = job_of(place, instrument, history, hole)
            job.is_written = is_written
            self.backlog.add(job)

    async def _run(self) -> None:
        while True:
            # What time it is there tells what has ended: before that is known nothing can be asked for.
            is_known = self._rest.clock.delay is not None
            job = self.backlog.take(self._monotonic_ns()) if is_known else None
            if job is None:
                await asyncio.sleep(IDLE_S)
            else:
                await self.step(job)

    async def step(self, job: Job) -> None:
        """Ask for one page of a hole and keep what belongs into it; the time at the venue must be known."""
        if not is_kept(job, now := self._at_venue(self._clock.wall_ns())) and job.cursor == job.first:
            self._forget_the_oldest(job, now)
        request = job.request()
        try:
            answer = await self._rest.get(request)
            lookup = {job.instrument.venue_symbol: job.instrument}.get
            now = self._at_venue(answer.received)
            records = job.history.answer.decode(answer.body, request.params, lookup, now)
        except (VenueError, TransportError) as error:
            self._failed(job, f"{request.path}: {error}")
            return
        except DECODE_ERRORS as error:
            self._failed(job, f"{request.path}: {type(error).__name__}: {error}")
            return
        owner = self._owner(job)
        for record in job.rows(records):
            self.rows += 1
            owner.waiting += 1
            # Candles say themselves which copy counts; of other rows it is the newest word.
            more = {} if isinstance(record, Kline) else {"revision": self._batcher.revision()}
            kept = msgspec.structs.replace(record, source="backfill", receive_timestamp=answer.received, **more)
            self._batcher.record(owner, kept, answer.received)
        if job.cursor <= job.last:
            self.backlog.put_back(job)
            return
        self._judge(job, now)

    def _at_venue(self, moment: int) -> int:
        at = self._rest.clock.at(moment)
        assert at is not None
        return at

    def _forget_the_oldest(self, job: Job, now: int) -> None:
        """Begin where the history begins: what is before is gone, and the row will say so."""
        assert job.history.keeps_s is not None
        job.cursor = min(job.last, now - int(job.history.keeps_s * 1e9))

    def _owner(self, job: Job) -> RepairedRows:
        name = (job.place, job.hole.opened_at)
        if name not in self._owners:
            key = f"{self.venue.name}/{job.place.data_type}/backfill/{job.hole.opened_at}"
            self._owners[name] = RepairedRows(key, job.instrument)
        return self._owners[name]

    def _judge(self, job: Job, now: int) -> None:
        known = outcome(job, now)
        if known is None:
            job.cursor = job.first
            self._failed(job, "the history does not have all of it yet", is_error=False)
            return
        owner, found, whole = self._owner(job), len(job.found), is_kept(job, now)
        self.backlog.finished(job)
        self._owners.pop((job.place, job.hole.opened_at), None)

        def close() -> None:
            moment = self._clock.wall_ns()
            if whole and not owner.rejected_rows:
                self.repaired += 1
                if job.is_written or not job.hole.is_routine:
                    self._write(job, known, moment, found, may_be_repaired=True)
            else:
                stored = found - owner.rejected_rows
                missing = None if job.hole.missing is None else max(job.hole.missing, stored + 1)
                self._write(job, replace(job.hole, missing=missing), moment, stored, may_be_repaired=False)

        owner.when_stored(close)

    def _failed(self, job: Job, error: str, *, is_error: bool = True) -> None:
        self.backlog.failed(job, self._monotonic_ns())
        if not job.is_written:
            job.is_written = True
            self._write(job, job.hole, self._clock.wall_ns(), 0, may_be_repaired=True)
        if is_error:
            self.failures += 1
            if error != self.last_error:
                self._log.warning("repair_failed", place="/".join(job.place), error=shorten(error))
            self.last_error = error

    def _write(self, job: Job, hole: Hole, now: int, repaired: int, *, may_be_repaired: bool) -> None:
        owner = RepairedRows(f"{self.venue.name}/{job.place.data_type}/gap", job.instrument)
        write_gap(self._batcher, owner, job.place, hole, now, may_be_repaired=may_be_repaired, repaired=repaired)

    def status(self) -> dict[str, object]:
        """Give what an operator wants to know."""
        jobs = self.backlog.jobs
        return {
            "open": len(jobs),
            "repaired": self.repaired,
            "rows": self.rows,
            "failures": self.failures,
            "error": self.last_error,
            "progress": {f"{'/'.join(job.place)}": round(job.done, 3) for job in jobs[:20]},
        }

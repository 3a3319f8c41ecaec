"""The collector actor: one `Session`, and the delivery of its batches to every sink.

A batch is kept until every sink has acknowledged it: on local disk, where it survives this process and is found by its
successor, and in memory as well up to a limit; when the disk takes no more either the sockets are not read. One call a
sink is in flight and carries all that is pending, so batches grow by themselves when it is busy. What a call carried is
sent again unchanged if its sink dies. A plain class; ``cluster.py`` makes it an actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from actors.cluster import ActorGone, Cluster
from actors.sinks import Delivery, NotFenced, Refused
from marketprism_ray import __version__
from marketprism_ray.batching import Batch
from marketprism_ray.config import Config
from marketprism_ray.errors import MarketPrismError, SinkUnavailable
from marketprism_ray.logs import LogSettings, configure_actor
from marketprism_ray.processes import settle_gc
from marketprism_ray.resume import OpenGap, Resume
from marketprism_ray.session import Session, Shard
from marketprism_ray.sinks.inherited import Inherited, Way, merged
from marketprism_ray.spill import SEGMENT_BYTES, Place, Spill, spill_folder

FLUSH_S = 0.005
CALL_ROWS = 20_000
CALL_BYTES = 32 << 20
"""What one call carries at most."""
INHERIT_S = 4.0
"""The sinks are asked this long what is durable; without an answer collecting begins, and they are asked again."""
KEPT_BYTES = 300
"""What it takes to know of a batch on disk."""


def _resident_bytes() -> int | None:
    """Give this process's resident memory; None where /proc does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class Kept:
    """A batch that not every sink has acknowledged."""

    __slots__ = ("batch", "batch_id", "claims", "is_spilled", "place", "receipts", "rows", "size", "waiting")

    def __init__(self, batch: Batch, waiting: int) -> None:
        self.batch_id = batch.batch_id
        self.claims = batch.claims
        self.receipts = batch.receipts
        self.rows = batch.data.num_rows
        self.size = batch.data.nbytes
        self.waiting = waiting
        """Sinks that have not acknowledged it."""
        self.batch: Batch | None = batch
        """None where it is on disk only."""
        self.place: Place | None = None
        self.is_spilled = False

    @property
    def memory(self) -> int:
        """Bytes of rows it takes here."""
        return 0 if self.batch is None else self.size

    def keep(self, spill: Spill) -> bool:
        """Put it on disk as well; False if that takes no more."""
        assert self.batch is not None
        self.place = spill.put(self.batch)
        return self.place is not None

    def forget(self) -> bool:
        """Keep it on disk only; False if it is not there."""
        if self.place is None:
            return False
        self.batch = None
        self.is_spilled = True
        return True


class Lane:
    """The way to one sink."""

    def __init__(self, kind: str, actor: str, spill: Spill) -> None:
        self.kind = kind
        self.position = spill.sinks.index(kind)
        self.actor = actor
        self.pending: deque[Kept] = deque()
        self.in_flight: list[Kept] = []
        self.retries = 0
        self.rows = 0
        self.more = asyncio.Event()
        self._spill = spill
        self._load: list[Delivery] = []

    def add(self, kept: Kept) -> None:
        """Queue a batch."""
        self.pending.append(kept)
        self.rows += kept.rows
        self.more.set()

    def load(self) -> list[Delivery]:
        """Give what the next call carries: the same as before if that was not acknowledged.

        Raises
        ------
        OSError
            If a batch cannot be read back from disk.
        """
        if not self.in_flight:
            rows = size = 0
            while self.pending and rows < CALL_ROWS and size < CALL_BYTES:
                kept = self.pending.popleft()
                rows += kept.rows
                size += kept.size
                self.in_flight.append(kept)
            self._load = [self._delivery(kept) for kept in self.in_flight]
        return self._load

    def _delivery(self, kept: Kept) -> Delivery:
        batch = kept.batch
        if batch is None:
            assert kept.place is not None
            batch = self._spill.get(kept.place)
        return batch.batch_id, batch.data_type, batch.data, batch.claims

    def unload(self) -> list[Kept]:
        """Give what was carried, now that it is acknowledged."""
        done, self.in_flight, self._load = self.in_flight, [], []
        self.rows -= sum(kept.rows for kept in done)
        if not self.pending:
            self.more.clear()
        return done


class Collector:
    """Collects one shard.

    Parameters
    ----------
    sinks : kind -> name of the sink actor
    make_session, cluster : for tests
    """

    def __init__(
        self,
        shard: Shard,
        config: Config,
        epoch: int,
        resume: Mapping[str, Resume],
        sinks: Mapping[str, str],
        share: float = 1.0,
        *,
        make_session: Callable[..., Session] = Session,
        cluster: Cluster | None = None,
    ) -> None:
        configure_actor(LogSettings.of(config.system), f"collector-{shard.name}")
        self.shard = shard
        self.epoch = epoch
        self._config = config
        self._cluster = cluster or Cluster()
        self._log = structlog.get_logger("collector").bind(shard=shard.name, epoch=epoch)
        # Tokens outlive us in the store: shard, epoch and number may come again there with other rows (a fresh state
        # directory, a second system), and would be taken for repeats.
        self._run = secrets.token_hex(4)
        self._session = make_session(
            shard,
            config,
            collector=shard.name,
            epoch=epoch,
            resume=resume,
            inherit=self._inherited,
            share=share,
            confirmed=True,
        )
        limit = config.cluster.spill_bytes
        self._spill = Spill(
            spill_folder(config.system.data_dir),
            limit,
            shard.name,
            epoch,
            tuple(sinks),
            segment_bytes=min(SEGMENT_BYTES, limit // 4),
        )
        self._spilled_batches = self._spilled_bytes = 0
        self._is_unprotected = False
        self._lanes = [Lane(kind, actor, self._spill) for kind, actor in sinks.items()]
        self._unacknowledged = 0
        self._retained = 0
        """Bytes of unacknowledged batches in memory."""
        self._paused = False
        self._lease_until = time.monotonic() + config.cluster.lease_s
        self._tasks: list[asyncio.Task[None]] = []
        self._state = "starting"
        self._error = ""
        self._flushed = asyncio.Event()

    def __repr__(self) -> str:
        return f"Collector({self.shard.name})"

    async def start(self) -> None:
        """Connect and begin to deliver.

        Raises
        ------
        MarketPrismError
            If the venue's instruments cannot be had, or a symbol is unknown.
        """
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._flush()),
            *(loop.create_task(self._deliver(lane)) for lane in self._lanes),
        ]
        for task in self._tasks:
            task.add_done_callback(self._loop_ended)
        try:
            await self._session.start()
        except MarketPrismError as error:
            self._state, self._error = "failed", str(error)
            raise
        self._state = "live"
        settle_gc()

    async def _inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited | None:
        """Ask the sinks how far streams without a sequence are durable; None if one of them cannot say."""
        answers = await asyncio.gather(*(self._inherited_of(lane, exchange_name, ways, before) for lane in self._lanes))
        told = [answer for answer in answers if answer is not None]
        return merged(told) if len(told) == len(answers) else None

    async def _inherited_of(self, lane: Lane, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited | None:
        handle = self._cluster.find(lane.actor)
        try:
            if handle is None:
                raise ActorGone(f"{lane.actor} is not there")
            answer: Inherited = await self._cluster.call(
                handle, "inherited", exchange_name, ways, before, timeout_s=INHERIT_S
            )
        except (ActorGone, SinkUnavailable, TimeoutError) as error:
            self._log.info("inheritance_not_told", sink=lane.kind, error=f"{type(error).__name__}: {error}")
            return None
        return answer

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("collector_loop_failed", exc_info=error)
            self._state, self._error = "failed", f"{type(error).__name__}: {error}"

    async def renew(self, share: float) -> dict[str, Any]:
        """Prolong the lease; gives the status.

        Parameters
        ----------
        share : part of the request limits of the venue's address that is ours now
        """
        self._session.rest.budget.set_share(share)
        self._lease_until = time.monotonic() + self._config.cluster.lease_s
        return await self.status()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if time.monotonic() > self._lease_until and self._state == "live":
                # Somebody else may own the shard by now: say nothing more.
                self._state = "lapsed"
                self._log.warning("lease_lapsed")
                await self._session.stop()
            if self._state == "lapsed":
                continue
            self._collect(self._session.drain())

    def _collect(self, batches: list[Batch]) -> None:
        limit = self._config.cluster.retention_bytes
        for made in batches:
            kept = Kept(replace(made, batch_id=f"{made.batch_id}/{self._run}"), len(self._lanes))
            is_over = self._retained + kept.memory > limit
            if is_over or self._config.cluster.write_ahead:
                self._note_protection(kept.keep(self._spill))
            if is_over and kept.forget():
                if not self._spilled_batches:
                    self._log.warning("spilling", folder=str(self._spill.folder), retained_bytes=self._retained)
                self._spilled_batches += 1
                self._spilled_bytes += kept.size
            self._unacknowledged += 1
            self._retained += kept.memory
            for lane in self._lanes:
                lane.add(kept)
        # Either the disk took no more, or so much is there that to know of it takes as much memory again.
        held = max(self._retained, self._spilled_batches * KEPT_BYTES)
        if not self._paused and held > limit:
            self._paused = True
            self._session.pause()
            self._log.warning("reading_paused", retained_bytes=self._retained, spill=self._spill.error)
        elif self._paused and held < limit // 2:
            self._paused = False
            self._session.resume()
            self._log.info("reading_resumed")

    def _note_protection(self, is_kept: bool) -> None:
        """Say when batches begin to be in memory only, where our death takes them, and when that ends."""
        if is_kept == self._is_unprotected and self._config.cluster.spill_bytes:
            self._is_unprotected = not is_kept
            if is_kept:
                self._log.info("batches_kept_on_disk_again")
            else:
                self._log.warning("batches_in_memory_only", spill=self._spill.error)

    async def _deliver(self, lane: Lane) -> None:
        handle: Any = None
        while self._state != "lapsed":
            if not lane.in_flight:
                await lane.more.wait()
            deliveries = lane.load()
            try:
                handle = handle or self._cluster.find(lane.actor)
                if handle is None:
                    raise ActorGone(f"{lane.actor} is not there")
                refused = await self._cluster.call(handle, "take", self.shard.name, self.epoch, deliveries)
            except ActorGone:
                handle = None
                lane.retries += 1
                await asyncio.sleep(0.1)
                continue
            except NotFenced:
                # A new actor, which the coordinator will tell who owns what.
                lane.retries += 1
                await asyncio.sleep(0.05)
                continue
            except Refused as error:
                self._state, self._error = "lapsed", str(error)
                self._log.warning("refused", error=str(error))
                await self._session.stop()
                return
            for kept in lane.unload():
                for key, ranges in refused.get(kept.batch_id, {}).items():
                    # A row that went to the dead letters of a sink is not stored.
                    kept.claims = {**kept.claims, key: kept.claims[key].without(ranges)}
                self._acknowledged(kept, lane)

    def _acknowledged(self, kept: Kept, lane: Lane) -> None:
        """Give back what every sink has."""
        kept.waiting -= 1
        if kept.place is not None:
            self._spill.done(kept.place, lane.position)
        if kept.waiting:
            return
        self._unacknowledged -= 1
        self._retained -= kept.memory
        if kept.claims:
            self._session.delivered(kept.claims)
        for owner, rows in kept.receipts:
            owner.stored(rows)
        if kept.is_spilled:
            self._spilled_batches -= 1
            self._spilled_bytes -= kept.size
            if not self._spilled_batches:
                self._log.info("spill_delivered")
        if not self._unacknowledged:
            self._flushed.set()

    async def stop(self, timeout_s: float = 20.0) -> bool:
        """Stop reading, deliver what there is; True if every sink has acknowledged all of it.

        Parameters
        ----------
        timeout_s : give up when nothing more has been acknowledged for so long
        """
        if self._state == "live":
            self._state = "draining"
            await self._session.stop()
            self._collect(self._session.drain(force=True))
        left = -1
        while self._unacknowledged and self._unacknowledged != left and self._state != "lapsed":
            left = self._unacknowledged
            self._flushed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flushed.wait(), timeout_s)
            if not self._unacknowledged:
                # That what was missing is durable now is a row, too.
                self._collect(self._session.drain(force=True))
        if self._unacknowledged:
            self._log.warning("drain_incomplete", batches=self._unacknowledged)
        for task in self._tasks:
            task.cancel()
        self._spill.close()
        self._state = "stopped"
        return not self._unacknowledged

    async def take_up(self, gaps: Mapping[str, Sequence[OpenGap]]) -> None:
        """Care for holes in trades that others have written down: stream key -> rows."""
        self._session.take_up(gaps)

    async def cut(self) -> int:
        """Cut the sockets as a network would: a drill."""
        return self._session.drop_connections()

    async def step_clock(self, seconds: float) -> None:
        """Let this process's wall clock step: a drill."""
        self._session.clock.shift(int(seconds * 1e9))

    async def status(self) -> dict[str, Any]:
        """Give what an operator wants to know."""
        return {
            **self._session.status(),
            "collector": repr(self),
            "version": __version__,
            "pid": os.getpid(),
            "epoch": self.epoch,
            "owned": self.shard.streams,
            "state": self._state,
            "error": self._error,
            "retained_bytes": self._retained,
            "spilled_bytes": self._spilled_bytes,
            "kept_on_disk_bytes": self._spill.bytes,
            "resident_bytes": _resident_bytes(),
            "paused": self._paused,
            "lanes": {lane.kind: {"rows": lane.rows, "retries": lane.retries} for lane in self._lanes},
        }

    async def story(self, symbol: str) -> list[tuple[str, str, str]]:
        """Give the last steps of a book."""
        return self._session.story(symbol)

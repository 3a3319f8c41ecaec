"""How a shard goes from one collector to the next: who may write, what every sink has, which holes are open.

The decisions are pure (``resume.py``); this asks the sinks, tells them, and remembers what they have said.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import structlog
from msgspec.structs import replace

from actors.cluster import ActorGone, Cluster
from actors.sinks import COORDINATOR, Delivery, NotFenced, Refused
from marketprism_ray.batching import revision
from marketprism_ray.config import Config
from marketprism_ray.extents import Claim, Run
from marketprism_ray.records import Gap
from marketprism_ray.resume import OpenGap, Resume, Stored, newest_rows, resume_plan
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.session import Shard
from marketprism_ray.sinks import StreamId
from marketprism_ray.spill import Leftover, Remains, leftovers, spill_folder
from marketprism_ray.venues import VENUES

CALL_S = 40.0
ADOPT_S = 30.0
"""A successor waits this long until what its predecessor had received is delivered."""
GROUP_ROWS = 20_000
"""Rows of a predecessor that one call carries, about."""
TELL_S = 2.0
"""A successor waits this long for the rows about its predecessor, so that they come first where the servers answer."""


class SinkHandle(Protocol):
    """A sink actor, as far as this needs it."""

    kind: str
    handle: Any


class Takeover:
    """Hands shards over.

    Parameters
    ----------
    config : gives what is configured now
    collector_of : (shard, epoch) -> the actor that collects it, None if another epoch has begun
    """

    def __init__(
        self,
        cluster: Cluster,
        sinks: Mapping[str, SinkHandle],
        config: Callable[[], Config],
        collector_of: Callable[[str, int], Any | None],
    ) -> None:
        self._cluster = cluster
        self._sinks = sinks
        self._config = config
        self._collector_of = collector_of
        self._id = secrets.token_hex(4)
        self._claims: dict[str, dict[str, Claim]] = {}
        """Sink kind -> stream key -> what it is known to have."""
        self._late: dict[str, list[tuple[str, OpenGap]]] = {}
        """Shard -> holes in changes of books, with their streams, that what is still being delivered will fill."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("takeover")

    # --- what is remembered of sinks ---

    def remember(self, kind: str, claims: Mapping[str, Claim]) -> None:
        """Note what a sink says it has."""
        self._claims.setdefault(kind, {}).update(claims)

    def saved(self) -> dict[str, Any]:
        """Give what is remembered as plain values."""
        return {
            kind: {key: [claim.since, claim.runs] for key, claim in claims.items()}
            for kind, claims in self._claims.items()
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Remember what an earlier coordinator knew."""
        for kind, claims in saved.items():
            self._claims[kind] = {
                key: Claim(tuple(Run(*run) for run in runs), since) for key, (since, runs) in claims.items()
            }

    # --- who may write ---

    async def admit(self, kind: str, shard: Shard, epoch: int) -> None:
        """Tell a new sink actor who owns a shard: until then it takes nothing of it."""
        handle = self._sinks[kind].handle
        if handle is not None:
            places = self.places(shard)
            await self._cluster.call(
                handle, "fence", shard.name, epoch, places, self._remembered(kind, places), timeout_s=CALL_S
            )

    def _remembered(self, kind: str, keys: Iterable[str]) -> dict[str, Claim]:
        known = self._claims.get(kind, {})
        return {key: known[key] for key in keys if key in known}

    def places(self, shard: Shard) -> dict[str, StreamId]:
        """Give the streams of a shard whose rows say how far they came, and where those rows are."""
        return places(shard, deltas=self._config().exchanges[shard.venue].orderbook.deltas)

    async def fence(self, shard: Shard, epoch: int, *, after_loss: bool) -> dict[str, Resume]:
        """Shut the older epochs out of every sink, and write down what is missing; gives where the successor goes on.

        Where it is not known what a sink has, the gap has no first sequence, and stays open.
        """
        streams = self.places(shard)
        coming = await self._adopt(shard, epoch, streams)
        found: dict[str, dict[str, Stored]] = {}
        unknown: set[str] = set()
        gaps: dict[str, list[Iterable[OpenGap]]] = {key: [] for key in streams}
        in_trades = {key: place for key, place in streams.items() if place[0] == "trade"}

        async def ask(kind: str, sink: SinkHandle) -> None:
            known = self._remembered(kind, streams)
            # The holes are asked for behind the fence: what a predecessor wrote of them is there then.
            found[kind], missing = await self._cluster.call(
                sink.handle, "fence", shard.name, epoch, streams, known, timeout_s=CALL_S
            )
            for key in coming.keys() & found[kind].keys():
                found[kind][key] = found[kind][key].merged(coming[key])
            unknown.update(missing)
            rows = await self._cluster.call(sink.handle, "open_gaps", in_trades, timeout_s=CALL_S)
            if rows is None:
                self._start(self._take_up_later(sink, shard, epoch, in_trades))
            for key in streams:
                gaps[key].append(rows.get(key, ()) if rows else ())

        await asyncio.gather(*(ask(kind, sink) for kind, sink in self._sinks.items() if sink.handle is not None))
        plans: dict[str, Resume] = {}
        new: dict[str, list[OpenGap]] = {}
        for key in streams:
            have = [by_key[key] for by_key in found.values() if key in by_key]
            rows_open, lacking = newest_rows(gaps[key])
            plan = resume_plan(have, rows_open, after_loss=after_loss)
            if plan is not None:
                plans[key], unheard_of = plan
                late = [hole for name, hole in self._late.get(shard.name, ()) if name == key]
                new[key] = [*unheard_of, *lacking, *late]
        await self._write_down(shard, epoch, new, unknown)
        return plans

    # --- what a predecessor had received ---

    async def _adopt(self, shard: Shard, epoch: int, streams: Mapping[str, StreamId]) -> dict[str, Claim]:
        """Deliver what earlier collectors of the shard have left on this machine's disk, before sinks are asked.

        While a server is away that goes on beside the successor: the same trades come twice then, under the same keys.
        Changes of books come only so: gives those that are still to come, by stream; their holes are open until then.
        """
        folder = spill_folder(self._config().system.data_dir)
        if not await asyncio.to_thread(leftovers, folder, shard.name):
            return {}
        for kind, sink in self._sinks.items():
            if sink.handle is not None:
                known = self._remembered(kind, streams)
                await self._cluster.call(sink.handle, "fence", shard.name, epoch, streams, known, timeout_s=CALL_S)
        # Read behind the fence: whoever was shut out only now may have written until now.
        found = await asyncio.to_thread(leftovers, folder, shard.name)
        delivering = self._start(self._deliver_left(found, shard, epoch))
        await asyncio.wait({delivering}, timeout=ADOPT_S)
        books = {key for key, place in streams.items() if place[0] == "orderbook_delta"}
        coming = {} if delivering.done() else await asyncio.to_thread(_claims_of, found, books)
        if delivering.done():
            return {}
        holes = self._late.setdefault(shard.name, [])
        for key, claim in coming.items():
            for run in claim.runs:
                hole = OpenGap(run.began, run.ended, run.low, run.high, "collector_lost")
                if (key, hole) not in holes:
                    holes.append((key, hole))
        return coming

    async def _tell_filled(self, shard: Shard, epoch: int) -> None:
        """Write down that holes are none any more: what a predecessor had left is delivered."""
        holes = self._late.pop(shard.name, [])
        if holes:
            now = time.time_ns()
            rows = [_gap_row(shard, key, hole, epoch, now) for key, hole in holes]
            filled = [replace(row, status="repaired", revision=revision(epoch, 1)) for row in rows]
            await self.tell_gaps(f"{shard.name}/{epoch}/filled", filled)

    async def _deliver_left(self, found: Sequence[Remains], shard: Shard, epoch: int) -> None:
        batches = rows = 0
        for remains in found:
            if remains.torn:
                self._log.info("torn_end", file=remains.path.name, bytes=remains.torn)
            left = remains.batches()
            try:
                while group := await asyncio.to_thread(_some, left):
                    told = [self._give(sink, shard, epoch, group) for sink in self._sinks.values()]
                    if not all(await asyncio.gather(*told)):
                        return  # a later epoch has begun, which finds the file as we did
                    batches += len(group)
                    rows += sum(one.batch.data.num_rows for one in group)
            except FileNotFoundError:
                continue  # an earlier successor has delivered it meanwhile
            except OSError as error:
                self._log.error("left_batches_unreadable", file=str(remains.path), error=str(error))
                continue
            remains.forget()
        self._log.info("left_batches_delivered", shard=shard.name, batches=batches, rows=rows)
        await self._tell_filled(shard, epoch)

    async def _give(self, sink: SinkHandle, shard: Shard, epoch: int, group: Sequence[Leftover]) -> bool:
        """Give a sink what it lacks; False if it takes nothing of this epoch any more."""
        lacking: list[Delivery] = [
            (one.batch.batch_id, one.batch.data_type, one.batch.data, one.batch.claims)
            for one in group
            if sink.kind in one.sinks
        ]
        while lacking:
            try:
                if sink.handle is not None:
                    await self._cluster.call(sink.handle, "take", shard.name, epoch, lacking)
                    return True
            except Refused:
                return False
            except (ActorGone, NotFenced) as error:
                self._log.debug("left_batches_told_again", sink=sink.kind, error=str(error))
            await asyncio.sleep(self._config().cluster.step_s)
        return True

    # --- rows of our own ---

    async def _write_down(
        self, shard: Shard, epoch: int, gaps: Mapping[str, Iterable[OpenGap]], unknown: Iterable[str]
    ) -> None:
        """Write down what is missing; the successor closes these gaps.

        While a server is away its sink waits with these rows, and the successor does not wait for them.
        """
        now = time.time_ns()
        records = [_gap_row(shard, key, gap, epoch, now) for key, rows in gaps.items() for gap in rows]
        records += [_gap_row(shard, key, None, epoch, now) for key in unknown]
        if not records:
            return
        batch = batch_from_records(records)
        delivery: list[Delivery] = [(f"{COORDINATOR}/{self._id}/{shard.name}/{epoch}", "gap", batch, {})]
        told = [self._start(self._tell(sink, delivery)) for sink in self._sinks.values()]
        await asyncio.wait(told, timeout=TELL_S)

    async def tell_gaps(self, name: str, gaps: Sequence[Gap]) -> None:
        """Write gap rows through all sinks; returns when they are durable."""
        delivery: list[Delivery] = [(f"{COORDINATOR}/{self._id}/{name}", "gap", batch_from_records(gaps), {})]
        await asyncio.gather(*(self._tell(sink, delivery) for sink in self._sinks.values()))

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell(self, sink: SinkHandle, delivery: list[Delivery]) -> None:
        """Give rows of ours to a sink, and to its successor if it dies before they are durable."""
        while True:
            try:
                if sink.handle is not None:
                    await self._cluster.call(sink.handle, "take", COORDINATOR, 0, delivery)
                    return
            except ActorGone as error:
                self._log.debug("told_again", sink=sink.kind, error=str(error))
            await asyncio.sleep(self._config().cluster.step_s)

    async def _take_up_later(self, sink: SinkHandle, shard: Shard, epoch: int, streams: dict[str, StreamId]) -> None:
        """Ask again for the holes that are open, until the store answers, and give them to whoever collects then."""
        while True:
            await asyncio.sleep(self._config().cluster.step_s)
            try:
                if sink.handle is None:
                    continue
                rows = await self._cluster.call(sink.handle, "open_gaps", streams, timeout_s=CALL_S)
                if rows is None:
                    continue
                collector = self._collector_of(shard.name, epoch)
                if collector is not None:
                    await self._cluster.call(collector, "take_up", rows, timeout_s=CALL_S)
                return
            except (ActorGone, TimeoutError) as error:
                self._log.debug("asked_again", sink=sink.kind, error=str(error))


def _some(left: Iterator[Leftover]) -> list[Leftover]:
    """Read some batches; none at the end."""
    group: list[Leftover] = []
    rows = 0
    for one in left:
        group.append(one)
        rows += one.batch.data.num_rows
        if rows >= GROUP_ROWS:
            break
    return group


def _claims_of(found: Sequence[Remains], keys: Collection[str]) -> dict[str, Claim]:
    """Give what files hold of some streams; nothing of those that were delivered meanwhile."""
    claims: dict[str, Claim] = {}
    for remains in found:
        with contextlib.suppress(FileNotFoundError):
            for one in remains.batches():
                for key in one.batch.claims.keys() & set(keys):
                    claim = one.batch.claims[key]
                    claims[key] = claims[key].merged(claim) if key in claims else claim
    return claims


def _gap_row(shard: Shard, key: str, gap: OpenGap | None, epoch: int, now: int) -> Gap:
    """Give the row of a hole; of one that begins nobody knows where if there is no gap."""
    _, data_type, symbol = key.split("/", 2)
    gap = gap or OpenGap(now, None, -1, None, "collector_lost")
    return Gap(
        exchange_name=shard.venue,
        market_type=_market_type(shard.venue, symbol),
        symbol_name=symbol,
        timestamp=gap.opened_at,
        receive_timestamp=now,
        source="stream",
        data_type="orderbook_delta" if data_type == "orderbook" else data_type,
        reason=gap.reason,
        opened_at=gap.opened_at,
        closed_at=gap.closed_at,
        first_missing=None if gap.first < 0 else gap.first,
        last_missing=gap.last,
        missing_count=None if gap.last is None or data_type != "trade" else gap.last - gap.first + 1,
        collector=shard.name,
        epoch=epoch,
        revision=revision(epoch, 0),
    )


def places(shard: Shard, *, deltas: bool) -> dict[str, StreamId]:
    """Give the streams of a shard whose rows say how far they came, and where those rows are.

    Published books say nothing of the changes between them: they count only where changes are not kept.
    """
    tables = {"trade": "trade", "orderbook": "orderbook_delta" if deltas else "orderbook"}
    return {
        f"{shard.venue}/{data_type}/{symbol}": (
            tables[data_type],
            shard.venue,
            _market_type(shard.venue, symbol),
            symbol,
        )
        for data_type, symbol in shard.streams
        if data_type in tables
    }


def _market_type(venue: str, symbol: str) -> str:
    """Give the market type of a symbol by the canonical grammar; venues with one market need not ask."""
    types = VENUES[venue].market_types
    if len(types) == 1:
        return types[0]
    parts = symbol.split("-")
    return "perpetual" if parts[-1] == "SWAP" else {2: "spot", 3: "futures"}.get(len(parts), "option")

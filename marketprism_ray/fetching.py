"""The past of one stream by hand: from a venue's history into the store and onto NATS, beside a running system.

The same pages and rules as the repairs of a collector (``backlog.py``). Rows that are stored are not written again, so
that it may be run as often as one likes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from marketprism_ray.backlog import Job
from marketprism_ray.bars import candles_between, following
from marketprism_ray.batching import revision
from marketprism_ray.config import Config, Exchange
from marketprism_ray.continuity import Hole
from marketprism_ray.errors import ConfigError
from marketprism_ray.gaps import Place
from marketprism_ray.instruments import Instrument
from marketprism_ray.query import Store
from marketprism_ray.records import Gap, Kline, Record
from marketprism_ray.rest import RestClient
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.session import fetch_instruments, make_rest
from marketprism_ray.sinks import Sink
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink
from marketprism_ray.venue import Venue

SHARE = 0.2
"""Part of the request limits that is taken: a running system on this address has its own."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched: one stream, from ``first`` to ``last``, ns; ``interval`` of candles."""

    venue: Venue
    symbol: str
    data_type: str
    interval: str
    first: int
    last: int


@dataclass(slots=True)
class Fetched:
    """What came of it."""

    new: int = 0
    known: int = 0
    closed: int = 0
    """Open gaps that are whole now."""
    left: int = 0
    """Open gaps of the span that are not."""
    done: float = 0.0


async def fetch(
    wanted: Wanted,
    config: Config,
    nats: NatsSettings,
    clickhouse: ClickHouseSettings,
    show: Callable[[Fetched], None],
) -> Fetched:
    """Fetch a stream's past page by page.

    Parameters
    ----------
    show : called after each page

    Raises
    ------
    ConfigError
        If the symbol is unknown, or the venue has no history of the data type.
    VenueError, TransportError
        If the venue refuses or cannot be reached; what was fetched is stored.
    SinkUnavailable
        If a server is away.
    """
    venue = wanted.venue
    exchange = config.exchanges.get(venue.name) or Exchange(symbols=(wanted.symbol,))
    rest = make_rest(venue, exchange, config, share=SHARE)
    sinks: list[Sink] = [ClickHouseSink(clickhouse), NatsSink(nats)]
    await rest.open()
    try:
        table = await fetch_instruments(venue, rest)
        if wanted.symbol not in table:
            raise ConfigError(f"{venue.name} has no instrument {wanted.symbol}; see `marketprism instruments`")
        job = _job(wanted, table[wanted.symbol])
        for sink in sinks:
            await sink.open()
        store = Store(clickhouse)
        try:
            return await _fetch(job, rest, sinks, store, show)
        finally:
            store.close()
    finally:
        for sink in sinks:
            await sink.close()
        await rest.close()


def _job(wanted: Wanted, instrument: Instrument) -> Job:
    venue, data_type = wanted.venue, wanted.data_type
    history = venue.history(data_type, instrument)
    if history is None:
        known = sorted({h.data_type for h in venue.histories if h.applies(instrument)})
        raise ConfigError(
            f"{venue.name} keeps no past of {data_type} of {wanted.symbol}; it does of {', '.join(known)}"
        )
    if wanted.interval and wanted.interval not in venue.intervals:
        raise ConfigError(f"--interval {wanted.interval!r}: {venue.name} has {', '.join(venue.intervals)}")
    place = Place(venue.name, *venue.filed_under(data_type, instrument), data_type, wanted.interval)
    hole = Hole(wanted.first, wanted.last, "by_hand")
    return Job(place, instrument, history, hole, wanted.first, wanted.last, wanted.first)


BY_HAND = 1 << 31
"""A row written by hand comes after every one that the collector of its epoch counts."""


async def _fetch(
    job: Job, rest: RestClient, sinks: Sequence[Sink], store: Store, show: Callable[[Fetched], None]
) -> Fetched:
    fetched = Fetched()
    run = secrets.token_hex(4)
    lookup = {job.instrument.venue_symbol: job.instrument}.get
    while job.cursor <= job.last:
        request = job.request()
        answer = await rest.get(request)
        # Candles are open or closed by the venue's time.
        decoded = job.history.answer.decode(
            answer.body, request.params, lookup, rest.clock.at(answer.received) or answer.received
        )
        records = job.rows([msgspec.structs.replace(r, receive_timestamp=answer.received) for r in decoded])
        known = store.times(job.place, _time(records[0]), _time(records[-1])) if records else set()
        new = [msgspec.structs.replace(r, source="backfill") for r in records if _time(r) not in known]
        if new:
            for sink in sinks:
                await sink.write([batch_from_records(new)], f"backfill/{run}/{job.cursor}")
        fetched.new += len(new)
        fetched.known += len(records) - len(new)
        fetched.done = job.done
        show(fetched)
    await _close_gaps(job, sinks, store, fetched, run)
    return fetched


async def _close_gaps(job: Job, sinks: Sequence[Sink], store: Store, fetched: Fetched, run: str) -> None:
    """Close the open gaps of the span whose rows are all there now."""
    rows: list[Record] = []
    for gap in store.open_holes(job.place, job.first, job.last):
        held = len(store.times(job.place, gap.opened_at + 1, gap.closed_at - 1))
        expected = held
        if job.interval:
            expected = candles_between(following(gap.opened_at, job.interval), gap.closed_at, job.interval)
        if held < expected:
            fetched.left += 1
            continue
        fetched.closed += 1
        now = time.time_ns()
        rows.append(
            Gap(
                exchange_name=job.place.exchange_name,
                market_type=job.place.market_type,
                symbol_name=job.place.symbol_name,
                timestamp=gap.opened_at,
                receive_timestamp=now,
                source="backfill",
                data_type=job.place.data_type,
                channel=gap.channel,
                reason=gap.reason,
                opened_at=gap.opened_at,
                closed_at=gap.closed_at,
                missing_count=held,
                repaired_count=held,
                status="repaired",
                collector="backfill",
                epoch=gap.revision >> 32,
                revision=max(gap.revision + 1, revision(gap.revision >> 32, BY_HAND)),
            )
        )
    if rows:
        for sink in sinks:
            await sink.write([batch_from_records(rows)], f"backfill/{run}/gaps")


def _time(record: Record) -> int:
    return record.open_time if isinstance(record, Kline) else record.timestamp

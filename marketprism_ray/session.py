"""Everything that collects one shard, without Ray: instruments, streams, connections, open batches.

A collector actor, ``marketprism record`` and notebooks each own one of these.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from marketprism_ray.amounts import instrument_record
from marketprism_ray.batching import Batch, Batcher, BatchLimits
from marketprism_ray.book_stream import BookStream
from marketprism_ray.budget import RequestBudget
from marketprism_ray.clock import Clock
from marketprism_ray.config import Config, Exchange
from marketprism_ray.connection import Connection, ConnectionSettings, Pacer
from marketprism_ray.extents import Claim
from marketprism_ray.feed import Feed, FeedSettings
from marketprism_ray.instruments import Instrument, InstrumentTable, parse_top
from marketprism_ray.polling import PolledRows, Poller
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.records import Gap
from marketprism_ray.repair import Repairer
from marketprism_ray.rest import RestClient, RestSettings
from marketprism_ray.resume import OpenGap, Resume
from marketprism_ray.sinks.inherited import Inherited, Way
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import BookCodec, Channel, RecordCodec, Request, TradeCodec, Venue
from marketprism_ray.venues import VENUES

log = structlog.get_logger("session")

LOOK_NS = 250_000_000
"""How often lines of time are looked at."""

INHERIT_AGAIN_S = 5.0
Inherit = Callable[[str, Sequence[Way], int], Awaitable[Inherited | None]]
"""(exchange name, streams, before which their rows were received, ns) -> what the stores know of them."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The streams one collector owns: (data type, canonical symbol) of one venue."""

    name: str
    venue: str
    streams: tuple[tuple[str, str], ...]


async def fetch_instruments(venue: Venue, rest: RestClient) -> InstrumentTable:
    """Fetch and decode a venue's instruments.

    Raises
    ------
    TransportError, VenueError
        If the venue cannot be reached or sends something else.
    """
    found: list[Instrument] = []
    for request in venue.instrument_requests:
        answer = await rest.get(request)
        found += [i for i in venue.decode_instruments(answer.body) if i.market_type in venue.market_types]
    return InstrumentTable(venue.name, found)


async def find_instruments(
    venue: Venue, rest: RestClient, patterns: Sequence[str], keep: Collection[str] = ()
) -> tuple[InstrumentTable, list[Instrument], list[str]]:
    """Fetch a venue's instruments and expand names and patterns to those wanted.

    Parameters
    ----------
    keep : canonical symbols collected now, see `InstrumentTable.resolve`

    Returns
    -------
    tuple
        All instruments, those wanted, and a line about each name or pattern that matches nothing.

    Raises
    ------
    ConfigError
        If a pattern is malformed.
    TransportError, VenueError
        If the venue cannot be reached or sends something else.
    """
    ranking = any(parse_top(pattern) is not None for pattern in patterns)
    table = await fetch_instruments(venue, rest)
    volumes: dict[str, float] = {}
    if ranking and venue.volumes is not None:
        for request in venue.volumes.requests:
            volumes.update(venue.volumes.decode((await rest.get(request)).body))
    wanted, problems = table.resolve(patterns, time.time_ns(), volumes, keep)
    return table, wanted, problems


def make_rest(venue: Venue, exchange: Exchange, config: Config, *, share: float = 1.0) -> RestClient:
    """Make the REST client of a venue."""
    networking = config.networking
    return RestClient(
        venue,
        exchange.endpoints.get("rest"),
        RestSettings(timeout_s=networking.request_timeout_s, proxy=networking.proxy_url),
        RequestBudget(venue.rest.budgets, share=share),
    )


class Session:
    """One shard's sockets, books and open batches.

    Parameters
    ----------
    resume : stream key -> where the collector before this one came to
    inherit : asks the stores how far streams without a sequence are durable; gives None where they cannot be asked
    confirmed : the owner says which batches are durable (`delivered`); else they count as soon as they are given out
    share : part of the request budgets of the venue's address that this process may use
    tap : called with (endpoint, frame, receive time ns) for each raw frame
    on_answer : called with (request, body, receive time ns) for each REST answer
    """

    def __init__(
        self,
        shard: Shard,
        config: Config,
        *,
        collector: str = "session",
        epoch: int = 0,
        resume: Mapping[str, Resume] | None = None,
        inherit: Inherit | None = None,
        share: float = 1.0,
        confirmed: bool = False,
        tap: Callable[[str, bytes, int], None] | None = None,
        on_answer: Callable[[Request, bytes, int], None] | None = None,
    ) -> None:
        self.shard = shard
        self.config = config
        self.venue = VENUES[shard.venue]
        self.exchange = config.exchanges[shard.venue]
        limits = config.cluster.batch
        self.batcher = Batcher(
            collector, epoch, BatchLimits(limits.rows, limits.bytes, limits.age_s), confirmed=confirmed
        )
        self.rest = make_rest(self.venue, self.exchange, config, share=share)
        self.rest.on_answer = on_answer
        self.clock = Clock()
        self.clock.on_step(self._clock_stepped)
        self.rest.wall_ns = self.clock.wall_ns
        self.streams: list[Stream] = []
        self.connections: list[Connection] = []
        self._resume = dict(resume or {})
        self._inherit = inherit
        self._share = share
        self._tap = tap
        self._tasks: list[asyncio.Task[None]] = []
        self.poller: Poller | None = None
        self.repairer: Repairer | None = None
        self.liquidations_down: list[str] = []
        self.unlisted: list[str] = []
        """Symbols of the shard that the venue did not list at the start."""
        self._drain_all = False
        self._record_streams: list[RecordStream] = []
        self._next_look = 0
        self._begun_at = 0
        self._stopping = False
        self._log = log.bind(venue=shard.venue, shard=shard.name, epoch=epoch)

    async def start(self) -> None:
        """Fetch instruments, build streams, start connections.

        A symbol that the venue does not list any more (it expired, it was delisted) is left out and named by `status`:
        the others go on. What its stream may have lost stands in the gap row that the coordinator opened.

        Raises
        ------
        TransportError, VenueError
            If the venue cannot be reached or sends something else.
        """
        self._begun_at = self.clock.wall_ns()
        await self.rest.open()
        table = await fetch_instruments(self.venue, self.rest)
        listed = [(data_type, table[symbol]) for data_type, symbol in self.shard.streams if symbol in table]
        self.unlisted = sorted({symbol for _, symbol in self.shard.streams if symbol not in table})
        if self.unlisted:
            self._log.warning("not_listed", symbols=self.unlisted)
        by_endpoint: dict[str, list[Stream]] = {}
        self._note_instruments({instrument.symbol_name: instrument for _, instrument in listed})
        self.streams = self._make_streams(listed)
        self._record_streams = [stream for stream in self.streams if isinstance(stream, RecordStream)]
        self.repairer = Repairer(
            self.venue,
            {self.venue.filed_under(data_type, instrument): instrument for data_type, instrument in listed},
            self.rest,
            self.batcher,
            self.clock,
        )
        for record_stream in self._record_streams:
            record_stream.filler = self.repairer
            record_stream.clock = self.rest.clock
        for stream in self.streams:
            by_endpoint.setdefault(stream.channel.endpoint, []).append(stream)
        limits = self.venue.limits
        size = min(self.exchange.streams_per_socket or limits.streams_per_socket, limits.streams_per_socket)
        # The venue counts new sockets by address as well: this process gets its share of them.
        allowed = limits.connects * self._share
        connects = Pacer(max(1, int(allowed)), limits.connects_period_s / min(1.0, allowed))
        for endpoint, streams in by_endpoint.items():
            for chunk in _chunks(streams, size):
                self.connections.append(self._connection(endpoint, chunk, connects))
        self.poller = Poller(self.venue, listed, self.rest, self.batcher, self.config.scheduler.jobs)
        self.poller.filler = self.repairer
        loop = asyncio.get_running_loop()
        is_heir = await self._take_over()
        self._tasks = [loop.create_task(connection.run()) for connection in self.connections]
        if not is_heir:
            self._tasks.append(loop.create_task(self._take_over_later()))
        self.repairer.start()
        self.poller.start([("health", self._log_health), ("liquidation", self._check_liquidations)])

    async def _take_over(self) -> bool:
        """Go on where a predecessor's rows end; False if the stores do not say where that is."""
        assert self.poller is not None
        lines = [line for stream in self._record_streams for line in stream.lines]
        ways = list(dict.fromkeys(way for line in lines for way in (line.way, line.begun)))
        ways += [line.way for line in self.poller.lines]
        if self._inherit is None or not ways:
            return True
        inherited = await self._inherit(self.venue.name, ways, self._begun_at)
        if inherited is None:
            return False
        now = self.clock.wall_ns()
        for stream in self._record_streams:
            stream.inherit(inherited, now)
        self.poller.inherit(inherited, now)
        return True

    async def _take_over_later(self) -> None:
        """Ask again while the stores cannot be asked: collecting does not wait for it."""
        self._log.warning("inheritance_unknown")
        while not await self._take_over():  # noqa: ASYNC110 - the server comes back when it does
            await asyncio.sleep(INHERIT_AGAIN_S)

    async def stop(self) -> None:
        """Close all sockets. What is still open in batches can be drained afterwards."""
        self._stopping = True
        if self.poller is not None:
            await self.poller.stop()
        if self.repairer is not None:
            await self.repairer.stop()
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, asyncio.CancelledError):
                self._log.error("connection_failed", error=str(result))
        await self.rest.close()

    def _note_instruments(self, instruments: Mapping[str, Instrument]) -> None:
        """Write down how the venue describes the instruments of this shard now."""
        received = self.clock.wall_ns()
        for instrument in instruments.values():
            owner = PolledRows(f"{self.venue.name}/instrument", instrument)
            self.batcher.record(owner, instrument_record(instrument, received), received)

    def _make_streams(self, wanted: Sequence[tuple[str, Instrument]]) -> list[Stream]:
        """Make a stream of each channel; low-rate data that comes under one key is read by one stream."""
        streams: list[Stream] = []
        shared: dict[tuple[str, str, int], tuple[dict[int, Channel], dict[str, Instrument]]] = {}
        for data_type, instrument in wanted:
            for channel in self.venue.channels_of(data_type, instrument, self.exchange.kline_intervals):
                if isinstance(channel.codec, RecordCodec):
                    place = (channel.endpoint, channel.key(instrument), id(channel.codec))
                    channels, instruments = shared.setdefault(place, ({}, {}))
                    channels[id(channel)] = channel
                    instruments[instrument.venue_symbol] = instrument
                else:
                    streams.append(self._stream(channel, instrument))
        for channels, instruments in shared.values():
            streams.append(RecordStream(self.venue, list(channels.values()), list(instruments.values()), self.batcher))
        history = self.venue.trade_history
        counted = {stream.wire_key for stream in streams if isinstance(stream, TradeStream)}
        for stream in streams:
            with_trades = history is not None and history.also is not None and stream.wire_key in counted
            if with_trades and isinstance(stream, RecordStream):
                stream.counted_by_trades()
        return streams

    def _stream(self, channel: Channel, instrument: Instrument) -> Stream:
        stream: TradeStream | BookStream
        if isinstance(channel.codec, TradeCodec):
            also = frozenset(t for t, symbol in self.shard.streams if symbol == instrument.symbol_name and t != "trade")
            stream = TradeStream(self.venue, channel, instrument, self.batcher, also=also)
        else:
            assert isinstance(channel.codec, BookCodec)
            book = self.exchange.orderbook
            stream = BookStream(
                self.venue,
                channel,
                instrument,
                self.batcher,
                keep=book.keep or channel.codec.depth,
                depth=book.depth,
                interval_s=book.interval_s,
                keep_deltas=book.deltas,
            )
        if stream.key in self._resume:
            stream.resume(self._resume[stream.key])
        return stream

    def _connection(self, endpoint: str, streams: Sequence[Stream], connects: Pacer) -> Connection:
        networking = self.config.networking
        settings = FeedSettings(first_frame_s=networking.first_frame_s, silence_s=networking.silence_s)
        name = f"{self.shard.name}/{endpoint}/{len(self.connections)}"
        tap = self._tap

        def make_feed(standby: bool) -> Feed:
            return Feed(
                self.venue,
                endpoint,
                streams,
                settings,
                standby=standby,
                connection_id=name,
                tap=None if tap is None else lambda raw, received: tap(endpoint, raw, received),
            )

        return Connection(
            self.venue,
            endpoint,
            self.exchange.endpoints.get(endpoint) or self.venue.sockets[endpoint],
            self.rest,
            make_feed,
            ConnectionSettings(
                connect_timeout_s=networking.connect_timeout_s,
                backoff_min_s=networking.backoff_min_s,
                backoff_max_s=networking.backoff_max_s,
                max_frame_bytes=networking.max_frame_bytes,
                compression=networking.compression,
                proxy=networking.proxy_url,
                replace_margin_s=networking.replace_margin_s,
            ),
            name=name,
            connects=connects,
            clock=self.clock,
        )

    # --- by the clock ---

    def _clock_stepped(self, now: int, moved: int) -> None:
        """Let nothing but timestamps change when the wall clock steps, and write down that these cannot be trusted."""
        self._log.warning("clock_stepped", seconds=round(moved / 1e9, 3))
        self._next_look += moved
        self.rest.clock.clock_stepped(moved)
        for stream in self.streams:
            stream.clock_stepped(moved)
        for connection in self.connections:
            connection.clock_stepped(now, moved)
        if self.poller is not None:
            self.poller.clock_stepped(moved)
        self._drain_all = True
        if not self.streams:
            return
        owner = self.streams[0]
        opened_at, closed_at = sorted((now - moved, now))
        note = Gap(
            exchange_name=self.venue.name,
            market_type=owner.instrument.market_type,
            symbol_name="all",
            timestamp=opened_at,
            receive_timestamp=now,
            source="stream",
            data_type="clock",
            reason="clock_stepped",
            opened_at=opened_at,
            closed_at=closed_at,
            missing_count=0,
            status="unrepairable",
            collector=self.batcher.collector,
            epoch=self.batcher.epoch,
            revision=self.batcher.revision(),
        )
        self.batcher.record(owner, note, now)

    def _log_health(self) -> None:
        """Say in one line how the shard is."""
        status = self.status()
        names = ("frames", "records", "books", "books_live", "trades_missing", "decode_errors", "rejected_rows")
        self._log.info("health", **{name: status[name] for name in names})

    def _check_liquidations(self) -> None:
        """Say which liquidation streams are not connected: they are silent for hours, so their silence says nothing."""
        dead = [
            stream.key
            for stream in self.streams
            if isinstance(stream, RecordStream) and "liquidation" in stream.data_types and not stream.feeds
        ]
        self.liquidations_down = dead
        if dead:
            self._log.warning("liquidations_down", streams=dead)

    # --- what an owner needs ---

    def drain(self, *, force: bool = False) -> list[Batch]:
        """Close the batches that are due; ``force`` closes all."""
        now = self.clock.tick_ns()
        if now >= self._next_look and not self._stopping:
            self._next_look = now + LOOK_NS
            for stream in self._record_streams:
                stream.tick(now)
            if self.poller is not None:
                self.poller.tick(now)
        # What was received before a step has an age that means nothing.
        force, self._drain_all = force or self._drain_all, False
        return self.batcher.drain(now, force=force)

    def delivered(self, claims: Mapping[str, Claim]) -> None:
        """Hear that a batch with these claims is durable everywhere."""
        self.batcher.delivered(claims, self.clock.wall_ns())

    def take_up(self, gaps: Mapping[str, Sequence[OpenGap]]) -> None:
        """Care for holes in trades that others have written down: stream key -> rows."""
        for stream in self.streams:
            if isinstance(stream, TradeStream):
                stream.take_up(gaps.get(stream.key, ()))

    def pause(self) -> None:
        """Stop reading sockets: the sinks cannot take more."""
        for stream in self._record_streams:
            stream.shedding = True
        for connection in self.connections:
            connection.pause()

    def resume(self) -> None:
        """Read on."""
        for stream in self._record_streams:
            stream.shedding = False
        for connection in self.connections:
            connection.resume()

    def drop_connections(self) -> int:
        """Cut every socket without a word, as a network would; for drills. Gives how many."""
        cut = 0
        for connection in self.connections:
            cut += connection.cut()
        return cut

    def status(self) -> dict[str, object]:
        """Give what an operator wants to know of this shard."""
        books = [stream for stream in self.streams if isinstance(stream, BookStream)]
        trades = [stream for stream in self.streams if isinstance(stream, TradeStream)]
        feeds = [connection.feed for connection in self.connections if connection.feed is not None]
        return {
            "shard": self.shard.name,
            "venue": self.venue.name,
            "streams": len(self.streams),
            "liquidations_down": self.liquidations_down,
            "unlisted": self.unlisted,
            "polls": {} if self.poller is None else self.poller.status(),
            "repairs": {} if self.repairer is None else self.repairer.status(),
            "connections": [
                {"name": c.feed.connection_id if c.feed else "", "state": c.state, **c.counts, "error": c.last_error}
                for c in self.connections
            ],
            "crashes": sum(connection.counts["crashes"] for connection in self.connections),
            "frames": sum(stream.frames for stream in self.streams),
            "last_received": max((stream.last_received for stream in self.streams), default=0),
            "records": self.batcher.records_total,
            "books": len(books),
            "books_live": sum(book.sync.is_live for book in books),
            "book_gaps": sum(book.gaps_opened for book in books),
            "gaps_open": self.batcher.gaps.open,
            "gaps": self.batcher.gaps.rows(),
            "trades_missing": sum(stream.missing for stream in trades),
            "trades_repaired": sum(stream.repaired for stream in trades),
            "duplicates": sum(stream.duplicates for stream in trades),
            "decode_errors": sum(stream.decode_errors for stream in self.streams),
            "rejected_rows": self.batcher.rejected_total,
            "rest": dict(self.rest.counts),
            "refused": {key: why for feed in feeds for key, why in feed.refused_streams.items()},
            "errors": [error for feed in feeds for error in feed.last_errors][-5:],
        }

    def story(self, symbol: str) -> list[tuple[str, str, str]]:
        """Give the last steps of a book's state machine: (event, states, detail)."""
        for stream in self.streams:
            if isinstance(stream, BookStream) and stream.instrument.symbol_name == symbol:
                return list(stream.sync.story)
        return []


def _chunks(streams: Sequence[Stream], size: int) -> list[list[Stream]]:
    """Deal streams to sockets of at most so many keys; streams of one key stay together."""
    by_key: dict[str, list[Stream]] = {}
    for stream in streams:
        by_key.setdefault(stream.wire_key, []).append(stream)
    keys = list(by_key)
    return [[s for key in keys[i : i + size] for s in by_key[key]] for i in range(0, len(keys), size)]

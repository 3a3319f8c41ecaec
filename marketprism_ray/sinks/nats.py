"""Arrow batches to NATS JetStream: one JSON message a row, a window of unacknowledged publishes.

Each publish asks for its acknowledgement on an inbox of our own; a whole window is in flight at once. What was not
acknowledged in time is sent again with the same ``Nats-Msg-Id``, so the server keeps one.

A client whose publishes go unanswered is given up for a new one: the loops of ``nats-py`` can end without a word and
leave it connected and deaf (nats.py issue 624; the same comes of a PONG that arrives after ``flush`` has timed out,
which is why nothing here flushes).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pyarrow as pa
import structlog
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from pydantic import SecretStr

from marketprism_ray.encoding import decode_json, json_rows, message_ids, nanoseconds, subject_of, subjects
from marketprism_ray.errors import BadBatch, SinkUnavailable, mask_urls
from marketprism_ray.extents import Claim, Run, runs_of
from marketprism_ray.records import RECORDS, SEQUENCE_COLUMNS
from marketprism_ray.resume import OpenGap, Stored
from marketprism_ray.sinks import StreamId, counted_afresh, counted_on
from marketprism_ray.sinks.inherited import WAYS, Inherited, Way

log = structlog.get_logger("nats")

ACK_TIMEOUT_S = 5.0
REQUESTS_AT_ONCE = 50
FETCH_MESSAGES = 500
RECENT_S = 180
"""What was published so long before the newest message is looked at one by one after a restart."""
NO_STORAGE = 10047
"""JetStream's code for a stream that may grow larger than the server's storage."""


@dataclass(frozen=True)
class NatsSettings:
    """How to reach the servers, and what the stream looks like."""

    servers: tuple[str, ...]
    stream: str = "MARKET_DATA"
    preset: str = "default"
    max_messages: int = 5_000_000
    max_bytes: int = 10 << 30
    max_age_s: float = 7 * 86400.0
    replicas: int = 1
    duplicate_window_s: float = 120.0
    window: int = 500
    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    credentials: Path | None = None
    tls_ca: Path | None = None

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={mask_urls(repr(value))}" for name, value in vars(self).items())
        return f"NatsSettings({fields})"

    @property
    def address(self) -> str:
        """The servers, for messages: without what a URL may hold of credentials."""
        return mask_urls(", ".join(self.servers))


def stream_subjects(preset: str) -> list[str]:
    """Give the subjects the stream takes."""
    return ["market.>"] if preset == "market" else [f"{record.kind}.>" for record in RECORDS.values()]


async def connect(settings: NatsSettings, **more: Any) -> Any:
    """Open a client that reconnects for ever.

    Raises
    ------
    SinkUnavailable
        If no server can be reached or the credentials are refused.
    """
    options: dict[str, Any] = {
        "servers": list(settings.servers),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.2,
        "connect_timeout": 3,
        "allow_reconnect": True,
        "pending_size": 64 << 20,
        "user": settings.user,
        "password": settings.password.get_secret_value() if settings.password else None,
        "token": settings.token.get_secret_value() if settings.token else None,
        "user_credentials": str(settings.credentials) if settings.credentials else None,
        **more,
    }
    if settings.tls_ca is not None:
        options["tls"] = ssl.create_default_context(cafile=str(settings.tls_ca))
    last: list[Exception] = []
    told = options.get("error_cb")

    async def note(error: Exception) -> None:
        last.append(error)
        if told is not None:
            await told(error)

    options["error_cb"] = note
    client = nats.NATS()
    try:
        # The client would go on trying for ever, also where it is refused: what it last heard says why.
        await asyncio.wait_for(client.connect(**{k: v for k, v in options.items() if v is not None}), 5)
        return client
    except asyncio.CancelledError:
        await client.close()
        raise
    except (OSError, TimeoutError, nats.errors.Error) as error:
        await client.close()
        why = "; ".join(dict.fromkeys(f"{type(e).__name__}: {e}" for e in [*last, error]))
        raise SinkUnavailable(f"NATS at {settings.address}: {mask_urls(why)}") from error


class NoAnswer(TimeoutError):
    """Nothing at all was acknowledged for long: it is not one message that was lost."""


class _Call:
    """One write under way: several may be, and each waits for its own acknowledgements."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        """Publish number -> row, while it is not acknowledged."""
        self.errors: dict[int, str] = {}
        self.duplicates = 0


class NatsSink:
    """Publishes to one JetStream stream."""

    def __init__(self, settings: NatsSettings) -> None:
        self.settings = settings
        self.duplicates = 0
        self._client: Any = None
        self._inbox = ""
        self._unacknowledged: dict[str, _Call] = {}
        self._progress = asyncio.Event()
        self._number = 0
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect, create or update the stream; does nothing while there is a client that lives."""
        async with self._opening:
            # A server that says no to a live connection (new credentials, a reload) closes the client for good.
            if self._client is None or self._client.is_closed:
                self._client = await self._open()

    async def _open(self) -> Any:
        async def note(error: Exception) -> None:
            log.debug("nats_error", error=f"{type(error).__name__}: {error}")

        settings = self.settings
        client = await connect(settings, error_cb=note)
        config = StreamConfig(
            name=settings.stream,
            subjects=stream_subjects(settings.preset),
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            max_msgs=settings.max_messages,
            max_bytes=settings.max_bytes,
            max_age=settings.max_age_s,
            num_replicas=settings.replicas,
            duplicate_window=settings.duplicate_window_s,
        )
        stream = client.jetstream(timeout=5)
        opened = False
        try:
            try:
                # To add one that is there would need room for two of them (nats-server looks at the room first).
                await stream.update_stream(config)
            except nats.js.errors.NotFoundError:
                await stream.add_stream(config)
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
            opened = True
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            text = f"NATS: stream {settings.stream}: {type(error).__name__}: {error}"
            if getattr(error, "err_code", None) == NO_STORAGE:
                text += f"; nats.max_bytes is {settings.max_bytes:,}: lower it, or give the server more disk"
            raise SinkUnavailable(text) from error
        finally:
            if not opened:
                await client.close()
        return client

    async def _connected(self) -> Any:
        """Give the client; one that was given up is replaced first."""
        await self.open()
        client = self._client
        if client is None or not client.is_connected:
            raise SinkUnavailable("NATS: not connected")
        return client

    async def _give_up(self, client: Any) -> None:
        """Close a client that does not answer; the next write makes a new one."""
        if client is self._client:
            self._client = None
            log.warning("nats_gives_no_answer", seconds=ACK_TIMEOUT_S)
            with contextlib.suppress(OSError, TimeoutError, nats.errors.Error):
                await asyncio.wait_for(client.close(), ACK_TIMEOUT_S)

    async def _acknowledged(self, message: Any) -> None:
        number = message.subject.rpartition(".")[2]
        call = self._unacknowledged.pop(number, None)
        if call is None:
            return
        row = call.rows.pop(number)
        data = message.data
        if b'"error"' in data:
            call.errors[row] = json.loads(data)["error"].get("description", "unknown error")
        elif not data:
            call.errors[row] = "no stream takes this subject"
        elif b'"duplicate"' in data:
            call.duplicates += 1
            self.duplicates += 1
        self._progress.set()
        self._progress = asyncio.Event()

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        """Publish every row; gives the rows the server had not seen. Calls may overlap."""
        client = await self._connected()
        whole = batches if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()
        rows = duplicates = 0
        for batch in whole:
            rows += batch.num_rows
            duplicates += await self._publish(client, batch)
        return rows - duplicates

    async def _publish(self, client: Any, batch: pa.RecordBatch) -> int:
        subject = subjects(batch, self.settings.preset).to_pylist()
        identity = message_ids(batch).to_pylist()
        payload = [text.encode() for text in json_rows(batch).to_pylist()]
        limit = client.max_payload
        for i, body in enumerate(payload):
            if len(body) > limit:
                raise BadBatch(f"NATS: {subject[i]}: a message of {len(body)} bytes, the server takes {limit}")
        call = _Call()
        try:
            for i in range(len(payload)):
                while len(self._unacknowledged) >= self.settings.window:
                    await self._wait()
                await self._send(client, call, subject[i], identity[i], payload[i], i)
            left, since = len(call.rows), time.monotonic()
            while call.rows:
                await self._wait()
                if len(call.rows) < left:
                    left, since = len(call.rows), time.monotonic()
                elif time.monotonic() - since > ACK_TIMEOUT_S:
                    raise TimeoutError(f"{left} of {len(payload)} messages not acknowledged")
        except (OSError, TimeoutError, nats.errors.Error) as error:
            if isinstance(error, NoAnswer):
                await self._give_up(client)
            raise SinkUnavailable(f"NATS: {type(error).__name__}: {error}") from error
        finally:
            for number in call.rows:
                self._unacknowledged.pop(number, None)
        if call.errors:
            row, text = next(iter(call.errors.items()))
            raise SinkUnavailable(f"NATS: {subject[row]}: {text} ({len(call.errors)} rows)")
        return call.duplicates

    async def _send(self, client: Any, call: _Call, subject: str, identity: str, payload: bytes, row: int) -> None:
        self._number += 1
        number = str(self._number)
        self._unacknowledged[number] = call
        call.rows[number] = row
        await client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers={"Nats-Msg-Id": identity})

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._progress.wait(), ACK_TIMEOUT_S)
        except TimeoutError as error:
            raise NoAnswer(f"no acknowledgement for {ACK_TIMEOUT_S:g} s") from error

    async def stored(self, streams: Mapping[StreamId, Run | None]) -> dict[StreamId, Stored]:
        """Read the newest message of each stream's subject, then message by message what came with it."""
        client = await self._connected()
        context = client.jetstream(timeout=ACK_TIMEOUT_S)
        free = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def read(stream: StreamId) -> Stored | None:
            async with free:
                try:
                    return await self._stored(context, stream, streams[stream])
                except nats.js.errors.NotFoundError:
                    return None

        try:
            found = await asyncio.gather(*(read(stream) for stream in streams))
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise SinkUnavailable(f"NATS: {type(error).__name__}: {error}") from error
        return {stream: stored for stream, stored in zip(streams, found, strict=True) if stored is not None}

    async def _stored(self, context: Any, stream: StreamId, after: Run | None) -> Stored:
        name, subject = self.settings.stream, subject_of(*stream, self.settings.preset)
        message = await context.get_last_msg(name, subject)
        newest = _mark(stream, message.data)
        afresh = counted_afresh(after, newest)
        if afresh is not None:
            return afresh
        # The newest message may be a row fetched later from the venue's history: newer ones may be there as well.
        after = counted_on(after, newest)
        begin = None
        if after is None:
            oldest = _mark(stream, (await context.get_msg(name, seq=1, subject=subject, next=True)).data)
            begin = Run(oldest[0], oldest[0], oldest[1], oldest[1])
        if stream[0] != "trade":
            # Changes of books are written in their order: those before the newest are there.
            at = newest if after is None else (after.high + 1, after.ended)
            return Stored(Claim(tuple(r for r in (Run(at[0], newest[0], at[1], newest[1]),) if r.low <= r.high)), begin)
        rows = await self._read_since(context, subject, message.seq, _since(message))
        low = -1 if after is None else after.high
        marks = (_mark(stream, row) for row in rows)
        return Stored(Claim(runs_of((n, n, at) for n, at in marks if n > low)), begin)

    async def _read_since(self, context: Any, subject: str, last: int, since: int) -> list[bytes]:
        """Read the messages of a subject from a time (ns) on, up to the one with that number in the stream."""
        start = datetime.fromtimestamp(since // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=start,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=30.0,
            mem_storage=True,
        )
        subscription = await context.pull_subscribe(subject, stream=self.settings.stream, config=config)
        rows: list[bytes] = []
        try:
            while True:
                messages = await subscription.fetch(FETCH_MESSAGES, timeout=ACK_TIMEOUT_S)
                rows += [message.data for message in messages]
                if not messages or messages[-1].metadata.sequence.stream >= last:
                    return rows
        finally:
            await subscription.unsubscribe()

    async def open_gaps(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[OpenGap, ...]]:
        """Read the last messages about holes of each instrument: some may be here and not yet anywhere else.

        What was open before stays so where it can be asked for; this gives what may be known here alone.
        """
        client = await self._connected()
        context = client.jetstream(timeout=ACK_TIMEOUT_S)
        free = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def read(stream: StreamId) -> tuple[OpenGap, ...]:
            subject = subject_of("gap", *stream[1:], self.settings.preset)
            async with free:
                try:
                    message = await context.get_last_msg(self.settings.stream, subject)
                except nats.js.errors.NotFoundError:
                    return ()
                return _open_rows(stream[0], await self._read_since(context, subject, message.seq, _since(message)))

        try:
            found = await asyncio.gather(*(read(stream) for stream in streams))
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise SinkUnavailable(f"NATS: {type(error).__name__}: {error}") from error
        return {stream: rows for stream, rows in zip(streams, found, strict=True) if rows}

    async def inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited:
        """Read the last message of each subject; only a pushed row of the stream itself says how far that one came."""
        client = await self._connected()
        context = client.jetstream(timeout=ACK_TIMEOUT_S)
        found = Inherited()
        free = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def read(way: Way) -> None:
            async with free:
                try:
                    place = (way.data_type, exchange_name, way.market_type, way.symbol_name)
                    message = await context.get_last_msg(self.settings.stream, subject_of(*place, self.settings.preset))
                except nats.js.errors.NotFoundError:
                    return
            row = decode_json(message.data)
            is_older = nanoseconds(row["receive_timestamp"]) < before
            if row["source"] == "stream" and is_older and way.value in ("", row.get(WAYS.get(way.data_type, ""))):
                found.newest[way] = nanoseconds(row["timestamp"])

        try:
            # Candles are counted in the store: there an open one is known from a closed one.
            await asyncio.gather(*(read(way) for way in ways if way.is_pushed and way.data_type != "kline"))
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise SinkUnavailable(f"NATS: {type(error).__name__}: {error}") from error
        return found

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.close()


def _mark(stream: StreamId, payload: bytes) -> tuple[int, int]:
    """Read sequence and time, ns, of a message."""
    row = decode_json(payload)
    return row[SEQUENCE_COLUMNS[stream[0]]], nanoseconds(row["timestamp"])


def _since(message: Any) -> int:
    """Give the time, ns, from which on messages are read one by one: some before this one was received."""
    return nanoseconds(decode_json(message.data)["receive_timestamp"]) - RECENT_S * 1_000_000_000


def _open_rows(data_type: str, payloads: Sequence[bytes]) -> tuple[OpenGap, ...]:
    """Give the rows about holes whose newest message says that they are open."""
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for payload in payloads:
        row = decode_json(payload)
        if row["data_type"] == data_type and row["first_missing"] is not None:
            key = (row["opened_at"], row["first_missing"])
            if key not in newest or row["revision"] > newest[key]["revision"]:
                newest[key] = row
    return tuple(
        OpenGap(
            nanoseconds(row["opened_at"]),
            None if row["closed_at"] is None else nanoseconds(row["closed_at"]),
            row["first_missing"],
            row["last_missing"],
            row["reason"],
            row["revision"],
        )
        for row in newest.values()
        if row["status"] == "open"
    )

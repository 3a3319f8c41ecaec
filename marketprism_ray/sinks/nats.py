"""Arrow batches to NATS JetStream: one JSON message a row, a window of unacknowledged publishes.

Each publish asks for its acknowledgement on an inbox of our own; a whole window is in flight at once. What was not
acknowledged in time is sent again with the same ``Nats-Msg-Id``, so the server keeps one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pyarrow as pa
import structlog
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from marketprism_ray.encoding import json_rows, message_ids, subjects
from marketprism_ray.errors import BadBatch, SinkUnavailable
from marketprism_ray.records import RECORDS

log = structlog.get_logger("nats")

ACK_TIMEOUT_S = 5.0


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
    password: str | None = None
    token: str | None = None
    credentials: Path | None = None
    tls_ca: Path | None = None


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
        "password": settings.password,
        "token": settings.token,
        "user_credentials": str(settings.credentials) if settings.credentials else None,
        **more,
    }
    if settings.tls_ca is not None:
        options["tls"] = ssl.create_default_context(cafile=str(settings.tls_ca))
    try:
        return await asyncio.wait_for(nats.connect(**{k: v for k, v in options.items() if v is not None}), 5)
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise SinkUnavailable(f"NATS at {', '.join(settings.servers)}: {type(error).__name__}: {error}") from error


class NatsSink:
    """Publishes to one JetStream stream."""

    def __init__(self, settings: NatsSettings) -> None:
        self.settings = settings
        self.duplicates = 0
        self._client: Any = None
        self._inbox = ""
        self._unacknowledged: dict[str, int] = {}
        self._errors: dict[int, str] = {}
        self._progress = asyncio.Event()
        self._number = 0

    async def open(self) -> None:
        """Connect, create or update the stream."""

        async def note(error: Exception) -> None:
            log.debug("nats_error", error=f"{type(error).__name__}: {error}")

        self._client = await connect(self.settings, error_cb=note)
        settings = self.settings
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
        stream = self._client.jetstream(timeout=5)
        try:
            try:
                await stream.add_stream(config)
            except nats.js.errors.BadRequestError:
                await stream.update_stream(config)
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise SinkUnavailable(f"NATS: stream {settings.stream}: {type(error).__name__}: {error}") from error
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)

    async def _acknowledged(self, message: Any) -> None:
        number = message.subject.rpartition(".")[2]
        row = self._unacknowledged.pop(number, None)
        if row is None:
            return
        data = message.data
        if b'"error"' in data:
            self._errors[row] = json.loads(data)["error"].get("description", "unknown error")
        elif not data:
            self._errors[row] = "no stream takes this subject"
        elif b'"duplicate"' in data:
            self.duplicates += 1
        self._progress.set()

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        """Publish every row; gives the rows the server had not seen."""
        if self._client is None or not self._client.is_connected:
            raise SinkUnavailable("NATS: not connected")
        before = self.duplicates
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            await self._publish(batch)
        return rows - (self.duplicates - before)

    async def _publish(self, batch: pa.RecordBatch) -> None:
        subject = subjects(batch, self.settings.preset).to_pylist()
        identity = message_ids(batch).to_pylist()
        payload = [text.encode() for text in json_rows(batch).to_pylist()]
        limit = self._client.max_payload
        for i, body in enumerate(payload):
            if len(body) > limit:
                raise BadBatch(f"NATS: {subject[i]}: a message of {len(body)} bytes, the server takes {limit}")
        self._unacknowledged.clear()
        self._errors.clear()
        try:
            for i in range(len(payload)):
                while len(self._unacknowledged) >= self.settings.window:
                    await self._wait()
                await self._send(subject[i], identity[i], payload[i], i)
            await self._client.flush(timeout=ACK_TIMEOUT_S)
            while self._unacknowledged:
                await self._wait()
        except (OSError, TimeoutError, nats.errors.Error) as error:
            self._unacknowledged.clear()
            raise SinkUnavailable(f"NATS: {type(error).__name__}: {error}") from error
        if self._errors:
            row, text = next(iter(self._errors.items()))
            raise SinkUnavailable(f"NATS: {subject[row]}: {text} ({len(self._errors)} rows)")

    async def _send(self, subject: str, identity: str, payload: bytes, row: int) -> None:
        self._number += 1
        number = str(self._number)
        self._unacknowledged[number] = row
        await self._client.publish(subject, payload, reply=f"{self._inbox}.{number}", headers={"Nats-Msg-Id": identity})

    async def _wait(self) -> None:
        self._progress.clear()
        await asyncio.wait_for(self._progress.wait(), ACK_TIMEOUT_S)

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await self._client.close()

"""Reads both sinks into plain rows: numbers are ``Decimal``, times ns since the epoch, levels pairs."""

from __future__ import annotations

import asyncio
import calendar
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Any

import nats.errors
import pyarrow as pa
from nats.js.api import AckPolicy, ConsumerConfig

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.query import Store
from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import DECIMAL, LEVELS, TIME, fields_of
from marketprism_ray.sinks.nats import NatsSettings, connect

Rows = dict[str, list[dict[str, Any]]]
"""Data type -> rows."""

_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{9})Z")
_KINDS = {record.kind: name for name, record in RECORDS.items()}
FETCH = 2000


def stored(store: Store) -> Rows:
    """Read every table as a reader sees it."""
    found: Rows = {}
    for data_type in RECORDS:
        table = store.query(f"SELECT * FROM {data_type}")
        found[data_type] = list(plain_rows(table)) if table.num_rows else []
    return found


def plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Turn an Arrow table into rows."""
    columns = [_plain_column(table.column(name).combine_chunks()) for name in table.column_names]
    for values in zip(*columns, strict=True):
        yield dict(zip(table.column_names, values, strict=True))


def _plain_column(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        values: list[Any] = column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64()).to_pylist()
        return values
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = column.flatten()
        pairs = list(zip(flat.field(0).to_pylist(), flat.field(1).to_pylist(), strict=True))
        offsets = column.offsets.to_pylist()
        return [tuple(pairs[begin - offsets[0] : end - offsets[0]]) for begin, end in pairwise(offsets)]
    values = column.to_pylist()
    return values


def nanoseconds() -> Callable[[str], int]:
    """Give a reader of RFC 3339 times with nanoseconds in UTC, and nothing else; it remembers seconds."""
    seconds: dict[str, int] = {}

    def read(text: str) -> int:
        head = text[:19]
        if head not in seconds or len(text) != 30:
            match = _TIME.fullmatch(text)
            if match is None:
                raise ValueError(f"{text!r} is no RFC 3339 time in UTC with nanoseconds")
            seconds[head] = calendar.timegm(tuple(int(part) for part in match.groups()[:6])) * 1_000_000_000
        return seconds[head] + int(text[20:29])

    return read


def decoders() -> dict[str, Callable[[bytes], dict[str, Any]]]:
    """Give, by data type, what turns a message into a row; a message that is none raises ValueError or KeyError."""
    read_time = nanoseconds()
    return {data_type: _decoder(data_type, read_time) for data_type in RECORDS}


def _decoder(data_type: str, read_time: Callable[[str], int]) -> Callable[[bytes], dict[str, Any]]:
    fields = fields_of(data_type)
    names = {field.name for field in fields}
    times = [field.name for field in fields if field.arrow == TIME]
    levels = [field.name for field in fields if field.arrow == LEVELS]
    numbers = [field.name for field in fields if field.arrow == DECIMAL]

    def decode(payload: bytes) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(payload, parse_float=Decimal)
        if row.keys() != names:
            raise ValueError(f"fields {sorted(row.keys() ^ names)} are too many or too few")
        for name in times:
            if row[name] is not None:
                row[name] = read_time(row[name])
        for name in levels:
            row[name] = tuple((Decimal(level["price"]), Decimal(level["quantity"])) for level in row[name])
        for name in numbers:
            if type(row[name]) is int:
                row[name] = Decimal(row[name])
        return row

    return decode


class Published:
    """What the stream holds.

    ``rows`` by data type, ``repeated`` the message ids that are there more than once, ``bad`` what is no row, and
    ``misfiled`` the messages under a subject that is not theirs.
    """

    def __init__(self) -> None:
        self.rows: Rows = defaultdict(list)
        self.repeated: list[str] = []
        self.bad: list[str] = []
        self.misfiled: list[str] = []


def understood(messages: Iterable[tuple[str, str, bytes]]) -> Published:
    """Turn (subject, message id, payload) of the default subjects into rows."""
    found, decode, seen = Published(), decoders(), set()
    for subject, identity, payload in messages:
        kind, _, rest = subject.partition(".")
        data_type = _KINDS.get(kind)
        if data_type is None:
            found.misfiled.append(subject)
            continue
        if identity in seen:
            found.repeated.append(identity)
        seen.add(identity)
        try:
            row = decode[data_type](payload)
            place = [row["exchange_name"], row["market_type"], row["symbol_name"].replace(".", "_")]
        except (ValueError, KeyError, TypeError) as error:
            found.bad.append(f"{subject}: {error}: {payload[:200].decode(errors='replace')}")
            continue
        if data_type == "kline":
            place.append(row["interval"])
        if rest != ".".join(place):
            found.misfiled.append(f"{subject}: {identity}")
        found.rows[data_type].append(row)
    return found


def published(settings: NatsSettings) -> Published:
    """Read the whole stream.

    Raises
    ------
    MarketPrismError
        If it cannot be read to its end.
    """
    return understood(asyncio.run(_messages(settings)))


async def _messages(settings: NatsSettings) -> list[tuple[str, str, bytes]]:
    client = await connect(settings)
    try:
        stream = client.jetstream(timeout=10)
        reading = ConsumerConfig(ack_policy=AckPolicy.NONE, inactive_threshold=60)
        subscription = await stream.pull_subscribe(">", stream=settings.stream, config=reading)
        pending = (await subscription.consumer_info()).num_pending
        found: list[tuple[str, str, bytes]] = []
        while len(found) < pending:
            for message in await subscription.fetch(min(FETCH, pending - len(found)), timeout=10):
                found.append((message.subject, (message.headers or {}).get("Nats-Msg-Id", ""), message.data))
        return found
    except (nats.errors.Error, TimeoutError) as error:
        raise MarketPrismError(f"NATS: reading the stream: {type(error).__name__}: {error}") from error
    finally:
        await client.close()

"""Single messages without a recording around them: which records are in one.

``replay`` follows streams; this reads one frame or one REST answer alone, as example files hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import pyarrow as pa

from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.errors import FrameError, RecordingError, VenueError, shorten
from marketprism_ray.instruments import Instrument
from marketprism_ray.recording import Line
from marketprism_ray.records import Record
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import (
    Ack,
    BookCodec,
    Channel,
    Data,
    Delta,
    Lookup,
    RecordCodec,
    Rejected,
    Reply,
    TradeCodec,
    Venue,
    items,
)

EXAMPLE_TIME = 1_800_000_000_000_000_000
"""Receive time of examples, which have none, ns."""


def read_frame(venue: Venue, raw: bytes, lookup: Lookup, received: int) -> dict[str, pa.RecordBatch]:
    """Read one frame.

    Parameters
    ----------
    lookup : venue symbol -> instrument
    received : ns since the epoch

    Returns
    -------
    dict
        Data type -> rows; a change of a book is an ``orderbook_delta``.

    Raises
    ------
    FrameError
        If it is no data, of no known channel, or not what its channel sends.
    """
    try:
        return _read_frame(venue, raw if venue.enveloped is None else venue.enveloped(raw), lookup, received)
    except msgspec.DecodeError as error:
        raise FrameError(f"{venue.name}: {error} in {shorten(raw)}") from error


def _read_frame(venue: Venue, raw: bytes, lookup: Lookup, received: int) -> dict[str, pa.RecordBatch]:
    control = venue.control(raw)
    if not isinstance(control, Data):
        raise FrameError(f"{venue.name}: no data but {control}")
    name, symbol = venue.parse_key(control.key)
    channels = [channel for channel in (*venue.channels, *venue.recorded_channels) if channel.name == name]
    if not channels:
        raise FrameError(f"{venue.name}: channel {name!r} is unknown")
    batcher = Batcher("message", 0, knows_receipt=False)
    records: dict[int, Record] = {}
    for codec in {id(channel.codec): channel.codec for channel in channels}.values():
        if isinstance(codec, RecordCodec):
            records |= {id(record): record for record in codec.decode(raw, lookup, received)}
            continue
        channel = next(channel for channel in channels if channel.codec is codec)
        instrument = lookup(symbol)
        if instrument is not None:
            _stream(venue, channel, instrument, batcher, raw, received)
    found = _by_type(list(records.values()))
    found.update((batch.data_type, batch.data) for batch in batcher.drain(received, force=True))
    if batcher.rejected_total:
        raise FrameError(f"{venue.name}: {name}: a row cannot be a record")
    return found


def _stream(
    venue: Venue, channel: Channel, instrument: Instrument, batcher: Batcher, raw: bytes, received: int
) -> None:
    codec = channel.codec
    if isinstance(codec, TradeCodec):
        trades = TradeStream(venue, channel, instrument, batcher)
        trades.frame(raw, received)
        if trades.decode_errors:
            raise FrameError(trades.last_error)
    else:
        assert isinstance(codec, BookCodec)
        book = BookStream(venue, channel, instrument, batcher, keep=None)
        for delta in items(codec.decode(raw).data):
            book.delta(delta, delta.first - 1 if delta.previous is None else delta.previous, received)


def _by_type(records: Sequence[Record]) -> dict[str, pa.RecordBatch]:
    types = dict.fromkeys(record.table for record in records)
    return {table: batch_from_records([r for r in records if r.table == table]) for table in types}


def read_answer(venue: Venue, url: str, body: bytes, lookup: Lookup, received: int) -> dict[str, pa.RecordBatch]:
    """Read one REST answer.

    Raises
    ------
    VenueError, TransportError
        If the answer is an error in the venue's terms.
    FrameError
        If it is not what that path answers.
    RecordingError
        If nobody knows the path.
    """
    venue.rest.check(200, body)
    parts = urlsplit(url)
    params = dict(parse_qsl(parts.query))
    for answer in (*venue.answers, *(poll.answer for poll in venue.polls)):
        if answer.path == parts.path:
            return _by_type(list(answer.decode(body, params, lookup, received)))
    is_book = parts.path.rsplit("/", 1)[-1] in venue.book_paths
    for channel in venue.channels:
        codec = channel.codec
        if isinstance(codec, BookCodec) and codec.decode_snapshot is not None and is_book:
            snapshot = codec.decode_snapshot(body)
            instrument = lookup(params.get("symbol") or params.get("instId") or params.get("instrument_name") or "")
            if instrument is None:
                return {}
            batcher = Batcher("message", 0, knows_receipt=False)
            book = BookStream(venue, channel, instrument, batcher, keep=None)
            time = received // codec.time_ns if snapshot.time is None else snapshot.time
            book.delta(
                Delta(snapshot.last, snapshot.last, None, time, snapshot.bids, snapshot.asks, is_snapshot=True),
                -1,
                received,
            )
            return {batch.data_type: batch.data for batch in batcher.drain(received, force=True)}
    raise RecordingError(f"{venue.name}: nobody reads {parts.path}")


def kind_of(venue: Venue, line: Line, lookup: Lookup) -> str:
    """Tell what an example message is: the data type of its records, ``error`` or ``heartbeat``.

    Parameters
    ----------
    line : its ``type`` decides where a message holds several data types

    Raises
    ------
    FrameError, RecordingError
        If it cannot be read.
    """
    raw = line.raw.encode()
    if line.channel != "rest":
        control = venue.control(venue.enveloped(raw) if venue.enveloped is not None else raw)
        if isinstance(control, Reply):
            return "heartbeat"
        if isinstance(control, Rejected) or (isinstance(control, Ack) and control.complete and not control.keys):
            return "error"
        found = read_frame(venue, raw, lookup, EXAMPLE_TIME)
    else:
        try:
            venue.rest.check(200, raw)
        except VenueError:
            return "error"
        found = (
            _read_unnamed(venue, line.type, raw, lookup)
            if not line.url
            else read_answer(venue, line.url, raw, lookup, EXAMPLE_TIME)
        )
    types = [name for name, batch in found.items() if batch.num_rows]
    if "orderbook_delta" in types:
        types.append("orderbook")
    if line.type in types:
        return line.type
    raise FrameError(f"{venue.name}: no {line.type or 'known type'} but {', '.join(types) or 'nothing'}")


def _read_unnamed(venue: Venue, data_type: str, body: bytes, lookup: Lookup) -> dict[str, pa.RecordBatch]:
    """Read a REST answer whose address is not known, by what it is said to be."""
    paths = [answer.path for answer in venue.answers if answer.data_type == data_type]
    if data_type == "orderbook":
        paths += list(venue.book_paths)
    for path in paths:
        query = urlencode({"symbol": "UNNAMED", "instId": "UNNAMED", "instrument_name": "UNNAMED"})
        return read_answer(venue, f"https://host/{path.lstrip('/')}?{query}", body, lookup, EXAMPLE_TIME)
    raise RecordingError(f"{venue.name}: no answer holds {data_type}")

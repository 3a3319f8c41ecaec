"""The complete list of what a venue file must say, and nothing more.

A venue is a value (`Venue`), not a class to inherit from: numbers, texts and small pure functions. Shared code calls
them and never asks which venue it is talking to. A second market of the same house is a second value in the same file.

References
----------
``venues/README.md`` says how to add one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from marketprism_ray.instruments import Instrument, MarketType
from marketprism_ray.records import Record

MS = 1_000_000
"""Nanoseconds in a millisecond."""


# --- REST -----------------------------------------------------------------------------------------------------------


class Priority(enum.IntEnum):
    """Who goes first when the request budget is short."""

    SNAPSHOT = 0
    BACKFILL = 1
    POLL = 2
    METADATA = 3
    HISTORY = 4
    """Holes so large that filling them may take hours."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A published request limit: ``capacity`` units of weight each ``period_s`` seconds."""

    name: str
    capacity: int
    period_s: float
    used_header: str | None = None
    """Response header that reports the weight used in the period, where the venue sends one."""
    pool: str = ""
    """Name of a limit that several venues draw from; empty if it is this venue's alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP GET, with what it costs from which budgets."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    costs: tuple[tuple[str, int], ...] = ()
    priority: Priority = Priority.METADATA


@dataclass(frozen=True, slots=True)
class Rest:
    """The HTTP side of a venue."""

    budgets: tuple[Budget, ...]
    check: Callable[[int, bytes], None]
    """Raise VenueError, RateLimited or TransportError if the answer (status, body) is an error in the venue's terms.
    Status 429 and 418 with their headers are dealt with before this is called."""
    headers: Mapping[str, str] = field(default_factory=dict)


# --- WebSocket ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """What one socket may carry, from the venue's documentation."""

    streams_per_socket: int
    """Most streams we put on one socket (at or below the published limit)."""
    keys_per_message: int
    """Most keys in one subscribe message."""
    message_bytes: int
    """Most bytes in one subscribe message."""
    messages_per_second: float
    """Rate at which we send messages."""
    connects: int
    """New sockets allowed ..."""
    connects_period_s: float
    """... in this many seconds, per public address."""
    lifetime_s: float | None
    """Age at which the venue cuts the socket; we replace it before. None if it does not."""
    requests_per_hour: int | None = None
    """Subscribe and unsubscribe requests of one socket in an hour. None if they are not limited."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How the socket is kept alive."""

    silent_s: float
    """Nothing at all (data, answers or protocol pings) for this long: the socket is dead, reconnect."""
    ping_after_s: float | None = None
    """Send ``ping`` when nothing has arrived for this long. None: the server pings, nothing to send."""
    ping: str | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The venue accepted these stream keys; empty if the answer does not name them (then all pending ones)."""

    keys: tuple[str, ...] = ()
    request_id: str | None = None
    complete: bool = False
    """True if ``keys`` are all that was accepted of the request: the others were refused."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The venue refused a subscription. ``key`` is None if the answer does not name it."""

    code: str
    message: str
    key: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ShutdownNotice:
    """The venue will close this socket soon: open a replacement now."""

    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the venue with this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Ignore:
    """A known frame that needs no action (a pong, an unsubscribe answer)."""


@dataclass(frozen=True, slots=True)
class Data:
    """A data frame whose key could not be read off its head: the key found by decoding it whole."""

    key: str


Control = Ack | Rejected | ShutdownNotice | Reply | Ignore | Data


# --- channels -------------------------------------------------------------------------------------------------------


class WireLevel(msgspec.Struct, array_like=True, gc=False):
    """A price level as the venue sent it: exact text. Further array items are ignored."""

    price: str
    quantity: str


class Delta(msgspec.Struct, gc=False):
    """One book message in common terms. A venue's wire struct may stand in for it if it has these attributes.

    ``previous`` is the id this message continues, where the venue sends it; otherwise None and ``first`` decides.
    """

    first: int
    last: int
    previous: int | None
    time: int
    """Event time, in the codec's unit."""
    bids: list[WireLevel]
    asks: list[WireLevel]
    is_snapshot: bool = False
    checksum: int = 0
    """0 means none."""


class Decoded(msgspec.Struct, gc=False):
    """What a decoder gives that cannot give the frame's own struct: one item or a list of them."""

    data: Any


def items(data: Any) -> Sequence[Any]:
    """Give what stands under ``data`` of a decoded frame as a sequence."""
    return data if type(data) is list else (data,)


class Snapshot(msgspec.Struct, gc=False):
    """A whole book from REST."""

    last: int
    time: int | None
    """Event time, in the codec's unit; None if the venue does not send it."""
    bids: list[WireLevel]
    asks: list[WireLevel]


class Follows(enum.Enum):
    """How a delta relates to the id of the book."""

    NEXT = "next"
    STALE = "stale"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class TradeCodec:
    """How trades of a channel are read.

    ``decode`` gives an object with the wire struct of one trade, or a list of them, under ``data``. A trade has
    ``sequence`` (int, rises by ``count`` per record), ``time`` (int, in units of ``time_ns``), ``price`` and
    ``quantity`` (exact text). The functions below read a column of them.
    """

    decode: Callable[[bytes], Any]
    time_ns: int
    is_buyer_maker: Callable[[Sequence[Any]], list[bool]]
    trade_count: Callable[[Sequence[Any]], list[int]] | None = None
    """Fills merged into each record; None if the channel sends every fill."""
    covers: Callable[[Any], int] | None = None
    """Sequence numbers that one record covers, ending at ``sequence``; None means one."""
    id_is_text: bool = False
    """True if the venue writes trade ids as JSON strings."""
    trade_id: Callable[[Sequence[Any]], list[str]] | None = None
    """The venue's trade ids, where they are not the sequence."""


@dataclass(frozen=True, slots=True)
class BookCodec:
    """How a book is read and kept whole. The rules quote the venue's numbered procedure.

    ``decode`` gives an object with one `Delta`, or a list of them, under ``data``.
    """

    decode: Callable[[bytes], Any]
    time_ns: int
    follows: Callable[[int, Delta], Follows]
    """Relation of a delta to the id of a live book."""
    splices: Callable[[int, Delta], Follows]
    """Relation of a delta to the id of a snapshot: NEXT continues it, STALE is older, GAP means it is too old."""
    depth: int
    """Levels a side that a snapshot brings."""
    snapshot: Callable[[Instrument, int], Request] | None
    """REST request for a snapshot of that many levels."""
    decode_snapshot: Callable[[bytes], Snapshot] | None
    pushes_snapshot: bool
    """True if the channel sends a snapshot itself after each subscribe; REST is then the fallback."""
    bounded: bool = False
    """True if the venue deletes levels that leave its window, so that nothing needs pruning."""
    checksum: Callable[[Sequence[WireLevel], Sequence[WireLevel]], int] | None = None
    """Digest of the best levels (bids, asks; best first), compared while the venue sends one that is not 0."""
    checksum_depth: int = 25


Lookup = Callable[[str], Instrument | None]
"""Finds an instrument by the venue's symbol; None for one that nobody asked for."""


@dataclass(frozen=True, slots=True)
class RecordCodec:
    """How a low-rate channel is read: straight to records, also of several data types and instruments."""

    decode: Callable[[bytes, Lookup, int], Sequence[Record]]
    """(frame, instruments wanted, receive time ns) -> records."""
    shown: Callable[[bytes], dict[str, Any]] | None = None
    """The venue's own figures in a frame, which ``replay`` shows."""


Codec = TradeCodec | BookCodec | RecordCodec


def everything(_: Instrument) -> bool:
    """Apply to every instrument."""
    return True


@dataclass(frozen=True, slots=True)
class Channel:
    """One of the venue's streams, and the data type it yields."""

    data_type: str
    name: str
    """The venue's own name, as in recordings."""
    endpoint: str
    """Name of the socket it flows on."""
    key: Callable[[Instrument], str]
    """Text that names the stream on the wire, in subscribe messages and at the head of each data frame."""
    codec: Codec
    cadence_s: float | None
    """Documented time between frames; None if frames come only with events."""
    applies: Callable[[Instrument], bool] = everything
    """Tells which instruments have this channel."""
    interval: str = ""
    """Of a channel of candles, in our own words: ``1m``, ``1h``, ``1d``."""
    content: str = ""
    """Of a channel of tickers: what its rows hold, as they say themselves."""
    says_closed: bool = True
    """Of a channel of candles: the venue says which update is the final one."""
    spacing_s: float | None = None
    """Shortest time between frames, where the venue sends them by the clock: between two that are no further apart
    there is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A REST answer that holds records."""

    data_type: str
    path: str
    decode: Callable[[bytes, Mapping[str, str], Lookup, int], Sequence[Record]]
    """(answer, parameters of its request, instruments wanted, time ns) -> records. The time is that of receipt; where a
    history is asked it is that by the venue's clock, because candles that end later are open."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A data type, or a part of it, that REST has and no stream."""

    job: str
    """Name of the scheduler job, which has the interval: ``scheduler.jobs.<job>``."""
    answer: Answer
    request: Callable[[Instrument, int], Request]
    """(instrument, now in ns) -> request. Equal requests of several instruments are sent once."""
    applies: Callable[[Instrument], bool] = everything
    shows_past: bool = False
    """An answer holds the last rows, not only the newest: it makes up for polls that were missed."""

    @property
    def data_type(self) -> str:
        """What it yields."""
        return self.answer.data_type


@dataclass(frozen=True, slots=True)
class Volumes:
    """How instruments are ranked: what ``top:50`` means."""

    requests: tuple[Request, ...]
    decode: Callable[[bytes], Mapping[str, float]]
    """Answer -> venue symbol -> 24 h volume in quote or USD, good enough for an order."""


@dataclass(frozen=True, slots=True)
class TradeHistory:
    """REST access to past trades by sequence, for closing gaps."""

    request: Callable[[Instrument, int, int], Request]
    """(instrument, first missing, last missing) -> request for one page that starts or ends inside that range."""
    decode: Callable[[bytes], Sequence[Any]]
    """Wire structs with the same attributes as those of the trade codec, any order."""
    newest_first: bool
    """True if pages go from new to old: the request's last sequence decides where a page begins."""
    page: int = 1000
    """Most trades of one answer."""
    keeps_s: float | None = None
    """How long the venue gives trades back; None if it says no limit."""
    also: Callable[[Sequence[Any], Instrument, int], Sequence[Record]] | None = None
    """(trades, instrument, receive time ns) -> records of other data types that the live stream yields with them."""


@dataclass(frozen=True, slots=True)
class History:
    """REST access to the past of a data type by time, for closing gaps. Pages are asked for from old to new."""

    answer: Answer
    request: Callable[[Instrument, int, int, str], Request]
    """(instrument, first, last, interval of candles) -> request of the rows from first to last, both ns and included;
    of candles those that open then. They are never more than a page."""
    page: int
    """Rows that one answer holds."""
    step_s: float
    """Shortest time between two rows; candles have their interval instead."""
    keeps_s: float | None = None
    """How far back it reaches; None if no limit is documented."""
    longest_s: float | None = None
    """Longest span of one request, where that is limited."""
    applies: Callable[[Instrument], bool] = everything

    @property
    def data_type(self) -> str:
        """What it yields."""
        return self.answer.data_type


@dataclass(frozen=True, slots=True)
class Venue:
    """One market with one set of endpoints and rules."""

    name: str
    house: str
    market_types: tuple[MarketType, ...]
    sockets: Mapping[str, str]
    """Default WebSocket URL of each endpoint name."""
    rest_url: str
    rest: Rest
    limits: SocketLimits
    heartbeat: Heartbeat
    route: Callable[[bytes], bytes]
    """Read the stream key off the head of a data frame, without decoding it; any other text if it is none."""
    control: Callable[[bytes], Control]
    """Understand any frame that ``route`` did not place. Raises FrameError."""
    parse_key: Callable[[str], tuple[str, str]]
    """Take a stream key apart: (channel name, venue symbol)."""
    recording: str
    """What the names of recordings of this venue begin with."""
    subscribe: Callable[[Sequence[str], int], str]
    """(keys, request id) -> message text."""
    unsubscribe: Callable[[Sequence[str], int], str]
    instrument_requests: tuple[Request, ...]
    decode_instruments: Callable[[bytes], list[Instrument]]
    channels: tuple[Channel, ...]
    recorded_channels: tuple[Channel, ...] = ()
    """Further channels that recordings contain and ``replay`` reads."""
    trade_history: TradeHistory | None = None
    histories: tuple[History, ...] = ()
    """Of other data types than trades."""
    polls: tuple[Poll, ...] = ()
    answers: tuple[Answer, ...] = ()
    """Further answers that recordings contain and ``replay`` reads."""
    volumes: Volumes | None = None
    book_paths: tuple[str, ...] = ()
    """Last parts of the paths whose answers are books."""
    enveloped: Callable[[bytes], bytes] | None = None
    """Put a frame of another kind of socket, as examples have them, into the form of ours."""
    names: Mapping[str, Callable[[Instrument], tuple[str, str]]] = field(default_factory=dict)
    """Data types whose rows are not filed under the instrument they come with: (market type, symbol) they are under."""
    greeting: Callable[[int], Sequence[str]] | None = None
    """(request id) -> messages to send when a socket opens, before any subscription."""
    docs: str = ""

    def channel(self, data_type: str) -> Channel:
        """Give the first channel that yields a data type.

        Raises
        ------
        KeyError
            If this venue does not stream it.
        """
        for channel in self.channels:
            if channel.data_type == data_type:
                return channel
        raise KeyError(f"{self.name} does not stream {data_type}")

    def channels_of(self, data_type: str, instrument: Instrument, intervals: Sequence[str] = ()) -> list[Channel]:
        """Give the channels that yield a data type of an instrument.

        Parameters
        ----------
        intervals : of candles
        """
        return [
            channel
            for channel in self.channels
            if channel.data_type == data_type
            and channel.applies(instrument)
            and (not channel.interval or channel.interval in intervals)
        ]

    def filed_under(self, data_type: str, instrument: Instrument) -> tuple[str, str]:
        """Give the market type and the symbol under which rows of a data type stand."""
        name = self.names.get(data_type)
        return (instrument.market_type, instrument.symbol_name) if name is None else name(instrument)

    def history(self, data_type: str, instrument: Instrument) -> History | None:
        """Give the past of a data type of an instrument; None if the venue does not keep it."""
        return next((h for h in self.histories if h.data_type == data_type and h.applies(instrument)), None)

    def gap_channel(self, way: Channel | Poll, instrument: Instrument) -> str:
        """Give what tells a channel or a poll from others of the same data type; empty if there are none."""
        data_type = way.data_type
        if isinstance(way, Channel) and way.interval:
            return way.interval
        ways = sum(other.data_type == data_type and other.applies(instrument) for other in self.channels)
        ways += any(poll.data_type == data_type and poll.applies(instrument) for poll in self.polls)
        if ways < 2:
            return ""
        return way.name if isinstance(way, Channel) else "poll"

    @property
    def intervals(self) -> tuple[str, ...]:
        """Lengths of candles on offer."""
        return tuple(dict.fromkeys(channel.interval for channel in self.channels if channel.interval))

    @property
    def data_types(self) -> tuple[str, ...]:
        """What can be collected here, ``orderbook_delta`` included where there are books."""
        found: dict[str, None] = {}
        for channel in self.channels:
            found[channel.data_type] = None
            if isinstance(channel.codec, BookCodec):
                found["orderbook_delta"] = None
        found.update((poll.data_type, None) for poll in self.polls)
        return tuple(found)


def draws_from_same(one: Venue, other: Venue) -> bool:
    """Tell whether requests to two venues count against the same limit of an address."""
    pools = {budget.pool for budget in one.rest.budgets if budget.pool}
    return one is other or any(budget.pool in pools for budget in other.rest.budgets)

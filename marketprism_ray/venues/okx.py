"""OKX v5: spot and derivatives (perpetual swaps).

References
----------
https://www.okx.com/docs-v5/en/ (read July 2026)
https://www.okx.com/docs-v5/log_en/ (read July 2026)
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain, zip_longest
from typing import Any, ClassVar

import msgspec

from marketprism_ray.errors import FrameError, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.instruments import Instrument, MarketType, canonical_symbol
from marketprism_ray.venue import (
    MS,
    Ack,
    BookCodec,
    Budget,
    Channel,
    Control,
    Data,
    Delta,
    Follows,
    Heartbeat,
    Ignore,
    Priority,
    Rejected,
    Request,
    Rest,
    ShutdownNotice,
    Snapshot,
    SocketLimits,
    TradeCodec,
    TradeHistory,
    Venue,
    WireLevel,
)

# --- wire: all values are strings but seqId, prevSeqId and checksum; numbers in text are read leniently --------------


class Trade(msgspec.Struct, gc=False):
    """``trades`` and ``trades-all``. ``tradeId`` is the last of the ``count`` fills a push merges."""

    sequence: int = msgspec.field(name="tradeId")
    price: str = msgspec.field(name="px")
    quantity: str = msgspec.field(name="sz")
    side: str
    time: int = msgspec.field(name="ts")
    count: int = 1


class Book(msgspec.Struct, gc=False):
    """``books`` and ``books-l2-tbt``. Recordings of 2022 have no sequence; the live feed has no checksum (0)."""

    is_snapshot: ClassVar[bool] = False

    asks: list[WireLevel]
    bids: list[WireLevel]
    time: int = msgspec.field(name="ts")
    checksum: int = 0
    last: int = msgspec.field(name="seqId", default=-1)
    previous: int | None = msgspec.field(name="prevSeqId", default=None)

    @property
    def first(self) -> int:
        """The venue gives one id a message."""
        return self.last


class _Trades(msgspec.Struct, gc=False):
    data: list[Trade]


class _Books(msgspec.Struct, gc=False):
    data: list[Book]
    action: str = "update"


class _RestTrades(msgspec.Struct):
    code: str
    data: list[Trade]


class _RestBooks(msgspec.Struct):
    code: str
    data: list[Book]


class _Arg(msgspec.Struct, omit_defaults=True):
    channel: str
    instId: str | None = None
    instType: str | None = None
    instFamily: str | None = None


class _Control(msgspec.Struct):
    event: str | None = None
    id: str | None = None
    arg: _Arg | None = None
    code: str = ""
    msg: str = ""


class _Answer(msgspec.Struct):
    code: str
    msg: str = ""


class _Instrument(msgspec.Struct):
    instType: str
    instId: str
    settleCcy: str
    ctVal: str
    ctMult: str
    ctType: str
    expTime: str
    tickSz: str
    lotSz: str
    state: str
    baseCcy: str
    quoteCcy: str
    stk: str
    optType: str
    instFamily: str = ""
    uly: str = ""


class _Instruments(msgspec.Struct):
    data: list[_Instrument]


_decode_trades = msgspec.json.Decoder(_Trades, strict=False).decode
_decode_books = msgspec.json.Decoder(_Books, strict=False).decode
_decode_rest_trades = msgspec.json.Decoder(_RestTrades, strict=False).decode
_decode_rest_books = msgspec.json.Decoder(_RestBooks, strict=False).decode
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_instruments = msgspec.json.Decoder(_Instruments).decode


def _trades(raw: bytes) -> Sequence[Trade]:
    return _decode_trades(raw).data


def _is_buyer_maker(trades: Sequence[Trade]) -> list[bool]:
    makers = [trade.side == "sell" for trade in trades]
    for trade in trades:
        if trade.side not in ("buy", "sell"):
            raise FrameError(f"side {trade.side!r} is neither buy nor sell")
    return makers


def _fills(trades: Sequence[Trade]) -> list[int]:
    return [trade.count for trade in trades]


def _covers(trade: Trade) -> int:
    return trade.count


def _deltas(raw: bytes) -> Sequence[Any]:
    frame = _decode_books(raw)
    if frame.action not in ("snapshot", "update"):
        raise FrameError(f"action {frame.action!r} is neither snapshot nor update")
    if frame.action == "update" and frame.data and frame.data[0].last != -1:
        return frame.data
    return [
        Delta(
            first=book.time if book.last == -1 else book.last,
            last=book.time if book.last == -1 else book.last,
            previous=book.previous,
            time=book.time,
            bids=book.bids,
            asks=book.asks,
            is_snapshot=frame.action == "snapshot",
            checksum=book.checksum,
        )
        for book in frame.data
    ]


# --- order book: https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel ---------------


def follows(last: int, delta: Delta) -> Follows:
    """Judge an update by ``prevSeqId``.

    Equal to ours: apply. That covers the keep-alive (``seqId == prevSeqId``, empty sides) and the reset by maintenance
    (``seqId < prevSeqId``). ``seqId`` equal to ours and ``prevSeqId`` below: a duplicate. Anything else is a gap.
    Without ``prevSeqId`` (recordings of 2022) there is nothing to judge by but the checksum.
    """
    if delta.previous is None or delta.previous == last:
        return Follows.NEXT
    if delta.last == last and delta.previous < last:
        return Follows.STALE
    return Follows.GAP


def splices(snapshot: int, delta: Delta) -> Follows:
    """Judge an update against a REST book: ``seqId <= s`` is older, ``prevSeqId <= s < seqId`` continues it."""
    if delta.last <= snapshot:
        return Follows.STALE
    if delta.previous is not None and delta.previous <= snapshot:
        return Follows.NEXT
    return Follows.GAP


def checksum(bids: Sequence[WireLevel], asks: Sequence[WireLevel]) -> int:
    """Give the signed CRC32 of the best 25 levels.

    ``bidPx:bidSz:askPx:askSz:...``, the raw text as received, alternating, skipping a side that has run out.
    """
    pairs = chain.from_iterable(zip_longest(bids[:25], asks[:25]))
    text = ":".join(f"{level.price}:{level.quantity}" for level in pairs if level is not None)
    digest = zlib.crc32(text.encode())
    return digest - (1 << 32) if digest >= 1 << 31 else digest


def _snapshot(instrument: Instrument, depth: int) -> Request:
    return Request(
        "/api/v5/market/books",
        {"instId": instrument.venue_symbol, "sz": str(min(depth, 400))},
        (("books", 1),),
        Priority.SNAPSHOT,
    )


def _decode_snapshot(body: bytes) -> Snapshot:
    (book,) = _decode_rest_books(body).data
    if book.last == -1:
        raise FrameError("the REST book has no seqId, nothing can be spliced to it")
    return Snapshot(book.last, book.time, book.bids, book.asks)


# --- transport -------------------------------------------------------------------------------------------------------

_HEAD_LENGTH = len(b'{"arg":')
_BRACE = ord("}")
_UNKNOWN = re.compile(r"channel:(?P<channel>[^,]+),(?P<name>instId|instFamily|instType):(?P<value>\S+) doesn't exist")


def route(raw: bytes) -> bytes:
    """Read the ``arg`` at the head of a push; anything else gives text that is no argument."""
    return raw[_HEAD_LENGTH : raw.find(_BRACE, _HEAD_LENGTH) + 1]


def control(raw: bytes) -> Control:
    """Tell pongs, acks, errors, notices and unusually written pushes apart."""
    if raw == b"pong":
        return Ignore()
    try:
        frame = _decode_control(raw)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a frame of this venue: {error}") from error
    match frame.event:
        case None if frame.arg is not None:
            return Data(_arg_key(frame.arg))
        case "subscribe" if frame.arg is not None:
            return Ack((_arg_key(frame.arg),), frame.id)
        case "unsubscribe" | "channel-conn-count":
            return Ignore()
        case "notice":
            return ShutdownNotice(f"{frame.code} {frame.msg}")
        case "error":
            unknown = _UNKNOWN.search(frame.msg)
            if unknown is not None:
                key = _arg({"channel": unknown["channel"], unknown["name"]: unknown["value"]})
                return Rejected(frame.code, frame.msg, key)
            # 60012 and 60013 refuse the whole request; others name no argument and the unanswered ones time out.
            return Rejected(frame.code, frame.msg, None, frame.id if frame.code in ("60012", "60013") else None)
    raise FrameError(f"neither a push nor an answer: {shorten(raw)}")


def _arg(fields: dict[str, str]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def parse_key(key: str) -> tuple[str, str]:
    """Give channel and instrument (or family, or type) of an argument."""
    arg = json.loads(key)
    return arg["channel"], arg.get("instId") or arg.get("instFamily") or arg.get("instType", "")


def _arg_key(arg: _Arg) -> str:
    """Write an argument as we ask for it; the venue may add fields to what it echoes."""
    if arg.instId is not None:
        return _arg({"channel": arg.channel, "instId": arg.instId})
    if arg.instFamily is not None:
        return _arg({"channel": arg.channel, "instFamily": arg.instFamily})
    return _arg({"channel": arg.channel, "instType": arg.instType or ""})


def _key(channel: str) -> Callable[[Instrument], str]:
    return lambda instrument: _arg({"channel": channel, "instId": instrument.venue_symbol})


def _request(op: str) -> Callable[[Sequence[str], int], str]:
    return lambda keys, request_id: f'{{"id":"{request_id}","op":"{op}","args":[{",".join(keys)}]}}'


def check(status: int, body: bytes) -> None:
    """Raise what an answer means: a failure may come with HTTP 200 and a ``code`` that is not 0."""
    try:
        answer = _decode_answer(body)
    except msgspec.DecodeError as error:
        raise TransportError(f"HTTP {status}, not JSON: {shorten(body)}") from error
    if answer.code == "0" and status == 200:
        return
    text = f"HTTP {status}, code {answer.code}: {answer.msg}"
    if answer.code == "50011":
        raise RateLimited(text, 2.0)
    if status >= 500 or answer.code in ("50001", "50004", "50013", "50026"):
        raise TransportError(text)
    raise VenueError(text)


_MARKET_TYPES: dict[str, MarketType] = {"SPOT": "spot", "SWAP": "perpetual", "FUTURES": "futures", "OPTION": "option"}


def _plain(text: Decimal) -> str:
    return format(text.normalize(), "f")


def _instruments(exchange_name: str) -> Callable[[bytes], list[Instrument]]:
    def decode(body: bytes) -> list[Instrument]:
        found = []
        for item in _decode_instruments(body).data:
            market_type = _MARKET_TYPES.get(item.instType)
            if market_type is None:
                continue
            # baseCcy and quoteCcy are empty for derivatives: the family names them.
            base, quote = item.baseCcy, item.quoteCcy
            if market_type != "spot":
                base, _, quote = (item.instFamily or item.uly).partition("-")
            if not base or not quote:
                continue  # pre-market and event contracts have no pair to name
            expiry = int(item.expTime) * MS if item.expTime else None
            option_type: Any = item.optType or None
            size = _plain(Decimal(item.ctVal) * Decimal(item.ctMult or "1")) if item.ctVal else "1"
            found.append(
                Instrument(
                    exchange_name=exchange_name,
                    market_type=market_type,
                    symbol_name=canonical_symbol(
                        base, quote, market_type, expiry=expiry, strike=item.stk or None, option_type=option_type
                    ),
                    venue_symbol=item.instId,
                    base=base,
                    quote=quote,
                    settle=item.settleCcy or quote,
                    quantity_unit="base" if market_type == "spot" else "contract",
                    contract_size="1" if market_type == "spot" else size,
                    contract_unit="quote" if item.ctType == "inverse" else "base",
                    tick_size=item.tickSz or None,
                    lot_size=item.lotSz or None,
                    expiry=expiry,
                    strike=item.stk or None,
                    option_type=option_type,
                    status=item.state,
                )
            )
        return found

    return decode


def _history_request(instrument: Instrument, first: int, last: int) -> Request:
    # type=1 pages by tradeId, newest first; after=X gives what is older than X; 100 rows; the last 3 months.
    return Request(
        "/api/v5/market/history-trades",
        {"instId": instrument.venue_symbol, "type": "1", "after": str(last + 1), "limit": "100"},
        (("history-trades", 1),),
        Priority.BACKFILL,
    )


def _decode_history(body: bytes) -> Sequence[Trade]:
    return _decode_rest_trades(body).data


_EVERY_FILL = TradeCodec(_trades, MS, _is_buyer_maker, id_is_text=True)
_MERGED = TradeCodec(_trades, MS, _is_buyer_maker, _fills, _covers, id_is_text=True)
_BOOK = BookCodec(
    decode=_deltas,
    time_ns=MS,
    follows=follows,
    splices=splices,
    depth=400,
    snapshot=_snapshot,
    decode_snapshot=_decode_snapshot,
    pushes_snapshot=True,
    bounded=True,
    checksum=checksum,
)

_SOCKETS = {"public": "wss://ws.okx.com:8443/ws/v5/public", "business": "wss://ws.okx.com:8443/ws/v5/business"}
_LIMITS = SocketLimits(
    streams_per_socket=60,  # all arguments of a socket together at most 64 KB; few depth channels a socket advised
    keys_per_message=60,
    message_bytes=16_000,
    messages_per_second=1.0,  # published: 480 subscribe, unsubscribe and login requests an hour and socket
    connects=3,
    connects_period_s=1,
    lifetime_s=None,
)
# The client sends the text "ping" when nothing has come for 20 s; 30 s without a push cuts the socket.
_HEARTBEAT = Heartbeat(silent_s=45, ping_after_s=20, ping="ping")
_REST = Rest(
    # Requests per 2 s, by endpoint. history-trades: 20 in the documentation, 10 in use elsewhere; we take 10.
    budgets=(Budget("books", 40, 2), Budget("history-trades", 10, 2), Budget("instruments", 20, 2)),
    check=check,
)
_CHANNELS = (
    Channel("trade", "trades-all", "business", _key("trades-all"), _EVERY_FILL, None),
    # Unchanged books send a keep-alive after about 60 s.
    Channel("orderbook", "books", "public", _key("books"), _BOOK, 60.0),
)
_RECORDED = (
    Channel("trade", "trades", "public", _key("trades"), _MERGED, None),
    Channel("orderbook", "books-l2-tbt", "public", _key("books-l2-tbt"), _BOOK, 60.0),
)
_HISTORY = TradeHistory(_history_request, _decode_history, newest_first=True)


def _venue(name: str, market_types: tuple[MarketType, ...], instrument_types: tuple[str, ...]) -> Venue:
    return Venue(
        name=name,
        house="okx",
        market_types=market_types,
        sockets=_SOCKETS,
        rest_url="https://openapi.okx.com",
        rest=_REST,
        limits=_LIMITS,
        heartbeat=_HEARTBEAT,
        route=route,
        control=control,
        parse_key=parse_key,
        recording="okx_v5",
        subscribe=_request("subscribe"),
        unsubscribe=_request("unsubscribe"),
        instrument_requests=tuple(
            Request("/api/v5/public/instruments", {"instType": kind}, (("instruments", 1),))
            for kind in instrument_types
        ),
        decode_instruments=_instruments(name),
        channels=_CHANNELS,
        recorded_channels=_RECORDED,
        trade_history=_HISTORY,
        docs="https://www.okx.com/docs-v5/en/",
    )


SPOT = _venue("okx_spot", ("spot",), ("SPOT",))
DERIVATIVES = _venue("okx_derivatives", ("perpetual",), ("SWAP",))

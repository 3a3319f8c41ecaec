"""Binance: spot.

References
----------
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams (read July 2026)
https://developers.binance.com/docs/binance-spot-api-docs/rest-api (read July 2026)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from marketprism_ray.errors import FrameError, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.instruments import Instrument, canonical_symbol
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

# --- wire: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams ------------------------------


class Trade(msgspec.Struct, gc=False):
    """``<symbol>@trade``: every fill. ``t`` rises by one per symbol."""

    sequence: int = msgspec.field(name="t")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    is_buyer_maker: bool = msgspec.field(name="m")


class AggregateTrade(msgspec.Struct, gc=False):
    """``<symbol>@aggTrade``: the fills of one taker order at one price. ``a`` rises by one per symbol."""

    sequence: int = msgspec.field(name="a")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    is_buyer_maker: bool = msgspec.field(name="m")
    first_trade: int = msgspec.field(name="f")
    last_trade: int = msgspec.field(name="l")


class DepthUpdate(msgspec.Struct, gc=False):
    """``<symbol>@depth``: absolute quantities."""

    previous: ClassVar[int | None] = None
    is_snapshot: ClassVar[bool] = False
    checksum: ClassVar[int] = 0

    first: int = msgspec.field(name="U")
    last: int = msgspec.field(name="u")
    time: int = msgspec.field(name="E")
    bids: list[WireLevel] = msgspec.field(name="b")
    asks: list[WireLevel] = msgspec.field(name="a")


class RestTrade(msgspec.Struct, gc=False):
    """A row of ``historicalTrades``."""

    sequence: int = msgspec.field(name="id")
    price: str
    quantity: str = msgspec.field(name="qty")
    time: int
    is_buyer_maker: bool = msgspec.field(name="isBuyerMaker")


class RestDepth(msgspec.Struct, gc=False):
    """The answer of ``depth``."""

    lastUpdateId: int
    bids: list[WireLevel]
    asks: list[WireLevel]


class _Control(msgspec.Struct):
    """A frame that is not an event of a subscribed stream."""

    id: int | str | None = None
    result: list[str] | None = None
    code: int | None = None
    msg: str | None = None
    error: dict[str, Any] | None = None
    stream: str | None = None
    e: str | None = None


class _Symbol(msgspec.Struct):
    symbol: str
    status: str
    baseAsset: str
    quoteAsset: str
    filters: list[dict[str, Any]] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]


class _RestError(msgspec.Struct):
    code: int
    msg: str


def _combined(kind: type[Any]) -> Callable[[bytes], Any]:
    """Give a decoder of ``{"stream": ..., "data": kind}``."""
    return msgspec.json.Decoder(msgspec.defstruct("Combined", [("data", kind)], gc=False)).decode


_decode_trade = _combined(Trade)
_decode_aggregate = _combined(AggregateTrade)
_decode_depth = _combined(DepthUpdate)
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_rest_trades = msgspec.json.Decoder(list[RestTrade]).decode
_decode_rest_depth = msgspec.json.Decoder(RestDepth).decode
_decode_exchange_info = msgspec.json.Decoder(_ExchangeInfo).decode
_decode_rest_error = msgspec.json.Decoder(_RestError).decode


def _trades(raw: bytes) -> Sequence[Trade]:
    return (_decode_trade(raw).data,)


def _aggregates(raw: bytes) -> Sequence[AggregateTrade]:
    return (_decode_aggregate(raw).data,)


def _deltas(raw: bytes) -> Sequence[Delta]:
    return (_decode_depth(raw).data,)


def _is_buyer_maker(trades: Sequence[Any]) -> list[bool]:
    return [trade.is_buyer_maker for trade in trades]


def _fills(trades: Sequence[AggregateTrade]) -> list[int]:
    return [trade.last_trade - trade.first_trade + 1 for trade in trades]


# --- order book: "How to manage a local order book correctly", steps as corrected on 2025-11-12 ----------------------


def spot_follows(last: int, delta: Delta) -> Follows:
    """Judge a delta against the book.

    Step 3: drop events with ``u <= lastUpdateId``. Step 4: the first one left covers the snapshot,
    ``U <= lastUpdateId + 1 <= u``. Step 5: per event ``u <= id`` is skipped, ``U > id + 1`` is a gap.
    """
    if delta.last <= last:
        return Follows.STALE
    if delta.first > last + 1:
        return Follows.GAP
    return Follows.NEXT


def _spot_snapshot(instrument: Instrument, depth: int) -> Request:
    # Weight by limit: 1-100 5, 101-500 25, 501-1000 50, 1001-5000 250.
    weight = 5 if depth <= 100 else 25 if depth <= 500 else 50 if depth <= 1000 else 250
    return Request(
        "/api/v3/depth",
        {"symbol": instrument.venue_symbol, "limit": str(depth)},
        (("weight", weight), ("raw", 1)),
        Priority.SNAPSHOT,
    )


def _decode_snapshot(body: bytes) -> Snapshot:
    depth = _decode_rest_depth(body)
    return Snapshot(depth.lastUpdateId, None, depth.bids, depth.asks)


# --- transport -------------------------------------------------------------------------------------------------------

_HEAD_LENGTH = len(b'{"stream":"')
_QUOTE = ord('"')


def route(raw: bytes) -> bytes:
    """Read the stream name of a combined frame; anything else gives text that is no stream's name."""
    return raw[_HEAD_LENGTH : raw.find(_QUOTE, _HEAD_LENGTH)]


def control(raw: bytes) -> Control:
    """Tell acks, errors, notices and unusually written data frames apart."""
    try:
        frame = _decode_control(raw)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a frame of this venue: {error}") from error
    if frame.stream == "!serverShutdown" or frame.e == "serverShutdown":
        return ShutdownNotice("serverShutdown")
    if frame.stream is not None:
        return Data(frame.stream)
    if frame.error is not None:
        return Rejected(str(frame.error.get("code")), str(frame.error.get("msg")), None, _text(frame.id))
    if frame.code is not None:
        return Rejected(str(frame.code), frame.msg or "", None, _text(frame.id))
    if frame.id is not None:
        return Ack((), _text(frame.id))
    raise FrameError(f"neither an event nor an answer: {shorten(raw)}")


def parse_key(key: str) -> tuple[str, str]:
    """Give channel and venue symbol of a stream name."""
    symbol, _, channel = key.partition("@")
    return channel, symbol.upper()


def _text(request_id: int | str | None) -> str | None:
    return None if request_id is None else str(request_id)


def _subscribe(keys: Sequence[str], request_id: int) -> str:
    return json.dumps({"method": "SUBSCRIBE", "params": list(keys), "id": request_id}, ensure_ascii=False)


def _unsubscribe(keys: Sequence[str], request_id: int) -> str:
    return json.dumps({"method": "UNSUBSCRIBE", "params": list(keys), "id": request_id}, ensure_ascii=False)


def check(status: int, body: bytes) -> None:
    """Raise what an answer of the REST API means, if it is an error."""
    if status == 200 and body[:1] in (b"{", b"[") and not body.startswith(b'{"code":'):
        return
    try:
        error = _decode_rest_error(body)
    except msgspec.DecodeError as failure:
        raise TransportError(f"HTTP {status}, not JSON: {shorten(body)}") from failure
    if error.code == -1003:
        raise RateLimited(f"HTTP {status}, code {error.code}: {error.msg}", 60.0)
    if status >= 500 or error.code in (-1000, -1001, -1007, -1008):
        raise TransportError(f"HTTP {status}, code {error.code}: {error.msg}")
    raise VenueError(f"HTTP {status}, code {error.code}: {error.msg}")


def _spot_instruments(body: bytes) -> list[Instrument]:
    found = []
    for symbol in _decode_exchange_info(body).symbols:
        steps = {f.get("filterType"): f for f in symbol.filters}
        found.append(
            Instrument(
                exchange_name="binance_spot",
                market_type="spot",
                symbol_name=canonical_symbol(symbol.baseAsset, symbol.quoteAsset, "spot"),
                venue_symbol=symbol.symbol,
                base=symbol.baseAsset,
                quote=symbol.quoteAsset,
                settle=symbol.quoteAsset,
                quantity_unit="base",
                tick_size=steps.get("PRICE_FILTER", {}).get("tickSize"),
                lot_size=steps.get("LOT_SIZE", {}).get("stepSize"),
                status="live" if symbol.status == "TRADING" else symbol.status,
            )
        )
    return found


def _key(name: str) -> Callable[[Instrument], str]:
    """Stream names are lower case; symbols may be any Unicode text."""
    return lambda instrument: f"{instrument.venue_symbol.lower()}@{name}"


def _history_request(instrument: Instrument, first: int, last: int) -> Request:
    return Request(
        "/api/v3/historicalTrades",
        {"symbol": instrument.venue_symbol, "fromId": str(first), "limit": str(min(1000, last - first + 1))},
        (("weight", 25), ("raw", 1)),
        Priority.BACKFILL,
    )


_TRADE = TradeCodec(_trades, MS, _is_buyer_maker, decode_one=_decode_trade)
_AGGREGATE = TradeCodec(_aggregates, MS, _is_buyer_maker, _fills, decode_one=_decode_aggregate)
_SPOT_BOOK = BookCodec(
    decode=_deltas,
    time_ns=MS,
    follows=spot_follows,
    splices=spot_follows,
    depth=5000,
    snapshot=_spot_snapshot,
    decode_snapshot=_decode_snapshot,
    pushes_snapshot=False,
)

SPOT = Venue(
    name="binance_spot",
    house="binance",
    market_types=("spot",),
    sockets={"public": "wss://stream.binance.com:9443/stream"},
    rest_url="https://api.binance.com",
    rest=Rest(
        # 6000 weight a minute and address; RAW_REQUESTS 300,000 per 5 minutes since 2026-04-02.
        budgets=(Budget("weight", 6000, 60, "X-MBX-USED-WEIGHT-1M"), Budget("raw", 300_000, 300)),
        check=check,
    ),
    limits=SocketLimits(
        streams_per_socket=300,  # published: 1024
        keys_per_message=100,
        message_bytes=4000,
        messages_per_second=3.0,  # published: 5, and PONGs count
        connects=300,
        connects_period_s=300,
        lifetime_s=24 * 3600,
    ),
    # The server pings every 20 s and cuts after 60 s without a pong; a socket of quiet streams is silent for long.
    heartbeat=Heartbeat(silent_s=600),
    route=route,
    control=control,
    parse_key=parse_key,
    recording="binance_spot",
    subscribe=_subscribe,
    unsubscribe=_unsubscribe,
    instrument_requests=(Request("/api/v3/exchangeInfo", {}, (("weight", 20), ("raw", 1))),),
    decode_instruments=_spot_instruments,
    channels=(
        Channel("trade", "trade", "public", _key("trade"), _TRADE, None),
        Channel("orderbook", "depth@100ms", "public", _key("depth@100ms"), _SPOT_BOOK, 0.1),
    ),
    recorded_channels=(Channel("trade", "aggTrade", "public", _key("aggTrade"), _AGGREGATE, None),),
    # fromId is inclusive and ascending; no key and no documented age limit.
    trade_history=TradeHistory(_history_request, _decode_rest_trades, newest_first=False),
    docs="https://developers.binance.com/docs/binance-spot-api-docs",
)

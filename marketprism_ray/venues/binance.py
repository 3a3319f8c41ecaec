"""Binance: spot, and what its futures (``binance_futures.py``) have in common with it.

References
----------
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams (read July 2026)
https://developers.binance.com/docs/binance-spot-api-docs/rest-api (read July 2026)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from marketprism_ray import records
from marketprism_ray.amounts import candle_revision, common, multiplied, percent, to_base, trade
from marketprism_ray.errors import FrameError, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.hot import Cut
from marketprism_ray.instruments import Instrument, canonical_symbol
from marketprism_ray.records import Record, Source
from marketprism_ray.venue import (
    MS,
    Ack,
    Answer,
    BookCodec,
    Budget,
    Channel,
    Control,
    Data,
    Delta,
    Follows,
    Heartbeat,
    History,
    Lookup,
    Priority,
    RecordCodec,
    Rejected,
    Request,
    Rest,
    ShutdownNotice,
    Snapshot,
    SocketLimits,
    TradeCodec,
    TradeHistory,
    Venue,
    Volumes,
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


class Ticker24(msgspec.Struct, gc=False):
    """``24hrTicker``. Futures have no best bid and offer in it."""

    s: str
    p: str
    P: str
    w: str
    c: str
    Q: str
    o: str
    h: str
    l: str  # noqa: E741 - the venue's name
    v: str
    q: str
    O: int  # noqa: E741 - the venue's name
    C: int
    L: int
    n: int
    E: int
    b: str | None = None
    B: str | None = None
    a: str | None = None
    A: str | None = None
    st: int | None = None


class BookTicker(msgspec.Struct, gc=False):
    """``bookTicker``: best bid and offer. Spot sends no time."""

    s: str
    u: int
    b: str
    B: str
    a: str
    A: str
    T: int | None = None
    st: int | None = None


class Candle(msgspec.Struct, gc=False):
    """``k`` of a ``kline``."""

    t: int
    T: int
    s: str
    i: str
    o: str
    h: str
    l: str  # noqa: E741 - the venue's name
    c: str
    v: str
    q: str
    n: int
    V: str
    Q: str
    x: bool


class KlineEvent(msgspec.Struct, gc=False):
    """``<symbol>@kline_<interval>``."""

    E: int
    k: Candle
    st: int | None = None

    @property
    def s(self) -> str:
        """Symbol."""
        return self.k.s


class RestTicker(msgspec.Struct, gc=False):
    """A row of ``ticker/24hr``."""

    symbol: str
    priceChange: str
    priceChangePercent: str
    weightedAvgPrice: str
    lastPrice: str
    lastQty: str
    openPrice: str
    highPrice: str
    lowPrice: str
    volume: str
    openTime: int
    closeTime: int
    lastId: int
    count: int
    quoteVolume: str | None = None
    baseVolume: str | None = None
    bidPrice: str | None = None
    bidQty: str | None = None
    askPrice: str | None = None
    askQty: str | None = None


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


def combined(kind: type[Any]) -> Callable[[bytes], Any]:
    """Give a decoder of ``{"stream": ..., "data": kind}``."""
    return msgspec.json.Decoder(msgspec.defstruct("Combined", [("data", kind)], gc=False)).decode


decode_trade = combined(Trade)
decode_aggregate = combined(AggregateTrade)
_decode_depth = combined(DepthUpdate)
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_rest_trades = msgspec.json.Decoder(list[RestTrade]).decode
_decode_rest_depth = msgspec.json.Decoder(RestDepth).decode
_decode_exchange_info = msgspec.json.Decoder(_ExchangeInfo).decode
_decode_rest_error = msgspec.json.Decoder(_RestError).decode


def is_buyer_maker(trades: Sequence[Any]) -> list[bool]:
    """Give ``m``: true means that the taker sold."""
    return [trade.is_buyer_maker for trade in trades]


def fills(trades: Sequence[AggregateTrade]) -> list[int]:
    """Give the fills merged into each aggregate; futures leave out insurance-fund and ADL fills between them."""
    return [trade.last_trade - trade.first_trade + 1 for trade in trades]


# --- low-rate data ---------------------------------------------------------------------------------------------------

RestKline = tuple[int, str, str, str, str, str, int, str, int, str, str, str]


class _Envelope(msgspec.Struct, gc=False):
    stream: str
    data: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_rest_klines = msgspec.json.Decoder(list[RestKline]).decode


def events(
    kind: type[Any], to_record: Callable[[Any, Instrument, int], Record | None], universe: int | None = None
) -> Callable[[bytes, Lookup, int], Sequence[Record]]:
    """Give the reader of a channel, also of its ``!...@arr`` form.

    Parameters
    ----------
    kind : wire struct with a symbol ``s``
    to_record : (event, instrument, receive time ns) -> record, or None if the event holds none
    universe : the ``st`` of this market (1 USD-M, 2 COIN-M): since 2026-06-30 the all-market streams of both futures
        markets carry the symbols of both
    """
    decode_one = msgspec.json.Decoder(kind).decode
    decode_many = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]

    def decode(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
        data = _decode_envelope(raw).data
        found = []
        for event in decode_many(data) if bytes(memoryview(data)[:1]) == b"[" else (decode_one(data),):
            if universe is not None and event.st not in (None, universe):
                continue
            instrument = lookup(event.s)
            if instrument is not None and (record := to_record(event, instrument, received)) is not None:
                found.append(record)
        return found

    return decode


def _volumes(instrument: Instrument, v: str, q: str) -> tuple[str | None, str | None]:
    """Give volume in base and in quote: ``v`` is base and ``q`` quote, but on inverse contracts contracts and base."""
    return (q, multiplied(v, instrument.contract_size)) if instrument.is_inverse else (v, q)


def ticker(event: Ticker24, instrument: Instrument, received: int) -> Record:
    """Read 24 h statistics; ``P`` is in percent."""
    volume, quote_volume = _volumes(instrument, event.v, event.q)
    return records.Ticker(
        **common(instrument, event.E * MS, received),
        content="statistics" if event.b is None else "both",
        sequence=event.L,
        last_price=event.c,
        last_quantity=to_base(instrument, event.Q, event.c),
        open_price=event.o,
        high_price=event.h,
        low_price=event.l,
        volume=volume,
        quote_volume=quote_volume,
        price_change=event.p,
        price_change_percent=percent(event.P),
        weighted_average_price=event.w,
        best_bid_price=event.b,
        best_bid_quantity=to_base(instrument, event.B, event.b),
        best_ask_price=event.a,
        best_ask_quantity=to_base(instrument, event.A, event.a),
        trade_count=event.n,
        open_time=event.O * MS,
        close_time=event.C * MS,
    )


def book_ticker(event: BookTicker, instrument: Instrument, received: int) -> Record:
    """Read best bid and offer; an empty side has quantity 0."""
    bid = (event.b, event.B) if Decimal(event.B) else (None, None)
    ask = (event.a, event.A) if Decimal(event.A) else (None, None)
    return records.Ticker(
        **common(instrument, received if event.T is None else event.T * MS, received),
        content="best_prices",
        sequence=event.u,
        best_bid_price=bid[0],
        best_bid_quantity=to_base(instrument, bid[1], bid[0]),
        best_ask_price=ask[0],
        best_ask_quantity=to_base(instrument, ask[1], ask[0]),
    )


def kline(event: KlineEvent, instrument: Instrument, received: int) -> Record:
    """Read a candle; ``E`` orders those of one that is still open."""
    return _kline(event, instrument, received, "stream")


def _kline(event: KlineEvent, instrument: Instrument, received: int, source: Source) -> Record:
    k = event.k
    volume, quote_volume = _volumes(instrument, k.v, k.q)
    bought, quote_bought = _volumes(instrument, k.V, k.Q)
    assert volume is not None
    return records.Kline(
        **common(instrument, event.E * MS, received, source),
        interval=k.i,
        open_time=k.t * MS,
        close_time=(k.T + 1) * MS,
        open_price=k.o,
        high_price=k.h,
        low_price=k.l,
        close_price=k.c,
        volume=volume,
        quote_volume=quote_volume,
        trade_count=k.n,
        taker_buy_volume=bought,
        taker_buy_quote_volume=quote_bought,
        is_closed=k.x,
        revision=candle_revision(source, is_closed=k.x, order=event.E),
    )


def rest_klines(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``klines``; the last row may be a candle that is still open: it is left out."""
    instrument = lookup(params["symbol"])
    if instrument is None:
        return []
    symbol, interval = params["symbol"], params["interval"]
    return [
        _kline(
            KlineEvent(last, Candle(t, last, symbol, interval, o, h, low, c, v, q, n, bought, quote_bought, True)),
            instrument,
            received,
            "backfill",
        )
        for t, o, h, low, c, v, last, q, n, bought, quote_bought, _ in _decode_rest_klines(body)
        if (last + 1) * MS <= received
    ]


def kline_history(
    path: str, costs: Callable[[int], tuple[tuple[str, int], ...]], longest_s: float | None = None
) -> History:
    """Give the history of candles: ``startTime`` and ``endTime`` are about open times, both included.

    Parameters
    ----------
    costs : limit -> what a request costs
    longest_s : longest span of one request
    """

    def request(instrument: Instrument, first: int, last: int, interval: str) -> Request:
        params = {"symbol": instrument.venue_symbol, "interval": interval, "limit": "1000", **between(first, last)}
        return Request(path, params, costs(1000), Priority.BACKFILL)

    return History(Answer("kline", path, rest_klines), request, 1000, 0, longest_s=longest_s)


def between(first: int, last: int) -> dict[str, str]:
    """Give the parameters of a span of time; both ends are included."""
    return {"startTime": str(-(-first // MS)), "endTime": str(last // MS)}


def rest_tickers(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``ticker/24hr``: one object or a list of them."""
    rows = _decode_rest_tickers(body) if body[:1] == b"[" else [_decode_rest_ticker(body)]
    found = []
    for row in rows:
        instrument = lookup(row.symbol)
        if instrument is None:
            continue
        volume = row.baseVolume if instrument.is_inverse or row.quoteVolume is None else row.volume
        contracts = multiplied(row.volume, instrument.contract_size)
        found.append(
            records.Ticker(
                **common(instrument, row.closeTime * MS, received, "poll"),
                content="statistics" if row.bidPrice is None else "both",
                sequence=row.lastId,
                last_price=row.lastPrice,
                last_quantity=to_base(instrument, row.lastQty, row.lastPrice),
                open_price=row.openPrice,
                high_price=row.highPrice,
                low_price=row.lowPrice,
                volume=volume,
                quote_volume=contracts if instrument.is_inverse else row.quoteVolume,
                price_change=row.priceChange,
                price_change_percent=percent(row.priceChangePercent),
                weighted_average_price=row.weightedAvgPrice,
                best_bid_price=row.bidPrice,
                best_bid_quantity=to_base(instrument, row.bidQty, row.bidPrice),
                best_ask_price=row.askPrice,
                best_ask_quantity=to_base(instrument, row.askQty, row.askPrice),
                trade_count=row.count,
                open_time=row.openTime * MS,
                close_time=row.closeTime * MS,
            )
        )
    return found


class RestAggregate(msgspec.Struct, gc=False):
    """A row of ``aggTrades``."""

    sequence: int = msgspec.field(name="a")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    time: int = msgspec.field(name="T")
    is_buyer_maker: bool = msgspec.field(name="m")
    first_trade: int = msgspec.field(name="f")
    last_trade: int = msgspec.field(name="l")


decode_rest_aggregates = msgspec.json.Decoder(list[RestAggregate]).decode


def _past_trades(
    decode_rows: Callable[[bytes], Sequence[Any]], count: Callable[[Any], int] | None = None
) -> Callable[[bytes, Mapping[str, str], Lookup, int], Sequence[Record]]:
    """Give the reader of an answer with trades; ``count`` tells the fills merged into a row."""

    def decode(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
        instrument = lookup(params["symbol"])
        if instrument is None:
            return []
        return [
            trade(
                instrument,
                received,
                "backfill",
                time=row.time * MS,
                sequence=row.sequence,
                price=row.price,
                quantity=row.quantity,
                is_buyer_maker=row.is_buyer_maker,
                count=None if count is None else count(row),
            )
            for row in decode_rows(body)
        ]

    return decode


rest_aggregates = _past_trades(decode_rest_aggregates, lambda row: row.last_trade - row.first_trade + 1)
rest_trades = _past_trades(_decode_rest_trades)
_decode_rest_ticker = msgspec.json.Decoder(RestTicker).decode
_decode_rest_tickers = msgspec.json.Decoder(list[RestTicker]).decode


class _Volume(msgspec.Struct, gc=False):
    symbol: str
    quoteVolume: str | None = None
    baseVolume: str | None = None
    lastPrice: str = "0"


_decode_volumes = msgspec.json.Decoder(list[_Volume]).decode


def volumes(body: bytes) -> dict[str, float]:
    """Rank by 24 h volume in quote."""
    return {
        row.symbol: float(row.quoteVolume) if row.quoteVolume else float(row.baseVolume or 0) * float(row.lastPrice)
        for row in _decode_volumes(body)
    }


def figures(*names: str, inside: str = "") -> Callable[[bytes], dict[str, Any]]:
    """Give the reader of the venue's own figures in a frame, for ``replay``."""

    def shown(raw: bytes) -> dict[str, Any]:
        data = json.loads(bytes(_decode_envelope(raw).data))
        return {name: (data[inside] if inside else data)[name] for name in names}

    return shown


def kline_channels(endpoint: str, universe: int | None, names: Sequence[str]) -> tuple[Channel, ...]:
    """Give one channel for each length of candle."""
    codec = RecordCodec(
        events(KlineEvent, kline, universe), figures("t", "o", "h", "l", "c", "v", "n", "x", inside="k")
    )
    return tuple(
        Channel("kline", f"kline_{name}", endpoint, key(f"kline_{name}"), codec, None, interval=name) for name in names
    )


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

route = Cut(len(b'{"stream":"'), b'"').read
"""Reads the stream name of a combined frame; anything else gives text that is no stream's name."""


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


_CHANNEL_OF_EVENT = {
    "markPriceUpdate": "markPrice",
    "24hrTicker": "ticker",
    "depthUpdate": "depth@100ms",
    "bookTicker": "bookTicker",
    "forceOrder": "forceOrder",
    "aggTrade": "aggTrade",
    "trade": "trade",
}


class _Bare(msgspec.Struct):
    e: str | None = None
    s: str | None = None
    o: msgspec.Raw = msgspec.Raw()


class _Symbolic(msgspec.Struct):
    s: str


_decode_bare = msgspec.json.Decoder(_Bare).decode
_decode_symbolic = msgspec.json.Decoder(_Symbolic).decode


def enveloped(raw: bytes) -> bytes:
    """Put an event of a raw socket under the name it has on a combined one."""
    event = _decode_bare(raw)
    if event.e not in _CHANNEL_OF_EVENT:
        return raw
    symbol = event.s or _decode_symbolic(event.o).s
    return f'{{"stream":"{symbol.lower()}@{_CHANNEL_OF_EVENT[event.e]}","data":'.encode() + raw + b"}"


def parse_key(key: str) -> tuple[str, str]:
    """Give channel and venue symbol of a stream name; streams of all symbols begin with an exclamation mark."""
    if key.startswith("!"):
        return key, ""
    symbol, _, channel = key.partition("@")
    return channel, symbol.upper()


def _text(request_id: int | str | None) -> str | None:
    return None if request_id is None else str(request_id)


def subscribe(keys: Sequence[str], request_id: int) -> str:
    """Write a subscribe message."""
    return json.dumps({"method": "SUBSCRIBE", "params": list(keys), "id": request_id}, ensure_ascii=False)


def unsubscribe(keys: Sequence[str], request_id: int) -> str:
    """Write an unsubscribe message."""
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


def key(name: str) -> Callable[[Instrument], str]:
    """Stream names are lower case; symbols may be any Unicode text."""
    return lambda instrument: f"{instrument.venue_symbol.lower()}@{name}"


def _history_request(instrument: Instrument, first: int, last: int) -> Request:
    return Request(
        "/api/v3/historicalTrades",
        {"symbol": instrument.venue_symbol, "fromId": str(first), "limit": str(min(1000, last - first + 1))},
        (("weight", 25), ("raw", 1)),
        Priority.BACKFILL,
    )


INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
TICKER = RecordCodec(events(Ticker24, ticker))
BOOK_TICKER = RecordCodec(events(BookTicker, book_ticker), figures("u", "b", "B", "a", "A"))
_TRADE = TradeCodec(decode_trade, MS, is_buyer_maker)
_AGGREGATE = TradeCodec(decode_aggregate, MS, is_buyer_maker, fills)
_SPOT_BOOK = BookCodec(
    decode=_decode_depth,
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
    subscribe=subscribe,
    unsubscribe=unsubscribe,
    instrument_requests=(Request("/api/v3/exchangeInfo", {}, (("weight", 20), ("raw", 1))),),
    decode_instruments=_spot_instruments,
    channels=(
        Channel("trade", "trade", "public", key("trade"), _TRADE, None),
        Channel("orderbook", "depth@100ms", "public", key("depth@100ms"), _SPOT_BOOK, 0.1),
        Channel(
            "ticker",
            "ticker",
            "public",
            key("ticker"),
            RecordCodec(events(Ticker24, ticker)),
            1.0,
            spacing_s=1.0,
            content="both",
        ),
        *kline_channels("public", None, INTERVALS),
    ),
    recorded_channels=(
        Channel("trade", "aggTrade", "public", key("aggTrade"), _AGGREGATE, None),
        Channel("ticker", "bookTicker", "public", key("bookTicker"), BOOK_TICKER, None),
        Channel("ticker", "!bookTicker", "public", lambda _: "!bookTicker", BOOK_TICKER, None),
        Channel(
            "ticker", "!ticker@arr", "public", lambda _: "!ticker@arr", RecordCodec(events(Ticker24, ticker)), None
        ),
    ),
    answers=(
        Answer("kline", "/api/v3/klines", rest_klines),
        Answer("trade", "/api/v3/aggTrades", rest_aggregates),
        Answer("trade", "/api/v3/trades", rest_trades),
        Answer("trade", "/api/v3/historicalTrades", rest_trades),
        Answer("ticker", "/api/v3/ticker/24hr", rest_tickers),
    ),
    book_paths=("depth",),
    enveloped=enveloped,
    volumes=Volumes((Request("/api/v3/ticker/24hr", {}, (("weight", 80), ("raw", 1))),), volumes),
    # fromId is inclusive and ascending; no key and no documented age limit.
    trade_history=TradeHistory(_history_request, _decode_rest_trades, newest_first=False),
    histories=(kline_history("/api/v3/klines", lambda _: (("weight", 2), ("raw", 1))),),
    docs="https://developers.binance.com/docs/binance-spot-api-docs",
)

"""OKX v5: spot and derivatives (swaps, futures, options).

References
----------
https://www.okx.com/docs-v5/en/ (read July 2026)
https://www.okx.com/docs-v5/log_en/ (read July 2026)
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain, zip_longest
from typing import Any, ClassVar

import msgspec

from marketprism_ray import records
from marketprism_ray.amounts import (
    base_and_quote,
    candle_revision,
    common,
    difference,
    given,
    quotient,
    shares,
    to_base,
    volume_order,
    window,
)
from marketprism_ray.errors import FrameError, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.hot import Cut
from marketprism_ray.instruments import Instrument, MarketType, canonical_symbol
from marketprism_ray.records import Record, Side, Source
from marketprism_ray.venue import (
    MS,
    Ack,
    Answer,
    BookCodec,
    Budget,
    Channel,
    Control,
    Data,
    Decoded,
    Delta,
    Follows,
    Heartbeat,
    History,
    Ignore,
    Lookup,
    Poll,
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

# --- wire: all values are strings but seqId, prevSeqId and checksum; numbers in text are read leniently --------------


class Trade(msgspec.Struct, gc=False):
    """``trades`` and ``trades-all``. ``tradeId`` is the last of the ``count`` fills a push merges."""

    sequence: int = msgspec.field(name="tradeId")
    price: str = msgspec.field(name="px")
    quantity: str = msgspec.field(name="sz")
    side: Side
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


class _Arg(msgspec.Struct, omit_defaults=True):
    channel: str
    instId: str | None = None
    instType: str | None = None
    instFamily: str | None = None
    uly: str | None = None


class Ticker(msgspec.Struct, gc=False):
    """``tickers``. Options have empty text for what is absent."""

    instId: str
    last: str
    lastSz: str
    askPx: str
    askSz: str
    bidPx: str
    bidSz: str
    open24h: str
    high24h: str
    low24h: str
    vol24h: str
    volCcy24h: str
    ts: int


class BestPrices(msgspec.Struct, gc=False):
    """``bbo-tbt``: a book of one level a side. Messages of 2022 have no ``seqId``."""

    asks: list[WireLevel]
    bids: list[WireLevel]
    ts: int
    seqId: int = -1


class Window(BestPrices, gc=False):
    """``books5``: the best five levels, whole each time."""


class FundingRate(msgspec.Struct, gc=False):
    """``funding-rate``. Messages of 2022 have fewer fields."""

    instId: str
    fundingRate: str
    fundingTime: int
    nextFundingRate: str = ""
    nextFundingTime: str = ""
    premium: str = ""
    ts: str = ""
    realizedRate: str = ""


class OpenInterest(msgspec.Struct, gc=False):
    """``open-interest``."""

    instId: str
    oi: str
    oiCcy: str
    ts: int
    oiUsd: str = ""


class LiquidationDetail(msgspec.Struct, gc=False):
    """One forced order."""

    side: Side
    bkPx: str
    sz: str
    ts: int


class Liquidations(msgspec.Struct, gc=False):
    """``liquidation-orders``: a sample, unordered; the first push after subscribing is history."""

    instId: str
    details: list[LiquidationDetail]


class OptionSummary(msgspec.Struct, gc=False):
    """``opt-summary``: volatilities are fractions; ``...BS`` greeks are in USD, the others in coin."""

    instId: str
    uly: str
    deltaBS: str
    gammaBS: str
    vegaBS: str
    thetaBS: str
    markVol: str
    bidVol: str
    askVol: str
    ts: int
    fwdPx: str = ""


class _Push(msgspec.Struct, gc=False):
    arg: _Arg
    data: msgspec.Raw


class _RestRows(msgspec.Struct):
    code: str
    data: msgspec.Raw


class _RestTrades(msgspec.Struct):
    code: str
    data: list[Trade]


class _RestBooks(msgspec.Struct):
    code: str
    data: list[Book]


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
_decode_push = msgspec.json.Decoder(_Push).decode
_decode_rows = msgspec.json.Decoder(_RestRows).decode
_decode_table = msgspec.json.Decoder(list[list[str]]).decode
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_instruments = msgspec.json.Decoder(_Instruments).decode


def _is_buyer_maker(trades: Sequence[Trade]) -> list[bool]:
    return [trade.side == "sell" for trade in trades]


def _fills(trades: Sequence[Trade]) -> list[int]:
    return [trade.count for trade in trades]


def _covers(trade: Trade) -> int:
    return trade.count


def _deltas(raw: bytes) -> Any:
    frame = _decode_books(raw)
    if frame.action not in ("snapshot", "update"):
        raise FrameError(f"action {frame.action!r} is neither snapshot nor update")
    if frame.action == "update" and frame.data and frame.data[0].last != -1:
        return frame
    deltas = [
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
    return Decoded(deltas)


# --- low-rate data ---------------------------------------------------------------------------------------------------


def _pushes(
    kind: type[Any], to_records: Callable[[Any, Instrument, int, Source], Sequence[Record]]
) -> Callable[[bytes, Lookup, int], Sequence[Record]]:
    """Give the reader of a channel whose rows name their instrument, or else its argument does."""
    decode_rows = msgspec.json.Decoder(list[kind], strict=False).decode  # type: ignore[valid-type]

    def decode(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
        push = _decode_push(raw)
        found: list[Record] = []
        for row in decode_rows(push.data):
            instrument = lookup(getattr(row, "instId", None) or push.arg.instId or "")
            if instrument is not None:
                found += to_records(row, instrument, received, "stream")
        return found

    return decode


def _rows(
    kind: type[Any], to_records: Callable[[Any, Instrument, int, Source], Sequence[Record]]
) -> Callable[[bytes, Mapping[str, str], Lookup, int], Sequence[Record]]:
    """Give the reader of a REST answer whose rows name their instrument."""
    decode_rows: Callable[[msgspec.Raw], list[Any]] = msgspec.json.Decoder(list[kind], strict=False).decode  # type: ignore[valid-type]

    def decode(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
        found: list[Record] = []
        for row in decode_rows(_decode_rows(body).data):
            instrument = lookup(row.instId)
            if instrument is not None:
                found += to_records(row, instrument, received, "poll")
        return found

    return decode


def _ticker(row: Ticker, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    """``vol24h`` is in contracts, on spot in base; ``volCcy24h`` is base coin, but quote on spot."""
    is_spot = instrument.market_type == "spot"
    last, opened = given(row.last), given(row.open24h)
    change = difference(last, opened)
    return [
        records.Ticker(
            **common(instrument, row.ts * MS, received, source),
            content="both",
            last_price=last,
            last_quantity=to_base(instrument, row.lastSz, last),
            open_price=opened,
            high_price=given(row.high24h),
            low_price=given(row.low24h),
            volume=given(row.vol24h if is_spot else row.volCcy24h),
            quote_volume=given(row.volCcy24h) if is_spot else None,
            price_change=change,
            price_change_percent=quotient(change, opened),
            best_bid_price=given(row.bidPx),
            best_bid_quantity=to_base(instrument, row.bidSz, row.bidPx),
            best_ask_price=given(row.askPx),
            best_ask_quantity=to_base(instrument, row.askSz, row.askPx),
        )
    ]


def _best_prices(row: BestPrices, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    bid = row.bids[0] if row.bids else None
    ask = row.asks[0] if row.asks else None
    return [
        records.Ticker(
            **common(instrument, row.ts * MS, received, source),
            content="best_prices",
            sequence=None if row.seqId == -1 else row.seqId,
            best_bid_price=None if bid is None else bid.price,
            best_bid_quantity=None if bid is None else to_base(instrument, bid.quantity, bid.price),
            best_ask_price=None if ask is None else ask.price,
            best_ask_quantity=None if ask is None else to_base(instrument, ask.quantity, ask.price),
        )
    ]


def _window(row: Window, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    """Messages of 2022 have no ``seqId``: their time stands in."""
    last = row.ts if row.seqId == -1 else row.seqId
    return [window(instrument, received, time=row.ts * MS, last_update_id=last, bids=row.bids, asks=row.asks, depth=5)]


_decode_windows = msgspec.json.Decoder(list[Window], strict=False).decode


def _rest_book(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    instrument = lookup(params["instId"])
    if instrument is None:
        return []
    found: list[Record] = []
    for row in _decode_windows(_decode_rows(body).data):
        (record,) = _window(row, instrument, received, "poll")
        depth = max(len(row.bids), len(row.asks))
        found.append(msgspec.structs.replace(record, source="poll", depth=depth))
    return found


def _funding(row: FundingRate, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    """``fundingRate`` will be charged at ``fundingTime``; of a past one ``realizedRate`` was. Intervals may change."""
    upcoming = int(row.nextFundingTime) * MS if row.nextFundingTime else None
    charged = bool(row.realizedRate)
    at = int(row.ts) * MS if row.ts else row.fundingTime * MS if charged else received
    return [
        records.FundingRate(
            **common(instrument, at, received, source),
            funding_rate=row.realizedRate if charged else given(row.fundingRate),
            estimated_rate=given(row.nextFundingRate),
            funding_time=row.fundingTime * MS,
            next_funding_time=upcoming,
            funding_interval=(upcoming - row.fundingTime * MS) // 1_000_000_000 if upcoming else None,
            premium_index=given(row.premium),
        )
    ]


def _open_interest(row: OpenInterest, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    """``oi`` is contracts, ``oiCcy`` base coin, ``oiUsd`` USD."""
    return [
        records.OpenInterest(
            **common(instrument, row.ts * MS, received, source),
            open_interest=given(row.oiCcy),
            open_interest_value=given(row.oiUsd),
            raw_quantity=given(row.oi),
            quantity_unit=instrument.quantity_unit,
        )
    ]


def _liquidations(row: Liquidations, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    """``bkPx`` is the price at which the position was bankrupt. There is no id: the content is one."""
    found = []
    for detail in row.details:
        quantity, value = base_and_quote(instrument, detail.sz, detail.bkPx)
        found.append(
            records.Liquidation(
                **common(instrument, detail.ts * MS, received, source),
                liquidation_id=f"{detail.ts}-{detail.side}-{detail.sz}-{detail.bkPx}",
                side=detail.side,
                price=detail.bkPx,
                quantity=quantity,
                value=value,
            )
        )
    return found


def _greeks(row: OptionSummary, instrument: Instrument, received: int, source: Source) -> Sequence[Record]:
    return [
        records.OptionGreeks(
            **common(instrument, row.ts * MS, received, source),
            delta=given(row.deltaBS),
            gamma=given(row.gammaBS),
            vega=given(row.vegaBS),
            theta=given(row.thetaBS),
            mark_iv=given(row.markVol),
            bid_iv=given(row.bidVol),
            ask_iv=given(row.askVol),
            underlying_price=given(row.fwdPx),
            underlying_index=row.uly,
        )
    ]


# The venue's names of candles. Bars of 6 hours and more follow UTC+8 unless they end in "utc".
_CANDLES = {
    "1s": "1s",
    "1m": "1m",
    "3m": "3m",
    "5m": "5m",
    "15m": "15m",
    "30m": "30m",
    "1h": "1H",
    "2h": "2H",
    "4h": "4H",
    "6h": "6Hutc",
    "12h": "12Hutc",
    "1d": "1Dutc",
    "1w": "1Wutc",
    "1M": "1Mutc",
}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _end_of(open_time: int, interval: str) -> int:
    """Give the end of a candle, ns."""
    number, unit = int(interval[:-1]), interval[-1]
    if unit != "M":
        return open_time + number * _SECONDS[unit] * 1_000_000_000
    start = datetime.fromtimestamp(open_time // 1_000_000_000, UTC)
    months = start.month - 1 + number
    end = start.replace(year=start.year + months // 12, month=months % 12 + 1)
    return int(end.timestamp()) * 1_000_000_000


def _candle(row: list[str], interval: str, instrument: Instrument, received: int, source: Source) -> Record:
    """Rows are ``[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]``; those of 2022 end after ``volCcy``.

    ``vol`` is contracts, on spot base; ``volCcy`` is base coin, on spot quote.
    """
    is_spot = instrument.market_type == "spot"
    open_time = int(row[0]) * MS
    end = _end_of(open_time, interval)
    is_closed = len(row) > 8 and row[8] == "1"
    in_quote = row[7] if len(row) > 7 else row[6] if is_spot else None
    return records.Kline(
        **common(instrument, received if source == "stream" else end, received, source),
        interval=interval,
        open_time=open_time,
        close_time=end,
        open_price=row[1],
        high_price=row[2],
        low_price=row[3],
        close_price=row[4],
        volume=row[5] if is_spot else row[6],
        quote_volume=in_quote,
        is_closed=is_closed,
        # A push has no time of its own.
        revision=candle_revision(source, is_closed=is_closed, order=volume_order(row[5])),
    )


def _candles(interval: str) -> Callable[[bytes, Lookup, int], Sequence[Record]]:
    def decode(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
        push = _decode_push(raw)
        instrument = lookup(push.arg.instId or "")
        if instrument is None:
            return []
        return [_candle(row, interval, instrument, received, "stream") for row in _decode_table(push.data)]

    return decode


def _rest_candles(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    instrument = lookup(params["instId"])
    if instrument is None:
        return []
    bar = params.get("bar", "1m").removesuffix("utc")
    interval = bar if bar.endswith(("s", "m", "M")) else bar.lower()
    rows = _decode_table(_decode_rows(body).data)
    return [_candle(row, interval, instrument, received, "backfill") for row in rows]


def _ratio(kind: type[Any]) -> Callable[[bytes, Mapping[str, str], Lookup, int], Sequence[Record]]:
    """Rows are ``[ts, longs per short]``: the shares follow from it."""

    def decode(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
        instrument = lookup(params["instId"])
        if instrument is None:
            return []
        found = []
        for ts, ratio in _decode_table(_decode_rows(body).data):
            longs, shorts = shares(ratio)
            found.append(
                kind(
                    **common(instrument, int(ts) * MS, received, "poll"),
                    long_ratio=longs,
                    short_ratio=shorts,
                    long_short_ratio=ratio,
                    period=params.get("period", "5m"),
                )
            )
        return found

    return decode


def _rest_interest(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Rows are ``[ts, oi, oiCcy, oiUsd]``: contracts, base coin, USD."""
    instrument = lookup(params["instId"])
    if instrument is None:
        return []
    return [
        records.OpenInterest(
            **common(instrument, int(ts) * MS, received, "backfill"),
            open_interest=given(base),
            open_interest_value=given(value),
            raw_quantity=given(contracts),
            quantity_unit=instrument.quantity_unit,
        )
        for ts, contracts, base, value in _decode_table(_decode_rows(body).data)
    ]


def _figures(*names: str) -> Callable[[bytes], dict[str, Any]]:
    """Give the reader of the venue's own figures in a push, for ``replay``."""

    def shown(raw: bytes) -> dict[str, Any]:
        row = json.loads(bytes(_decode_push(raw).data))[-1]
        return {name: row[name] for name in names}

    return shown


class _Volume(msgspec.Struct, gc=False):
    instId: str
    instType: str
    last: str
    volCcy24h: str


class _VolumeAnswer(msgspec.Struct):
    data: list[_Volume]


_decode_volumes = msgspec.json.Decoder(_VolumeAnswer).decode


def _volumes(body: bytes) -> dict[str, float]:
    """Rank by 24 h volume in quote: spot sends it, derivatives send coins."""
    return {
        row.instId: float(row.volCcy24h or 0) * (1.0 if row.instType == "SPOT" else float(row.last or 0))
        for row in _decode_volumes(body).data
    }


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

_UNKNOWN = re.compile(r"channel:(?P<channel>[^,]+),(?P<name>instId|instFamily|instType):(?P<value>\S+) doesn't exist")


route = Cut(len(b'{"arg":'), b"}", with_end=True).read
"""Reads the ``arg`` at the head of a push; anything else gives text that is no argument."""


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
    return arg["channel"], arg.get("instId") or arg.get("instFamily") or arg.get("uly") or arg.get("instType", "")


def _arg_key(arg: _Arg) -> str:
    """Write an argument as we ask for it; the venue may add fields to what it echoes."""
    if arg.instId is not None:
        return _arg({"channel": arg.channel, "instId": arg.instId})
    if arg.instFamily is not None:
        return _arg({"channel": arg.channel, "instFamily": arg.instFamily})
    if arg.uly is not None:
        return _arg({"channel": arg.channel, "uly": arg.uly})
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


_INSTRUMENT_TYPES: dict[MarketType, str] = {
    "spot": "SPOT",
    "perpetual": "SWAP",
    "futures": "FUTURES",
    "option": "OPTION",
}
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


_EVERY_FILL = TradeCodec(_decode_trades, MS, _is_buyer_maker, id_is_text=True)
_MERGED = TradeCodec(_decode_trades, MS, _is_buyer_maker, _fills, _covers, id_is_text=True)
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
    # Published: 3 a second and address. Spot and derivatives share one, and what leaves apart may arrive together.
    connects=1,
    connects_period_s=1,
    lifetime_s=None,
    requests_per_hour=440,  # published: 480
)
# The client sends the text "ping" when nothing has come for 20 s; 30 s without a push cuts the socket.
_HEARTBEAT = Heartbeat(silent_s=45, ping_after_s=20, ping="ping")
_REST = Rest(
    # Requests per 2 s, by endpoint. history-trades: 20 in the documentation, 10 in use elsewhere; we take 10.
    budgets=(
        Budget("books", 40, 2, pool="okx"),
        Budget("history-trades", 10, 2, pool="okx"),
        Budget("instruments", 20, 2, pool="okx"),
        Budget("tickers", 20, 2, pool="okx"),
        Budget("funding-rate-history", 10, 2, pool="okx"),
        Budget("rubik", 5, 2, pool="okx"),
        Budget("history-candles", 20, 2, pool="okx"),
    ),
    check=check,
)
_OPTION_FAMILIES = ("BTC-USD", "ETH-USD", "BTC-USD_UM", "ETH-USD_UM", "SOL-USD_UM")


def _is(*market_types: MarketType) -> Callable[[Instrument], bool]:
    return lambda instrument: instrument.market_type in market_types


def _by_type(channel: str) -> Callable[[Instrument], str]:
    """Give the key of a channel that carries all instruments of a type."""
    return lambda instrument: _arg({"channel": channel, "instType": _INSTRUMENT_TYPES[instrument.market_type]})


def _by_family(channel: str) -> Callable[[Instrument], str]:
    """Give the key of a channel that carries an option family."""
    return lambda instrument: _arg({"channel": channel, "instFamily": f"{instrument.base}-{instrument.quote}"})


def _get(path: str, budget: str, **params: str) -> Callable[[Instrument, int], Request]:
    """Give the request of a poll; ``instId`` is filled in where it is empty."""
    return lambda instrument, _: Request(
        path,
        {name: value or instrument.venue_symbol for name, value in params.items()},
        ((budget, 1),),
        Priority.POLL,
    )


_COMMON_CHANNELS = (
    Channel("trade", "trades-all", "business", _key("trades-all"), _EVERY_FILL, None),
    # Unchanged books send a keep-alive after about 60 s.
    Channel("orderbook", "books", "public", _key("books"), _BOOK, 60.0),
    Channel(
        "ticker",
        "tickers",
        "public",
        _key("tickers"),
        RecordCodec(_pushes(Ticker, _ticker), _figures("last", "bidPx", "askPx", "ts")),
        None,
        content="both",
    ),
    *(
        Channel(
            "kline",
            f"candle{name}",
            "business",
            _key(f"candle{name}"),
            RecordCodec(_candles(interval)),
            None,
            interval=interval,
        )
        for interval, name in _CANDLES.items()
    ),
)
_LIQUIDATIONS = RecordCodec(_pushes(Liquidations, _liquidations))
_GREEKS = RecordCodec(_pushes(OptionSummary, _greeks))
_DERIVATIVE_CHANNELS = (
    # X-perpetuals are futures by type and have funding too; the venue refuses the others by name.
    Channel(
        "funding_rate",
        "funding-rate",
        "public",
        _key("funding-rate"),
        RecordCodec(_pushes(FundingRate, _funding)),
        90.0,
        _is("perpetual"),
    ),
    Channel(
        "open_interest",
        "open-interest",
        "public",
        _key("open-interest"),
        RecordCodec(_pushes(OpenInterest, _open_interest)),
        None,
    ),
    Channel(
        "liquidation",
        "liquidation-orders",
        "public",
        _by_type("liquidation-orders"),
        _LIQUIDATIONS,
        None,
        _is("perpetual", "futures"),
    ),
    Channel("option_greeks", "opt-summary", "public", _by_family("opt-summary"), _GREEKS, None, _is("option")),
)
_RECORDED = (
    Channel("trade", "trades", "public", _key("trades"), _MERGED, None),
    Channel("orderbook", "books-l2-tbt", "public", _key("books-l2-tbt"), _BOOK, 60.0),
    Channel("ticker", "bbo-tbt", "public", _key("bbo-tbt"), RecordCodec(_pushes(BestPrices, _best_prices)), None),
    Channel("orderbook", "books5", "public", _key("books5"), RecordCodec(_pushes(Window, _window)), None),
    Channel("kline", "candle1D", "business", _key("candle1D"), RecordCodec(_candles("1d")), None),
)
_HISTORY = TradeHistory(_history_request, _decode_history, newest_first=True, page=100, keeps_s=90 * 86_400)
_RUBIK = "/api/v5/rubik/stat/contracts/long-short"
_TOP_POSITION = Answer(
    "lsr_top_position", f"{_RUBIK}-position-ratio-contract-top-trader", _ratio(records.LsrTopPosition)
)
_ALL_ACCOUNT = Answer("lsr_all_account", f"{_RUBIK}-account-ratio-contract", _ratio(records.LsrAllAccount))
_CHARGED = Answer("funding_rate", "/api/v5/public/funding-rate-history", _rows(FundingRate, _funding))
_INTEREST_HISTORY = Answer("open_interest", "/api/v5/rubik/stat/contracts/open-interest-history", _rest_interest)
_CANDLE_HISTORY = Answer("kline", "/api/v5/market/history-candles", _rest_candles)
_POLLS = (
    Poll(
        "funding_rate",
        _CHARGED,
        _get(_CHARGED.path, "funding-rate-history", instId="", limit="3"),
        _is("perpetual"),
        shows_past=True,
    ),
    Poll(
        "long_short_ratio",
        _TOP_POSITION,
        _get(_TOP_POSITION.path, "rubik", instId="", period="5m", limit="12"),
        _is("perpetual"),
        shows_past=True,
    ),
    Poll(
        "long_short_ratio",
        _ALL_ACCOUNT,
        _get(_ALL_ACCOUNT.path, "rubik", instId="", period="5m", limit="12"),
        _is("perpetual"),
        shows_past=True,
    ),
)


def _outside(first: int, last: int) -> dict[str, str]:
    """Give a span as this venue pages: older than ``after``, newer than ``before``, newest first."""
    return {"after": str(last // MS + 1), "before": str(-(-first // MS) - 1)}


def _past_candles(instrument: Instrument, first: int, last: int, interval: str) -> Request:
    params = {"instId": instrument.venue_symbol, "bar": _CANDLES[interval], "limit": "100", **_outside(first, last)}
    return Request(_CANDLE_HISTORY.path, params, (("history-candles", 1),), Priority.BACKFILL)


def _past_funding(instrument: Instrument, first: int, last: int, _: str) -> Request:
    params = {"instId": instrument.venue_symbol, "limit": "100", **_outside(first, last)}
    return Request(_CHARGED.path, params, (("funding-rate-history", 1),), Priority.BACKFILL)


def _past_statistics(answer: Answer, *market_types: MarketType) -> History:
    """Give the history of a statistic by five minutes: the last 1440 points."""

    def request(instrument: Instrument, first: int, last: int, _: str) -> Request:
        span = {"begin": str(-(-first // MS)), "end": str(last // MS)}
        params = {"instId": instrument.venue_symbol, "period": "5m", "limit": "100", **span}
        return Request(answer.path, params, (("rubik", 1),), Priority.BACKFILL)

    return History(answer, request, 100, 300, 1440 * 300, applies=_is(*market_types))


_CANDLES_KEPT = History(_CANDLE_HISTORY, _past_candles, 100, 0)
_HISTORIES = (
    _CANDLES_KEPT,
    # Settlements are an hour apart at least; the last 3 months.
    History(_CHARGED, _past_funding, 100, 3600, 90 * 86_400, applies=_is("perpetual")),
    _past_statistics(_INTEREST_HISTORY, "perpetual", "futures"),
    _past_statistics(_TOP_POSITION, "perpetual"),
    _past_statistics(_ALL_ACCOUNT, "perpetual"),
)
_ANSWERS = (
    Answer("ticker", "/api/v5/market/tickers", _rows(Ticker, _ticker)),
    Answer("ticker", "/api/v5/market/ticker", _rows(Ticker, _ticker)),
    Answer("kline", "/api/v5/market/candles", _rest_candles),
    _CANDLE_HISTORY,
    _INTEREST_HISTORY,
    Answer("orderbook", "/api/v5/market/books", _rest_book),
    Answer("open_interest", "/api/v5/public/open-interest", _rows(OpenInterest, _open_interest)),
    Answer("funding_rate", "/api/v5/public/funding-rate", _rows(FundingRate, _funding)),
)


def _venue(
    name: str,
    market_types: tuple[MarketType, ...],
    channels: tuple[Channel, ...],
    polls: tuple[Poll, ...],
    histories: tuple[History, ...],
) -> Venue:
    kinds = [_INSTRUMENT_TYPES[market_type] for market_type in market_types]
    asked = [{"instType": kind} for kind in kinds if kind != "OPTION"]
    if "OPTION" in kinds:
        asked += [{"instType": "OPTION", "instFamily": family} for family in _OPTION_FAMILIES]
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
            Request("/api/v5/public/instruments", params, (("instruments", 1),)) for params in asked
        ),
        decode_instruments=_instruments(name),
        channels=channels,
        recorded_channels=_RECORDED,
        trade_history=_HISTORY,
        histories=histories,
        polls=polls,
        answers=_ANSWERS,
        book_paths=("books",),
        volumes=Volumes(
            tuple(Request("/api/v5/market/tickers", {"instType": kind}, (("tickers", 1),)) for kind in kinds),
            _volumes,
        ),
        docs="https://www.okx.com/docs-v5/en/",
    )


SPOT = _venue("okx_spot", ("spot",), _COMMON_CHANNELS, (), (_CANDLES_KEPT,))
DERIVATIVES = _venue(
    "okx_derivatives", ("perpetual", "futures", "option"), _COMMON_CHANNELS + _DERIVATIVE_CHANNELS, _POLLS, _HISTORIES
)

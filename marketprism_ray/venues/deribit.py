"""Deribit v2: perpetuals, futures and options.

Numbers are JSON numbers; they are read as exact decimals from their text. Inverse contracts are counted in USD,
everything else in base. Volatilities are in percent points, here fractions.

References
----------
https://docs.deribit.com/articles/market-data-collection-best-practices (read July 2026)
https://docs.deribit.com/subscriptions/orderbook (read July 2026)
https://docs.deribit.com/articles/rate-limits (read July 2026)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

import msgspec

from marketprism_ray import records
from marketprism_ray.amounts import (
    base_and_quote,
    candle_revision,
    common,
    figure,
    number,
    percent,
    plain,
    to_base,
    trade,
    volume_order,
    window,
)
from marketprism_ray.errors import FrameError, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.hot import Cut, number_text
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
    Reply,
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
    everything,
)

# --- wire ------------------------------------------------------------------------------------------------------------


class Trade(msgspec.Struct, gc=False):
    """A row of ``trades``. ``trade_seq`` rises by one per instrument; combos have rows of their own and of each leg."""

    instrument_name: str
    sequence: int = msgspec.field(name="trade_seq")
    trade_id: str
    number: Decimal = msgspec.field(name="price")
    amount: Decimal
    direction: Side
    time: int = msgspec.field(name="timestamp")
    liquidation: str | None = None

    @property
    def price(self) -> str:
        """Exact text."""
        return plain(self.number)

    @property
    def quantity(self) -> str:
        """Exact text: USD of inverse contracts, else base."""
        return plain(self.amount)


class Change(msgspec.Struct, array_like=True, gc=False):
    """A level: ``["new" | "change" | "delete", price, amount]``."""

    action: Literal["new", "change", "delete"]
    price: msgspec.Raw
    amount: msgspec.Raw


class PlainLevel(msgspec.Struct, array_like=True, gc=False):
    """A level of a window or a REST book: ``[price, amount]``."""

    price: Decimal
    amount: Decimal


class Book(msgspec.Struct, gc=False):
    """``book.<instrument>.100ms``: one snapshot, then changes."""

    instrument_name: str
    change_id: int
    timestamp: int
    bids: list[Change]
    asks: list[Change]
    type: Literal["snapshot", "change"]
    prev_change_id: int | None = None


class Window(msgspec.Struct, gc=False):
    """``book.<instrument>.<group>.<depth>.100ms``: the whole window each time."""

    instrument_name: str
    change_id: int
    timestamp: int
    bids: list[PlainLevel]
    asks: list[PlainLevel]


class Quote(msgspec.Struct, gc=False):
    """``quote``: best bid and offer."""

    instrument_name: str
    timestamp: int
    best_bid_price: Decimal | None = None
    best_bid_amount: Decimal | None = None
    best_ask_price: Decimal | None = None
    best_ask_amount: Decimal | None = None


class Stats(msgspec.Struct, gc=False):
    """The last 24 hours; ``volume`` is base."""

    high: Decimal | None = None
    low: Decimal | None = None
    price_change: Decimal | None = None
    volume: Decimal | None = None
    volume_usd: Decimal | None = None
    volume_notional: Decimal | None = None


class Greeks(msgspec.Struct, gc=False):
    """Greeks in USD, from Black-Scholes."""

    delta: Decimal | None = None
    gamma: Decimal | None = None
    vega: Decimal | None = None
    theta: Decimal | None = None
    rho: Decimal | None = None


class Ticker(Quote, gc=False):
    """``ticker``: best prices, 24 h figures, open interest, funding of perpetuals, greeks of options."""

    stats: Stats = msgspec.field(default_factory=Stats)
    last_price: Decimal | None = None
    mark_price: Decimal | None = None
    index_price: Decimal | None = None
    open_interest: Decimal | None = None
    funding_8h: Decimal | None = None
    current_funding: Decimal | None = None
    greeks: Greeks | None = None
    mark_iv: Decimal | None = None
    bid_iv: Decimal | None = None
    ask_iv: Decimal | None = None
    underlying_price: Decimal | None = None
    underlying_index: str | None = None


class Perpetual(msgspec.Struct, gc=False):
    """``perpetual``: the present funding rate."""

    timestamp: int
    interest: Decimal
    index_price: Decimal | None = None


class Candle(msgspec.Struct, gc=False):
    """``chart.trades``: ``volume`` is base, ``cost`` quote."""

    tick: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    cost: Decimal


class Volatility(msgspec.Struct, gc=False):
    """``deribit_volatility_index``: percent points."""

    timestamp: int
    volatility: Decimal
    index_name: str


class _Channel(msgspec.Struct):
    channel: str


class _Head(msgspec.Struct):
    params: _Channel


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = None


class _Parameters(msgspec.Struct):
    channel: str | None = None
    type: str | None = None


class _Control(msgspec.Struct):
    method: str | None = None
    params: _Parameters | None = None
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None


class _Answer(msgspec.Struct):
    error: _Error | None = None


class _Page(msgspec.Struct):
    trades: list[Trade]


class _Instrument(msgspec.Struct):
    instrument_name: str
    kind: str
    base_currency: str
    quote_currency: str
    expiration_timestamp: int
    settlement_period: str
    tick_size: Decimal
    min_trade_amount: Decimal
    contract_size: Decimal
    is_active: bool
    strike: Decimal | None = None
    option_type: str | None = None
    settlement_currency: str | None = None
    counter_currency: str | None = None
    instrument_type: str | None = None
    state: str | None = None


class _FundingRow(msgspec.Struct):
    timestamp: int
    interest_8h: Decimal
    interest_1h: Decimal
    index_price: Decimal | None = None


class _Summary(msgspec.Struct):
    instrument_name: str
    creation_timestamp: int
    open_interest: Decimal | None = None
    mark_price: Decimal | None = None
    volume_usd: Decimal | None = None


class _VolatilityPage(msgspec.Struct):
    data: list[tuple[int, Decimal, Decimal, Decimal, Decimal]]


class _Chart(msgspec.Struct):
    ticks: list[int]
    open: list[Decimal]
    high: list[Decimal]
    low: list[Decimal]
    close: list[Decimal]
    volume: list[Decimal]
    cost: list[Decimal]


def _parameters(kind: Any) -> Callable[[bytes], Any]:
    """Give a decoder of ``{"params": {"channel": ..., "data": kind}}``."""
    inner = msgspec.defstruct("Params", [("channel", str), ("data", kind)], gc=False)
    return msgspec.json.Decoder(msgspec.defstruct("Subscription", [("params", inner)], gc=False)).decode


def _result(kind: Any) -> Callable[[bytes], Any]:
    """Give a decoder of ``{"result": kind}``."""
    return msgspec.json.Decoder(msgspec.defstruct("Result", [("result", kind)], gc=False)).decode


_decode_trades = _parameters(list[Trade])
_decode_book = _parameters(Book)
_decode_window = _parameters(Window)
_decode_page = _result(_Page)
_decode_rest_window = _result(Window)
_decode_instruments = _result(list[_Instrument])
_decode_control = msgspec.json.Decoder(_Control).decode
_decode_channels = msgspec.json.Decoder(list[str]).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_funding = _result(list[_FundingRow])
_decode_summaries = _result(list[_Summary])
_decode_volatility_page = _result(_VolatilityPage)
_decode_chart = _result(_Chart)

# --- trades ----------------------------------------------------------------------------------------------------------


def _trades(raw: bytes) -> Any:
    return _decode_trades(raw).params


def _is_buyer_maker(trades: Sequence[Trade]) -> list[bool]:
    return [row.direction == "sell" for row in trades]


def _trade_ids(trades: Sequence[Trade]) -> list[str]:
    return [trade.trade_id for trade in trades]


def _decode_history(body: bytes) -> Sequence[Trade]:
    rows: list[Trade] = _decode_page(body).result.trades
    return rows


def _history_request(instrument: Instrument, first: int, last: int) -> Request:
    # About the last 24 hours; older ones come back as an empty list.
    return Request(
        "/api/v2/public/get_last_trades_by_instrument",
        {
            "instrument_name": instrument.venue_symbol,
            "start_seq": str(first),
            "end_seq": str(last),
            "count": str(min(1000, last - first + 1)),
            "sorting": "asc",
        },
        (("requests", 1),),
        Priority.BACKFILL,
    )


# --- order book: https://docs.deribit.com/subscriptions/orderbook ----------------------------------------------------


def _levels(changes: Sequence[Change]) -> list[WireLevel]:
    return [
        WireLevel(number_text(change.price), "0" if change.action == "delete" else number_text(change.amount))
        for change in changes
    ]


def _deltas(raw: bytes) -> Decoded:
    book: Book = _decode_book(raw).params.data
    is_snapshot = book.type == "snapshot"
    if not is_snapshot and book.prev_change_id is None:
        raise FrameError("a change without prev_change_id continues nothing")
    change_id = book.change_id
    previous = None if is_snapshot else book.prev_change_id
    return Decoded(
        Delta(change_id, change_id, previous, book.timestamp, _levels(book.bids), _levels(book.asks), is_snapshot)
    )


def follows(last: int, delta: Delta) -> Follows:
    """Judge a change: ``prev_change_id`` is ours. ``change_id`` is shared by instruments and jumps."""
    if delta.previous == last:
        return Follows.NEXT
    return Follows.STALE if delta.last <= last else Follows.GAP


def _plain_levels(levels: Sequence[PlainLevel]) -> list[WireLevel]:
    return [WireLevel(plain(level.price), plain(level.amount)) for level in levels]


def _snapshot(instrument: Instrument, depth: int) -> Request:
    return Request(
        "/api/v2/public/get_order_book",
        {"instrument_name": instrument.venue_symbol, "depth": str(depth)},
        (("requests", 1),),
        Priority.SNAPSHOT,
    )


def _decode_snapshot(body: bytes) -> Snapshot:
    book: Window = _decode_rest_window(body).result
    return Snapshot(book.change_id, book.timestamp, _plain_levels(book.bids), _plain_levels(book.asks))


# --- low-rate data ---------------------------------------------------------------------------------------------------


def _events(
    kind: Any, to_records: Callable[[Any, Instrument, int], Sequence[Record]]
) -> Callable[[bytes, Lookup, int], Sequence[Record]]:
    """Give the reader of a channel that names its instrument: ``<channel>.<instrument>.<interval>``."""
    decode_one = _parameters(kind)

    def decode(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
        params = decode_one(raw).params
        instrument = lookup(parse_key(params.channel)[1])
        return [] if instrument is None else to_records(params.data, instrument, received)

    return decode


def _best(quote: Quote, instrument: Instrument) -> dict[str, Any]:
    """Give best bid and offer; an empty side is sent as 0 or null."""
    found: dict[str, Any] = {}
    for side, price, amount in (
        ("bid", quote.best_bid_price, quote.best_bid_amount),
        ("ask", quote.best_ask_price, quote.best_ask_amount),
    ):
        there = bool(price) and bool(amount)
        found[f"best_{side}_price"] = number(price) if there else None
        found[f"best_{side}_quantity"] = to_base(instrument, number(amount), number(price)) if there else None
    return found


def _quote(quote: Quote, instrument: Instrument, received: int) -> Sequence[Record]:
    return [
        records.Ticker(
            **common(instrument, quote.timestamp * MS, received), content="best_prices", **_best(quote, instrument)
        )
    ]


def _ticker(ticker: Ticker, instrument: Instrument, received: int) -> Sequence[Record]:
    """One message holds a ticker, the open interest, and funding of a perpetual or greeks of an option."""
    shared = common(instrument, ticker.timestamp * MS, received)
    stats = ticker.stats
    notional = stats.volume_usd if stats.volume_notional is None else stats.volume_notional
    found: list[Record] = [
        records.Ticker(
            **shared,
            content="both",
            last_price=number(ticker.last_price),
            high_price=number(stats.high),
            low_price=number(stats.low),
            volume=number(stats.volume),
            quote_volume=None if instrument.market_type == "option" else number(notional),
            price_change_percent=percent(figure(stats.price_change)),
            **_best(ticker, instrument),
        )
    ]
    if ticker.open_interest is not None:
        found.append(_interest(shared, instrument, ticker.open_interest, ticker.mark_price))
    if instrument.market_type == "perpetual" and ticker.funding_8h is not None:
        found.append(
            records.FundingRate(
                **shared,
                funding_rate=figure(ticker.funding_8h),
                estimated_rate=figure(ticker.current_funding),
                funding_interval=8 * 3600,
                mark_price=number(ticker.mark_price),
                index_price=number(ticker.index_price),
            )
        )
    if ticker.greeks is not None:
        greeks = ticker.greeks
        found.append(
            records.OptionGreeks(
                **shared,
                delta=figure(greeks.delta),
                gamma=figure(greeks.gamma),
                vega=figure(greeks.vega),
                theta=figure(greeks.theta),
                rho=figure(greeks.rho),
                mark_iv=percent(figure(ticker.mark_iv)),
                bid_iv=percent(figure(ticker.bid_iv)) if ticker.bid_iv else None,
                ask_iv=percent(figure(ticker.ask_iv)) if ticker.ask_iv else None,
                mark_price=number(ticker.mark_price),
                underlying_price=number(ticker.underlying_price),
                underlying_index=ticker.underlying_index,
                open_interest=number(ticker.open_interest),
            )
        )
    return found


def _interest(shared: dict[str, Any], instrument: Instrument, amount: Decimal, mark: Decimal | None) -> Record:
    base, value = base_and_quote(instrument, number(amount), number(mark) if mark else None)
    return records.OpenInterest(
        **shared,
        open_interest=base,
        open_interest_value=value,
        raw_quantity=number(amount) if instrument.is_inverse else None,
        quantity_unit=instrument.quantity_unit,
    )


def _window(book: Window, instrument: Instrument, received: int) -> Sequence[Record]:
    bids, asks = _plain_levels(book.bids), _plain_levels(book.asks)
    return [
        window(
            instrument,
            received,
            time=book.timestamp * MS,
            last_update_id=book.change_id,
            bids=bids,
            asks=asks,
            depth=max(len(bids), len(asks)),
        )
    ]


def _trade_records(trades: Sequence[Trade], lookup: Lookup, received: int, source: Source) -> Sequence[Record]:
    """Read trades of many instruments at once."""
    makers = _is_buyer_maker(trades)
    return [
        trade(
            instrument,
            received,
            source,
            time=row.time * MS,
            sequence=row.sequence,
            price=row.price,
            quantity=row.quantity,
            is_buyer_maker=maker,
            trade_id=row.trade_id,
        )
        for row, maker in zip(trades, makers, strict=True)
        if (instrument := lookup(row.instrument_name)) is not None
    ]


def _all_trades(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
    return _trade_records(_trades(raw).data, lookup, received, "stream")


def _rest_trades(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    return _trade_records(_decode_history(body), lookup, received, "backfill")


def _perpetual(event: Perpetual, instrument: Instrument, received: int) -> Sequence[Record]:
    return [
        records.FundingRate(
            **common(instrument, event.timestamp * MS, received),
            estimated_rate=figure(event.interest),
            funding_interval=8 * 3600,
            index_price=number(event.index_price),
        )
    ]


def _liquidations(raw: bytes, lookup: Lookup, received: int) -> Sequence[Record]:
    """Read the trades whose maker (M), taker (T) or both (MT) were liquidated."""
    found: list[Record] = []
    for row in _trades(raw).data:
        instrument = lookup(row.instrument_name)
        if instrument is not None:
            found += _liquidations_of(row, instrument, received)
    return found


def _liquidations_later(trades: Sequence[Trade], instrument: Instrument, received: int) -> Sequence[Record]:
    """Read them in trades of the history."""
    found = [record for row in trades for record in _liquidations_of(row, instrument, received)]
    return [msgspec.structs.replace(record, source="backfill") for record in found]


def _liquidations_of(row: Trade, instrument: Instrument, received: int) -> list[Record]:
    found: list[Record] = []
    if row.liquidation:
        quantity, value = base_and_quote(instrument, row.quantity, row.price)
        for who in row.liquidation:
            if who not in "MT":
                raise FrameError(f"liquidation {row.liquidation!r} is neither M, T nor MT")
            sells = (row.direction == "sell") == (who == "T")
            found.append(
                records.Liquidation(
                    **common(instrument, row.time * MS, received),
                    liquidation_id=f"{row.trade_id}-{who}",
                    side="sell" if sells else "buy",
                    price=row.price,
                    average_price=row.price,
                    quantity=quantity,
                    value=value,
                )
            )
    return found


_RESOLUTIONS = {
    "1m": ("1", 60),
    "3m": ("3", 180),
    "5m": ("5", 300),
    "10m": ("10", 600),
    "15m": ("15", 900),
    "30m": ("30", 1_800),
    "1h": ("60", 3_600),
    "2h": ("120", 7_200),
    "3h": ("180", 10_800),
    "6h": ("360", 21_600),
    "12h": ("720", 43_200),
    "1d": ("1D", 86_400),
}


def _candles(interval: str, seconds: int) -> Callable[[bytes, Lookup, int], Sequence[Record]]:
    """Give the reader of candles. The venue does not say which update is the last: none is the final word."""

    def to_records(candle: Candle, instrument: Instrument, received: int) -> Sequence[Record]:
        end = candle.tick * MS + seconds * 1_000_000_000
        volume = plain(candle.volume)
        return [
            records.Kline(
                **common(instrument, received, received),
                interval=interval,
                open_time=candle.tick * MS,
                close_time=end,
                open_price=plain(candle.open),
                high_price=plain(candle.high),
                low_price=plain(candle.low),
                close_price=plain(candle.close),
                volume=volume,
                quote_volume=plain(candle.cost),
                is_closed=False,
                # A push has no time of its own, and does not say that it is the last.
                revision=candle_revision("stream", is_closed=False, order=volume_order(volume)),
            )
        ]

    return _events(Candle, to_records)


def _rest_candles(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read the parallel arrays of ``get_tradingview_chart_data``; the last candle may be open at ``received``."""
    instrument = lookup(params["instrument_name"])
    if instrument is None:
        return []
    interval, seconds = next((name, s) for name, (r, s) in _RESOLUTIONS.items() if r == params["resolution"])
    chart: _Chart = _decode_chart(body).result
    found = []
    for at, opened, high, low, close, volume, cost in zip(
        chart.ticks, chart.open, chart.high, chart.low, chart.close, chart.volume, chart.cost, strict=True
    ):
        end = at * MS + seconds * 1_000_000_000
        found.append(
            records.Kline(
                **common(instrument, end, received, "backfill"),
                interval=interval,
                open_time=at * MS,
                close_time=end,
                open_price=plain(opened),
                high_price=plain(high),
                low_price=plain(low),
                close_price=plain(close),
                volume=plain(volume),
                quote_volume=plain(cost),
                is_closed=received >= end,
                revision=candle_revision("backfill", is_closed=received >= end, order=volume_order(plain(volume))),
            )
        )
    return found


def _index(name: str, time: int, received: int, source: Source) -> dict[str, Any]:
    """Give the common fields of an index, which is no instrument: ``btc_usd`` goes with the options, as BTC-USD."""
    return {
        "exchange_name": "deribit_derivatives",
        "market_type": "option",
        "symbol_name": name.upper().replace("_", "-"),
        "timestamp": time,
        "receive_timestamp": received,
        "source": source,
        "index_name": name,
    }


_decode_volatility = _parameters(Volatility)


def _volatility(raw: bytes, _: Lookup, received: int) -> Sequence[Record]:
    event: Volatility = _decode_volatility(raw).params.data
    return [
        records.VolatilityIndex(
            **_index(event.index_name, event.timestamp * MS, received, "stream"),
            value=percent(plain(event.volatility)),
            resolution="tick",
        )
    ]


_VOLATILITY_RESOLUTIONS = {"1": "1s", "60": "1m", "3600": "1h", "43200": "12h", "1D": "1d"}


def _volatility_history(body: bytes, params: Mapping[str, str], _: Lookup, received: int) -> Sequence[Record]:
    """Read candles; one that no later one follows is still open, by the venue's own word, and is left out."""
    page: _VolatilityPage = _decode_volatility_page(body).result
    newest = max((row[0] for row in page.data), default=0)
    found = []
    for at, opened, high, low, close in page.data:
        if at == newest:
            continue
        found.append(
            records.VolatilityIndex(
                **_index(f"{params['currency'].lower()}_usd", at * MS, received, "poll"),
                value=percent(plain(close)),
                open=percent(plain(opened)),
                high=percent(plain(high)),
                low=percent(plain(low)),
                close=percent(plain(close)),
                resolution=_VOLATILITY_RESOLUTIONS[params["resolution"]],
            )
        )
    return found


def _funding_history(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read hourly rows: ``interest_1h`` is what the hour before cost."""
    instrument = lookup(params["instrument_name"])
    if instrument is None:
        return []
    return [
        records.FundingRate(
            **common(instrument, row.timestamp * MS, received, "poll"),
            funding_rate=figure(row.interest_1h),
            funding_time=row.timestamp * MS,
            funding_interval=3600,
            index_price=number(row.index_price),
        )
        for row in _decode_funding(body).result
    ]


def _summaries(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``get_book_summary_by_currency``."""
    return [
        _interest(
            common(instrument, row.creation_timestamp * MS, received, "poll"),
            instrument,
            row.open_interest,
            row.mark_price,
        )
        for row in _decode_summaries(body).result
        if row.open_interest is not None and (instrument := lookup(row.instrument_name)) is not None
    ]


def _volumes(body: bytes) -> dict[str, float]:
    return {row.instrument_name: float(row.volume_usd or 0) for row in _decode_summaries(body).result}


_SHOWN = (
    *("timestamp", "mark_price", "mark_iv", "bid_iv", "ask_iv", "open_interest", "underlying_price"),
    *("best_bid_price", "best_ask_price", "greeks"),
)


def _figures(raw: bytes) -> dict[str, Any]:
    """Give the venue's own figures of a ticker, their text as sent, for ``replay``."""
    data = json.loads(raw, parse_float=str, parse_int=str)["params"]["data"]
    return {name: data[name] for name in _SHOWN if name in data}


# --- transport -------------------------------------------------------------------------------------------------------

HEARTBEAT_S = 10
_TEST = '{"jsonrpc":"2.0","id":0,"method":"public/test","params":{}}'


route = Cut(len(b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"'), b'"').read
"""Reads the channel at the head of a push; anything else gives text that is no channel."""


def control(raw: bytes) -> Control:
    """Tell answers, heartbeats, errors and unusually written pushes apart."""
    try:
        frame = _decode_control(raw)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a frame of this venue: {error}") from error
    if frame.method == "subscription" and frame.params is not None and frame.params.channel is not None:
        return Data(frame.params.channel)
    if frame.method == "heartbeat" and frame.params is not None:
        return Reply(_TEST) if frame.params.type == "test_request" else Ignore()
    request_id = None if frame.id is None else str(frame.id)
    if frame.error is not None:
        if frame.error.message == "connection_too_slow":
            return ShutdownNotice(f"{frame.error.code} {frame.error.message}")
        return Rejected(str(frame.error.code), frame.error.message, None, request_id)
    if len(memoryview(frame.result)):
        if bytes(memoryview(frame.result)[:1]) != b"[":
            return Ignore()
        return Ack(tuple(_decode_channels(frame.result)), request_id, complete=True)
    raise FrameError(f"neither a push nor an answer: {shorten(raw)}")


def parse_key(key: str) -> tuple[str, str]:
    """Give channel, without its instrument, and instrument (or index)."""
    head, _, rest = key.partition(".")
    if head == "chart":
        words = rest.split(".")
        return f"chart.trades.{words[-1]}", ".".join(words[1:-1])
    symbol, _, interval = rest.partition(".")
    return (f"{head}.{interval}" if interval else head), symbol


def _call(method: str) -> Callable[[Sequence[str], int], str]:
    return lambda keys, request_id: json.dumps(
        {"jsonrpc": "2.0", "id": request_id, "method": f"public/{method}", "params": {"channels": list(keys)}}
    )


def _greeting(request_id: int) -> Sequence[str]:
    message = {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": "public/set_heartbeat",
        "params": {"interval": HEARTBEAT_S},
    }
    return (json.dumps(message),)


def check(status: int, body: bytes) -> None:
    """Raise what an answer means."""
    try:
        error = _decode_answer(body).error
    except msgspec.DecodeError as failure:
        raise TransportError(f"HTTP {status}, not JSON: {shorten(body)}") from failure
    if error is None and status == 200:
        return
    text = f"HTTP {status}" + (f", code {error.code}: {error.message}" if error else "")
    if error is not None and error.code == 10028:
        raise RateLimited(text, 2.0)
    if status >= 500 or error is None or error.code in (10040, 10041, 10047, 11051, 13888):
        raise TransportError(text)
    raise VenueError(text)


def _key(channel: str, interval: str = ".100ms") -> Callable[[Instrument], str]:
    return lambda instrument: f"{channel}.{instrument.venue_symbol}{interval}"


def _volatility_key(instrument: Instrument) -> str:
    return f"deribit_volatility_index.{instrument.base.lower()}_usd"


def _has_volatility(instrument: Instrument) -> bool:
    """Tell whether the options of the coin have an index: BTC and ETH do."""
    return instrument.base in ("BTC", "ETH") and instrument.quote == "USD"


def _is(*market_types: MarketType) -> Callable[[Instrument], bool]:
    return lambda instrument: instrument.market_type in market_types


def _market_type(item: _Instrument) -> MarketType | None:
    if item.kind == "future":
        return "perpetual" if item.settlement_period == "perpetual" else "futures"
    return "option" if item.kind == "option" else None


def _instruments(body: bytes) -> list[Instrument]:
    """Combos have no canonical name and are left out; inverse contracts are quoted in USD whatever their premium."""
    found = []
    for item in _decode_instruments(body).result:
        market_type = _market_type(item)
        if market_type is None:
            continue
        # Lists of 2021 do not say which contracts are inverse: those whose quote is USD are.
        kind = item.instrument_type or ("reversed" if item.quote_currency in ("USD", item.base_currency) else "linear")
        is_reversed = kind == "reversed"
        quote = "USD" if is_reversed else item.counter_currency or item.quote_currency
        in_usd = is_reversed and market_type != "option"
        expiry = None if market_type == "perpetual" else item.expiration_timestamp * MS
        strike = None if item.strike is None else format(item.strike.normalize(), "f")
        option_type: Any = {"call": "C", "put": "P"}.get(item.option_type or "")
        found.append(
            Instrument(
                exchange_name="deribit_derivatives",
                market_type=market_type,
                symbol_name=canonical_symbol(
                    item.base_currency, quote, market_type, expiry=expiry, strike=strike, option_type=option_type
                ),
                venue_symbol=item.instrument_name,
                base=item.base_currency,
                quote=quote,
                settle=item.settlement_currency or item.base_currency,
                quantity_unit="quote" if in_usd else "base",
                contract_unit="quote" if in_usd else "base",
                tick_size=plain(item.tick_size),
                lot_size=plain(item.min_trade_amount),
                expiry=expiry,
                strike=strike,
                option_type=option_type,
                status="live" if item.state in (None, "open") and item.is_active else item.state or "inactive",
            )
        )
    return found


_TRADE = TradeCodec(_trades, MS, _is_buyer_maker, trade_id=_trade_ids)
_BOOK = BookCodec(
    decode=_deltas,
    time_ns=MS,
    follows=follows,
    splices=follows,
    depth=1000,
    snapshot=None,
    decode_snapshot=_decode_snapshot,
    pushes_snapshot=True,
    bounded=True,
)
_TICKER = RecordCodec(_events(Ticker, _ticker), _figures)
_LIQUIDATION = RecordCodec(_liquidations)
_VOLATILITY = RecordCodec(_volatility)
_WINDOW = RecordCodec(_events(Window, _window))
_ALL_TRADES = RecordCodec(_all_trades)
_QUOTE_CODEC = RecordCodec(_events(Quote, _quote))
_PERPETUAL = RecordCodec(_events(Perpetual, _perpetual))


def _ticker_channels(name: str, interval: str) -> tuple[Channel, ...]:
    """Give the four data types that come with a ticker."""
    return (
        Channel("ticker", name, "public", _key("ticker", interval), _TICKER, None, content="both"),
        Channel("funding_rate", name, "public", _key("ticker", interval), _TICKER, None, _is("perpetual")),
        Channel("open_interest", name, "public", _key("ticker", interval), _TICKER, None),
        Channel("option_greeks", name, "public", _key("ticker", interval), _TICKER, None, _is("option")),
    )


def _recorded(interval: str) -> tuple[Channel, ...]:
    """Give channels at other intervals, which recordings have."""
    return (
        Channel("trade", f"trades.{interval}", "public", _key("trades", f".{interval}"), _TRADE, None),
        Channel("liquidation", f"trades.{interval}", "public", _key("trades", f".{interval}"), _LIQUIDATION, None),
        Channel("orderbook", f"book.{interval}", "public", _key("book", f".{interval}"), _BOOK, None),
        *_ticker_channels(f"ticker.{interval}", f".{interval}"),
    )


def _get(path: str, seconds: int, **params: Callable[[Instrument], str] | str) -> Callable[[Instrument, int], Request]:
    """Give the request of a poll about the last so many seconds."""

    def request(instrument: Instrument, now: int) -> Request:
        filled = {name: value if isinstance(value, str) else value(instrument) for name, value in params.items()}
        end = now // MS
        times = {"start_timestamp": str(end - seconds * 1000), "end_timestamp": str(end)}
        return Request(path, filled | times, (("requests", 1),), Priority.POLL)

    return request


def _past(
    answer: Answer, page: int, step_s: float, applies: Callable[[Instrument], bool], *, beyond_s: int = 0, **params: Any
) -> History:
    """Give the history of a method that takes times; ``resolution`` of candles is filled in.

    Parameters
    ----------
    beyond_s : asked for after the end, where a row is only known to be complete by the one that follows
    """
    get = _get(answer.path, 0, **params)

    def request(instrument: Instrument, first: int, last: int, interval: str) -> Request:
        asked = get(instrument, last + beyond_s * 1_000_000_000)
        more = {"start_timestamp": str(-(-first // MS))} | (
            {"resolution": _RESOLUTIONS[interval][0]} if interval else {}
        )
        return replace(asked, params={**asked.params, **more}, priority=Priority.BACKFILL)

    return History(answer, request, page, step_s, applies=applies)


def _venue_symbol(instrument: Instrument) -> str:
    return instrument.venue_symbol


def _coin(instrument: Instrument) -> str:
    return instrument.base


_CHARGED = Answer("funding_rate", "/api/v2/public/get_funding_rate_history", _funding_history)
_CHART = Answer("kline", "/api/v2/public/get_tradingview_chart_data", _rest_candles)
_VOLATILITY_HISTORY = Answer("volatility_index", "/api/v2/public/get_volatility_index_data", _volatility_history)

DERIVATIVES = Venue(
    name="deribit_derivatives",
    house="deribit",
    market_types=("perpetual", "futures", "option"),
    sockets={"public": "wss://www.deribit.com/ws/api/v2"},
    rest_url="https://www.deribit.com",
    rest=Rest(
        # Limits of unauthenticated addresses are not published; those of keys: 20 requests/s, get_instruments 1/s.
        budgets=(Budget("requests", 20, 1), Budget("instruments", 1, 1)),
        check=check,
    ),
    limits=SocketLimits(
        streams_per_socket=250,
        keys_per_message=250,  # published: 500
        message_bytes=32_000,
        messages_per_second=2.0,  # published: about 3 subscribe messages
        connects=16,  # published: 32 open at once an address
        connects_period_s=60,
        lifetime_s=None,
    ),
    # A heartbeat comes each 10 s once it is set; a test_request wants an answer.
    heartbeat=Heartbeat(silent_s=3 * HEARTBEAT_S),
    route=route,
    control=control,
    parse_key=parse_key,
    recording="deribit_v2",
    subscribe=_call("subscribe"),
    unsubscribe=_call("unsubscribe"),
    instrument_requests=tuple(
        Request(
            "/api/v2/public/get_instruments",
            {"currency": "any", "kind": kind, "expired": "false"},
            (("instruments", 1), ("requests", 1)),
        )
        for kind in ("future", "option")
    ),
    decode_instruments=_instruments,
    channels=(
        Channel("trade", "trades.100ms", "public", _key("trades"), _TRADE, None),
        Channel("orderbook", "book.100ms", "public", _key("book"), _BOOK, None),
        *_ticker_channels("ticker.100ms", ".100ms"),
        *(
            Channel(
                "kline",
                f"chart.trades.{resolution}",
                "public",
                _key("chart.trades", f".{resolution}"),
                RecordCodec(_candles(interval, seconds)),
                None,
                interval=interval,
                says_closed=False,
            )
            for interval, (resolution, seconds) in _RESOLUTIONS.items()
        ),
        Channel("liquidation", "trades.100ms", "public", _key("trades"), _LIQUIDATION, None),
        Channel(
            "volatility_index",
            "deribit_volatility_index",
            "public",
            _volatility_key,
            _VOLATILITY,
            None,
            _has_volatility,
        ),
    ),
    recorded_channels=(
        *_recorded("raw"),
        *_recorded("agg2"),
        *(
            Channel("orderbook", f"book.none.{n}.100ms", "public", _key("book", f".none.{n}.100ms"), _WINDOW, None)
            for n in (1, 10, 20)
        ),
        Channel("trade", "trades.any.raw", "public", lambda _: "trades.any.any.raw", _ALL_TRADES, None),
        Channel("ticker", "quote", "public", _key("quote", ""), _QUOTE_CODEC, None),
        Channel("funding_rate", "perpetual.100ms", "public", _key("perpetual"), _PERPETUAL, None, _is("perpetual")),
    ),
    trade_history=TradeHistory(
        _history_request, _decode_history, newest_first=False, keeps_s=24 * 3_600, also=_liquidations_later
    ),
    # Pages are not documented to the row: these are well below what others report.
    histories=(
        _past(_CHART, 1000, 0, everything, instrument_name=_venue_symbol),
        _past(_CHARGED, 500, 3600, _is("perpetual"), instrument_name=_venue_symbol),
        _past(_VOLATILITY_HISTORY, 500, 60, _has_volatility, beyond_s=60, currency=_coin, resolution="60"),
    ),
    polls=(
        Poll(
            "funding_rate",
            _CHARGED,
            _get(_CHARGED.path, 3 * 3600, instrument_name=_venue_symbol),
            _is("perpetual"),
            shows_past=True,
        ),
        Poll(
            "volatility_index",
            _VOLATILITY_HISTORY,
            _get(_VOLATILITY_HISTORY.path, 600, currency=_coin, resolution="60"),
            _has_volatility,
            shows_past=True,
        ),
    ),
    answers=(
        _CHART,
        Answer("open_interest", "/api/v2/public/get_book_summary_by_currency", _summaries),
        Answer("trade", "/api/v2/public/get_last_trades_by_instrument", _rest_trades),
    ),
    book_paths=("get_order_book",),
    volumes=Volumes(
        tuple(
            Request(
                "/api/v2/public/get_book_summary_by_currency",
                {"currency": currency, "kind": kind},
                (("requests", 1),),
            )
            for currency in ("BTC", "ETH", "USDC")
            for kind in ("future", "option")
        ),
        _volumes,
    ),
    names={"volatility_index": lambda instrument: ("option", f"{instrument.base}-USD")},
    greeting=_greeting,
    docs="https://docs.deribit.com",
)

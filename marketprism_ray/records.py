"""One struct per data type: the only place where the schema of a record is written down.

The Arrow schema, the ClickHouse table, the JSON on NATS, the API models and the table in the README are derived from
these classes (``schemas.py``, ``encoding.py``). A field has the same name in all of them.

Conventions
-----------
``Number`` is exact decimal text: at most 38 digits, 18 of them after the point; Arrow ``decimal128(38, 18)``,
ClickHouse ``Decimal(38, 18)``, a plain JSON number. ``Time`` is int64 ns since the epoch, UTC. ``None`` means that the
venue did not say; it is never 0. Ratios are fractions (0.01 is 1 %), quantities are in the base asset.

On the hot path no struct is made per record: decoders fill Arrow columns in bulk (``columns.py``). These classes are
what low-rate data types, readers and tests use.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

Number = Annotated[str, Meta(extra={"arrow": "decimal"})]
Time = Annotated[int, Meta(extra={"arrow": "time"})]
Source = Literal["stream", "poll", "backfill"]
Side = Literal["buy", "sell"]
Digest = Annotated[int, Meta(description="48 bits of a hash of the row's own fields: rows that differ are told apart")]
"""Filled in when rows become columns (``schemas.digests``): nobody else sets it."""
Revision = Annotated[int, Meta(description="which of the rows of one key counts: the one with the largest")]


class Level(msgspec.Struct, frozen=True):
    """One price level of a book."""

    price: Number
    quantity: Number


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that every record has."""

    exchange_name: Annotated[str, Meta(description="venue, for example `binance_spot`")]
    market_type: Annotated[str, Meta(description="`spot`, `perpetual`, `futures` or `option`")]
    symbol_name: Annotated[str, Meta(description="canonical symbol, for example `BTC-USDT-SWAP`")]
    timestamp: Annotated[Time, Meta(description="the venue's event time; our receive time where the venue gives none")]
    receive_timestamp: Annotated[Time, Meta(description="when we received it")]
    source: Annotated[Source, Meta(description="`stream`, `poll` or `backfill`")]

    table: ClassVar[str]
    """Name of the data type and of its ClickHouse table."""
    kind: ClassVar[str]
    """First token of the NATS subject in the default preset."""
    key: ClassVar[tuple[str, ...]] = ("timestamp",)
    """Identity of a row within venue and symbol, in sorting order: repeats of a key are one row.

    Two rows share a key only if they say the same (``receive_timestamp`` and ``source`` tell who saw it when), or if
    the row is updated by design: then ``version`` decides.
    """
    message_key: ClassVar[tuple[str, ...]] = ()
    """Identity of a message, where a row is updated in place; empty means the same as ``key``."""
    asked_is_updated: ClassVar[bool] = False
    """Rows that were asked for (polled, backfilled) are known by the key without ``digest``, and corrected in place;
    what is streamed is one observation a row."""
    partition: ClassVar[str] = "timestamp"
    """The time that decides on the daily partition; must not change between repeats of a key."""
    version: ClassVar[str] = ""
    """Where rows of one key differ, the one with the largest value of this column is what readers see. It is data of
    the venue or a count, never a clock of ours. Empty where rows of one key do not differ."""


class Trade(Record, frozen=True, kw_only=True):
    """One trade, or the fills of one taker order at one price where the venue merges them."""

    table: ClassVar[str] = "trade"
    kind: ClassVar[str] = "trades-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "trade_id")

    trade_id: Annotated[str, Meta(description="the venue's id")]
    sequence: Annotated[int | None, Meta(description="the venue's contiguous id; null if it has none")]
    price: Annotated[Number, Meta(description="quote per base")]
    quantity: Annotated[Number, Meta(description="in base")]
    quote_quantity: Annotated[Number | None, Meta(description="price x quantity, half-even at 18 digits")]
    side: Annotated[Side | None, Meta(description="the taker's side")]
    is_buyer_maker: Annotated[bool | None, Meta(description="true if the taker sold")]
    trade_count: Annotated[int | None, Meta(description="fills merged into this record")]
    raw_quantity: Annotated[Number | None, Meta(description="the venue's own figure, where it is not base")]
    quantity_unit: Annotated[str, Meta(description="unit of the venue's figure: `base`, `contract` or `quote`")]


class OrderBook(Record, frozen=True, kw_only=True):
    """The best levels of a live book, at an interval and only if they changed."""

    table: ClassVar[str] = "orderbook"
    kind: ClassVar[str] = "orderbook-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "last_update_id", "depth")

    last_update_id: Annotated[int, Meta(description="the venue's update id of this state")]
    bids: Annotated[list[Level], Meta(description="best first")]
    asks: Annotated[list[Level], Meta(description="best first")]
    depth: Annotated[int, Meta(description="levels a side that were asked for")]


class OrderBookDelta(Record, frozen=True, kw_only=True):
    """One change of a book. Replaying these rebuilds every book exactly.

    A row continues the book whose ``last_update_id`` is its ``previous_update_id``; a row with ``is_snapshot``
    replaces the book. Quantities are absolute, 0 deletes the level.
    """

    table: ClassVar[str] = "orderbook_delta"
    kind: ClassVar[str] = "orderbook-delta-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "last_update_id", "previous_update_id", "is_snapshot")

    first_update_id: Annotated[int, Meta(description="the venue's first update id in this change")]
    last_update_id: Annotated[int, Meta(description="the venue's last update id in this change")]
    previous_update_id: Annotated[int, Meta(description="update id of the book this continues; -1 for a snapshot")]
    is_snapshot: Annotated[bool, Meta(description="replaces the whole book")]
    bids: Annotated[list[Level], Meta(description="absolute quantities, 0 deletes; a snapshot's best first")]
    asks: Annotated[list[Level], Meta(description="absolute quantities, 0 deletes; a snapshot's best first")]


class Ticker(Record, frozen=True, kw_only=True):
    """Rolling 24-hour statistics, best bid and offer, or both: ``content`` says which.

    Many best prices fall in one millisecond: ``sequence`` orders them where the venue numbers them. Where it does not,
    rows of one millisecond are told apart by ``digest``, and their order is not known.
    """

    table: ClassVar[str] = "ticker"
    kind: ClassVar[str] = "ticker-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "content", "sequence", "digest")

    content: Annotated[
        Literal["statistics", "best_prices", "both"], Meta(description="`statistics` (24 h), `best_prices` or `both`")
    ]
    sequence: Annotated[
        int | None,
        Meta(description="the venue's update id, of statistics the id of the last trade; null if it has none"),
    ] = None
    last_price: Annotated[Number | None, Meta(description="price of the last trade")] = None
    last_quantity: Annotated[Number | None, Meta(description="base quantity of the last trade")] = None
    open_price: Annotated[Number | None, Meta(description="24 h ago")] = None
    high_price: Annotated[Number | None, Meta(description="24 h high")] = None
    low_price: Annotated[Number | None, Meta(description="24 h low")] = None
    volume: Annotated[Number | None, Meta(description="24 h volume in base")] = None
    quote_volume: Annotated[Number | None, Meta(description="24 h volume in quote")] = None
    price_change: Annotated[Number | None, Meta(description="last minus open")] = None
    price_change_percent: Annotated[Number | None, Meta(description="a fraction: 0.01 is 1 %")] = None
    weighted_average_price: Annotated[Number | None, Meta(description="24 h volume-weighted price")] = None
    best_bid_price: Annotated[Number | None, Meta(description="best bid")] = None
    best_bid_quantity: Annotated[Number | None, Meta(description="in base")] = None
    best_ask_price: Annotated[Number | None, Meta(description="best offer")] = None
    best_ask_quantity: Annotated[Number | None, Meta(description="in base")] = None
    trade_count: Annotated[int | None, Meta(description="trades in 24 h")] = None
    open_time: Annotated[Time | None, Meta(description="start of the window")] = None
    close_time: Annotated[Time | None, Meta(description="end of the window")] = None
    digest: Digest = 0


class Kline(Record, frozen=True, kw_only=True):
    """One candle. Updates of an open candle share its key: the largest revision stays, and a closed one is final."""

    table: ClassVar[str] = "kline"
    kind: ClassVar[str] = "kline-data"
    key: ClassVar[tuple[str, ...]] = ("interval", "open_time")
    message_key: ClassVar[tuple[str, ...]] = (*key, "digest")
    partition: ClassVar[str] = "open_time"
    version: ClassVar[str] = "revision"

    interval: Annotated[str, Meta(description="`1m`, `1h`, `1d`, ...")]
    open_time: Annotated[Time, Meta(description="start of the candle")]
    close_time: Annotated[Time, Meta(description="end of the candle")]
    open_price: Annotated[Number, Meta(description="first price")]
    high_price: Annotated[Number, Meta(description="highest price")]
    low_price: Annotated[Number, Meta(description="lowest price")]
    close_price: Annotated[Number, Meta(description="last price")]
    volume: Annotated[Number, Meta(description="in base")]
    quote_volume: Annotated[Number | None, Meta(description="in quote")] = None
    trade_count: Annotated[int | None, Meta(description="trades")] = None
    taker_buy_volume: Annotated[Number | None, Meta(description="in base")] = None
    taker_buy_quote_volume: Annotated[Number | None, Meta(description="in quote")] = None
    is_closed: Annotated[bool, Meta(description="the candle will not change any more")]
    revision: Annotated[
        int, Meta(description="the largest counts: it grows with the venue's time or volume, 2^62 and more is closed")
    ]
    digest: Digest = 0


class FundingRate(Record, frozen=True, kw_only=True):
    """The funding rate of a perpetual.

    Rows that were asked for are corrected in place, streamed ones are observations.
    """

    table: ClassVar[str] = "funding_rate"
    kind: ClassVar[str] = "funding-rate-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "digest")
    asked_is_updated: ClassVar[bool] = True
    version: ClassVar[str] = "revision"

    funding_rate: Annotated[Number | None, Meta(description="a fraction for the interval")] = None
    estimated_rate: Annotated[Number | None, Meta(description="expected next rate, a fraction")] = None
    funding_time: Annotated[Time | None, Meta(description="when funding_rate is or was charged")] = None
    next_funding_time: Annotated[Time | None, Meta(description="the following settlement")] = None
    funding_interval: Annotated[int | None, Meta(description="seconds between settlements")] = None
    mark_price: Annotated[Number | None, Meta(description="mark price")] = None
    index_price: Annotated[Number | None, Meta(description="index price")] = None
    premium_index: Annotated[Number | None, Meta(description="premium, a fraction")] = None
    revision: Revision = 0
    digest: Digest = 0


class OpenInterest(Record, frozen=True, kw_only=True):
    """Contracts outstanding.

    Rows that were asked for are corrected in place, streamed ones are observations.
    """

    table: ClassVar[str] = "open_interest"
    kind: ClassVar[str] = "open-interest-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "digest")
    asked_is_updated: ClassVar[bool] = True
    version: ClassVar[str] = "revision"

    open_interest: Annotated[Number | None, Meta(description="in base")] = None
    open_interest_value: Annotated[Number | None, Meta(description="in quote")] = None
    raw_quantity: Annotated[Number | None, Meta(description="the venue's own figure")] = None
    quantity_unit: Annotated[str | None, Meta(description="unit of raw_quantity")] = None
    change_24h: Annotated[Number | None, Meta(description="change over 24 h, in base")] = None
    change_24h_percent: Annotated[Number | None, Meta(description="a fraction")] = None
    revision: Revision = 0
    digest: Digest = 0


class Liquidation(Record, frozen=True, kw_only=True):
    """A forced order. Venues publish a sample, not all of them."""

    table: ClassVar[str] = "liquidation"
    kind: ClassVar[str] = "liquidation-orders"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "liquidation_id")

    liquidation_id: Annotated[str, Meta(description="the venue's id, or one made of all that the event says")]
    side: Annotated[Side, Meta(description="of the closing order: `sell` closes a long")]
    price: Annotated[Number | None, Meta(description="order price")] = None
    average_price: Annotated[Number | None, Meta(description="average fill price")] = None
    quantity: Annotated[Number | None, Meta(description="in base")] = None
    value: Annotated[Number | None, Meta(description="in quote")] = None
    order_status: Annotated[str | None, Meta(description="the venue's word")] = None


class _Ratio(Record, frozen=True, kw_only=True):
    """Long and short shares."""

    key: ClassVar[tuple[str, ...]] = ("timestamp", "period")
    message_key: ClassVar[tuple[str, ...]] = (*key, "digest")
    version: ClassVar[str] = "revision"

    long_ratio: Annotated[Number | None, Meta(description="share of longs, a fraction")] = None
    short_ratio: Annotated[Number | None, Meta(description="share of shorts, a fraction")] = None
    long_short_ratio: Annotated[Number | None, Meta(description="longs per short")] = None
    period: Annotated[str, Meta(description="`5m`, `1h`, ...")]
    revision: Revision = 0
    digest: Digest = 0


class LsrTopPosition(_Ratio, frozen=True, kw_only=True):
    """Long/short ratio of the top traders, by position."""

    table: ClassVar[str] = "lsr_top_position"
    kind: ClassVar[str] = "lsr-top-position-data"


class LsrAllAccount(_Ratio, frozen=True, kw_only=True):
    """Long/short ratio of all accounts."""

    table: ClassVar[str] = "lsr_all_account"
    kind: ClassVar[str] = "lsr-all-account-data"


class VolatilityIndex(Record, frozen=True, kw_only=True):
    """A volatility index, as a fraction (0.48 is 48 %). Candles are stored when they are complete."""

    table: ClassVar[str] = "volatility_index"
    kind: ClassVar[str] = "volatility-index-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "index_name", "resolution", "digest")
    asked_is_updated: ClassVar[bool] = True
    version: ClassVar[str] = "revision"

    index_name: Annotated[str, Meta(description="for example `btc_usd`")]
    value: Annotated[Number | None, Meta(description="a fraction")] = None
    open: Annotated[Number | None, Meta(description="of the resolution's candle, a fraction")] = None
    high: Annotated[Number | None, Meta(description="a fraction")] = None
    low: Annotated[Number | None, Meta(description="a fraction")] = None
    close: Annotated[Number | None, Meta(description="a fraction")] = None
    resolution: Annotated[str, Meta(description="candle length; `tick` for single values")]
    revision: Revision = 0
    digest: Digest = 0


class OptionGreeks(Record, frozen=True, kw_only=True):
    """Greeks and implied volatilities of an option."""

    table: ClassVar[str] = "option_greeks"
    kind: ClassVar[str] = "option-greeks-data"
    key: ClassVar[tuple[str, ...]] = ("timestamp", "digest")

    delta: Annotated[Number | None, Meta(description="per underlying, from Black-Scholes")] = None
    gamma: Annotated[Number | None, Meta(description="per quote unit")] = None
    vega: Annotated[Number | None, Meta(description="in quote, per volatility point")] = None
    theta: Annotated[Number | None, Meta(description="in quote, per day")] = None
    rho: Annotated[Number | None, Meta(description="in quote")] = None
    mark_iv: Annotated[Number | None, Meta(description="a fraction")] = None
    bid_iv: Annotated[Number | None, Meta(description="a fraction")] = None
    ask_iv: Annotated[Number | None, Meta(description="a fraction")] = None
    mark_price: Annotated[Number | None, Meta(description="the venue's fair price")] = None
    underlying_price: Annotated[Number | None, Meta(description="price of the underlying")] = None
    underlying_index: Annotated[str | None, Meta(description="name of the underlying")] = None
    open_interest: Annotated[Number | None, Meta(description="in base")] = None
    digest: Digest = 0


class Gap(Record, frozen=True, kw_only=True):
    """A known hole in a stream. Written when it opens and again when it changes: the largest revision counts.

    Where the type has sequences the hole is ``first_missing`` to ``last_missing``, else the time between
    ``opened_at`` and ``closed_at``. ``open`` may still be repaired; ``repaired`` is stored as a whole;
    ``unrepairable`` is what the venue does not give back.
    """

    table: ClassVar[str] = "gap"
    kind: ClassVar[str] = "gap-data"
    key: ClassVar[tuple[str, ...]] = ("data_type", "channel", "opened_at", "first_missing")
    message_key: ClassVar[tuple[str, ...]] = (*key, "revision")
    partition: ClassVar[str] = "opened_at"
    version: ClassVar[str] = "revision"

    data_type: Annotated[str, Meta(description="data type of the stream that has the hole")]
    channel: Annotated[
        str, Meta(description="which of several streams of the data type, for example a candle's interval; else empty")
    ] = ""
    reason: Annotated[
        str, Meta(description="`sequence`, `disconnected`, `collector_lost`, `malformed`, `checksum`, ...")
    ]
    opened_at: Annotated[Time, Meta(description="time of the last good record before the hole")]
    closed_at: Annotated[Time | None, Meta(description="time of the first good record after it")] = None
    first_missing: Annotated[int | None, Meta(description="first missing sequence")] = None
    last_missing: Annotated[int | None, Meta(description="last missing sequence; null while unknown")] = None
    missing_count: Annotated[int | None, Meta(description="records missing; null while unknown")] = None
    repaired_count: Annotated[int, Meta(description="records brought back")] = 0
    status: Annotated[Literal["open", "repaired", "unrepairable"], Meta(description="state of the hole")] = "open"
    collector: Annotated[str, Meta(description="who found it")] = ""
    epoch: Annotated[int, Meta(description="epoch of that collector")] = 0
    revision: Annotated[int, Meta(description="orders the rows of one hole: epoch x 2^32 + a count")] = 0


class InstrumentRecord(Record, frozen=True, kw_only=True):
    """An instrument as the venue described it."""

    table: ClassVar[str] = "instrument"
    kind: ClassVar[str] = "instrument-data"

    venue_symbol: Annotated[str, Meta(description="the venue's own name")]
    base: Annotated[str, Meta(description="base currency")]
    quote: Annotated[str, Meta(description="quote currency")]
    settle: Annotated[str, Meta(description="settlement currency")]
    quantity_unit: Annotated[str, Meta(description="what the venue counts: `base`, `contract` or `quote`")]
    contract_size: Annotated[Number, Meta(description="units of contract_unit per venue quantity")]
    contract_unit: Annotated[str, Meta(description="`base` (linear) or `quote` (inverse)")]
    tick_size: Annotated[Number | None, Meta(description="price step")] = None
    lot_size: Annotated[Number | None, Meta(description="quantity step")] = None
    expiry: Annotated[Time | None, Meta(description="null for spot and perpetuals")] = None
    strike: Annotated[Number | None, Meta(description="of an option")] = None
    option_type: Annotated[str | None, Meta(description="`C` or `P`")] = None
    status: Annotated[str, Meta(description="the venue's word")] = "live"


RECORDS: dict[str, type[Record]] = {
    cls.table: cls
    for cls in (
        Trade,
        OrderBook,
        OrderBookDelta,
        Ticker,
        Kline,
        FundingRate,
        OpenInterest,
        Liquidation,
        LsrTopPosition,
        LsrAllAccount,
        VolatilityIndex,
        OptionGreeks,
        Gap,
        InstrumentRecord,
    )
}

SEQUENCE_COLUMNS = {"trade": "sequence", "orderbook_delta": "last_update_id", "orderbook": "last_update_id"}
"""Data types whose rows say how far their stream came, and the column that does."""

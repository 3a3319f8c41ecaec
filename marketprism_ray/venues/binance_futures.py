"""Binance: USD-M and COIN-M futures.

The two markets differ in units, paths and a few names, which are arguments below. Since 2026-06-30 they share one
request-weight pool, and their all-market streams carry both.

References
----------
https://developers.binance.com/docs/derivatives/usds-margined-futures (read August 2026)
https://developers.binance.com/docs/derivatives/coin-margined-futures (read August 2026)
https://developers.binance.com/docs/derivatives/change-log (read August 2026)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec

from marketprism_ray import records
from marketprism_ray.amounts import base_and_quote, common, given, multiplied, window
from marketprism_ray.errors import FrameError
from marketprism_ray.instruments import Instrument, MarketType, canonical_symbol
from marketprism_ray.records import Record
from marketprism_ray.venue import (
    MS,
    Answer,
    BookCodec,
    Budget,
    Channel,
    Delta,
    Follows,
    Heartbeat,
    History,
    Lookup,
    Poll,
    Priority,
    RecordCodec,
    Request,
    Rest,
    Snapshot,
    SocketLimits,
    TradeCodec,
    TradeHistory,
    Venue,
    Volumes,
    WireLevel,
    everything,
)
from marketprism_ray.venues import binance
from marketprism_ray.venues.binance import BookTicker, Ticker24, events, figures, key

USD_M, COIN_M = 1, 2
"""Values of ``st``."""

# --- wire ------------------------------------------------------------------------------------------------------------


class DepthUpdate(msgspec.Struct, gc=False):
    """``<symbol>@depth``: absolute quantities. ``pu`` is the ``u`` of the update before."""

    is_snapshot: ClassVar[bool] = False
    checksum: ClassVar[int] = 0

    first: int = msgspec.field(name="U")
    last: int = msgspec.field(name="u")
    previous: int = msgspec.field(name="pu")
    time: int = msgspec.field(name="E")
    bids: list[WireLevel] = msgspec.field(name="b")
    asks: list[WireLevel] = msgspec.field(name="a")


class RestDepth(msgspec.Struct, gc=False):
    """The answer of ``depth``. Answers of 2021 have no time."""

    lastUpdateId: int
    bids: list[WireLevel]
    asks: list[WireLevel]
    E: int | None = None


class MarkPrice(msgspec.Struct, gc=False):
    """``markPriceUpdate``. ``r`` and ``T`` are empty or 0 for dated contracts; COIN-M sent no index before 2026."""

    s: str
    E: int
    p: str
    r: str = ""
    T: int = 0
    i: str | None = None
    P: str | None = None
    st: int | None = None


class _ForcedOrder(msgspec.Struct, gc=False):
    s: str
    S: str
    p: str
    ap: str
    X: str
    z: str
    T: int
    st: int | None = None


class ForceOrder(msgspec.Struct, gc=False):
    """``forceOrder``: at most one a symbol and second, a sample of the liquidations."""

    o: _ForcedOrder
    E: int

    @property
    def s(self) -> str:
        """Symbol."""
        return self.o.s

    @property
    def st(self) -> int | None:
        """Universe."""
        return self.o.st


class IndexPrice(msgspec.Struct, gc=False):
    """``indexPriceUpdate`` of COIN-M: the index of a pair."""

    E: int
    i: str
    p: str
    st: int | None = None

    @property
    def s(self) -> str:
        """Symbol of the pair's perpetual."""
        return f"{self.i}_PERP"


class Window(msgspec.Struct, gc=False):
    """``<symbol>@depth<levels>``: the best levels, whole each time."""

    s: str
    E: int
    u: int
    b: list[WireLevel]
    a: list[WireLevel]
    st: int | None = None


class _Funding(msgspec.Struct):
    symbol: str
    fundingRate: str
    fundingTime: int
    markPrice: str = ""


class _Premium(msgspec.Struct):
    symbol: str
    markPrice: str
    indexPrice: str
    lastFundingRate: str
    nextFundingTime: int
    time: int


class _OpenInterest(msgspec.Struct):
    symbol: str
    openInterest: str
    time: int


class _OpenInterestRow(msgspec.Struct):
    sumOpenInterest: str
    sumOpenInterestValue: str
    timestamp: int
    symbol: str = ""
    pair: str = ""
    contractType: str = ""


class _Ratio(msgspec.Struct):
    longShortRatio: str
    timestamp: int
    symbol: str = ""
    pair: str = ""
    longAccount: str = ""
    shortAccount: str = ""
    longPosition: str = ""
    shortPosition: str = ""


class _Contract(msgspec.Struct):
    symbol: str
    contractType: str
    deliveryDate: int
    baseAsset: str
    quoteAsset: str
    marginAsset: str = ""
    status: str = ""
    contractStatus: str = ""
    contractSize: int | None = None
    filters: list[dict[str, Any]] = []


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Contract]


_decode_depth = binance.combined(DepthUpdate)
_decode_rest_depth = msgspec.json.Decoder(RestDepth).decode
_decode_funding = msgspec.json.Decoder(list[_Funding]).decode
_decode_premium = msgspec.json.Decoder(_Premium).decode
_decode_premiums = msgspec.json.Decoder(list[_Premium]).decode
_decode_open_interest = msgspec.json.Decoder(_OpenInterest).decode
_decode_open_interests = msgspec.json.Decoder(list[_OpenInterestRow], strict=False).decode
_decode_ratios = msgspec.json.Decoder(list[_Ratio], strict=False).decode
_decode_exchange_info = msgspec.json.Decoder(_ExchangeInfo).decode

# --- order book: "How to manage a local order book correctly" of the futures -----------------------------------------


def follows(last: int, delta: Delta) -> Follows:
    """Judge a delta against the book.

    Step 5: every event's ``pu`` equals the ``u`` before. ``U`` need not be ``u + 1``: only ``pu`` proves continuity.
    """
    if delta.previous == last:
        return Follows.NEXT
    return Follows.STALE if delta.last <= last else Follows.GAP


def splices(snapshot: int, delta: Delta) -> Follows:
    """Judge a delta against a snapshot.

    Step 3: drop events with ``u < lastUpdateId``, strictly. Step 4: the first one applied has
    ``U <= lastUpdateId <= u``; one whose ``pu`` is the snapshot's id continues it as well.
    """
    if delta.last < snapshot:
        return Follows.STALE
    if delta.first <= snapshot or delta.previous == snapshot:
        return Follows.NEXT
    return Follows.GAP


def _decode_snapshot(body: bytes) -> Snapshot:
    depth = _decode_rest_depth(body)
    return Snapshot(depth.lastUpdateId, depth.E, depth.bids, depth.asks)


def _snapshot(prefix: str) -> Callable[[Instrument, int], Request]:
    def request(instrument: Instrument, depth: int) -> Request:
        # Only these limits; weight 2 up to 50, then 5, 10, 20.
        limit = next((size for size in (5, 10, 20, 50, 100, 500) if size >= depth), 1000)
        weight = 2 if limit <= 50 else 5 if limit == 100 else 10 if limit == 500 else 20
        return Request(
            f"{prefix}/depth",
            {"symbol": instrument.venue_symbol, "limit": str(limit)},
            (("weight", weight),),
            Priority.SNAPSHOT,
        )

    return request


# --- low-rate data ---------------------------------------------------------------------------------------------------


def mark_price(event: MarkPrice, instrument: Instrument, received: int) -> Record:
    """Read mark and index price; ``r`` is what will be charged at ``T``."""
    return records.FundingRate(
        **common(instrument, event.E * MS, received),
        funding_rate=given(event.r),
        funding_time=event.T * MS or None,
        mark_price=event.p,
        index_price=given(event.i),
    )


def index_price(event: IndexPrice, instrument: Instrument, received: int) -> Record:
    """Read the index price of a pair: it is filed under the pair's perpetual."""
    return records.FundingRate(**common(instrument, event.E * MS, received), index_price=event.p)


def _window(event: Window, instrument: Instrument, received: int) -> Record:
    return window(
        instrument,
        received,
        time=event.E * MS,
        last_update_id=event.u,
        bids=event.b,
        asks=event.a,
        depth=max(len(event.b), len(event.a)),
    )


def liquidation(event: ForceOrder, instrument: Instrument, received: int) -> Record:
    """Read a forced order: ``z`` is what was filled, at ``ap`` on average. There is no id: the content is one."""
    order = event.o
    quantity, value = base_and_quote(instrument, order.z, order.ap)
    if order.S not in ("BUY", "SELL"):
        raise FrameError(f"side {order.S!r} is neither BUY nor SELL")
    return records.Liquidation(
        **common(instrument, order.T * MS, received),
        liquidation_id=f"{order.T}-{order.S}-{order.z}-{order.ap}-{order.p}-{order.X}",
        side="sell" if order.S == "SELL" else "buy",
        price=order.p,
        average_price=order.ap,
        quantity=quantity,
        value=value,
        order_status=order.X,
    )


def funding_history(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``fundingRate``: what was charged."""
    return [
        records.FundingRate(
            **common(instrument, row.fundingTime * MS, received, "poll"),
            funding_rate=row.fundingRate,
            funding_time=row.fundingTime * MS,
            mark_price=given(row.markPrice),
        )
        for row in _decode_funding(body)
        if (instrument := lookup(row.symbol)) is not None
    ]


def premium_index(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``premiumIndex``: one object or a list."""
    rows = _decode_premiums(body) if body[:1] == b"[" else [_decode_premium(body)]
    return [
        records.FundingRate(
            **common(instrument, row.time * MS, received, "poll"),
            funding_rate=given(row.lastFundingRate),
            funding_time=row.nextFundingTime * MS or None,
            mark_price=row.markPrice,
            index_price=given(row.indexPrice),
        )
        for row in rows
        if (instrument := lookup(row.symbol)) is not None
    ]


def open_interest(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``openInterest``: base on USD-M; contracts on COIN-M, which give the value but no base."""
    row = _decode_open_interest(body)
    instrument = lookup(row.symbol)
    if instrument is None:
        return []
    return [
        records.OpenInterest(
            **common(instrument, row.time * MS, received, "poll"),
            open_interest=row.openInterest if instrument.is_base else None,
            open_interest_value=multiplied(row.openInterest, instrument.contract_size)
            if instrument.is_inverse
            else None,
            raw_quantity=None if instrument.is_base else row.openInterest,
            quantity_unit=instrument.quantity_unit,
        )
    ]


def open_interest_history(body: bytes, _: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
    """Read ``openInterestHist``: base and USD on USD-M; contracts and base on COIN-M, of the perpetual of the pair."""
    found = []
    for row in _decode_open_interests(body):
        instrument = lookup(row.symbol or f"{row.pair}_PERP")
        if instrument is None:
            continue
        amount, value = row.sumOpenInterest, row.sumOpenInterestValue
        found.append(
            records.OpenInterest(
                **common(instrument, row.timestamp * MS, received, "poll"),
                open_interest=value if instrument.is_inverse else amount,
                open_interest_value=multiplied(amount, instrument.contract_size) if instrument.is_inverse else value,
                raw_quantity=None if instrument.is_base else amount,
                quantity_unit=instrument.quantity_unit,
            )
        )
    return found


def ratios(kind: type[Any]) -> Callable[[bytes, Mapping[str, str], Lookup, int], Sequence[Record]]:
    """Give the reader of a long/short ratio. COIN-M ratios are of a pair: they are filed under its perpetual."""

    def decode(body: bytes, params: Mapping[str, str], lookup: Lookup, received: int) -> Sequence[Record]:
        return [
            kind(
                **common(instrument, row.timestamp * MS, received, "poll"),
                long_ratio=given(row.longAccount or row.longPosition),
                short_ratio=given(row.shortAccount or row.shortPosition),
                long_short_ratio=row.longShortRatio,
                period=params["period"],
            )
            for row in _decode_ratios(body)
            if (instrument := lookup(row.symbol or f"{row.pair}_PERP")) is not None
        ]

    return decode


def _contracts(exchange_name: str) -> Callable[[bytes], list[Instrument]]:
    def decode(body: bytes) -> list[Instrument]:
        found = []
        for item in _decode_exchange_info(body).symbols:
            if not item.contractType:
                continue  # announced, not listed yet: neither perpetual nor dated
            is_perpetual = item.contractType.endswith("PERPETUAL")
            market_type: MarketType = "perpetual" if is_perpetual else "futures"
            expiry = None if is_perpetual else item.deliveryDate * MS
            steps = {f.get("filterType"): f for f in item.filters}
            status = item.status or item.contractStatus
            found.append(
                Instrument(
                    exchange_name=exchange_name,
                    market_type=market_type,
                    symbol_name=canonical_symbol(item.baseAsset, item.quoteAsset, market_type, expiry=expiry),
                    venue_symbol=item.symbol,
                    base=item.baseAsset,
                    quote=item.quoteAsset,
                    settle=item.marginAsset or item.quoteAsset,
                    quantity_unit="base" if item.contractSize is None else "contract",
                    contract_size="1" if item.contractSize is None else str(item.contractSize),
                    contract_unit="base" if item.contractSize is None else "quote",
                    tick_size=steps.get("PRICE_FILTER", {}).get("tickSize"),
                    lot_size=steps.get("LOT_SIZE", {}).get("stepSize"),
                    expiry=expiry,
                    status="live" if status == "TRADING" else status,
                )
            )
        return found

    return decode


def _perpetual(instrument: Instrument) -> bool:
    return instrument.market_type == "perpetual"


def _dated(instrument: Instrument) -> bool:
    return instrument.market_type == "futures"


def _history(prefix: str) -> TradeHistory:
    def request(instrument: Instrument, first: int, last: int) -> Request:
        # fromId is inclusive and ascending; the last 48 hours only.
        return Request(
            f"{prefix}/aggTrades",
            {"symbol": instrument.venue_symbol, "fromId": str(first), "limit": str(min(1000, last - first + 1))},
            (("weight", 20),),
            Priority.BACKFILL,
        )

    return TradeHistory(request, binance.decode_rest_aggregates, newest_first=False, keeps_s=48 * 3_600)


def _get(path: str, costs: tuple[tuple[str, int], ...], **params: str) -> Callable[[Instrument, int], Request]:
    """Give the request of a poll; ``symbol`` and ``pair`` are filled in where they are empty."""

    def request(instrument: Instrument, _: int) -> Request:
        own = {"symbol": instrument.venue_symbol, "pair": f"{instrument.base}{instrument.quote}"}
        return Request(path, {name: value or own[name] for name, value in params.items()}, costs, Priority.POLL)

    return request


def _past(
    answer: Answer,
    costs: tuple[tuple[str, int], ...],
    page: int,
    step_s: float,
    applies: Callable[[Instrument], bool],
    *,
    keeps_s: float | None = None,
    **params: str,
) -> History:
    """Give the history of what is polled: the same endpoint with times."""
    get = _get(answer.path, costs, **params, limit=str(page))

    def request(instrument: Instrument, first: int, last: int, _: str) -> Request:
        asked = get(instrument, last)
        return replace(asked, params={**asked.params, **binance.between(first, last)}, priority=Priority.BACKFILL)

    return History(answer, request, page, step_s, keeps_s, applies=applies)


def _kline_weight(limit: int) -> tuple[tuple[str, int], ...]:
    return (("weight", 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10),)


_DAY_S = 86_400.0
_KEPT_S = 29.5 * _DAY_S
"""The statistics reach 30 days back; the oldest half day may go while we ask."""
_INTERVALS = binance.INTERVALS[1:]
_AGGREGATE = TradeCodec(binance.decode_aggregate, MS, binance.is_buyer_maker, binance.fills)
_EVERY_TRADE = TradeCodec(binance.decode_trade, MS, binance.is_buyer_maker)
_STATS_FIGURES = figures("u", "b", "B", "a", "A")
_MARK_FIGURES = figures("E", "p", "P", "i", "r", "T")


def _venue(
    name: str,
    universe: int,
    prefix: str,
    sockets: Mapping[str, str],
    rest_url: str,
    recording: str,
    instrument_weight: int,
) -> Venue:
    """Describe one market; ``sockets`` names ``public`` and, where paths are routed, ``market``."""
    market = "market" if "market" in sockets else "public"
    book = BookCodec(
        decode=_decode_depth,
        time_ns=MS,
        follows=follows,
        splices=splices,
        depth=1000,
        snapshot=_snapshot(prefix),
        decode_snapshot=_decode_snapshot,
        pushes_snapshot=False,
    )
    tickers = RecordCodec(events(Ticker24, binance.ticker, universe))
    book_tickers = RecordCodec(events(BookTicker, binance.book_ticker, universe), _STATS_FIGURES)
    marks = RecordCodec(events(MarkPrice, mark_price, universe), _MARK_FIGURES)
    forced = RecordCodec(events(ForceOrder, liquidation, universe))
    indexes = RecordCodec(events(IndexPrice, index_price, universe))
    windows = RecordCodec(events(Window, _window, universe))
    by_pair = universe == COIN_M
    # "ticker/miniTicker every 500 ms" on COIN-M, every 2 s on USD-M.
    every = 0.5 if by_pair else 2.0
    asked = {"pair": ""} if by_pair else {"symbol": ""}
    statistics = (("statistics", 1), *((("weight", 1),) if by_pair else ()))
    interest = Answer("open_interest", f"{prefix}/openInterest", open_interest)
    interest_history = Answer("open_interest", "/futures/data/openInterestHist", open_interest_history)
    top_position = Answer("lsr_top_position", "/futures/data/topLongShortPositionRatio", ratios(records.LsrTopPosition))
    all_account = Answer("lsr_all_account", "/futures/data/globalLongShortAccountRatio", ratios(records.LsrAllAccount))
    charged = Answer("funding_rate", f"{prefix}/fundingRate", funding_history)
    # The base of COIN-M interest is only in the history of the pair's perpetual; elsewhere the present figure is asked.
    interest_polls = [
        Poll(
            "open_interest",
            interest,
            _get(f"{prefix}/openInterest", (("weight", 1),), symbol=""),
            _dated if by_pair else everything,
        )
    ]
    if by_pair:
        interest_polls.append(
            Poll(
                "open_interest",
                interest_history,
                _get(
                    interest_history.path,
                    statistics,
                    pair="",
                    contractType="PERPETUAL",
                    period="5m",
                    limit="12",
                ),
                _perpetual,
                shows_past=True,
            )
        )
    return Venue(
        name=name,
        house="binance",
        market_types=("perpetual", "futures"),
        sockets=sockets,
        rest_url=rest_url,
        rest=Rest(
            # 2400 weight a minute and address for both futures markets together since 2026-06-30.
            budgets=(
                Budget("weight", 2400, 60, "X-MBX-USED-WEIGHT-1M", pool="binance_futures"),
                # /futures/data/*: 1000 requests in 5 minutes and address.
                Budget("statistics", 1000, 300, pool="binance_futures"),
                # fundingRate and fundingInfo: 500 requests in 5 minutes and address.
                Budget("funding", 500, 300, pool="binance_futures"),
            ),
            check=binance.check,
        ),
        limits=SocketLimits(
            streams_per_socket=180,  # published: 1024; 200 in older text
            keys_per_message=100,
            message_bytes=4000,
            messages_per_second=5.0,  # published: 10, and PONGs count
            connects=60,  # not published; a fifth of what spot allows
            connects_period_s=300,
            lifetime_s=24 * 3600,
        ),
        # The server pings every 3 minutes and cuts after 10 minutes without a pong.
        heartbeat=Heartbeat(silent_s=900),
        route=binance.route,
        control=binance.control,
        parse_key=binance.parse_key,
        recording=recording,
        subscribe=binance.subscribe,
        unsubscribe=binance.unsubscribe,
        instrument_requests=(Request(f"{prefix}/exchangeInfo", {}, (("weight", instrument_weight),)),),
        decode_instruments=_contracts(name),
        channels=(
            Channel("trade", "aggTrade", market, key("aggTrade"), _AGGREGATE, None),
            Channel("orderbook", "depth@100ms", "public", key("depth@100ms"), book, 0.1),
            Channel("ticker", "ticker", market, key("ticker"), tickers, every, spacing_s=every, content="statistics"),
            Channel("ticker", "bookTicker", "public", key("bookTicker"), book_tickers, None, content="best_prices"),
            *binance.kline_channels(market, universe, _INTERVALS),
            Channel("funding_rate", "markPrice", market, key("markPrice"), marks, 3.0, _perpetual, spacing_s=3.0),
            Channel("liquidation", "forceOrder", market, key("forceOrder"), forced, None),
        ),
        recorded_channels=(
            Channel("orderbook", "depth@0ms", "public", key("depth@0ms"), book, 0.1),
            Channel("trade", "trade", "public", key("trade"), _EVERY_TRADE, None),
            Channel("funding_rate", "markPrice@1s", market, key("markPrice@1s"), marks, 1.0),
            Channel("funding_rate", "indexPrice@1s", market, key("indexPrice@1s"), indexes, 1.0),
            *(Channel("orderbook", f"depth{n}", "public", key(f"depth{n}"), windows, None) for n in (5, 10, 20)),
            *(
                Channel(data_type, f"!{stream}", market, lambda _, stream=stream: f"!{stream}", codec, None)  # type: ignore[misc]
                for data_type, stream, codec in (
                    ("ticker", "bookTicker", book_tickers),
                    ("ticker", "ticker@arr", tickers),
                    ("funding_rate", "markPrice@arr", marks),
                    ("liquidation", "forceOrder@arr", forced),
                )
            ),
        ),
        trade_history=_history(prefix),
        histories=(
            # COIN-M: at most 200 days a request.
            binance.kline_history(
                f"{prefix}/klines", _kline_weight, **({"longest_s": 199 * _DAY_S} if by_pair else {})
            ),
            # Settlements are an hour apart at least.
            _past(charged, (("funding", 1), ("weight", 1)), 1000, 3600, _perpetual, symbol=""),
            _past(
                interest_history,
                statistics,
                500,
                300,
                _perpetual if by_pair else everything,
                keeps_s=_KEPT_S,
                period="5m",
                **({"pair": "", "contractType": "PERPETUAL"} if by_pair else {"symbol": ""}),
            ),
            *(
                _past(ratio, statistics, 500, 300, _perpetual, keeps_s=_KEPT_S, **asked, period="5m")
                for ratio in (top_position, all_account)
            ),
        ),
        polls=(
            Poll(
                "funding_rate",
                charged,
                _get(charged.path, (("funding", 1), ("weight", 1)), symbol="", limit="3"),
                _perpetual,
                shows_past=True,
            ),
            *interest_polls,
            Poll(
                "long_short_ratio",
                top_position,
                _get(top_position.path, statistics, **asked, period="5m", limit="12"),
                _perpetual,
                shows_past=True,
            ),
            Poll(
                "long_short_ratio",
                all_account,
                _get(all_account.path, statistics, **asked, period="5m", limit="12"),
                _perpetual,
                shows_past=True,
            ),
        ),
        answers=(
            Answer("kline", f"{prefix}/klines", binance.rest_klines),
            Answer("trade", f"{prefix}/aggTrades", binance.rest_aggregates),
            Answer("trade", f"{prefix}/trades", binance.rest_trades),
            Answer("trade", f"{prefix}/historicalTrades", binance.rest_trades),
            Answer("ticker", f"{prefix}/ticker/24hr", binance.rest_tickers),
            Answer("funding_rate", f"{prefix}/premiumIndex", premium_index),
            interest,
            interest_history,
        ),
        book_paths=("depth",),
        enveloped=binance.enveloped,
        volumes=Volumes((Request(f"{prefix}/ticker/24hr", {}, (("weight", 40),)),), binance.volumes),
        docs="https://developers.binance.com/docs/derivatives",
    )


DERIVATIVES = _venue(
    "binance_derivatives",
    USD_M,
    "/fapi/v1",
    # Since 2026-04-23 a stream flows only on the path of its class.
    {"public": "wss://fstream.binance.com/public/stream", "market": "wss://fstream.binance.com/market/stream"},
    "https://fapi.binance.com",
    "binance_usdm",
    1,
)
COINM = _venue(
    "binance_coinm",
    COIN_M,
    "/dapi/v1",
    {"public": "wss://dstream.binance.com/stream"},
    "https://dapi.binance.com",
    "binance_coinm",
    1,
)

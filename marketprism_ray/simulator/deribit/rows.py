"""Rows and frames of Deribit."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from zlib import crc32

from marketprism_ray.simulator.deribit.books import Levels
from marketprism_ray.simulator.deribit.listed import (
    Listed,
    contract_size,
    current_funding,
    index_name_of,
    settlement,
    trade_id,
)
from marketprism_ray.simulator.deribit.text import Raw, exponent, json_text, number, raw_or_null
from marketprism_ray.simulator.market import Symbol, TradeEvent, plain
from marketprism_ray.simulator.summaries import (
    RunningCandle,
    funding_rate,
    greeks,
    index_price,
    mark_price,
    open_interest,
)

STATES = {"open": "open", "halted": "halted", "auction": "locked"}
NEVER_MS = 32_503_708_800_000
"""How a perpetual's expiry is written."""


def trade(one: Listed, event: TradeEvent) -> str:
    """Write a trade; what it says of marks follows from the event alone, so that history repeats the stream."""
    listing = event.listing
    index, more = event.price, ""
    if listing.market_type == "option":
        known = greeks(listing, event.time_ms)
        index = plain(index_price(one.symbol))
        more += f',"iv":{plain(known.mark_iv * 100)}'
    if event.combo is not None:
        combo, combo_trade = one.combos[event.combo]
        more += f',"combo_id":"{combo}","combo_trade_id":"{combo_trade}"'
    if event.is_liquidation:
        more += ',"liquidation":"T"'
    return (
        f'{{"trade_seq":{event.id},"trade_id":"{trade_id(event.id, one.number)}","timestamp":{event.time_ms},'
        f'"tick_direction":0,"price":{event.price},"mark_price":{event.price},'
        f'"instrument_name":"{listing.venue_symbol}","index_price":{index},'
        f'"direction":"{"sell" if event.taker_sold else "buy"}",'
        f'"contracts":{plain(Decimal(event.quantity) / Decimal(contract_size(listing)))},'
        f'"amount":{number(event.quantity)}{more}}}'
    )


def quote(symbol: Symbol, now_ms: int) -> dict[str, Any]:
    """Give a row of ``quote``."""
    (bid, bid_size), (ask, ask_size) = symbol.best()
    return {
        "timestamp": now_ms,
        "instrument_name": symbol.listing.venue_symbol,
        "best_bid_price": Raw(bid),
        "best_bid_amount": Raw(bid_size),
        "best_ask_price": Raw(ask),
        "best_ask_amount": Raw(ask_size),
    }


def window(symbol: Symbol, levels: tuple[Levels, Levels], change_id: int, now_ms: int) -> dict[str, Any]:
    """Give a row of a book's best levels."""
    return {
        "timestamp": now_ms,
        "instrument_name": symbol.listing.venue_symbol,
        "change_id": change_id,
        "bids": Raw(pairs(levels[0])),
        "asks": Raw(pairs(levels[1])),
    }


def pairs(levels: Sequence[tuple[str, str]]) -> str:
    """Write levels as ``[price, amount]``."""
    return "[" + ",".join(f"[{price},{number(amount)}]" for price, amount in levels) + "]"


def bar(candle: RunningCandle) -> dict[str, Any]:
    """Give a candle: ``volume`` in base, ``cost`` in USD or quote."""
    is_usd = candle.listing is not None and candle.listing.contract is not None
    return {
        "tick": candle.open_ms,
        "open": Raw(candle.open),
        "high": Raw(candle.high),
        "low": Raw(candle.low),
        "close": Raw(candle.close),
        "volume": Raw(plain(candle.base_of_usd if is_usd else candle.volume)),
        "cost": Raw(plain(candle.volume if is_usd else candle.turnover)),
    }


def candle_text(candle: RunningCandle) -> str:
    """Write a candle."""
    return json_text(bar(candle))


def instrument(one: Listed, state: str | None = None) -> dict[str, Any]:
    """Give a row of ``get_instruments``; ``state`` is that of one that is not listed any more."""
    listing = one.symbol.listing
    is_option = listing.market_type == "option"
    found: dict[str, Any] = {
        "instrument_name": listing.venue_symbol,
        "instrument_id": crc32(listing.venue_symbol.encode()) % 10**6,
        "kind": "option" if is_option else "future",
        "base_currency": listing.base,
        "quote_currency": listing.quote if not is_option else listing.base,
        "counter_currency": listing.quote,
        "settlement_currency": settlement(listing),
        "instrument_type": "linear" if listing.quote == "USDC" else "reversed",
        "contract_size": Raw(contract_size(listing)),
        "tick_size": Raw(plain(listing.tick)),
        "tick_size_steps": [],
        "min_trade_amount": Raw(plain(listing.lot)),
        "maker_commission": 0.0,
        "taker_commission": 0.0005,
        "settlement_period": "perpetual" if listing.market_type == "perpetual" else "month",
        "expiration_timestamp": listing.expiry_ms or NEVER_MS,
        "creation_timestamp": 1_534_167_754_000,
        "price_index": index_name_of(listing),
        "is_active": state is None,
        "state": state or STATES[one.symbol.state],
        "rfq": False,
        "block_trade_commission": 0.0,
        "block_trade_min_trade_amount": 1,
        "block_trade_tick_size": 0.01,
    }
    if is_option:
        found["option_type"] = "call" if listing.option_type == "C" else "put"
        found["strike"] = Raw(f"{listing.strike}.0")
    return found


def usd_volume(one: Listed) -> Decimal:
    """Give the volume of the day in USD."""
    if one.symbol.listing.contract is not None:
        return one.day.volume
    return one.day.turnover * (index_price(one.symbol) if one.kind == "option" else 1)


def figures_of(one: Listed, now_ms: int) -> dict[str, Any]:
    """Give what tickers and summaries have in common: marks, funding, what options have."""
    symbol, listing = one.symbol, one.symbol.listing
    figures: dict[str, Any] = {
        "open_interest": Raw(plain(open_interest(listing, now_ms))),
        "mark_price": Raw(plain(mark_price(symbol))),
        "estimated_delivery_price": Raw(plain(index_price(symbol))),
    }
    if listing.market_type == "perpetual":
        figures["funding_8h"] = Raw(plain(funding_rate(listing, now_ms)))
        figures["current_funding"] = exponent(current_funding(listing, now_ms))
    if one.kind == "option":
        known = greeks(listing, now_ms)
        figures["underlying_price"] = Raw(plain(known.underlying))
        figures["underlying_index"] = one.name.rsplit("-", 2)[0]
        figures["mark_iv"] = Raw(plain(known.mark_iv * 100))
        figures["interest_rate"] = 0.0
    return figures


def ticker(one: Listed, now_ms: int) -> dict[str, Any]:
    """Give a row of ``ticker``."""
    symbol, day = one.symbol, one.day
    figures = figures_of(one, now_ms)
    mark, usd = mark_price(symbol), Raw(plain(usd_volume(one)))
    row = {
        **quote(symbol, now_ms),
        "state": STATES[symbol.state],
        "stats": {
            "high": raw_or_null(day.high if day.trades else None),
            "low": raw_or_null(day.low if day.trades else None),
            "price_change": raw_or_null(day.change_percent),
            "volume": Raw(plain(day.in_base(symbol.listing))),
            "volume_usd": usd,
            "volume_notional": usd,
        },
        "last_price": raw_or_null(day.last),
        "index_price": figures["estimated_delivery_price"],
        "min_price": Raw(plain(mark * Decimal("0.985"))),
        "max_price": Raw(plain(mark * Decimal("1.015"))),
        "settlement_price": Raw(plain(symbol.listing.price)),
        **figures,
    }
    if symbol.listing.market_type == "perpetual":
        row["interest_value"] = 0.1
    if one.kind == "option":
        known = greeks(symbol.listing, now_ms)
        row["bid_iv"], row["ask_iv"] = (Raw(plain(iv * 100)) for iv in (known.bid_iv, known.ask_iv))
        row["greeks"] = {name: Raw(plain(getattr(known, name))) for name in ("delta", "gamma", "vega", "theta", "rho")}
    return row

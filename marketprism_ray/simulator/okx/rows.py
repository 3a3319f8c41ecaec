"""Rows that OKX's sockets and REST share, and what both call an instrument."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.market import Listing, Symbol, TradeEvent, plain
from marketprism_ray.simulator.okx.figures import Bar, Figures
from marketprism_ray.simulator.summaries import (
    FUNDING_MS,
    funding_rate,
    greeks,
    index_price,
    mark_price,
    next_funding_ms,
    open_interest,
)

TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS")
DERIVATIVES = ("SWAP", "FUTURES", "OPTION")
_TYPE_OF = {"spot": "SPOT", "perpetual": "SWAP", "futures": "FUTURES", "option": "OPTION"}


def text(value: Any) -> str:
    """Write JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def type_of(listing: Listing) -> str:
    """Give the venue's word for a market type."""
    return _TYPE_OF[listing.market_type]


def family_of(listing: Listing) -> str:
    """Give the family of a derivative, which is its index as well; spot has none."""
    return "" if listing.market_type == "spot" else f"{listing.base}-{listing.quote}"


def _rounded(value: Decimal, digits: int) -> str:
    return plain(value.quantize(Decimal(1).scaleb(-digits)))


def named(listing: Listing) -> dict[str, str]:
    """Give the beginning of most rows: type and name."""
    return {"instType": type_of(listing), "instId": listing.venue_symbol}


def ticker_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``tickers``; what has not happened yet is empty text."""
    figures.roll(now_ms)
    symbol, last, day = figures.symbol, figures.last, figures.last_day(now_ms)
    (bid, bid_size), (ask, ask_size) = symbol.best()
    is_spot = symbol.listing.market_type == "spot"
    return {
        **named(symbol.listing),
        "last": last.price if last else "",
        "lastSz": last.quantity if last else "",
        "askPx": ask,
        "askSz": ask_size,
        "bidPx": bid,
        "bidSz": bid_size,
        "open24h": plain(day.open) if day else "",
        "high24h": plain(day.high) if day else "",
        "low24h": plain(day.low) if day else "",
        "volCcy24h": plain(day.money if is_spot else day.coin) if day else "0",
        "vol24h": plain(day.volume) if day else "0",
        "sodUtc0": figures.start_of_day("1Dutc"),
        "sodUtc8": figures.start_of_day("1D"),
        "ts": str(now_ms),
    }


def index_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``index-tickers``; the trades of one symbol stand in for an index."""
    figures.roll(now_ms)
    listing, day = figures.symbol.listing, figures.last_day(now_ms)
    price = plain(index_price(figures.symbol))
    return {
        "instId": f"{listing.base}-{listing.quote}",
        "idxPx": price,
        "open24h": plain(day.open) if day else price,
        "high24h": plain(day.high) if day else price,
        "low24h": plain(day.low) if day else price,
        "sodUtc0": figures.start_of_day("1Dutc") or price,
        "sodUtc8": figures.start_of_day("1D") or price,
        "ts": str(now_ms),
    }


def candle_row(figures: Figures, bar: Bar, *, is_closed: bool) -> list[str]:
    """Give ``[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]``; ``volCcy`` is base coin, on spot quote."""
    is_spot = figures.symbol.listing.market_type == "spot"
    prices = [plain(price) for price in (bar.open, bar.high, bar.low, bar.close)]
    amounts = [plain(amount) for amount in (bar.volume, bar.money if is_spot else bar.coin, bar.money)]
    return [str(bar.open_ms), *prices, *amounts, "1" if is_closed else "0"]


def funding_row(listing: Listing, now_ms: int) -> dict[str, str]:
    """Give a row of ``funding-rate``: the rate that will be charged at ``fundingTime``."""
    rate, charged_ms = funding_rate(listing, now_ms), next_funding_ms(now_ms)
    return {
        **named(listing),
        "method": "current_period",
        "formulaType": "withRate",
        "fundingRate": plain(rate),
        "fundingTime": str(charged_ms),
        "nextFundingRate": "",
        "nextFundingTime": str(charged_ms + FUNDING_MS),
        "minFundingRate": "-0.015",
        "maxFundingRate": "0.015",
        "interestRate": "0.0001",
        "impactValue": "20000",
        "premium": plain(rate - Decimal("0.00005")),
        "settState": "settled",
        "settFundingRate": plain(funding_rate(listing, now_ms - FUNDING_MS)),
        "ts": str(now_ms),
    }


def interest(figures: Figures, at_ms: int) -> list[str]:
    """Give contracts, coins and USD; valued at the listing's price, so that past and present agree."""
    listing = figures.symbol.listing
    contracts = open_interest(listing, at_ms)
    coin, money = figures.amounts(contracts, listing.price)
    if listing.market_type == "option":
        money = coin * index_price(figures.symbol)
    return [plain(contracts), _rounded(coin, 8), _rounded(money, 8)]


def interest_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``open-interest``."""
    contracts, coin, money = interest(figures, now_ms)
    return {
        **named(figures.symbol.listing),
        "oi": contracts,
        "oiCcy": coin,
        "oiUsd": money,
        "ts": str(now_ms),
    }


def liquidation_row(event: TradeEvent) -> dict[str, Any]:
    """Give a row of ``liquidation-orders``: a forced sale closes a long."""
    family = family_of(event.listing)
    side, closed = ("sell", "long") if event.taker_sold else ("buy", "short")
    order = {"side": side, "posSide": closed, "bkPx": event.price, "sz": event.quantity, "bkLoss": "0", "ccy": ""}
    return {
        **named(event.listing),
        "instFamily": family,
        "uly": family,
        "details": [{**order, "ts": str(event.time_ms)}],
    }


def mark_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``mark-price``."""
    return {**named(figures.symbol.listing), "markPx": plain(mark_price(figures.symbol)), "ts": str(now_ms)}


def option_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``opt-summary``: greeks in coin, those of Black-Scholes in USD."""
    listing, mark = figures.symbol.listing, mark_price(figures.symbol)
    found = greeks(listing, now_ms)
    return {
        **named(listing),
        "uly": family_of(listing),
        "delta": _rounded(found.delta - mark, 10),
        "gamma": _rounded(found.gamma * found.underlying, 10),
        "vega": _rounded(found.vega / found.underlying, 10),
        "theta": _rounded(found.theta / found.underlying, 10),
        "deltaBS": plain(found.delta),
        "gammaBS": plain(found.gamma),
        "vegaBS": plain(found.vega),
        "thetaBS": plain(found.theta),
        "lever": _rounded(1 / mark, 10),
        "markVol": plain(found.mark_iv),
        "bidVol": plain(found.bid_iv),
        "askVol": plain(found.ask_iv),
        "realVol": "",
        "volLv": _rounded(found.mark_iv * Decimal("0.92"), 4),
        "fwdPx": plain(found.underlying),
        "ts": str(now_ms),
    }


def state_of(symbol: Symbol) -> str:
    """Give the venue's word for the state of an instrument."""
    return {"open": "live", "halted": "suspend", "auction": "preopen"}[symbol.state]


def instrument_row(listing: Listing, state: str) -> dict[str, str]:
    """Give a row of ``instruments``; options have their size in ``ctMult`` and no ``ctType``."""
    size, kind = listing.contract or ("", "")
    is_spot, is_option, is_inverse = listing.market_type == "spot", listing.market_type == "option", kind == "inverse"
    family = family_of(listing)
    return {
        **named(listing),
        "uly": family,
        "instFamily": family,
        "baseCcy": listing.base if is_spot else "",
        "quoteCcy": listing.quote if is_spot else "",
        "settleCcy": "" if is_spot else listing.base if is_option or is_inverse else listing.quote,
        "ctVal": "1" if is_option else size,
        "ctMult": "" if is_spot else size if is_option else "1",
        "ctValCcy": "" if is_spot else listing.quote if is_inverse else listing.base,
        "ctType": "" if is_option else kind,
        "optType": listing.option_type or "",
        "stk": listing.strike or "",
        "listTime": "1573557408000",
        "expTime": str(listing.expiry_ms) if listing.expiry_ms else "",
        "lever": "" if is_option else "10",
        "tickSz": plain(listing.tick),
        "lotSz": plain(listing.lot),
        "minSz": plain(listing.lot),
        "state": state,
        "ruleType": "normal",
        "instCategory": "1",
    }


def trade_rows(symbol: Symbol, start: int, end: int) -> list[dict[str, str]]:
    """Give the trades of places in the truth, newest first."""
    truth = symbol.truth
    return [
        {
            "instId": symbol.listing.venue_symbol,
            "tradeId": str(truth.ids[i]),
            "px": truth.prices[i],
            "sz": truth.quantities[i],
            "side": "sell" if truth.taker_sold[i] else "buy",
            "source": "0",
            "ts": str(truth.times_ms[i]),
        }
        for i in range(end - 1, start - 1, -1)
    ]

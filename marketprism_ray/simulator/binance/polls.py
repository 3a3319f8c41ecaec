"""REST answers that only futures have: funding, open interest, ratios."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import PERIODS_MS, Ask
from marketprism_ray.simulator.binance.figures import contract_type, value_of
from marketprism_ray.simulator.binance.frames import mark
from marketprism_ray.simulator.binance.limits import Refused
from marketprism_ray.simulator.market import Symbol, padded, plain
from marketprism_ray.simulator.summaries import FUNDING_MS, funding_rate, long_share, open_interest


def premium(desk: Desk, ask: Ask) -> Any:
    """Answer ``premiumIndex``."""

    def row(symbol: Symbol) -> dict[str, Any]:
        figures = mark(symbol, ask.now_ms)
        return {
            **desk.named(symbol),
            "markPrice": figures["p"],
            "indexPrice": figures["i"],
            "estimatedSettlePrice": figures["P"],
            "lastFundingRate": figures["r"],
            "interestRate": "0.00010000" if figures["T"] else "",
            "nextFundingTime": figures["T"],
            "time": ask.now_ms,
        }

    return desk.rows(ask, row)


def funding(desk: Desk, ask: Ask) -> Any:
    """Give what was charged: at each settlement the rate of the period that it ended."""
    start, end = ask.numbers.get("startTime"), min(ask.numbers.get("endTime", ask.now_ms), ask.now_ms)
    is_open = not ask.numbers.keys() & {"startTime", "endTime"}
    limit = 200 if is_open and "limit" not in ask.query else ask.limit
    last = end // FUNDING_MS
    first = max(0, last - limit + 1) if start is None else -(-start // FUNDING_MS)
    symbols = [symbol for symbol in desk.chosen(ask) if symbol.listing.market_type == "perpetual"]
    return [
        {
            "symbol": symbol.listing.venue_symbol,
            "fundingRate": padded(funding_rate(symbol.listing, (period - 1) * FUNDING_MS)),
            "fundingTime": period * FUNDING_MS,
            "markPrice": padded(symbol.listing.price),
            "rateType": "Regular",
        }
        for period in range(first, min(last, first + limit - 1) + 1)
        for symbol in symbols
    ][:limit]


def funding_info(desk: Desk, _: Ask) -> Any:
    """List the symbols whose limits were changed: one, the others are as usual."""
    perpetuals = [symbol for symbol in desk.own if symbol.listing.market_type == "perpetual"]
    return [
        {
            "symbol": symbol.listing.venue_symbol,
            "adjustedFundingRateCap": "0.02000000",
            "adjustedFundingRateFloor": "-0.02000000",
            "fundingIntervalHours": 8,
            "disclaimer": False,
        }
        for symbol in perpetuals[-1:]
    ]


def interest(desk: Desk, ask: Ask) -> Any:
    """Answer ``openInterest``."""
    symbol = desk.symbol(ask)
    kind = {"contractType": contract_type(symbol.listing)} if desk.facts.has_ids_of_pairs else {}
    interest = plain(open_interest(symbol.listing, ask.now_ms))
    return {**desk.named(symbol), "openInterest": interest, **kind, "time": ask.now_ms}


def interest_history(desk: Desk, ask: Ask) -> Any:
    """Answer ``openInterestHist``."""
    kind = ask.query.get("contractType", "ALL")
    listings = [
        symbol.listing
        for symbol in asked_statistics(desk, ask)
        if not desk.facts.has_ids_of_pairs or kind in ("ALL", contract_type(symbol.listing))
    ]
    more = {"contractType": kind} if desk.facts.has_ids_of_pairs else {"CMCCirculatingSupply": "19950000.00000000"}

    def row(at_ms: int) -> dict[str, Any]:
        amounts = [open_interest(listing, at_ms) for listing in listings]
        values = [value_of(listing, listing.price, a) for listing, a in zip(listings, amounts, strict=True)]
        return {
            **of_statistics(desk, ask),
            "sumOpenInterest": padded(sum(amounts, Decimal())),
            "sumOpenInterestValue": padded(sum(values, Decimal())),
            **more,
            "timestamp": at_ms,
        }

    return [row(at_ms) for at_ms in points(ask)] if listings else []


def ratios(desk: Desk, ask: Ask, name: str, noun: str) -> Any:
    """Give a ratio of longs to shorts: of a symbol, or of the perpetual of a pair."""
    listing = asked_statistics(desk, ask)[0].listing

    def row(at_ms: int) -> dict[str, Any]:
        share = long_share(name, listing, at_ms)
        return {
            **of_statistics(desk, ask),
            "longShortRatio": f"{share / (1 - share):.4f}",
            f"long{noun}": f"{share:.4f}",
            f"short{noun}": f"{1 - share:.4f}",
            "timestamp": at_ms,
        }

    return [row(at_ms) for at_ms in points(ask)]


def top_positions(desk: Desk, ask: Ask) -> Any:
    """Answer ``topLongShortPositionRatio``."""
    return ratios(desk, ask, "top_position", "Position" if desk.facts.has_ids_of_pairs else "Account")


def top_accounts(desk: Desk, ask: Ask) -> Any:
    """Answer ``topLongShortAccountRatio``."""
    return ratios(desk, ask, "top_account", "Account")


def all_accounts(desk: Desk, ask: Ask) -> Any:
    """Answer ``globalLongShortAccountRatio``."""
    return ratios(desk, ask, "all_account", "Account")


def of_statistics(desk: Desk, ask: Ask) -> dict[str, str]:
    """Give what tells a row of statistics: the symbol, or the pair on COIN-M."""
    name = "pair" if desk.facts.has_ids_of_pairs else "symbol"
    return {name: ask.query[name]}


def asked_statistics(desk: Desk, ask: Ask) -> list[Symbol]:
    """Give the symbol asked for, or the contracts of the pair, the perpetual first."""
    name = "pair" if desk.facts.has_ids_of_pairs else "symbol"
    if name not in ask.query:
        raise Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    found = desk.chosen(ask) if desk.facts.has_ids_of_pairs else [desk.symbol(ask)]
    if not found:
        raise Refused(-4144, "Invalid pair.")
    return sorted(found, key=lambda symbol: symbol.listing.market_type != "perpetual")


def points(ask: Ask) -> Iterable[int]:
    """Give the times of statistics, ascending: each full period, up to the last that has ended."""
    period_ms = PERIODS_MS.get(ask.query.get("period", ""))
    if period_ms is None:
        raise Refused(-1130, "Data sent for parameter 'period' is not valid.")
    last = min(ask.numbers.get("endTime", ask.now_ms), ask.now_ms) // period_ms
    first = last - ask.limit + 1
    if "startTime" in ask.numbers:
        first = -(-ask.numbers["startTime"] // period_ms)
    return [number * period_ms for number in range(first, min(last, first + ask.limit - 1) + 1)]

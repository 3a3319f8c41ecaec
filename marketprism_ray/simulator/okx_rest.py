"""The REST half of the simulated OKX v5, and the figures and rows that sockets and REST share.

Candles exist where trades happened: an interval without a trade has none. Sums are exact; the coin amount of an
inverse trade is rounded to 12 digits before it is summed, so that every way of summing gives the same text.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import BookEvent, Listing, Symbol, TradeEvent, plain
from marketprism_ray.simulator.summaries import (
    DAY_MS,
    FUNDING_MS,
    funding_rate,
    greeks,
    index_price,
    long_share,
    mark_price,
    next_funding_ms,
    open_interest,
)

TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS")
_TYPE_OF = {"spot": "SPOT", "perpetual": "SWAP", "futures": "FUTURES", "option": "OPTION"}
_DERIVATIVES = ("SWAP", "FUTURES", "OPTION")
_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000
_NEVER = 1 << 62
_COIN_UNIT = Decimal("1e-12")
_RUBIK = "rubik/stat/contracts/"
_RATIOS = {
    f"{_RUBIK}long-short-account-ratio-contract": "all_account",
    f"{_RUBIK}long-short-account-ratio-contract-top-trader": "top_account",
    f"{_RUBIK}long-short-position-ratio-contract-top-trader": "top_position",
}
_INTEREST_HISTORY = f"{_RUBIK}open-interest-history"
LIMITS = {
    "public/instruments": (20, "instType"),
    "market/tickers": (20, ""),
    "market/ticker": (20, ""),
    "public/time": (10, ""),
    "market/books": (40, ""),
    "market/trades": (100, ""),
    "market/history-trades": (10, ""),
    "market/candles": (40, ""),
    "market/history-candles": (20, ""),
    "public/funding-rate": (10, "instId"),
    "public/funding-rate-history": (10, ""),
    "public/open-interest": (20, ""),
    "public/mark-price": (10, ""),
    "public/opt-summary": (20, ""),
    f"{_RUBIK}long-short-account-ratio-contract": (5, "instId"),
    f"{_RUBIK}long-short-account-ratio-contract-top-trader": (5, ""),
    f"{_RUBIK}long-short-position-ratio-contract-top-trader": (5, ""),
    _INTEREST_HISTORY: (5, ""),
}
"""Requests in 2 s, and the parameter whose values are counted apart."""


# --- intervals -------------------------------------------------------------------------------------------------------


def _forms() -> dict[str, tuple[int, int]]:
    """Give length (0 for a month) and origin of each form of candle, ms; 6 hours and more follow UTC+8 or say utc."""
    minutes = {"1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1H": 60, "2H": 120, "4H": 240}
    found = {"1s": (1_000, 0), **{form: (number * _MINUTE_MS, 0) for form, number in minutes.items()}}
    for suffix, origin in (("", -8 * _HOUR_MS), ("utc", 0)):
        found[f"6H{suffix}"] = (6 * _HOUR_MS, origin)
        found[f"12H{suffix}"] = (12 * _HOUR_MS, origin)
        found[f"1D{suffix}"] = (DAY_MS, origin)
        found[f"1W{suffix}"] = (7 * DAY_MS, origin + 4 * DAY_MS)  # weeks begin on Monday, the epoch on a Thursday
        found[f"1M{suffix}"] = (0, origin)
    return found


FORMS = _forms()


def open_of(form: str, at_ms: int) -> int:
    """Give the beginning of the interval that contains a time."""
    length, origin = FORMS[form]
    if length:
        return (at_ms - origin) // length * length + origin
    month = datetime.fromtimestamp((at_ms - origin) // 1000, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(month.timestamp()) * 1000 + origin


def end_of(form: str, open_ms: int) -> int:
    """Give the end of the interval that begins at a time."""
    return open_ms + FORMS[form][0] if FORMS[form][0] else open_of(form, open_ms + 32 * DAY_MS)


def _opens(form: str, at_ms: int) -> Iterator[int]:
    """Give the beginnings of intervals, from the one that contains a time into the past."""
    while True:
        at_ms = open_of(form, at_ms)
        yield at_ms
        at_ms -= 1


@dataclass(slots=True)
class Bar:
    """Trades of an interval: ``volume`` as the venue counts, ``coin`` in base, ``money`` in quote."""

    open_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    coin: Decimal
    money: Decimal

    def extend(self, later: Bar) -> None:
        """Add trades that came after."""
        if later.high > self.high:
            self.high = later.high
        if later.low < self.low:
            self.low = later.low
        self.close = later.close
        self.volume += later.volume
        self.coin += later.coin
        self.money += later.money


def _sum(*bars: Bar | None) -> Bar | None:
    """Put bars together, oldest first."""
    found: Bar | None = None
    for bar in bars:
        if bar is None:
            continue
        if found is None:
            found = replace(bar)
        else:
            found.extend(bar)
    return found


class Figures:
    """Running figures of one symbol, fed event by event.

    A trade changes the bar of its second alone; a second that is over is added to the bar of every longer interval,
    and minutes that are over make up the last 24 hours.
    """

    def __init__(self, symbol: Symbol) -> None:
        self.symbol = symbol
        self.last: TradeEvent | None = None
        self.trades = 0
        self.books = 0
        self.closed: dict[str, list[Bar]] = {}
        """Bars that ended since somebody cleared it, by form."""
        size, kind = symbol.listing.contract or ("1", "linear")
        self._size = Decimal(size)
        self._is_inverse = kind == "inverse"
        self._second: Bar | None = None
        self._bars: dict[str, Bar] = {}
        self._ends: dict[str, int] = {}
        self._due = _NEVER
        self._minutes: deque[Bar] = deque()
        self._day: Bar | None = None

    def add(self, event: TradeEvent | BookEvent) -> None:
        """Take notice of an event."""
        if isinstance(event, BookEvent):
            self.books += 1
            return
        self.trades += 1
        self.last = event
        bar = self.bar(event.price, event.quantity, event.time_ms // 1000 * 1000)
        if self._second is not None and bar.open_ms <= self._second.open_ms:
            self._second.extend(bar)
            return
        self.roll(event.time_ms)
        self._second = bar
        self._due = min(self._due, bar.open_ms + 1000)

    def bar(self, price: str, quantity: str, open_ms: int) -> Bar:
        """Give the bar of one trade."""
        paid, volume = Decimal(price), Decimal(quantity)
        coin, money = self.amounts(volume, paid)
        return Bar(open_ms, paid, paid, paid, paid, volume, coin, money)

    def amounts(self, volume: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        """Give base coins and quote of a quantity as the venue counts."""
        if self._is_inverse:
            money = volume * self._size
            return (money / price).quantize(_COIN_UNIT), money
        coin = volume * self._size
        return coin, coin * price

    def roll(self, now_ms: int) -> None:
        """Close what ended."""
        if now_ms < self._due:
            return
        second = self._second
        if second is not None and second.open_ms + 1000 <= now_ms:
            self._second = None
            for form in FORMS:
                if form in self._bars:
                    self._bars[form].extend(second)
                else:
                    opened = open_of(form, second.open_ms)
                    self._bars[form] = replace(second, open_ms=opened)
                    self._ends[form] = end_of(form, opened)
        for form in [form for form, end in self._ends.items() if end <= now_ms]:
            bar = self._bars.pop(form)
            del self._ends[form]
            self.closed.setdefault(form, []).append(bar)
            if form == "1m":
                self._minutes.append(bar)
                self._day = _sum(self._day, bar)
                self._forget(now_ms)
        self._due = min(self._ends.values(), default=_NEVER)
        if self._second is not None:
            self._due = min(self._due, self._second.open_ms + 1000)

    def _forget(self, now_ms: int) -> None:
        """Drop minutes older than a day."""
        before = len(self._minutes)
        while self._minutes and self._minutes[0].open_ms + _MINUTE_MS <= now_ms - DAY_MS:
            self._minutes.popleft()
        if len(self._minutes) != before:
            self._day = _sum(*self._minutes)

    def current(self, form: str) -> Bar | None:
        """Give the unfinished bar."""
        found = _sum(self._bars.get(form), self._second)
        if found is not None and form not in self._bars:
            found.open_ms = open_of(form, found.open_ms)
        return found

    def last_day(self, now_ms: int) -> Bar | None:
        """Sum up the last 24 h, by whole minutes."""
        self._forget(now_ms)
        return _sum(self._day, self._bars.get("1m"), self._second)

    def start_of_day(self, form: str) -> str:
        """Give the first price of the day: the day's first trade, or the last one before it; empty without any."""
        bar = self.current(form)
        return plain(bar.open) if bar is not None else self.last.price if self.last is not None else ""


# --- rows ------------------------------------------------------------------------------------------------------------


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


def _named(listing: Listing) -> dict[str, str]:
    return {"instType": type_of(listing), "instId": listing.venue_symbol}


def ticker_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``tickers``; what has not happened yet is empty text."""
    figures.roll(now_ms)
    symbol, last, day = figures.symbol, figures.last, figures.last_day(now_ms)
    (bid, bid_size), (ask, ask_size) = symbol.best()
    is_spot = symbol.listing.market_type == "spot"
    return {
        **_named(symbol.listing),
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
        **_named(listing),
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


def _interest(figures: Figures, at_ms: int) -> list[str]:
    """Give contracts, coins and USD; valued at the listing's price, so that past and present agree."""
    listing = figures.symbol.listing
    contracts = open_interest(listing, at_ms)
    coin, money = figures.amounts(contracts, listing.price)
    if listing.market_type == "option":
        money = coin * index_price(figures.symbol)
    return [plain(contracts), _rounded(coin, 8), _rounded(money, 8)]


def interest_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``open-interest``."""
    contracts, coin, money = _interest(figures, now_ms)
    return {
        **_named(figures.symbol.listing),
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
        **_named(event.listing),
        "instFamily": family,
        "uly": family,
        "details": [{**order, "ts": str(event.time_ms)}],
    }


def mark_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``mark-price``."""
    return {**_named(figures.symbol.listing), "markPx": plain(mark_price(figures.symbol)), "ts": str(now_ms)}


def option_row(figures: Figures, now_ms: int) -> dict[str, str]:
    """Give a row of ``opt-summary``: greeks in coin, those of Black-Scholes in USD."""
    listing, mark = figures.symbol.listing, mark_price(figures.symbol)
    found = greeks(listing, now_ms)
    return {
        **_named(listing),
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


def instrument_row(listing: Listing) -> dict[str, str]:
    """Give a row of ``instruments``; options have their size in ``ctMult`` and no ``ctType``."""
    size, kind = listing.contract or ("", "")
    is_spot, is_option, is_inverse = listing.market_type == "spot", listing.market_type == "option", kind == "inverse"
    family = family_of(listing)
    return {
        **_named(listing),
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
        "state": "live",
        "ruleType": "normal",
        "instCategory": "1",
    }


def _trade_rows(symbol: Symbol, start: int, end: int) -> list[dict[str, str]]:
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


# --- REST ------------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A request that is answered with a code."""

    def __init__(self, code: str, message: str, status: int = 200) -> None:
        super().__init__(code, message, status)
        self.answer = answer([], code=code, message=message, status=status)


def answer(rows: Any, *, code: str = "0", message: str = "", status: int = 200) -> web.Response:
    """Give the venue's envelope."""
    body = text({"code": code, "msg": message, "data": rows})
    return web.Response(text=body, status=status, content_type="application/json")


Query = Mapping[str, str]


def _number(query: Query, name: str, default: int) -> int:
    try:
        return int(query.get(name) or default)
    except ValueError:
        raise _Refused("51000", f"Parameter {name} error", 400) from None


def _limit(query: Query, default: int, most: int) -> int:
    return min(max(_number(query, "limit", default), 1), most)


def _form(query: Query, name: str, default: str) -> str:
    form = query.get(name) or default
    if form not in FORMS:
        raise _Refused("51000", f"Parameter {name} error", 400)
    return form


class OkxRest:
    """Endpoints below ``/api/v5``, without their limits.

    Parameters
    ----------
    figures : by the venue's name of the instrument
    """

    def __init__(self, figures: Mapping[str, Figures]) -> None:
        self._figures = figures
        self._endpoints: dict[str, Callable[[Query, int], Any]] = {
            "public/time": lambda _, now_ms: [{"ts": str(now_ms)}],
            "public/instruments": self._instruments,
            "market/tickers": lambda query, now_ms: [ticker_row(one, now_ms) for one in self._of_type(query, TYPES)],
            "market/ticker": lambda query, now_ms: [ticker_row(self._one(query), now_ms)],
            "market/books": self._book,
            "market/trades": self._trades,
            "market/history-trades": self._history,
            "market/candles": lambda query, now_ms: self._candles(query, now_ms, bars=1440),
            "market/history-candles": lambda query, now_ms: self._candles(query, now_ms),
            "public/funding-rate": self._funding,
            "public/funding-rate-history": self._funding_history,
            "public/open-interest": lambda query, now_ms: [
                interest_row(one, now_ms) for one in self._of_type(query, _DERIVATIVES)
            ],
            "public/mark-price": lambda query, now_ms: [
                mark_row(one, now_ms) for one in self._of_type(query, _DERIVATIVES)
            ],
            "public/opt-summary": self._options,
            _INTEREST_HISTORY: self._interest_history,
        }
        self._endpoints.update({path: partial(self._ratios, name) for path, name in _RATIOS.items()})

    def answer(self, endpoint: str, query: Query, now_ms: int) -> web.Response:
        """Answer a request."""
        if endpoint not in self._endpoints:
            return answer([], code="50014", message=f"unknown endpoint {endpoint}", status=404)
        try:
            return answer(self._endpoints[endpoint](query, now_ms))
        except _Refused as refused:
            return refused.answer

    def _one(self, query: Query, allowed: tuple[str, ...] = TYPES) -> Figures:
        name = query.get("instId")
        if not name:
            raise _Refused("50014", "Parameter instId can not be empty.", 400)
        found = self._figures.get(name)
        if found is None or type_of(found.symbol.listing) not in allowed:
            raise _Refused("51001", "Instrument ID does not exist")
        return found

    def _of_type(self, query: Query, allowed: tuple[str, ...]) -> list[Figures]:
        """Give what ``instType``, ``instFamily`` (or ``uly``) and ``instId`` leave."""
        kind, family, name = (query.get("instType"), query.get("instFamily") or query.get("uly"), query.get("instId"))
        if not kind:
            raise _Refused("50014", "Parameter instType can not be empty.", 400)
        if kind not in allowed:
            raise _Refused("51000", "Parameter instType error", 400)
        found = [(one, one.symbol.listing) for one in self._figures.values()]
        return [
            one
            for one, listing in found
            if type_of(listing) == kind
            and family in (None, "", family_of(listing))
            and name in (None, "", listing.venue_symbol)
        ]

    def _instruments(self, query: Query, _: int) -> Any:
        found = self._of_type(query, TYPES)
        if query["instType"] == "OPTION" and not (query.get("instFamily") or query.get("uly")):
            raise _Refused("50014", "Parameter instFamily can not be empty.", 400)
        return [instrument_row(one.symbol.listing) for one in found]

    def _book(self, query: Query, now_ms: int) -> Any:
        symbol = self._one(query).symbol
        bids, asks = symbol.book(min(max(_number(query, "sz", 1), 1), 400))
        book = {"asks": [[p, q, "0", "1"] for p, q in asks], "bids": [[p, q, "0", "1"] for p, q in bids]}
        return [{**book, "ts": str(now_ms), "seqId": symbol.update_id}]

    def _trades(self, query: Query, _: int) -> Any:
        symbol = self._one(query).symbol
        end = len(symbol.truth.ids)
        return _trade_rows(symbol, max(0, end - _limit(query, 100, 500)), end)

    def _history(self, query: Query, _: int) -> Any:
        """Give trades older than ``after`` and newer than ``before``: ids, or with ``type=2`` times."""
        symbol = self._one(query).symbol
        column = symbol.truth.times_ms if query.get("type") == "2" else symbol.truth.ids
        start = bisect_right(column, _number(query, "before", -1))
        end = bisect_left(column, _number(query, "after", _NEVER))
        return _trade_rows(symbol, max(end - _limit(query, 100, 100), start), end)

    def _candles(self, query: Query, now_ms: int, bars: int = 0) -> Any:
        """Give candles that begin before ``after`` and after ``before``; ``bars`` is how far back they reach."""
        figures, form = self._one(query), _form(query, "bar", "1m")
        truth = figures.symbol.truth
        end = len(truth.ids)
        if query.get("after"):
            last = open_of(form, min(max(_number(query, "after", 0), 1), now_ms + DAY_MS) - 1)
            end = bisect_left(truth.times_ms, end_of(form, last))
        start = 0
        if query.get("before"):
            first = open_of(form, min(max(_number(query, "before", 0), 0), now_ms + DAY_MS))
            start = bisect_left(truth.times_ms, end_of(form, first))
        if bars and FORMS[form][0]:
            oldest = open_of(form, now_ms) - (bars - 1) * FORMS[form][0]
            start = max(start, bisect_left(truth.times_ms, oldest))
        rows: list[list[str]] = []
        most = _limit(query, 100, 300)
        while end > start and len(rows) < most:
            opened = open_of(form, truth.times_ms[end - 1])
            first = bisect_left(truth.times_ms, opened, 0, end)
            bar = figures.bar(truth.prices[first], truth.quantities[first], opened)
            for i in range(first + 1, end):
                bar.extend(figures.bar(truth.prices[i], truth.quantities[i], opened))
            rows.append(candle_row(figures, bar, is_closed=end_of(form, opened) <= now_ms))
            end = first
        return rows

    def _funding(self, query: Query, now_ms: int) -> Any:
        if query.get("instId") != "ANY":
            return [funding_row(self._one(query, ("SWAP",)).symbol.listing, now_ms)]
        listings = [one.symbol.listing for one in self._figures.values()]
        return [funding_row(listing, now_ms) for listing in listings if listing.market_type == "perpetual"]

    def _funding_history(self, query: Query, now_ms: int) -> Any:
        """Give what was charged in the last 3 months, newest first."""
        listing = self._one(query, ("SWAP",)).symbol.listing
        after, before = _number(query, "after", _NEVER), _number(query, "before", -1)
        newest = now_ms // FUNDING_MS * FUNDING_MS
        times = [at for at in range(newest, newest - 92 * DAY_MS, -FUNDING_MS) if before < at < after]
        return [
            {
                **_named(listing),
                "fundingRate": plain(funding_rate(listing, at - FUNDING_MS)),
                "realizedRate": plain(funding_rate(listing, at - FUNDING_MS)),
                "fundingTime": str(at),
                "method": "current_period",
                "formulaType": "withRate",
            }
            for at in times[: _limit(query, 400, 400)]
        ]

    def _options(self, query: Query, now_ms: int) -> Any:
        family = query.get("instFamily") or query.get("uly")
        if not family:
            raise _Refused("50014", "Parameter instFamily can not be empty.", 400)
        return [option_row(one, now_ms) for one in self._of_type({"instType": "OPTION", "instFamily": family}, TYPES)]

    def _times(self, query: Query, now_ms: int) -> list[int]:
        """Give the times of statistics from ``begin`` to ``end``, both included, newest first: the last 1440."""
        begin, end = _number(query, "begin", 0), _number(query, "end", _NEVER)
        times = islice(_opens(_form(query, "period", "5m"), now_ms), 1440)
        return [at for at in times if begin <= at <= end][: _limit(query, 100, 100)]

    def _ratios(self, name: str, query: Query, now_ms: int) -> Any:
        listing = self._one(query, _DERIVATIVES).symbol.listing
        shares = [(at, long_share(name, listing, at)) for at in self._times(query, now_ms)]
        return [[str(at), format(share / (1 - share), ".4f")] for at, share in shares]

    def _interest_history(self, query: Query, now_ms: int) -> Any:
        figures = self._one(query, _DERIVATIVES)
        return [[str(at), *_interest(figures, at)] for at in self._times(query, now_ms)]

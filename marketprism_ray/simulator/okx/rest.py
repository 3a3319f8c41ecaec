"""The REST half of the simulated OKX v5: endpoints, pages and limits.

Candles begin with the first trade; an interval without a trade has one at the last price. What was sent while nobody
listened is in the history alone. The history of instruments that are gone can be asked for, nothing else of them.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

from aiohttp import web

from marketprism_ray.simulator.market import plain
from marketprism_ray.simulator.okx.figures import Bar, Figures
from marketprism_ray.simulator.okx.intervals import FORMS, end_of, open_of, opens_before
from marketprism_ray.simulator.okx.rows import (
    DERIVATIVES,
    TYPES,
    candle_row,
    family_of,
    funding_row,
    instrument_row,
    interest,
    interest_row,
    mark_row,
    named,
    option_row,
    state_of,
    text,
    ticker_row,
    trade_rows,
    type_of,
)
from marketprism_ray.simulator.summaries import DAY_MS, FUNDING_MS, funding_rate, long_share

_NEVER = 1 << 62
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
    "public/funding-rate-history": (10, "instId"),
    "public/open-interest": (20, ""),
    "public/mark-price": (10, ""),
    "public/opt-summary": (20, ""),
    f"{_RUBIK}long-short-account-ratio-contract": (5, "instId"),
    f"{_RUBIK}long-short-account-ratio-contract-top-trader": (5, "instId"),
    f"{_RUBIK}long-short-position-ratio-contract-top-trader": (5, "instId"),
    _INTEREST_HISTORY: (5, "instId"),
}
"""Requests in 2 s, and the parameter whose values are counted apart."""


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
    past : those that are not listed any more
    """

    def __init__(self, figures: Mapping[str, Figures], past: Mapping[str, Figures]) -> None:
        self._figures = figures
        self._past = past
        self._random = random.Random("lag")
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
                interest_row(one, now_ms) for one in self._of_type(query, DERIVATIVES)
            ],
            "public/mark-price": lambda query, now_ms: [
                mark_row(one, now_ms) for one in self._of_type(query, DERIVATIVES)
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

    def _ever(self, query: Query) -> Figures:
        """Give an instrument that is listed, or was: its history stays."""
        found = self._past.get(query.get("instId", ""))
        return found if found is not None else self._one(query)

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
        return [instrument_row(one.symbol.listing, state_of(one.symbol)) for one in found]

    def _book(self, query: Query, now_ms: int) -> Any:
        """Give the book as a server has it that is behind the stream, each time by another while."""
        symbol = self._one(query).symbol
        lag_ms = self._random.choice((0, 0, 20, 50, 150, 400))
        bids, asks, last = symbol.book_at(now_ms - lag_ms, min(max(_number(query, "sz", 1), 1), 400))
        book = {"asks": [[p, q, "0", "1"] for p, q in asks], "bids": [[p, q, "0", "1"] for p, q in bids]}
        return [{**book, "ts": str(now_ms), "seqId": last}]

    def _trades(self, query: Query, _: int) -> Any:
        symbol = self._one(query).symbol
        end = len(symbol.truth.ids)
        return trade_rows(symbol, max(0, end - _limit(query, 100, 500)), end)

    def _history(self, query: Query, now_ms: int) -> Any:
        """Give trades of 3 months older than ``after`` and newer than ``before``: ids, or with ``type=2`` times."""
        symbol = self._ever(query).symbol
        column = symbol.truth.times_ms if query.get("type") == "2" else symbol.truth.ids
        start = bisect_right(column, _number(query, "before", -1))
        start = max(start, bisect_left(symbol.truth.times_ms, now_ms - 92 * DAY_MS))
        end = bisect_left(column, _number(query, "after", _NEVER))
        return trade_rows(symbol, max(end - _limit(query, 100, 100), start), end)

    def _candles(self, query: Query, now_ms: int, bars: int = 0) -> Any:
        """Give candles that begin before ``after`` and after ``before``; ``bars`` is how far back they reach."""
        figures, form = self._one(query) if bars else self._ever(query), _form(query, "bar", "1m")
        truth = figures.symbol.truth
        if not truth.ids:
            return []
        is_gone = figures.symbol.listing.venue_symbol not in self._figures
        newest = min(truth.times_ms[-1] if is_gone else now_ms, max(_number(query, "after", _NEVER), 1) - 1)
        oldest = open_of(form, truth.times_ms[0])
        if bars and FORMS[form][0]:
            oldest = max(oldest, open_of(form, now_ms) - (bars - 1) * FORMS[form][0])
        before, most = _number(query, "before", -1), _limit(query, 100, 300)
        end = bisect_left(truth.times_ms, end_of(form, open_of(form, newest)))
        rows: list[list[str]] = []
        for opened in opens_before(form, newest):
            if opened < oldest or opened <= before or len(rows) == most:
                break
            first = bisect_left(truth.times_ms, opened, 0, end)
            bar = Bar.without_trades(opened, Decimal(truth.prices[first - 1]))
            for i in range(first, end):
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
                **named(listing),
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
        times = islice(opens_before(_form(query, "period", "5m"), now_ms), 1440)
        return [at for at in times if begin <= at <= end][: _limit(query, 100, 100)]

    def _ratios(self, name: str, query: Query, now_ms: int) -> Any:
        listing = self._one(query, DERIVATIVES).symbol.listing
        shares = [(at, long_share(name, listing, at)) for at in self._times(query, now_ms)]
        return [[str(at), format(share / (1 - share), ".4f")] for at, share in shares]

    def _interest_history(self, query: Query, now_ms: int) -> Any:
        figures = self._one(query, DERIVATIVES)
        return [[str(at), *interest(figures, at)] for at in self._times(query, now_ms)]

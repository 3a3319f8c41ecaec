"""Methods of Deribit's JSON-RPC that give data, the same on sockets and over HTTP."""

from __future__ import annotations

import contextlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from typing import Any

from marketprism_ray.simulator.deribit.channels import CURRENCIES, KINDS, VOLATILITY_INDEXES, is_group
from marketprism_ray.simulator.deribit.combos import Combo
from marketprism_ray.simulator.deribit.listed import RESOLUTIONS_MS, Listed, events_of, trade_id
from marketprism_ray.simulator.deribit.rows import (
    NEVER_MS,
    bar,
    figures_of,
    instrument,
    ticker,
    trade,
    usd_volume,
    window,
)
from marketprism_ray.simulator.deribit.session import Credits
from marketprism_ray.simulator.deribit.text import TOO_MANY, Raw, RpcError, exponent, raw_or_null
from marketprism_ray.simulator.market import plain
from marketprism_ray.simulator.summaries import RunningCandle, funding_rate, index_price, mark_price, volatility

VOLATILITY_STEPS_MS = {"1": 1_000, "60": 60_000, "3600": 3_600_000, "43200": 43_200_000, "1D": 86_400_000}
HOUR_MS = 3_600_000
CHANNELS_PER_CALL = 500
POOLS = {
    "requests": (20.0, 100.0),
    "subscribe": (10 / 3, 10.0),
    "lists": (1.0, 50.0),
    "lists on sockets": (0.1, 5.0),
}
"""Credits of an address: how many come back in a second, and how many there are at most."""
DAY_MS = 86_400_000
HISTORY_LAG_MS = 5_000
"""What the host of old trades does not know yet."""
_OF_TRADES = (
    "get_last_trades_by_instrument",
    "get_last_trades_by_instrument_and_time",
    "get_last_trades_by_currency",
    "get_last_trades_by_currency_and_time",
)
TRADES_PER_PAGE, FUNDING_PER_PAGE, VOLATILITY_PER_PAGE, CANDLES_PER_PAGE = 1_000, 744, 1_000, 5_000
VERSION = {"version": "1.2.26"}


class Methods:
    """The methods, with the credits they cost.

    Parameters
    ----------
    listed, past, combos : what is listed, what was, and spreads, by the venue's name
    indexes : the symbol whose trades stand in for each index
    """

    def __init__(
        self,
        listed: Mapping[str, Listed],
        past: Mapping[str, Listed],
        combos: Mapping[str, Combo],
        indexes: Mapping[str, Listed],
        now_ms: Callable[[], int],
    ) -> None:
        self.rate_limited = 0
        self._pools: dict[tuple[str, str | None], Credits] = {}
        self._random = random.Random("lag")
        self._now_ms = now_ms
        self._listed = listed
        self._past = past
        self._combos = combos
        self._indexes = indexes
        self._methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get_time": lambda _: self._now_ms(),
            "test": lambda _: VERSION,
            "hello": lambda _: VERSION,
            "status": lambda _: {"locked": "false", "locked_indices": []},
            "get_currencies": get_currencies,
            "get_instruments": self._get_instruments,
            "get_instrument": lambda params: instrument(self._of(params)),
            "get_order_book": self._get_order_book,
            "ticker": lambda params: ticker(self._of(params), self._now_ms()),
            "get_book_summary_by_currency": self._get_summaries,
            "get_tradingview_chart_data": self._get_chart,
            "get_funding_rate_history": self._get_funding,
            "get_volatility_index_data": self._get_volatility,
            "get_index_price": self._get_index_price,
        }

    def _of(self, params: dict[str, Any]) -> Listed:
        one = self._listed.get(str(params.get("instrument_name", "")))
        if one is None:
            raise invalid("instrument_name")
        return one

    def take(self, pool: str, address: str | None) -> None:
        """Take a credit of an address; raises `RpcError` if none is left."""
        if (pool, address) not in self._pools:
            self._pools[pool, address] = Credits(*POOLS[pool])
        if not self._pools[pool, address].take():
            self.rate_limited += 1
            raise RpcError(TOO_MANY, "too_many_requests")

    def answer(
        self,
        method: str,
        params: dict[str, Any],
        address: str | None,
        *,
        is_socket: bool = False,
        is_history: bool = False,
    ) -> Any:
        """Give the result of a method without ``public/``; raises `RpcError`.

        Parameters
        ----------
        is_socket : asked on a socket, where lists of instruments are scarcer
        is_history : asked on the host of old trades
        """
        if method not in _OF_TRADES and (is_history or method not in self._methods):
            raise RpcError(-32601, "Method not found")
        self.take("requests", address)
        if method == "get_instruments":
            self.take("lists on sockets" if is_socket else "lists", address)
        if method not in _OF_TRADES:
            return self._methods[method](params)
        # Here is the last day; elsewhere all but the last seconds.
        now_ms = self._now_ms()
        within = range(now_ms - HISTORY_LAG_MS) if is_history else range(now_ms - DAY_MS, NEVER_MS)
        return self._get_trades(params, within) if "instrument" in method else self._get_trades_of_many(params, within)

    def _chosen(self, params: dict[str, Any]) -> list[Listed]:
        kind, currency = str(params.get("kind") or "any"), str(params.get("currency") or "any")
        if kind not in KINDS:
            raise invalid("kind")
        if not is_group(kind, currency):
            raise invalid("currency")
        return [one for one in self._listed.values() if one.is_in(kind, currency)]

    def _ever(self, params: dict[str, Any]) -> Listed:
        """Give an instrument that is listed, or was."""
        return self._past.get(str(params.get("instrument_name"))) or self._of(params)

    def _get_instruments(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        chosen = self._chosen(params)
        kind, currency = str(params.get("kind") or "any"), str(params.get("currency") or "any")
        if str(params.get("expired", "")).lower() == "true":
            past = [one for one in self._past.values() if one.is_in(kind, currency) and one.symbol.listing.expiry_ms]
            return [instrument(one, "delivered") for one in past]
        combos = [
            combo.instrument(instrument(combo.legs[0]))
            for combo in self._combos.values()
            if kind in ("any", "future_combo") and currency in ("any", combo.currency)
            if all(leg.name in self._listed for leg in combo.legs)
        ]
        return [*(instrument(one) for one in chosen), *combos]

    def _get_order_book(self, params: dict[str, Any]) -> dict[str, Any]:
        """Give the book as a server has it that is behind the stream, each time by another while."""
        one, depth, now_ms = self._of(params), whole(params, "depth", 5), self._now_ms()
        lag_ms = self._random.choice((0, 0, 20, 50, 150, 400))
        bids, asks, change_id = one.symbol.book_at(now_ms - lag_ms, min(max(depth, 1), 10_000))
        return {**ticker(one, now_ms), **window(one.symbol, (bids, asks), change_id, now_ms)}

    def _get_index_price(self, params: dict[str, Any]) -> dict[str, Any]:
        one = self._indexes.get(str(params.get("index_name", "")))
        if one is None:
            raise invalid("index_name")
        price = Raw(plain(index_price(one.symbol)))
        return {"index_price": price, "estimated_delivery_price": price}

    def _get_summaries(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        now_ms = self._now_ms()
        found = []
        for one in self._chosen(params):
            listing, day = one.symbol.listing, one.day
            (bid, _), (ask, _) = one.symbol.best()
            usd = Raw(plain(usd_volume(one)))
            found.append(
                {
                    "instrument_name": one.name,
                    "creation_timestamp": now_ms,
                    "base_currency": listing.base,
                    "quote_currency": listing.base if one.kind == "option" else listing.quote,
                    "volume": Raw(plain(day.in_base(listing))),
                    "volume_usd": usd,
                    "volume_notional": usd,
                    "price_change": raw_or_null(day.change_percent),
                    "high": raw_or_null(day.high if day.trades else None),
                    "low": raw_or_null(day.low if day.trades else None),
                    "last": raw_or_null(day.last),
                    "bid_price": Raw(bid),
                    "ask_price": Raw(ask),
                    "mid_price": Raw(plain(mark_price(one.symbol))),
                    **figures_of(one, now_ms),
                }
            )
        return found

    def _get_trades(self, params: dict[str, Any], within: range) -> dict[str, Any]:
        combo = self._combos.get(str(params.get("instrument_name")))
        if combo is not None:
            chosen = _page(params, range(len(combo.trades)))
            rows = [combo.row(place, trade) for place in chosen]
            return {"trades": rows, "has_more": len(combo.trades) > len(chosen)}
        one = self._ever(params)
        truth = one.symbol.truth
        first_id = truth.ids[0] if truth.ids else 0
        low = max(
            whole(params, "start_seq", first_id) - first_id,
            bisect_left(truth.times_ms, max(whole(params, "start_timestamp", 0), within.start)),
        )
        high = min(
            whole(params, "end_seq", first_id + len(truth.ids)) - first_id + 1,
            bisect_right(truth.times_ms, min(whole(params, "end_timestamp", NEVER_MS), within.stop)),
        )
        places = range(low, max(low, high))
        chosen = _page(params, places)
        rows = [Raw(trade(one, event)) for event in events_of(one.symbol, chosen)]
        return {"trades": rows, "has_more": len(places) > len(chosen)}

    def _get_trades_of_many(self, params: dict[str, Any], within: range) -> dict[str, Any]:
        start = max(whole(params, "start_timestamp", 0), within.start)
        end = min(whole(params, "end_timestamp", NEVER_MS), within.stop)
        rows: list[tuple[int, int, int, Listed]] = []
        for one in self._chosen(params):
            times = one.symbol.truth.times_ms
            places = range(bisect_left(times, start), bisect_right(times, end))
            rows += [(times[place], one.number, place, one) for place in places]
        rows.sort(key=lambda row: row[:3])
        ids = [trade_id(one.symbol.truth.ids[place], one.number) for _, _, place, one in rows]
        try:
            low = ids.index(str(params["start_id"])) if "start_id" in params else 0
            high = ids.index(str(params["end_id"])) + 1 if "end_id" in params else len(ids)
        except ValueError:
            raise invalid("start_id, end_id") from None
        places = range(low, max(low, high))
        chosen = _page(params, places)
        found = [
            (one, event) for _, _, place, one in (rows[i] for i in chosen) for event in events_of(one.symbol, (place,))
        ]
        return {"trades": [Raw(trade(one, event)) for one, event in found], "has_more": len(places) > len(chosen)}

    def _get_chart(self, params: dict[str, Any]) -> dict[str, Any]:
        one, step = self._of(params), RESOLUTIONS_MS.get(str(params.get("resolution")))
        if step is None:
            raise invalid("resolution")
        times = one.symbol.truth.times_ms
        low = bisect_left(times, whole(params, "start_timestamp") // step * step)
        high = bisect_left(times, (whole(params, "end_timestamp") // step + 1) * step)
        candles: list[RunningCandle] = []
        for event in events_of(one.symbol, range(low, max(low, high))):
            if not candles or event.time_ms // step * step != candles[-1].open_ms:
                candles.append(RunningCandle(step))
            candles[-1].add(event)
        rows = [bar(candle) for candle in candles[-CANDLES_PER_PAGE:]]
        names = ("tick", "open", "high", "low", "close", "volume", "cost")
        columns = {"ticks" if name == "tick" else name: [row[name] for row in rows] for name in names}
        return {**columns, "status": "ok" if rows else "no_data"}

    def _get_funding(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        listing = self._of(params).symbol.listing
        if listing.market_type != "perpetual":
            raise invalid("instrument_name")
        index = Raw(plain(listing.price))
        found = []
        for at in _times(params, HOUR_MS, self._now_ms())[-FUNDING_PER_PAGE:]:
            rate = funding_rate(listing, at)
            found.append(
                {
                    "timestamp": at,
                    "index_price": index,
                    "prev_index_price": index,
                    "interest_8h": Raw(plain(rate)),
                    "interest_1h": exponent(rate / 8),
                }
            )
        return found

    def _get_volatility(self, params: dict[str, Any]) -> dict[str, Any]:
        index = f"{str(params.get('currency', '')).lower()}_usd"
        step = VOLATILITY_STEPS_MS.get(str(params.get("resolution", "")))
        if index not in VOLATILITY_INDEXES:
            raise invalid("currency")
        if step is None:
            raise invalid("resolution")
        times = _times(params, step, self._now_ms())
        page = times[-VOLATILITY_PER_PAGE:]
        rows = []
        for at in page:
            # The last candle is not finished: it is made of what was until now.
            samples = min(step // 1_000, 60)
            moments = (at + place * step // samples for place in range(samples))
            values = [volatility(index, moment) for moment in moments if moment <= self._now_ms()]
            rows.append([at, *(Raw(plain(value)) for value in (values[0], max(values), min(values), values[-1]))])
        return {"data": rows, "continuation": page[0] - step if len(times) > len(page) else None}


def invalid(param: str) -> RpcError:
    """Give the error for a wrong parameter."""
    return RpcError(-32602, "Invalid params", {"reason": "invalid value", "param": param})


def whole(params: dict[str, Any], name: str, default: int | None = None) -> int:
    """Read a whole number; without a default it must be there."""
    value = params.get(name, default)
    if isinstance(value, int | str):
        with contextlib.suppress(ValueError):
            return int(value)
    raise invalid(name)


def keys_of(params: dict[str, Any]) -> list[str]:
    """Read the channels of a call, in another order."""
    keys = params.get("channels")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise invalid("channels")
    if not keys or len(keys) > CHANNELS_PER_CALL:
        raise RpcError(11050, "bad_request", f"from 1 to {CHANNELS_PER_CALL} channels")
    if any(key.endswith(".raw") for key in keys):
        raise RpcError(13778, "raw_subscriptions_not_available_for_unauthorized")
    return sorted(set(keys))


def _page(params: dict[str, Any], places: range) -> range:
    """Choose from the rows asked for: the oldest in their order, or the newest backwards."""
    count = min(max(whole(params, "count", 10), 1), TRADES_PER_PAGE)
    return places[:count] if params.get("sorting") == "asc" else places[-count:][::-1]


def _times(params: dict[str, Any], step_ms: int, now_ms: int) -> range:
    """Give the beginnings of steps between the times asked for, none in the future."""
    start, end = whole(params, "start_timestamp"), min(whole(params, "end_timestamp"), now_ms)
    return range(-(-start // step_ms) * step_ms, end + 1, step_ms)


def get_currencies(_: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the currencies."""
    return [{"currency": name, "currency_long": name, "min_confirmations": 1} for name in CURRENCIES]

"""Deribit: what the rows of its frames and answers must be.

``direction`` is the taker's. ``amount``, sizes of levels and open interest count USD for inverse perpetuals and
futures, base for everything else, options included; never contracts. Volatilities are percent points. A trade that
liquidated says whose order was forced: the maker's (M), the taker's (T), or both.

References
----------
https://docs.deribit.com
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from marketprism_ray.proof.derive.common import (
    ANY,
    MS,
    RECEIVED,
    Contract,
    Expected,
    Row,
    end_of,
    exact,
    named,
    number,
    pairs,
    percent,
    sure,
    trade_row,
)

_HOURS = {"60": "1h", "120": "2h", "180": "3h", "360": "6h", "720": "12h", "1D": "1d"}
_STEPS = {"1": "1s", "60": "1m", "3600": "1h", "43200": "12h", "1D": "1d"}
_EIGHT_HOURS = 8 * 3600


def contracts(venue: str, path: str, answer: Any) -> list[Contract]:
    """Read ``get_instruments``; combos have no canonical name."""
    if not path.endswith("/get_instruments"):
        return []
    return [_contract(venue, entry) for entry in answer["result"] if entry["kind"] in ("future", "option")]


def _contract(venue: str, entry: dict[str, Any]) -> Contract:
    option = {"call": "C", "put": "P"}.get(entry.get("option_type", ""))
    perpetual = entry["settlement_period"] == "perpetual"
    kind = "option" if entry["kind"] == "option" else "perpetual" if perpetual else "futures"
    reversed_ = entry["instrument_type"] == "reversed"
    base, quote = entry["base_currency"], "USD" if reversed_ else entry["counter_currency"]
    in_usd = "quote" if reversed_ and kind != "option" else "base"
    expiry, strike = None if perpetual else entry["expiration_timestamp"] * MS, number(entry.get("strike"))
    state = entry.get("state", "open")
    return Contract(
        venue,
        entry["instrument_name"],
        named(base, quote, kind, expiry=expiry, strike=strike, option=option),
        kind,
        base,
        quote,
        entry["settlement_currency"],
        in_usd,
        Decimal(1),
        in_usd,
        sure(entry["tick_size"]),
        sure(entry["min_trade_amount"]),
        expiry,
        strike,
        option,
        "live" if state == "open" and entry["is_active"] else state,
    )


def frame(venue: str, key: str, message: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read a push."""
    data, topic = message["params"]["data"], key.partition(".")[0]
    match topic:
        case "trades":
            return [
                row for entry in data if entry["instrument_name"] in known for row in _trades(entry, known, "stream")
            ]
        case "deribit_volatility_index":
            return [Expected("volatility_index", _index(venue, data["index_name"]), "stream", _volatility(data))]
        case "chart":
            _, _, native, resolution = key.split(".")
            return [_candle(data, resolution, known[native])] if native in known else []
    contract = known.get(data["instrument_name"]) if isinstance(data, dict) and "instrument_name" in data else None
    if contract is None:
        return []
    match topic:
        case "book" if "type" in data:
            is_snapshot = data["type"] == "snapshot"
            row = _book(data, is_snapshot, contract)
            return [Expected("orderbook_delta", contract, "stream", row, "snapshot" if is_snapshot else "delta")]
        case "ticker":
            return _of_ticker(data, contract)
    return []


def _trades(entry: dict[str, Any], known: dict[str, Contract], source: str) -> list[Expected]:
    """Give the trade, and the liquidations it was: a seller who is the taker, or the maker of a buy, was long."""
    contract = known[entry["instrument_name"]]
    price, amount, sold = sure(entry["price"]), sure(entry["amount"]), entry["direction"] == "sell"
    row = trade_row(
        contract,
        time_ms=entry["timestamp"],
        identity=entry["trade_id"],
        sequence=entry["trade_seq"],
        price=price,
        quantity=amount,
        taker_sold=sold,
    )
    kind = "event" if source == "stream" else "history"
    found = [Expected("trade", contract, source, row, kind)]  # type: ignore[arg-type]
    quantity, value = contract.amounts(amount, price)
    for who in entry.get("liquidation", ""):
        forced = {
            "timestamp": entry["timestamp"] * MS,
            "liquidation_id": f"{entry['trade_id']}-{who}",
            "side": "sell" if sold == (who == "T") else "buy",
            "price": price,
            "average_price": price,
            "quantity": quantity,
            "value": value,
        }
        found.append(Expected("liquidation", contract, source, forced, kind))  # type: ignore[arg-type]
    return found


def _book(data: dict[str, Any], is_snapshot: bool, contract: Contract) -> Row:
    """Levels are ``[action, price, amount]``; of a deleted one the amount is 0."""
    sides = []
    for side in (data["bids"], data["asks"]):
        levels = [[price, 0 if action == "delete" else amount] for action, price, amount in side]
        sides.append(contract.levels(pairs(levels)))
    return {
        "timestamp": data["timestamp"] * MS,
        "first_update_id": data["change_id"],
        "last_update_id": data["change_id"],
        "previous_update_id": -1 if is_snapshot else data["prev_change_id"],
        "is_snapshot": is_snapshot,
        "bids": sides[0],
        "asks": sides[1],
    }


def _of_ticker(data: dict[str, Any], contract: Contract) -> list[Expected]:
    """One message is a ticker, an open interest, and the funding of a perpetual or the greeks of an option."""
    stats, at = data.get("stats", {}), data["timestamp"] * MS
    volume_usd = stats.get("volume_notional", stats.get("volume_usd"))
    row: Row = {
        "timestamp": at,
        "last_price": number(data.get("last_price")),
        "high_price": number(stats.get("high")),
        "low_price": number(stats.get("low")),
        "volume": number(stats.get("volume")),
        "quote_volume": None if contract.market_type == "option" else number(volume_usd),
        "price_change_percent": percent(exact(number(stats.get("price_change")))),
        "content": "both",
    }
    for side in ("bid", "ask"):
        price, amount = number(data.get(f"best_{side}_price")), number(data.get(f"best_{side}_amount"))
        there = bool(price) and bool(amount)
        row[f"best_{side}_price"] = price if there else None
        row[f"best_{side}_quantity"] = contract.in_base(amount, price) if there else None
    found = [Expected("ticker", contract, "stream", row)]
    mark, interest = number(data.get("mark_price")), number(data.get("open_interest"))
    if interest is not None:
        base, value = contract.amounts(interest, mark)
        held = {
            "timestamp": at,
            "open_interest": base,
            "open_interest_value": value,
            "raw_quantity": interest if contract.size_in == "quote" else None,
            "quantity_unit": contract.unit,
        }
        found.append(Expected("open_interest", contract, "stream", held))
    if contract.market_type == "perpetual":
        rate = {
            "timestamp": at,
            "funding_rate": exact(number(data["funding_8h"])),
            "estimated_rate": exact(number(data.get("current_funding"))),
            "funding_interval": _EIGHT_HOURS,
            "mark_price": mark,
            "index_price": number(data.get("index_price")),
        }
        found.append(Expected("funding_rate", contract, "stream", rate))
    if "greeks" in data:
        greeks = {name: exact(number(data["greeks"].get(name))) for name in ("delta", "gamma", "vega", "theta", "rho")}
        quoted = {
            # An option without bids or offers is sent with a volatility of 0.
            f"{side}_iv": percent(exact(number(data.get(f"{side}_iv")))) if number(data.get(f"{side}_iv")) else None
            for side in ("bid", "ask")
        }
        measured = {
            "timestamp": at,
            **greeks,
            **quoted,
            "mark_iv": percent(exact(number(data.get("mark_iv")))),
            "mark_price": mark,
            "underlying_price": number(data.get("underlying_price")),
            "underlying_index": data.get("underlying_index"),
            "open_interest": interest,
        }
        found.append(Expected("option_greeks", contract, "stream", measured))
    return found


def _candle(data: dict[str, Any], resolution: str, contract: Contract) -> Expected:
    """Read a candle; the venue does not say which update is its last."""
    interval, start = _HOURS.get(resolution, f"{resolution}m"), data["tick"] * MS
    row = {
        "timestamp": RECEIVED,
        "interval": interval,
        "open_time": start,
        "close_time": end_of(start, interval),
        **{f"{name}_price": sure(data[name]) for name in ("open", "high", "low", "close")},
        "volume": sure(data["volume"]),
        "quote_volume": sure(data["cost"]),
        "is_closed": False,
    }
    return Expected("kline", contract, "stream", row, "state", interval)


def _index(venue: str, name: str) -> Contract:
    """Give what an index is filed under: it is of options and no instrument."""
    base, quote = name.upper().split("_")
    return Contract(venue, name, f"{base}-{quote}", "option", base, quote, quote)


def _volatility(data: dict[str, Any]) -> Row:
    return {
        "timestamp": data["timestamp"] * MS,
        "index_name": data["index_name"],
        "value": percent(sure(data["volatility"])),
        "resolution": "tick",
    }


def answer(venue: str, path: str, query: dict[str, str], body: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read an answer that holds rows."""
    result, contract = body.get("result"), known.get(query.get("instrument_name", ""))
    match path.rpartition("/")[2]:
        case "get_last_trades_by_instrument" | "get_last_trades_by_instrument_and_time" if contract is not None:
            return [row for entry in result["trades"] for row in _trades(entry, known, "backfill")]
        case "get_funding_rate_history" if contract is not None:
            return [Expected("funding_rate", contract, "poll", _charged(entry), "state") for entry in result]
        case "get_volatility_index_data":
            return _past_volatilities(venue, query, result["data"])
        case "get_order_book" if contract is not None:
            return [_rest_book(result, contract)]
        case "get_tradingview_chart_data" if contract is not None:
            return _past_candles(result, query["resolution"], contract)
    return []


def _charged(entry: dict[str, Any]) -> Row:
    """``interest_1h`` is what the hour before cost."""
    at = entry["timestamp"] * MS
    return {
        "timestamp": at,
        "funding_rate": exact(sure(entry["interest_1h"])),
        "funding_time": at,
        "funding_interval": 3600,
        "index_price": number(entry.get("index_price")),
    }


def _past_volatilities(venue: str, query: dict[str, str], rows: list[list[Any]]) -> list[Expected]:
    """Read candles; the newest is still open, and need not be kept before it is closed."""
    name, resolution = f"{query['currency'].lower()}_usd", _STEPS[query["resolution"]]
    newest = max((row[0] for row in rows), default=0)
    return [
        Expected(
            "volatility_index",
            _index(venue, name),
            "poll",
            _past_volatility(row, name, resolution),
            "history" if row[0] == newest else "state",
            resolution,
        )
        for row in rows
    ]


def _past_volatility(entry: list[Any], name: str, resolution: str) -> Row:
    at, opened, high, low, close = entry
    return {
        "timestamp": at * MS,
        "index_name": name,
        "value": percent(sure(close)),
        "open": percent(sure(opened)),
        "high": percent(sure(high)),
        "low": percent(sure(low)),
        "close": percent(sure(close)),
        "resolution": resolution,
    }


def _rest_book(result: dict[str, Any], contract: Contract) -> Expected:
    row = {
        "timestamp": result["timestamp"] * MS,
        "first_update_id": result["change_id"],
        "last_update_id": result["change_id"],
        "previous_update_id": -1,
        "is_snapshot": True,
        "bids": contract.levels(pairs(result["bids"])),
        "asks": contract.levels(pairs(result["asks"])),
    }
    return Expected("orderbook_delta", contract, "stream", row, "snapshot")


def _past_candles(result: dict[str, Any], resolution: str, contract: Contract) -> list[Expected]:
    names = ("open", "high", "low", "close", "volume", "cost")
    found = []
    for tick, *figures in zip(result["ticks"], *(result[name] for name in names), strict=True):
        whole = _candle({"tick": tick, **dict(zip(names, figures, strict=True))}, resolution, contract)
        row = {**whole.row, "timestamp": ANY, "is_closed": ANY}
        found.append(Expected("kline", contract, "backfill", row, "history", whole.channel))
    return found

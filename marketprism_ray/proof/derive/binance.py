"""Binance spot, USD-M and COIN-M: what the rows of its frames and answers must be.

``m`` true: the buyer was the maker, so the taker sold. ``q`` and ``v`` count base, on COIN-M contracts of
``contractSize`` USD; of candles and 24 h figures ``q`` is then base. ``P`` is percent. ``st`` tells the universes of
the futures markets apart.

References
----------
https://developers.binance.com/docs/binance-spot-api-docs and https://developers.binance.com/docs/derivatives.
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
    named,
    number,
    pairs,
    percent,
    sure,
    times,
    trade_row,
)

_UNIVERSES = {"binance_derivatives": 1, "binance_coinm": 2}


def contracts(venue: str, path: str, answer: Any) -> list[Contract]:
    """Read ``exchangeInfo``."""
    if not path.endswith("/exchangeInfo"):
        return []
    return [_contract(venue, entry) for entry in answer["symbols"] if entry.get("contractType", "spot")]


def _contract(venue: str, entry: dict[str, Any]) -> Contract:
    filters = {rule["filterType"]: rule for rule in entry["filters"]}
    steps: dict[str, Any] = {
        "tick": number(filters.get("PRICE_FILTER", {}).get("tickSize")),
        "lot": number(filters.get("LOT_SIZE", {}).get("stepSize")),
    }
    base, quote, status = entry["baseAsset"], entry["quoteAsset"], entry.get("status", entry.get("contractStatus"))
    status = "live" if status == "TRADING" else str(status)
    if venue == "binance_spot":
        symbol = named(base, quote, "spot")
        return Contract(venue, entry["symbol"], symbol, "spot", base, quote, quote, status=status, **steps)
    kind = "perpetual" if entry["contractType"] in ("PERPETUAL", "TRADIFI_PERPETUAL") else "futures"
    expiry = None if kind == "perpetual" else entry["deliveryDate"] * MS
    size = number(entry.get("contractSize"))
    return Contract(
        venue,
        entry["symbol"],
        named(base, quote, kind, expiry=expiry),
        kind,
        base,
        quote,
        entry["marginAsset"],
        "base" if size is None else "contract",
        size or Decimal(1),
        "base" if size is None else "quote",
        expiry=expiry,
        status=status,
        **steps,
    )


def frame(venue: str, key: str, message: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read a frame of any stream, also of the all-market ones, which are arrays."""
    found = []
    for event in message if isinstance(message, list) else [message]:
        order = event.get("o") if event.get("e") == "forceOrder" else event
        universe = event.get("st", order.get("st"))
        if universe is not None and universe != _UNIVERSES.get(venue):
            continue
        contract = known.get(order.get("s", ""))
        if contract is not None:
            expected = _event(key, event, contract)
            if expected is not None:
                found.append(expected)
    return found


def _event(key: str, event: dict[str, Any], contract: Contract) -> Expected | None:
    kind = event.get("e", "bookTicker")
    match kind:
        case "trade" | "aggTrade":
            return Expected("trade", contract, "stream", _trade(event, contract))
        case "depthUpdate":
            return Expected("orderbook_delta", contract, "stream", _delta(event, contract), "delta")
        case "24hrTicker":
            return Expected("ticker", contract, "stream", _ticker(event, contract), "event", "ticker")
        case "bookTicker":
            return Expected("ticker", contract, "stream", _book_ticker(event, contract), "event", "bookTicker")
        case "kline":
            interval = event["k"]["i"]
            return Expected("kline", contract, "stream", _kline(event, contract), "state", interval)
        case "markPriceUpdate":
            return Expected("funding_rate", contract, "stream", _mark(event), "event", "markPrice")
        case "forceOrder":
            return Expected("liquidation", contract, "stream", _liquidation(event["o"], contract))
    return None


def _trade(event: dict[str, Any], contract: Contract) -> Row:
    is_aggregate = event["e"] == "aggTrade"
    identity = event["a"] if is_aggregate else event["t"]
    return trade_row(
        contract,
        time_ms=event["T"],
        identity=identity,
        sequence=identity,
        price=sure(event["p"]),
        quantity=sure(event["q"]),
        taker_sold=event["m"],
        count=event["l"] - event["f"] + 1 if is_aggregate else None,
    )


def _delta(event: dict[str, Any], contract: Contract) -> Row:
    return {
        "timestamp": event["E"] * MS,
        "first_update_id": event["U"],
        "last_update_id": event["u"],
        # Spot does not say what a change continues: the book before it does.
        "previous_update_id": event.get("pu"),
        "is_snapshot": False,
        "bids": contract.levels(pairs(event["b"])),
        "asks": contract.levels(pairs(event["a"])),
    }


def _volumes(contract: Contract, v: Any, q: Any) -> tuple[Decimal, Decimal | None]:
    """Give ``v`` and ``q`` as base and quote."""
    if contract.size_in == "quote":
        return sure(q), times(sure(v), contract.size)
    return sure(v), sure(q)


def _ticker(event: dict[str, Any], contract: Contract) -> Row:
    last, bid, ask = sure(event["c"]), number(event.get("b")), number(event.get("a"))
    volume, value = _volumes(contract, event["v"], event["q"])
    return {
        "timestamp": event["E"] * MS,
        "last_price": last,
        "last_quantity": contract.in_base(sure(event["Q"]), last),
        "open_price": sure(event["o"]),
        "high_price": sure(event["h"]),
        "low_price": sure(event["l"]),
        "volume": volume,
        "quote_volume": value,
        "price_change": sure(event["p"]),
        "price_change_percent": percent(sure(event["P"])),
        "weighted_average_price": sure(event["w"]),
        "best_bid_price": bid,
        "best_bid_quantity": contract.in_base(number(event.get("B")), bid),
        "best_ask_price": ask,
        "best_ask_quantity": contract.in_base(number(event.get("A")), ask),
        "trade_count": event["n"],
        "open_time": event["O"] * MS,
        "close_time": event["C"] * MS,
        "content": "statistics" if bid is None else "both",
        "sequence": event["L"],
    }


def _book_ticker(event: dict[str, Any], contract: Contract) -> Row:
    row: Row = {"timestamp": event["T"] * MS if "T" in event else RECEIVED, "content": "best_prices"}
    row["sequence"] = event["u"]
    for side, price, size in (("bid", "b", "B"), ("ask", "a", "A")):
        # A side without orders is sent with a quantity of 0.
        there = sure(event[size]) != 0
        row[f"best_{side}_price"] = sure(event[price]) if there else None
        row[f"best_{side}_quantity"] = contract.in_base(sure(event[size]), sure(event[price])) if there else None
    return row


def _candle(k: dict[str, Any], contract: Contract) -> Row:
    volume, value = _volumes(contract, k["v"], k["q"])
    bought, bought_value = _volumes(contract, k["V"], k["Q"])
    return {
        "interval": k["i"],
        "open_time": k["t"] * MS,
        # T is the last millisecond of the candle.
        "close_time": (k["T"] + 1) * MS,
        "open_price": sure(k["o"]),
        "high_price": sure(k["h"]),
        "low_price": sure(k["l"]),
        "close_price": sure(k["c"]),
        "volume": volume,
        "quote_volume": value,
        "trade_count": k["n"],
        "taker_buy_volume": bought,
        "taker_buy_quote_volume": bought_value,
    }


def _kline(event: dict[str, Any], contract: Contract) -> Row:
    return {"timestamp": event["E"] * MS, **_candle(event["k"], contract), "is_closed": event["k"]["x"]}


def _mark(event: dict[str, Any]) -> Row:
    return {
        "timestamp": event["E"] * MS,
        "funding_rate": number(event["r"]),
        "funding_time": event["T"] * MS or None,
        "mark_price": sure(event["p"]),
        "index_price": number(event.get("i")),
    }


def _liquidation(order: dict[str, Any], contract: Contract) -> Row:
    """``z`` was filled at ``ap`` on average; ``S`` is the side of the closing order."""
    quantity, value = contract.amounts(sure(order["z"]), sure(order["ap"]))
    return {
        "timestamp": order["T"] * MS,
        "liquidation_id": ANY,
        "side": {"SELL": "sell", "BUY": "buy"}[order["S"]],
        "price": sure(order["p"]),
        "average_price": sure(order["ap"]),
        "quantity": quantity,
        "value": value,
        "order_status": order["X"],
    }


def answer(venue: str, path: str, query: dict[str, str], body: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read an answer of the REST API that holds rows."""
    name = path.rpartition("/")[2]
    match name:
        case "depth":
            return _snapshot(query, body, known)
        case "aggTrades" | "historicalTrades" | "trades":
            contract = known.get(query["symbol"])
            return [_past_trade(entry, contract) for entry in body] if contract else []
        case "klines":
            contract = known.get(query["symbol"])
            return [_past_candle(entry, query["interval"], contract) for entry in body] if contract else []
        case "fundingRate":
            return [
                Expected("funding_rate", known[entry["symbol"]], "poll", _charged(entry), "state")
                for entry in body
                if entry["symbol"] in known
            ]
        case "openInterest":
            contract = known.get(body["symbol"])
            return [Expected("open_interest", contract, "poll", _interest(body, contract), "state")] if contract else []
        case "openInterestHist":
            return _of_statistics("open_interest", query, body, known, _past_interest)
        case "topLongShortPositionRatio":
            return _of_statistics("lsr_top_position", query, body, known, _ratio)
        case "globalLongShortAccountRatio":
            return _of_statistics("lsr_all_account", query, body, known, _ratio)
    return []


def _snapshot(query: dict[str, str], body: Any, known: dict[str, Contract]) -> list[Expected]:
    contract = known.get(query["symbol"])
    if contract is None:
        return []
    row = {
        "timestamp": body["E"] * MS if "E" in body else ANY,
        "first_update_id": body["lastUpdateId"],
        "last_update_id": body["lastUpdateId"],
        "previous_update_id": -1,
        "is_snapshot": True,
        "bids": contract.levels(pairs(body["bids"])),
        "asks": contract.levels(pairs(body["asks"])),
    }
    return [Expected("orderbook_delta", contract, "stream", row, "snapshot")]


def _past_trade(entry: dict[str, Any], contract: Contract) -> Expected:
    if "a" in entry:
        row = _trade({**entry, "e": "aggTrade"}, contract)
    else:
        names = {"t": entry["id"], "p": entry["price"], "q": entry["qty"], "T": entry["time"]}
        row = _trade({"e": "trade", "m": entry["isBuyerMaker"], **names}, contract)
    return Expected("trade", contract, "backfill", row, "history")


_COLUMNS = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")


def _past_candle(entry: list[Any], interval: str, contract: Contract) -> Expected:
    k = {**dict(zip(_COLUMNS, entry, strict=False)), "i": interval}
    row = {"timestamp": ANY, **_candle(k, contract), "is_closed": ANY}
    return Expected("kline", contract, "backfill", row, "history", interval)


def _charged(entry: dict[str, Any]) -> Row:
    at = entry["fundingTime"] * MS
    return {
        "timestamp": at,
        "funding_rate": sure(entry["fundingRate"]),
        "funding_time": at,
        "mark_price": number(entry.get("markPrice")),
    }


def _interest(body: dict[str, Any], contract: Contract) -> Row:
    """USD-M counts base. COIN-M counts contracts of so many USD and gives no price: the base is not said."""
    amount, inverse = sure(body["openInterest"]), contract.size_in == "quote"
    return {
        "timestamp": body["time"] * MS,
        "open_interest": None if inverse else amount,
        "open_interest_value": times(amount, contract.size) if inverse else None,
        "raw_quantity": amount if inverse else None,
        "quantity_unit": contract.unit,
    }


def _of_statistics(
    data_type: str, query: dict[str, str], body: Any, known: dict[str, Contract], read: Any
) -> list[Expected]:
    """Read statistics of a symbol; those of a pair belong to its perpetual."""
    found = []
    for entry in body:
        contract = known.get(entry.get("symbol") or f"{entry['pair']}_PERP")
        if contract is not None:
            row = read(entry, query, contract)
            found.append(Expected(data_type, contract, "poll", row, "state", query["period"]))
    return found


def _past_interest(entry: dict[str, Any], _: dict[str, str], contract: Contract) -> Row:
    amount, value = sure(entry["sumOpenInterest"]), sure(entry["sumOpenInterestValue"])
    inverse = contract.size_in == "quote"
    return {
        "timestamp": int(entry["timestamp"]) * MS,
        "open_interest": value if inverse else amount,
        "open_interest_value": times(amount, contract.size) if inverse else value,
        "raw_quantity": amount if inverse else None,
        "quantity_unit": contract.unit,
    }


def _ratio(entry: dict[str, Any], query: dict[str, str], _: Contract) -> Row:
    return {
        "timestamp": int(entry["timestamp"]) * MS,
        "long_ratio": number(entry.get("longAccount", entry.get("longPosition"))),
        "short_ratio": number(entry.get("shortAccount", entry.get("shortPosition"))),
        "long_short_ratio": sure(entry["longShortRatio"]),
        "period": query["period"],
    }

"""OKX spot and derivatives: what the rows of its frames and answers must be.

``side`` is the taker's. ``sz`` and sizes of levels are base on spot, else contracts of ``ctVal x ctMult``: of base
(linear and options) or of USD (inverse). ``volCcy24h`` is base, on spot quote. Volatilities are fractions; ``...BS``
greeks are in USD. Candles end in ``confirm``.

References
----------
https://www.okx.com/docs-v5/en/
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketprism_ray.proof.derive.common import (
    ANY,
    MS,
    RECEIVED,
    SECOND,
    Contract,
    Expected,
    Row,
    end_of,
    minus,
    named,
    number,
    over,
    pairs,
    sure,
    trade_row,
)

_TYPES = {"SPOT": "spot", "SWAP": "perpetual", "FUTURES": "futures", "OPTION": "option"}


def contracts(venue: str, path: str, answer: Any) -> list[Contract]:
    """Read ``public/instruments``."""
    if not path.endswith("/public/instruments"):
        return []
    return [_contract(venue, entry) for entry in answer["data"] if entry["instType"] in _TYPES]


def _contract(venue: str, entry: dict[str, Any]) -> Contract:
    kind = _TYPES[entry["instType"]]
    # Base and quote of derivatives stand in the name of their family only.
    base, quote = (entry["baseCcy"], entry["quoteCcy"]) if kind == "spot" else entry["instFamily"].split("-")
    expiry = int(entry["expTime"]) * MS if entry["expTime"] else None
    strike, option = number(entry["stk"]), entry["optType"] or None
    size = Decimal(1) if kind == "spot" else sure(entry["ctVal"]) * (number(entry["ctMult"]) or 1)
    return Contract(
        venue,
        entry["instId"],
        named(base, quote, kind, expiry=expiry, strike=strike, option=option),
        kind,
        base,
        quote,
        entry["settleCcy"] or quote,
        "base" if kind == "spot" else "contract",
        size,
        "quote" if entry["ctType"] == "inverse" else "base",
        number(entry["tickSz"]),
        number(entry["lotSz"]),
        expiry,
        strike,
        option,
        entry["state"],
    )


def frame(venue: str, key: str, message: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read a push."""
    channel = json.loads(key)["channel"]
    found: list[Expected] = []
    for entry in message["data"]:
        native = entry.get("instId") if isinstance(entry, dict) else None
        contract = known.get(native or message["arg"].get("instId", ""))
        if contract is not None:
            found += _push(channel, entry, message.get("action", ""), contract)
    return found


def _push(channel: str, entry: Any, action: str, contract: Contract) -> list[Expected]:
    if channel.startswith("candle"):
        interval = _interval(channel.removeprefix("candle"))
        row = {"timestamp": RECEIVED, **_candle(entry, interval, contract)}
        return [Expected("kline", contract, "stream", row, "state", interval)]
    match channel:
        case "trades" | "trades-all":
            return [Expected("trade", contract, "stream", _trade(entry, contract))]
        case "books":
            return _book(entry, action == "snapshot", contract)
        case "tickers":
            return [Expected("ticker", contract, "stream", _ticker(entry, contract))]
        case "funding-rate":
            return [Expected("funding_rate", contract, "stream", _funding(entry))]
        case "open-interest":
            return [Expected("open_interest", contract, "stream", _interest(entry, contract))]
        case "liquidation-orders":
            return [
                Expected("liquidation", contract, "stream", _liquidation(detail, contract))
                for detail in entry["details"]
            ]
        case "opt-summary":
            return [Expected("option_greeks", contract, "stream", _greeks(entry))]
    return []


def _trade(entry: dict[str, Any], contract: Contract) -> Row:
    return trade_row(
        contract,
        time_ms=entry["ts"],
        identity=entry["tradeId"],
        sequence=entry["tradeId"],
        price=sure(entry["px"]),
        quantity=sure(entry["sz"]),
        taker_sold={"sell": True, "buy": False}[entry["side"]],
    )


def _book(entry: dict[str, Any], is_snapshot: bool, contract: Contract) -> list[Expected]:
    if not is_snapshot and not entry["bids"] and not entry["asks"] and entry["prevSeqId"] == entry["seqId"]:
        return []  # a keep-alive: nothing has changed
    row = {
        "timestamp": int(entry["ts"]) * MS,
        "first_update_id": entry["seqId"],
        "last_update_id": entry["seqId"],
        "previous_update_id": -1 if is_snapshot else entry["prevSeqId"],
        "is_snapshot": is_snapshot,
        "bids": contract.levels(pairs(entry["bids"])),
        "asks": contract.levels(pairs(entry["asks"])),
    }
    return [Expected("orderbook_delta", contract, "stream", row, "snapshot" if is_snapshot else "delta")]


def _ticker(entry: dict[str, Any], contract: Contract) -> Row:
    spot = contract.market_type == "spot"
    last, opened = number(entry["last"]), number(entry["open24h"])
    change = minus(last, opened)
    bid, ask = number(entry["bidPx"]), number(entry["askPx"])
    return {
        "timestamp": int(entry["ts"]) * MS,
        "last_price": last,
        "last_quantity": contract.in_base(number(entry["lastSz"]), last),
        "open_price": opened,
        "high_price": number(entry["high24h"]),
        "low_price": number(entry["low24h"]),
        "volume": number(entry["vol24h"] if spot else entry["volCcy24h"]),
        "quote_volume": number(entry["volCcy24h"]) if spot else None,
        "price_change": change,
        "price_change_percent": over(change, opened),
        "best_bid_price": bid,
        "best_bid_quantity": contract.in_base(number(entry["bidSz"]), bid),
        "best_ask_price": ask,
        "best_ask_quantity": contract.in_base(number(entry["askSz"]), ask),
        "content": "both",
    }


def _funding(entry: dict[str, Any]) -> Row:
    at, following = int(entry["fundingTime"]) * MS, entry.get("nextFundingTime")
    upcoming = int(following) * MS if following else None
    return {
        "timestamp": int(entry["ts"]) * MS,
        "funding_rate": number(entry["fundingRate"]),
        "estimated_rate": number(entry.get("nextFundingRate")),
        "funding_time": at,
        "next_funding_time": upcoming,
        "funding_interval": None if upcoming is None else (upcoming - at) // SECOND,
        "premium_index": number(entry.get("premium")),
    }


def _interest(entry: dict[str, Any], contract: Contract) -> Row:
    return {
        "timestamp": int(entry["ts"]) * MS,
        "open_interest": number(entry["oiCcy"]),
        "open_interest_value": number(entry["oiUsd"]),
        "raw_quantity": number(entry["oi"]),
        "quantity_unit": contract.unit,
    }


def _liquidation(detail: dict[str, Any], contract: Contract) -> Row:
    price = sure(detail["bkPx"])
    quantity, value = contract.amounts(sure(detail["sz"]), price)
    return {
        "timestamp": int(detail["ts"]) * MS,
        "liquidation_id": ANY,
        "side": detail["side"],
        "price": price,
        "quantity": quantity,
        "value": value,
    }


def _greeks(entry: dict[str, Any]) -> Row:
    return {
        "timestamp": int(entry["ts"]) * MS,
        "delta": number(entry["deltaBS"]),
        "gamma": number(entry["gammaBS"]),
        "vega": number(entry["vegaBS"]),
        "theta": number(entry["thetaBS"]),
        "mark_iv": number(entry["markVol"]),
        "bid_iv": number(entry["bidVol"]),
        "ask_iv": number(entry["askVol"]),
        "underlying_price": number(entry["fwdPx"]),
        "underlying_index": entry["uly"],
    }


def _interval(form: str) -> str:
    """Give our name of a candle's length: ``1H`` is ``1h``, ``1Dutc`` is ``1d``; months keep their capital."""
    form = form.removesuffix("utc")
    return form if form[-1] in "smM" else form.lower()


def _candle(entry: list[str], interval: str, contract: Contract) -> Row:
    """Read ``[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]``."""
    ts, opened, high, low, close, volume, in_currency, in_quote, confirm = entry
    start = int(ts) * MS
    return {
        "interval": interval,
        "open_time": start,
        "close_time": end_of(start, interval),
        "open_price": sure(opened),
        "high_price": sure(high),
        "low_price": sure(low),
        "close_price": sure(close),
        "volume": sure(volume if contract.market_type == "spot" else in_currency),
        "quote_volume": sure(in_quote),
        "is_closed": confirm == "1",
    }


def answer(venue: str, path: str, query: dict[str, str], body: Any, known: dict[str, Contract]) -> list[Expected]:
    """Read an answer of the REST API that holds rows."""
    contract = known.get(query.get("instId", ""))
    if contract is None or body.get("code") != "0":
        return []
    rows = body["data"]
    match path.removeprefix("/api/v5/"):
        case "market/history-trades" | "market/trades":
            return [Expected("trade", contract, "backfill", _trade(entry, contract), "history") for entry in rows]
        case "market/books":
            return [_rest_book(entry, contract) for entry in rows]
        case "market/candles" | "market/history-candles":
            interval = _interval(query.get("bar", "1m"))
            return [
                Expected(
                    "kline",
                    contract,
                    "backfill",
                    {"timestamp": ANY, **_candle(entry, interval, contract), "is_closed": ANY},
                    "history",
                    interval,
                )
                for entry in rows
            ]
        case "public/funding-rate-history":
            return [Expected("funding_rate", contract, "poll", _charged(entry), "state") for entry in rows]
        case "rubik/stat/contracts/long-short-position-ratio-contract-top-trader":
            return [_ratio("lsr_top_position", entry, query, contract) for entry in rows]
        case "rubik/stat/contracts/long-short-account-ratio-contract":
            return [_ratio("lsr_all_account", entry, query, contract) for entry in rows]
    return []


def _rest_book(entry: dict[str, Any], contract: Contract) -> Expected:
    row = _book({**entry, "prevSeqId": -1}, True, contract)[0].row
    return Expected("orderbook_delta", contract, "stream", row, "snapshot")


def _charged(entry: dict[str, Any]) -> Row:
    at = int(entry["fundingTime"]) * MS
    return {"timestamp": at, "funding_rate": sure(entry["realizedRate"]), "funding_time": at}


def _ratio(data_type: str, entry: list[str], query: dict[str, str], contract: Contract) -> Expected:
    """Read ``[ts, longs per short]``: of all, ``r / (r + 1)`` are long."""
    ratio = sure(entry[1])
    row = {
        "timestamp": int(entry[0]) * MS,
        "long_ratio": over(ratio, ratio + 1),
        "short_ratio": over(Decimal(1), ratio + 1),
        "long_short_ratio": ratio,
        "period": query["period"],
    }
    return Expected(data_type, contract, "poll", row, "state", query["period"])

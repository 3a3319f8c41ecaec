"""``exchangeInfo``: what is listed, in the words of each market."""

from __future__ import annotations

from typing import Any

from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import UNIVERSES, Ask
from marketprism_ray.simulator.binance.figures import contract_type, is_inverse, pair_of
from marketprism_ray.simulator.market import Symbol, plain

PERPETUAL_DELIVERY_MS = 4_133_404_800_000


def exchange(desk: Desk, ask: Ask) -> Any:
    """Answer ``exchangeInfo``."""
    minute = {"interval": "MINUTE", "intervalNum": 1}
    limits = [{"rateLimitType": "REQUEST_WEIGHT", **minute, "limit": desk.facts.weight_per_minute}]
    answer = {"timezone": "UTC", "serverTime": ask.now_ms, "rateLimits": limits, "exchangeFilters": []}
    if desk.name not in UNIVERSES:
        return {**answer, "symbols": [info(symbol) for symbol in desk.chosen(ask)]}
    if not desk.facts.has_ids_of_pairs:
        answer["futuresType"] = "U_MARGINED"
        answer["assets"] = [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]
    limits.append({"rateLimitType": "ORDERS", **minute, "limit": 1200})
    return {**answer, "symbols": [contract_info(symbol) for symbol in desk.own]}


def info(symbol: Symbol) -> dict[str, Any]:
    """Describe a spot pair."""
    listing = symbol.listing
    return {
        "symbol": listing.venue_symbol,
        "status": "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.00000001",
                "maxPrice": "1000000",
                "tickSize": f"{listing.tick:.8f}",
            },
            {
                "filterType": "LOT_SIZE",
                "minQty": f"{listing.lot:.8f}",
                "maxQty": "9000",
                "stepSize": f"{listing.lot:.8f}",
            },
        ],
    }


def contract_info(symbol: Symbol) -> dict[str, Any]:
    """Describe a contract."""
    listing = symbol.listing
    inverse = is_inverse(listing)
    lots = {"stepSize": plain(listing.lot), "maxQty": "1000000", "minQty": plain(listing.lot)}
    own: dict[str, Any] = {"status": "TRADING", "settlePlan": 0}
    if listing.contract is not None and inverse:
        own = {"contractStatus": "TRADING", "contractSize": int(listing.contract[0]), "equalQtyPrecision": 4}
    prices = {"minPrice": plain(listing.tick), "maxPrice": "1000000", "tickSize": plain(listing.tick)}
    notional = [] if inverse else [{"filterType": "MIN_NOTIONAL", "notional": "5"}]
    return {
        "symbol": listing.venue_symbol,
        "pair": pair_of(listing),
        "contractType": contract_type(listing),
        "deliveryDate": listing.expiry_ms or PERPETUAL_DELIVERY_MS,
        "onboardDate": 1_569_398_400_000,
        **own,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.base if inverse else listing.quote,
        "pricePrecision": -int(listing.tick.as_tuple().exponent),
        "quantityPrecision": -int(listing.lot.as_tuple().exponent),
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.006000",
        "marketTakeBound": "0.30",
        "filters": [
            {"filterType": "PRICE_FILTER", **prices},
            {"filterType": "LOT_SIZE", **lots},
            {"filterType": "MARKET_LOT_SIZE", **lots},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
            *notional,
            {
                "filterType": "PERCENT_PRICE",
                "multiplierUp": "1.1500",
                "multiplierDown": "0.8500",
                "multiplierDecimal": "4",
            },
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }

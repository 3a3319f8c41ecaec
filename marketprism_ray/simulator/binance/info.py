"""``exchangeInfo``: what is listed, in the words of each market."""

from __future__ import annotations

from typing import Any

from marketprism_ray.simulator.binance.desk import Desk
from marketprism_ray.simulator.binance.facts import UNIVERSES, Ask
from marketprism_ray.simulator.binance.figures import contract_type, digits, is_inverse, pair_of
from marketprism_ray.simulator.market import Symbol, padded, plain

PERPETUAL_DELIVERY_MS = 4_133_404_800_000
ONBOARD_MS = 1_569_398_400_000


def status_of(desk: Desk, symbol: Symbol, now_ms: int) -> str:
    """Give the venue's word for the state of an instrument; empty if it is not named: a delivered contract still is."""
    listing = symbol.listing
    if symbol in desk.own:
        if symbol.state == "open":
            return "TRADING"
        return "BREAK" if desk.name not in UNIVERSES else "TRADING_HALT"
    return "SETTLING" if listing.expiry_ms is not None and listing.expiry_ms <= now_ms else ""


def told_of(desk: Desk, now_ms: int) -> list[tuple[Symbol, str]]:
    """Give the instruments that the list names, with their states."""
    gone = [symbol for (venue, _), symbol in desk.market.gone.items() if venue == desk.name]
    named = [(symbol, status_of(desk, symbol, now_ms)) for symbol in [*desk.own, *gone]]
    return [(symbol, status) for symbol, status in named if status]


def delivery_ms(symbol: Symbol) -> int:
    """Give the delivery of a contract; of a perpetual one in the year 2100."""
    return symbol.listing.expiry_ms or PERPETUAL_DELIVERY_MS


def exchange(desk: Desk, ask: Ask) -> Any:
    """Answer ``exchangeInfo``."""
    minute = {"interval": "MINUTE", "intervalNum": 1}
    limits = [{"rateLimitType": "REQUEST_WEIGHT", **minute, "limit": desk.facts.weight_per_minute}]
    answer = {"timezone": "UTC", "serverTime": ask.now_ms}
    told = told_of(desk, ask.now_ms)
    if desk.name not in UNIVERSES:
        limits += [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200_000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
        ]
        if "symbol" in ask.query:
            told = [(symbol, status) for symbol, status in told if symbol is desk.symbol(ask)]
        symbols = [info(symbol, status) for symbol, status in told]
        return {**answer, "rateLimits": limits, "exchangeFilters": [], "symbols": symbols}
    limits.append({"rateLimitType": "ORDERS", **minute, "limit": 1200})
    assets = {}
    if not desk.facts.has_ids_of_pairs:
        answer["futuresType"] = "U_MARGINED"
        limits.append({"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300})
        assets = {"assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}]}
    contracts = [contract_info(symbol, status) for symbol, status in told]
    return {**answer, "rateLimits": limits, "exchangeFilters": [], **assets, "symbols": contracts}


def info(symbol: Symbol, status: str) -> dict[str, Any]:
    """Describe a spot pair."""
    listing = symbol.listing
    lots = {"minQty": padded(listing.lot), "maxQty": "9000.00000000", "stepSize": padded(listing.lot)}
    prices = {"minPrice": padded(listing.tick), "maxPrice": "1000000.00000000", "tickSize": padded(listing.tick)}
    market_lots = {"minQty": "0.00000000", "maxQty": "121.62650000", "stepSize": "0.00000000"}
    percent = {"bidMultiplierUp": "5", "bidMultiplierDown": "0.2", "askMultiplierUp": "5", "askMultiplierDown": "0.2"}
    notional = {"minNotional": "5.00000000", "applyMinToMarket": True, "maxNotional": "9000000.00000000"}
    trailing = dict.fromkeys(("minTrailingAboveDelta", "minTrailingBelowDelta"), 10)
    trailing |= dict.fromkeys(("maxTrailingAboveDelta", "maxTrailingBelowDelta"), 2000)
    return {
        "symbol": listing.venue_symbol,
        "status": status,
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "amendAllowed": True,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "filters": [
            {"filterType": "PRICE_FILTER", **prices},
            {"filterType": "LOT_SIZE", **lots},
            {"filterType": "ICEBERG_PARTS", "limit": 100},
            {"filterType": "MARKET_LOT_SIZE", **market_lots},
            {"filterType": "TRAILING_DELTA", **trailing},
            {"filterType": "PERCENT_PRICE_BY_SIDE", **percent, "avgPriceMins": 5},
            {"filterType": "NOTIONAL", **notional, "applyMaxToMarket": False, "avgPriceMins": 5},
            {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
            {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        ],
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def contract_info(symbol: Symbol, status: str) -> dict[str, Any]:
    """Describe a contract."""
    listing = symbol.listing
    inverse = is_inverse(listing)
    lots = {"stepSize": plain(listing.lot), "maxQty": "1000000", "minQty": plain(listing.lot)}
    own: dict[str, Any] = {"status": status, "settlePlan": 0}
    if listing.contract is not None and inverse:
        own = {"contractStatus": status, "contractSize": int(listing.contract[0]), "equalQtyPrecision": 4}
    prices = {"minPrice": plain(listing.tick), "maxPrice": "1000000", "tickSize": plain(listing.tick)}
    notional = [] if inverse else [{"filterType": "MIN_NOTIONAL", "notional": "5"}]
    return {
        "symbol": listing.venue_symbol,
        "pair": pair_of(listing),
        "contractType": contract_type(listing),
        "deliveryDate": delivery_ms(symbol),
        "onboardDate": ONBOARD_MS,
        **own,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.base if inverse else listing.quote,
        "pricePrecision": digits(listing.tick),
        "quantityPrecision": digits(listing.lot),
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["PoW"],
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

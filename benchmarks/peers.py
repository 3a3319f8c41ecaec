"""What the hot path is compared with: the decode floor and, where it is installed, cryptofeed."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
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


class _FuturesDepth(msgspec.Struct, gc=False):
    U: int
    u: int
    pu: int
    E: int
    b: list[_Level]
    a: list[_Level]


class _DeribitLevel(msgspec.Struct, array_like=True, gc=False):
    action: str
    price: float
    amount: float


class _DeribitBook(msgspec.Struct, gc=False):
    type: str
    timestamp: int
    change_id: int
    bids: list[_DeribitLevel]
    asks: list[_DeribitLevel]
    prev_change_id: int | None = None


class _OkxBook(msgspec.Struct, gc=False):
    asks: list[_Level]
    bids: list[_Level]
    ts: int
    checksum: int


def floor_decoder(venue: str, is_book: bool) -> Callable[[bytes], Any]:
    """Give the decoder that does nothing but typed decoding of the fields a reader needs."""
    if venue == "deribit_derivatives":
        params = msgspec.defstruct("Params", [("data", _DeribitBook)], gc=False)
        return msgspec.json.Decoder(msgspec.defstruct("Frame", [("params", params)], gc=False)).decode
    kind: Any
    if venue.startswith("binance"):
        kind = (_SpotDepth if venue == "binance_spot" else _FuturesDepth) if is_book else _SpotTrade
    else:
        kind = list[_OkxBook] if is_book else list[_OkxTrade]
    frame = msgspec.defstruct("Frame", [("data", kind)], gc=False)
    return msgspec.json.Decoder(frame, strict=False).decode


def cryptofeed(
    venue: str, is_book: bool, symbols: Sequence[str], frames: list[bytes], snapshots: Mapping[str, bytes]
) -> float | None:
    """Time cryptofeed's own handler on the same bytes; seconds a frame, or None if it is not installed.

    It runs as in life: its message handler is awaited for each frame and calls back. Trades of the kind it does not
    subscribe are renamed to the one it does. Checksums are off, as the venue sends none any more.
    """
    try:
        from cryptofeed.defines import L2_BOOK, TRADES
        from cryptofeed.exchanges import OKX, Binance, BinanceDelivery, BinanceFutures, Deribit
        from cryptofeed.symbols import Symbols
        from cryptofeed.types import OrderBook
    except ImportError:
        return None
    maker = {
        "binance_spot": Binance,
        "binance_derivatives": BinanceFutures,
        "binance_coinm": BinanceDelivery,
        "okx_spot": OKX,
        "deribit_derivatives": Deribit,
    }[venue]
    names = {(symbol if "-" in symbol else f"{symbol}-X"): symbol for symbol in symbols}
    Symbols.set(
        maker.id,
        names,
        {
            "instrument_type": dict.fromkeys(names, "spot"),
            "tick_size": dict.fromkeys(names, "0.01"),
            "is_quanto": {},
            "contract_size": {},
        },
    )
    channel = L2_BOOK if is_book else TRADES
    texts = [frame.decode() for frame in frames]
    if venue.startswith("binance"):
        texts = [t.replace('"e":"trade"', '"e":"aggTrade"').replace('"t":', '"a":') for t in texts]

    async def take(_: Any, __: float) -> None:
        return None

    # One venue's raw books need a key; nothing is sent here.
    keys = {maker.id.lower(): {"key_id": "none", "key_secret": "none"}}

    def run() -> float:
        feed = maker(
            symbols=list(names), channels=[channel], callbacks={channel: take}, checksum_validation=False, config=keys
        )
        if hasattr(feed, "_reset"):
            feed._reset()
        feed._l2_book, feed.seq_no = {}, {}
        for name, symbol in names.items():
            if symbol in snapshots:
                body = json.loads(snapshots[symbol], parse_float=Decimal)
                bids, asks = ({Decimal(p): Decimal(q) for p, q in body[side]} for side in ("bids", "asks"))
                feed._l2_book[name] = OrderBook(feed.id, name, max_depth=0, bids=bids, asks=asks)
                feed.last_update_id[name] = body["lastUpdateId"]
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

"""Channels of the simulated OKX v5, and the frames that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketprism_ray.simulator.market import BookEvent, TradeEvent
from marketprism_ray.simulator.okx.intervals import FORMS
from marketprism_ray.simulator.okx.rows import DERIVATIVES, TYPES, liquidation_row, text


@dataclass(frozen=True)
class Channel:
    """A channel on offer.

    Parameters
    ----------
    argument : what names a stream of it; ``index`` is an ``instId`` that names an index
    every_ms : cadence of what is sent by the clock; 0 for what is sent as it happens
    at_least_ms : what has not changed is sent again after this; 0 for never
    types : types of instruments that have it
    """

    path: str = "public"
    argument: str = "instId"
    every_ms: int = 0
    at_least_ms: int = 0
    types: tuple[str, ...] = TYPES

    @property
    def parameter(self) -> str:
        """The argument's name on the wire."""
        return "instId" if self.argument == "index" else self.argument


CHANNELS = {
    "trades-all": Channel("business"),
    "trades": Channel(),
    "books": Channel(),
    "bbo-tbt": Channel(),
    "books5": Channel(every_ms=100),
    "tickers": Channel(every_ms=100),
    "index-tickers": Channel(argument="index", every_ms=100),
    "mark-price": Channel(every_ms=200, at_least_ms=10_000, types=DERIVATIVES),
    "opt-summary": Channel(argument="instFamily", every_ms=1_000),
    "open-interest": Channel(every_ms=3_000, types=DERIVATIVES),
    "funding-rate": Channel(every_ms=30_000, types=("SWAP",)),
    "liquidation-orders": Channel(argument="instType"),
    "instruments": Channel(argument="instType"),
    **{f"candle{form}": Channel("business", every_ms=1_000) for form in FORMS},
}


def trade_frame(key: str, event: TradeEvent, sequence: int, count: int | None = None) -> str:
    """Write a push of ``trades-all``, or with the number of fills that it merges one of ``trades``.

    Parameters
    ----------
    sequence : ``seqId``, of the book at that time: trades may share one
    """
    side = "sell" if event.taker_sold else "buy"
    more = "" if count is None else f'"count":"{count}",'
    return (
        f'{{"arg":{key},"data":[{{"instId":"{event.listing.venue_symbol}","tradeId":"{event.id}","px":"{event.price}",'
        f'"sz":"{event.quantity}","side":"{side}","ts":"{event.time_ms}",{more}"source":"0","seqId":{sequence}}}]}}'
    )


def liquidation_frame(key: str, event: TradeEvent) -> str:
    """Write a push of ``liquidation-orders``."""
    return push(key, [liquidation_row(event)])


def book_frame(key: str, event: BookEvent) -> str:
    """Write an update of ``books``."""
    return (
        f'{{"arg":{key},"action":"update","data":[{{"asks":{levels_text(event.asks)},"bids":{levels_text(event.bids)},'
        f'"ts":"{event.time_ms}","checksum":0,"prevSeqId":{event.previous},"seqId":{event.last}}}]}}'
    )


def push(key: str, rows: list[Any]) -> str:
    """Write a push of rows."""
    return f'{{"arg":{key},"data":{text(rows)}}}'


def key_of(channel: str, value: str) -> str:
    """Write what names a stream: its ``arg`` as the venue repeats it."""
    return f'{{"channel":"{channel}","{CHANNELS[channel].parameter}":"{value}"}}'


def levels_text(levels: Any) -> str:
    """Write levels as ``[price, size, "0", orders]``."""
    return "[" + ",".join(f'["{p}","{q}","0","{0 if q == "0" else 1}"]' for p, q in levels) + "]"

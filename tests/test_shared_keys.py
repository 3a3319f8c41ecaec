"""Several data types under one key of the venue, several instruments under one key, and answers that leave some out."""

from __future__ import annotations

import json
from typing import Any

from conftest import instrument

from marketprism_ray.batching import Batcher
from marketprism_ray.feed import Feed, FeedSettings, Send
from marketprism_ray.instruments import Instrument
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.session import _chunks
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import RecordCodec
from marketprism_ray.venues import VENUES

DERIBIT, OKX = VENUES["deribit_derivatives"], VENUES["okx_derivatives"]
SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND


def perpetual(venue: str, name: str) -> Instrument:
    return instrument(
        exchange_name=venue, market_type="perpetual", symbol_name=f"{name}-SWAP", venue_symbol=name, quote="USD",
        quantity_unit="quote", contract_unit="quote",
    )  # fmt: skip


def deribit_streams(batcher: Batcher) -> list[Stream]:
    item = perpetual("deribit_derivatives", "BTC-PERPETUAL")
    liquidations = next(c for c in DERIBIT.channels if c.data_type == "liquidation")
    tickers = [
        c for c in DERIBIT.channels if isinstance(c.codec, RecordCodec) and c.key(item) == "ticker.BTC-PERPETUAL.100ms"
    ]
    wanted = [c for c in tickers if c.data_type in ("ticker", "open_interest")]
    return [
        RecordStream(DERIBIT, [liquidations], [item], batcher),
        TradeStream(DERIBIT, DERIBIT.channel("trade"), item, batcher),
        RecordStream(DERIBIT, wanted, [item], batcher),
    ]


def trade(seq: int, liquidation: str = "") -> bytes:
    row: dict[str, Any] = {
        "trade_seq": seq, "trade_id": f"x{seq}", "timestamp": T0 // 10**6, "price": 50000.5,
        "instrument_name": "BTC-PERPETUAL", "direction": "sell", "amount": 100.0,
    }  # fmt: skip
    if liquidation:
        row["liquidation"] = liquidation
    return push("trades.BTC-PERPETUAL.100ms", [row])


def push(channel: str, data: Any) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}},
        separators=(",", ":"),
    ).encode()


def tables(batcher: Batcher) -> list[str]:
    return sorted(b.data_type for b in batcher.drain(T0, force=True) for _ in range(b.data.num_rows))


def sent(feed: Feed) -> list[dict[str, Any]]:
    found = [json.loads(action.text) for action in feed.actions if isinstance(action, Send)]
    feed.actions.clear()
    return found


def test_a_key_is_subscribed_once_and_its_frames_reach_every_stream() -> None:
    batcher = Batcher("c", 1)
    feed = Feed(DERIBIT, "public", deribit_streams(batcher))
    feed.opened(T0)
    greeting, subscribe = sent(feed)
    assert greeting["method"] == "public/set_heartbeat"
    assert sorted(subscribe["params"]["channels"]) == ["ticker.BTC-PERPETUAL.100ms", "trades.BTC-PERPETUAL.100ms"]
    feed.frame(trade(1), T0)
    assert tables(batcher) == ["trade"]
    feed.frame(trade(2, "MT"), T0)
    assert tables(batcher) == ["liquidation", "liquidation", "trade"]


def test_a_frame_of_several_types_gives_only_those_that_are_wanted() -> None:
    batcher = Batcher("c", 1)
    feed = Feed(DERIBIT, "public", deribit_streams(batcher))
    feed.opened(T0)
    ticker = {
        "timestamp": T0 // 10**6, "instrument_name": "BTC-PERPETUAL", "open_interest": 10, "mark_price": 50000.0,
        "funding_8h": 0.0001, "best_bid_price": 1.0, "best_bid_amount": 1.0,
    }  # fmt: skip
    feed.frame(push("ticker.BTC-PERPETUAL.100ms", ticker), T0)
    assert tables(batcher) == ["open_interest", "ticker"]


def test_what_the_venue_leaves_out_of_its_answer_is_refused_and_asked_for_again_later() -> None:
    feed = Feed(DERIBIT, "public", deribit_streams(Batcher("c", 1)), FeedSettings(rejected_retry_s=60))
    feed.opened(T0)
    _, subscribe = sent(feed)
    answer = {"jsonrpc": "2.0", "id": subscribe["id"], "result": ["trades.BTC-PERPETUAL.100ms"]}
    feed.frame(json.dumps(answer).encode(), T0)
    (refused,) = feed.refused_streams
    assert "ticker.BTC-PERPETUAL.100ms" in refused
    feed.tick(T0 + 59 * SECOND)
    assert [m for m in sent(feed) if m["method"] == "public/subscribe"] == []
    feed.tick(T0 + 61 * SECOND)
    (again,) = [m for m in sent(feed) if m["method"] == "public/subscribe"]
    assert again["params"]["channels"] == ["ticker.BTC-PERPETUAL.100ms"]


def test_a_replacement_takes_over_every_stream_of_a_key() -> None:
    batcher = Batcher("c", 1)
    streams = deribit_streams(batcher)
    old, new = Feed(DERIBIT, "public", streams), Feed(DERIBIT, "public", streams, standby=True)
    old.opened(T0)
    old.frame(trade(1), T0)
    new.opened(T0)
    old.closed("replaced", T0)
    assert all(stream.feeds == [new] for stream in streams)
    new.frame(trade(2, "T"), T0)
    assert tables(batcher) == ["liquidation", "trade", "trade"]


def test_one_stream_reads_a_key_of_many_instruments_and_leaves_out_the_others() -> None:
    batcher = Batcher("c", 1)
    channel = next(c for c in OKX.channels if c.data_type == "liquidation")
    items = [perpetual("okx_derivatives", name) for name in ("BTC-USD-SWAP", "ETH-USD-SWAP")]
    feed = Feed(OKX, "public", [RecordStream(OKX, [channel], items, batcher)])
    feed.opened(T0)
    (subscribe,) = sent(feed)
    assert subscribe["args"] == [{"channel": "liquidation-orders", "instType": "SWAP"}]
    detail = {"side": "sell", "bkPx": "5", "sz": "1", "ts": "1795132800000"}
    data = [{"instId": f"{c}-USD-SWAP", "details": [detail]} for c in ("ETH", "XRP", "BTC")]
    feed.frame(json.dumps({"arg": subscribe["args"][0], "data": data}, separators=(",", ":")).encode(), T0)
    batch = batcher.drain(T0, force=True)[0].data
    assert batch["symbol_name"].to_pylist() == ["ETH-USD-SWAP-SWAP", "BTC-USD-SWAP-SWAP"]


def test_streams_of_a_key_share_a_socket_and_sockets_hold_no_more_keys_than_allowed() -> None:
    streams = [s for _ in range(1) for s in deribit_streams(Batcher("c", 1))]
    chunks = _chunks(streams, 1)
    assert [sorted({s.wire_key for s in chunk}) for chunk in chunks] == [
        ["trades.BTC-PERPETUAL.100ms"],
        ["ticker.BTC-PERPETUAL.100ms"],
    ]
    assert [len(chunk) for chunk in chunks] == [2, 1]

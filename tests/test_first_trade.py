"""A stream that loses its socket before it has seen a trade: no sequence tells what was traded meanwhile."""

from __future__ import annotations

import json
from typing import Any

from test_streams import SECOND, T0, Bench, trade

from marketprism_ray.feed import FetchTrades


def page(*trades: tuple[int, int]) -> bytes:
    """Give a page of history: (id, seconds after the beginning) each."""
    return json.dumps(
        [
            {"id": n, "price": "1", "qty": "1", "time": 1_795_132_800_000 + at * 1000, "isBuyerMaker": False}
            for n, at in trades
        ]
    ).encode()


def cut_before_the_first_trade() -> Bench:
    bench = Bench()
    bench.open()
    bench.feed.closed("disconnected", T0 + 5 * SECOND)
    bench.feed = bench.new_feed()
    bench.feed.opened(T0 + 7 * SECOND)
    bench.feed.frame(b'{"result":null,"id":1}', T0 + 7 * SECOND)
    return bench


def rows_of(bench: Bench) -> list[tuple[Any, ...]]:
    names = ("status", "first_missing", "last_missing", "repaired_count")
    return [tuple(row[name] for name in names) for row in bench.rows("gap") if row["data_type"] == "trade"]


def newest(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], str]:
    found: dict[tuple[Any, ...], tuple[int, str]] = {}
    for row in rows:
        if row["data_type"] == "trade":
            key = (row["opened_at"], row["first_missing"])
            found[key] = max(found.get(key, (-1, "")), (row["revision"], row["status"]))
    return {key: status for key, (_, status) in found.items()}


def test_it_is_written_down_as_soon_as_the_stream_is_heard_again() -> None:
    bench = cut_before_the_first_trade()
    assert rows_of(bench) == [("open", None, None, 0)]
    assert not bench.actions(FetchTrades)


def test_what_was_traded_meanwhile_is_fetched_and_nothing_older() -> None:
    bench = cut_before_the_first_trade()
    bench.feed.frame(trade(500, at=8), T0 + 8 * SECOND)
    (asked,) = bench.actions(FetchTrades)
    assert asked.request.params["fromId"] == "0"
    bench.feed.actions.clear()
    bench.feed.trades(
        bench.trades, page(*((n, -60) for n in range(490, 497)), (497, 5), (498, 6), (499, 7)), T0 + 9 * SECOND
    )
    (asked,) = bench.actions(FetchTrades)
    assert asked.request.params["fromId"] == "497"
    bench.feed.trades(bench.trades, page((497, 5), (498, 6), (499, 7)), T0 + 9 * SECOND)
    batches = [*bench.batcher.drain(T0, force=True), *bench.batcher.drain(T0, force=True)]
    rows = [(b.data_type, row) for b in batches for row in b.data.to_pylist()]
    assert sorted(row["sequence"] for kind, row in rows if kind == "trade") == [497, 498, 499, 500]
    statuses = newest([row for kind, row in rows if kind == "gap"])
    assert {key[1]: status for key, status in statuses.items()} == {None: "repaired", 497: "repaired"}


def test_where_nothing_was_traded_the_row_turns_out_to_be_none() -> None:
    bench = cut_before_the_first_trade()
    bench.feed.frame(trade(500, at=8), T0 + 8 * SECOND)
    bench.feed.trades(bench.trades, page(*((n, -60) for n in range(400, 500))), T0 + 9 * SECOND)
    statuses = newest(bench.rows("gap"))
    assert list(statuses.values()) == ["repaired"]
    assert not bench.trades.gaps


def test_a_history_that_lags_is_asked_again_before_it_is_believed() -> None:
    bench = cut_before_the_first_trade()
    bench.feed.frame(trade(500, at=8), T0 + 8 * SECOND)
    bench.feed.trades(bench.trades, page((497, -60), (498, 6)), T0 + 9 * SECOND)
    assert bench.trades.gaps
    assert list(newest(bench.rows("gap")).values()) == ["open"]
    bench.feed.actions.clear()
    bench.feed.tick(T0 + 20 * SECOND)
    assert len(bench.actions(FetchTrades)) == 1


def test_a_stream_that_was_cut_after_its_first_trade_needs_none_of_this() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.closed("disconnected", T0 + SECOND)
    bench.feed = bench.new_feed()
    bench.feed.opened(T0 + 2 * SECOND)
    bench.feed.frame(b'{"result":null,"id":1}', T0 + 2 * SECOND)
    assert rows_of(bench) == []

"""Which collector owns which symbols: every symbol once, no shard too large, and few moves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.placement import plan_shards
from marketprism_ray.session import Shard

SYMBOLS = st.lists(st.integers(0, 60).map("S{:02d}".format), unique=True, max_size=40)
TYPES = ("trade", "orderbook", "ticker")


def owners(shards: list[Shard]) -> dict[str, str]:
    return {symbol: shard.name for shard in shards for _, symbol in shard.streams}


@given(SYMBOLS, st.integers(1, 20), st.integers(1, 3))
def test_every_stream_has_one_owner_and_no_shard_is_too_large(symbols: list[str], limit: int, types: int) -> None:
    data_types = TYPES[:types]
    shards = plan_shards("v", sorted(symbols), data_types, limit)
    streams = [stream for shard in shards for stream in shard.streams]
    assert sorted(streams) == sorted((t, s) for s in symbols for t in data_types)
    assert len({shard.name for shard in shards}) == len(shards)
    per_shard = max(1, limit // types)
    assert all(len(shard.streams) <= per_shard * types for shard in shards)
    assert len(shards) <= math.ceil(len(symbols) / per_shard)


@given(SYMBOLS, st.integers(1, 20))
def test_the_same_wishes_give_the_same_plan_and_move_nothing(symbols: list[str], limit: int) -> None:
    shards = plan_shards("v", sorted(symbols), TYPES, limit)
    current = {shard.name: shard for shard in shards}
    assert plan_shards("v", sorted(symbols), TYPES, limit, current) == shards


@given(SYMBOLS, SYMBOLS, st.integers(3, 30))
def test_a_symbol_stays_where_it_is_while_its_shard_is_wanted(before: list[str], after: list[str], limit: int) -> None:
    first = plan_shards("v", sorted(before), TYPES, limit)
    second = plan_shards("v", sorted(after), TYPES, limit, {shard.name: shard for shard in first})
    was, now = owners(first), owners(second)
    wanted = {f"v#{i}" for i in range(math.ceil(len(after) / max(1, limit // len(TYPES))))}
    for symbol in set(before) & set(after):
        if was[symbol] in wanted:
            assert now[symbol] == was[symbol]

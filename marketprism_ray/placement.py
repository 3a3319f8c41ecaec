"""Which collector owns which streams. Pure and deterministic.

All streams of a symbol stay together, so that a symbol has one owner; a venue's symbols are dealt to as few collectors
as their limit allows. A symbol keeps its collector while that collector has room: few moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from marketprism_ray.session import Shard


def plan_shards(
    venue: str,
    symbols: Sequence[str],
    data_types: Sequence[str],
    limit: int,
    current: Mapping[str, Shard] | None = None,
) -> list[Shard]:
    """Deal the streams of a venue to shards.

    Parameters
    ----------
    limit : most streams a shard takes on
    current : shards as they are, by name; their symbols stay where they are if they can

    Returns
    -------
    list of Shard
        Named ``venue#0``, ``venue#1``, ...
    """
    if not symbols:
        return []
    per_shard = max(1, limit // max(1, len(data_types)))
    count = math.ceil(len(symbols) / per_shard)
    names = [f"{venue}#{i}" for i in range(count)]
    members: dict[str, list[str]] = {name: [] for name in names}
    wanted = set(symbols)
    for name in names:
        kept = dict.fromkeys(symbol for _, symbol in (current or {}).get(name, Shard(name, venue, ())).streams)
        members[name] = [symbol for symbol in kept if symbol in wanted][:per_shard]
    placed = {symbol for kept in members.values() for symbol in kept}
    for symbol in symbols:
        if symbol not in placed:
            emptiest = min(names, key=lambda name: (len(members[name]), name))
            members[emptiest].append(symbol)
    return [
        Shard(name, venue, tuple((data_type, symbol) for symbol in sorted(members[name]) for data_type in data_types))
        for name in names
        if members[name]
    ]

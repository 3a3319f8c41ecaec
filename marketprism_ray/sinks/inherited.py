"""What a collector inherits: how far its streams without a sequence are stored, and the holes that are still open.

Streams that share a table are told apart by `WAYS`: a line of time is about one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from marketprism_ray.continuity import Hole
from marketprism_ray.gaps import Place

SPANS = ("INTERVAL 1 HOUR", "INTERVAL 1 DAY", "INTERVAL 90 DAY")
"""The newest row is looked for in the last hour first: long tables are not read for streams that run."""
SYMBOLS_PER_QUERY = 500
WAYS = {"kline": "interval", "ticker": "content"}
"""Data type -> column that tells its streams apart, besides whether a row was pushed or asked for."""


class Way(NamedTuple):
    """What tells the rows of one stream from those of others in its table."""

    data_type: str
    market_type: str
    symbol_name: str
    is_pushed: bool
    """False for what is asked for."""
    value: str
    """Of the column in `WAYS`; else empty."""


@dataclass
class Inherited:
    """What the stores know of streams."""

    newest: dict[Way, int] = field(default_factory=dict)
    """Time of the newest row, ns; of candles the open time of the newest final one."""
    open: list[tuple[Place, Hole]] = field(default_factory=list)
    """Holes that somebody is still to fill, or that lasted."""

    def of(self, place: Place) -> tuple[list[Hole], tuple[int, str] | tuple[()]]:
        """Give a stream's holes that are to be filled, and where one that lasted began and why."""
        holes = [hole for where, hole in self.open if where == place]
        lasting = [hole for hole in holes if hole.closed_at is None]
        return (
            [hole for hole in holes if hole.closed_at is not None],
            (lasting[0].opened_at, lasting[0].reason) if lasting else (),
        )


Select = Callable[[str, dict[str, Any]], Sequence[Sequence[Any]]]


def read(select: Select, exchange_name: str, wanted: Sequence[Way], before: int) -> Inherited:
    """Ask a store.

    Parameters
    ----------
    select : (SQL, parameters) -> rows
    before : only rows that were received before this, ns: later ones are the heir's own
    """
    found = Inherited()
    types = sorted({way.data_type for way in wanted})
    for data_type in types:
        ways = {way for way in wanted if way.data_type == data_type}
        for span in SPANS:
            for chunk in _chunks({way.symbol_name for way in ways - found.newest.keys()}):
                rows = select(_newest(data_type, span), {"exchange": exchange_name, "symbols": chunk, "before": before})
                for market_type, symbol, is_pushed, value, at in rows:
                    found.newest.setdefault(Way(data_type, market_type, symbol, bool(is_pushed), value), at)
    for chunk in _chunks({way.symbol_name for way in wanted}):
        parameters = {"exchange": exchange_name, "symbols": chunk, "types": tuple(types)}
        for market_type, symbol, data_type, channel, opened_at, closed_at, reason, count in select(_OPEN, parameters):
            place = Place(exchange_name, market_type, symbol, data_type, channel)
            found.open.append((place, Hole(opened_at, closed_at, reason, count)))
    return found


def _chunks(symbols: set[str]) -> Iterator[tuple[str, ...]]:
    yield from (tuple(sorted(symbols)[i : i + SYMBOLS_PER_QUERY]) for i in range(0, len(symbols), SYMBOLS_PER_QUERY))


def _newest(data_type: str, span: str) -> str:
    column = "open_time" if data_type == "kline" else "timestamp"
    is_candle = data_type == "kline"
    # The last word of a candle counts, whoever brought it: some venues give it through their history only.
    more, pushed = ("AND is_closed ", "toUInt8(1)") if is_candle else ("", "source = 'stream'")
    return (
        f"SELECT market_type, symbol_name, {pushed} AS pushed, {WAYS.get(data_type, repr(''))} AS way, "
        f"toUnixTimestamp64Nano(max({column})) FROM {data_type} WHERE exchange_name = %(exchange)s "
        f"AND symbol_name IN %(symbols)s {more}AND {column} > now() - {span} "
        "AND toUnixTimestamp64Nano(receive_timestamp) < %(before)s "
        "GROUP BY market_type, symbol_name, pushed, way"
    )


_OPEN = (
    "SELECT market_type, symbol_name, data_type, channel, toUnixTimestamp64Nano(opened_at), "
    "if(isNull(closed_at), NULL, toUnixTimestamp64Nano(assumeNotNull(closed_at))), reason, missing_count "
    "FROM gap FINAL WHERE exchange_name = %(exchange)s AND symbol_name IN %(symbols)s AND data_type IN %(types)s "
    "AND first_missing IS NULL AND reason != 'dead_letter' "
    "AND (closed_at IS NULL AND status != 'repaired' OR status = 'open') ORDER BY opened_at"
)


def merged(answers: Sequence[Inherited]) -> Inherited:
    """Combine what several stores know: a row counts as stored where all of them have it that know its stream."""
    found = Inherited()
    for answer in answers:
        found.open += answer.open
        for way, at in answer.newest.items():
            found.newest[way] = min(at, found.newest.get(way, at))
    return found

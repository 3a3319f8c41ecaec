"""Gap rows of streams without a sequence: what a hole is called and how it is written down."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from marketprism_ray.batching import Batcher, Owner
from marketprism_ray.continuity import Hole
from marketprism_ray.records import Gap

Status = Literal["open", "repaired", "unrepairable"]


class Place(NamedTuple):
    """The stream a hole is in, as its gap rows name it."""

    exchange_name: str
    market_type: str
    symbol_name: str
    data_type: str
    channel: str


class Filler(Protocol):
    """What fills holes from a venue's history."""

    def hole(self, place: Place, hole: Hole, *, is_written: bool) -> None:
        """Hear of a hole, and of its end; ``is_written`` if a row of it is in the ledger."""


def write_gap(
    batcher: Batcher, owner: Owner, place: Place, hole: Hole, now: int, *, may_be_repaired: bool, repaired: int = 0
) -> None:
    """Write the row of a hole as it is now.

    Parameters
    ----------
    now : ns since the epoch
    may_be_repaired : the venue has a history of it
    repaired : rows that were brought back; with them the hole is whole if none is missing any more
    """
    whole = hole.missing is not None and repaired == hole.missing
    status: Status = "repaired" if whole else "open" if may_be_repaired else "unrepairable"
    row = Gap(
        exchange_name=place.exchange_name,
        market_type=place.market_type,
        symbol_name=place.symbol_name,
        timestamp=hole.opened_at,
        receive_timestamp=now,
        source="stream",
        data_type=place.data_type,
        channel=place.channel,
        reason=hole.reason,
        opened_at=hole.opened_at,
        closed_at=hole.closed_at,
        missing_count=hole.missing,
        repaired_count=repaired,
        status=status,
        collector=batcher.collector,
        epoch=batcher.epoch,
        revision=batcher.revision(),
    )
    batcher.record(owner, row, now)

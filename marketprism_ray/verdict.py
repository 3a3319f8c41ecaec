"""Is the data whole? What a reader finds in the store and on the stream, against the simulator's truth ledger.

A trade that is in the ledger and not in the store is missing, unless an open gap row says so. A row that a reader sees
twice is doubled. A book is rebuilt from stored snapshots and changes, and the last published book is read; both must be
the simulator's own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

from marketprism_ray.errors import BookError
from marketprism_ray.query import Store, stream_records
from marketprism_ray.simulator.market import LISTINGS, Listing
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.sinks.nats import NatsSettings

DEPTH = 400
UNIT = Decimal(1).scaleb(-18)


@dataclass
class Verdict:
    """What was found. ``missing`` and ``duplicated`` are about a reader of the store."""

    seconds: float = 0.0
    venues: int = 0
    frames: int = 0
    trades_emitted: int = 0
    trades_stored: int = 0
    trades_published: int = 0
    missing: int = 0
    missing_accounted: int = 0
    """Missing trades that open gap rows account for."""
    claimed_missing: int = 0
    """Trades that open gap rows say are missing."""
    duplicated: int = 0
    wrong: int = 0
    stream_missing: int = 0
    stream_duplicated: int = 0
    books_checked: int = 0
    books_equal: int = 0
    gaps_open: int = 0
    gaps_repaired: int = 0
    book_gaps: int = 0
    """Holes in chains of book changes, closed by a new snapshot; venues do not give the changes back."""
    latency_ms: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "p99": None})
    store_age_ms: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "p99": None})
    """Age of the newest trade that a reader of the store finds."""
    collector_mib: int | None = None
    """Resident memory of the largest collector."""
    faults: list[str] = field(default_factory=list)
    """What went wrong on purpose, in words."""
    injected: list[dict[str, Any]] = field(default_factory=list)
    """The same for machines: kind, target, from and to (UTC ns), recovered_s, failed."""
    recovery_s: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "max": None})
    """From the end of a fault until collectors and books were live and nothing waited for a sink."""
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """True if nothing is silently missing, doubled or unequal."""
        return not (
            self.missing
            or self.duplicated
            or self.wrong
            or self.stream_missing
            or self.stream_duplicated
            or self.books_checked != self.books_equal
            or self.missing_accounted != self.claimed_missing
        ) and bool(self.trades_emitted)

    def as_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {**asdict(self), "ok": self.is_clean}

    def in_words(self) -> list[str]:
        """Say it in sentences."""
        words = [
            f"{self.trades_emitted:,} trades were emitted by {self.venues} venues in {self.seconds:.0f} s; "
            f"{self.trades_stored:,} are in the store, {self.trades_published:,} on the stream.",
            f"Silently missing: {self.missing}. Doubled: {self.duplicated}. Altered: {self.wrong}. "
            f"On the stream: missing {self.stream_missing}, doubled {self.stream_duplicated}.",
            f"{self.books_equal} of {self.books_checked} books equal the venue's own, rebuilt from stored changes "
            "and as last published.",
            f"Gaps: {self.gaps_repaired} in trades repaired, {self.book_gaps} in books bridged by a snapshot, "
            f"{self.gaps_open} open"
            + (f", accounting for {self.missing_accounted} missing trades." if self.missing_accounted else "."),
        ]
        if self.faults:
            words.insert(0, f"Injected: {', '.join(self.faults)}.")
        if self.recovery_s["max"] is not None:
            words.append(f"Well again after {self.recovery_s['p50']} s (median), {self.recovery_s['max']} s at most.")
        words += [f"Problem: {problem}" for problem in self.problems[:10]]
        words.append("The data is whole." if self.is_clean else "The data is NOT whole.")
        return words


def wait_for_quiet(simulator: SimulatorProcess, store: Store, *, settle_s: float = 2.0, limit_s: float = 60.0) -> None:
    """Wait until what the ledger has is in the store, or nothing has changed for long."""
    wanted = {(s["venue"], s["symbol"]): s["trades"] for s in simulator.ledger()["symbols"] if s["trades"]}
    deadline = time.monotonic() + limit_s
    last_change, previous = time.monotonic(), None
    while time.monotonic() < deadline:
        table = store.query(
            "SELECT exchange_name, symbol_name, toInt64(uniqExact(sequence)) AS n FROM trade GROUP BY 1, 2 "
            "UNION ALL SELECT 'gap', status, toInt64(count()) FROM gap GROUP BY 2 "
            "UNION ALL SELECT 'book', '', toInt64(count()) FROM orderbook "
            "UNION ALL SELECT 'delta', '', toInt64(count()) FROM orderbook_delta"
        ).to_pylist()
        found = {(row["exchange_name"], row["symbol_name"]): row["n"] for row in table}
        if found != previous:
            last_change, previous = time.monotonic(), found
        whole = all(found.get(place, 0) >= count for place, count in wanted.items())
        quiet = time.monotonic() - last_change
        if (whole and quiet > settle_s) or quiet > 5 * settle_s:
            return
        time.sleep(0.1)


def judge(simulator: SimulatorProcess, store: Store, nats: NatsSettings, verdict: Verdict) -> Verdict:
    """Compare store and stream with the ledger; the market must be paused."""
    ledger = simulator.ledger()
    verdict.venues = len({s["venue"] for s in ledger["symbols"]})
    gaps = store.query("SELECT * FROM gap WHERE data_type = 'trade'").to_pylist()
    everything = store.query("SELECT status, toInt64(count()) AS n FROM gap GROUP BY status").to_pylist()
    statuses = {row["status"]: row["n"] for row in everything}
    verdict.gaps_open, verdict.gaps_repaired = statuses.get("open", 0), statuses.get("repaired", 0)
    verdict.book_gaps = statuses.get("unrepairable", 0)
    for symbol in ledger["symbols"]:
        place = (symbol["venue"], symbol["symbol"])
        listing = next(i for i in LISTINGS if (i.venue, i.symbol) == place)
        _judge_trades(simulator, store, nats, listing, [g for g in gaps if _place(g) == place], verdict)
        _judge_book(simulator, store, listing, verdict)
    return verdict


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["exchange_name"], row["symbol_name"]


def _judge_trades(
    simulator: SimulatorProcess,
    store: Store,
    nats: NatsSettings,
    listing: Listing,
    gaps: list[dict[str, Any]],
    verdict: Verdict,
) -> None:
    truth = simulator.trades(listing.venue, listing.symbol)
    ids = truth["trade_id"].to_pylist()
    if not ids:
        return
    verdict.trades_emitted += len(ids)
    stored = store.trades(listing.venue, listing.symbol).to_pylist()
    found = {row["sequence"]: row for row in stored}
    verdict.trades_stored += len(stored)
    verdict.duplicated += len(stored) - len(found)
    claimed: set[int] = set()
    for gap in gaps:
        if gap["status"] == "open" and gap["first_missing"] is not None:
            last = ids[-1] if gap["last_missing"] is None else gap["last_missing"]
            claimed.update(range(gap["first_missing"], last + 1))
    missing = [i for i in ids if i not in found]
    unaccounted = [i for i in missing if i not in claimed]
    verdict.missing += len(unaccounted)
    verdict.missing_accounted += len(missing) - len(unaccounted)
    verdict.claimed_missing += len(claimed)
    if unaccounted:
        verdict.problems.append(f"{listing.venue} {listing.symbol}: trades {unaccounted[:5]} ... are missing")
    columns = (truth[name].to_pylist() for name in ("trade_id", "price", "quantity", "is_buyer_maker"))
    for identity, price, quantity, sold in zip(*columns, strict=True):
        row = found.get(identity)
        if row is not None and (row["price"], row["quantity"], row["is_buyer_maker"]) != (
            Decimal(price),
            Decimal(quantity),
            sold,
        ):
            verdict.wrong += 1
            verdict.problems.append(
                f"{listing.venue} {listing.symbol}: trade {identity} is {row}, was {price} x {quantity}"
            )
    subject = f"trades-data.{listing.venue}.{listing.market_type}.{listing.symbol.replace('.', '_')}"
    published = [record["sequence"] for record in asyncio.run(stream_records(nats, subject))]
    verdict.trades_published += len(published)
    seen = set(published)
    verdict.stream_duplicated += len(published) - len(seen)
    lost = [i for i in ids if i not in seen and i not in claimed]
    verdict.stream_missing += len(lost)
    if lost:
        verdict.problems.append(f"{listing.venue} {listing.symbol}: trades {lost[:5]} ... are not on the stream")


def _judge_book(simulator: SimulatorProcess, store: Store, listing: Listing, verdict: Verdict) -> None:
    truth = simulator.book(listing.venue, listing.symbol)
    sides = [_in_base(truth[side][:DEPTH], listing) for side in ("bids", "asks")]
    verdict.books_checked += 1
    name = f"{listing.venue} {listing.symbol}"
    try:
        rebuilt = store.rebuild_book(listing.venue, listing.symbol)
    except BookError as error:
        verdict.problems.append(str(error))
        return
    if rebuilt.last_update_id != truth["update_id"]:
        verdict.problems.append(
            f"{name}: rebuilt book is at {rebuilt.last_update_id}, the venue at {truth['update_id']}"
        )
        return
    if [rebuilt.bids[:DEPTH], rebuilt.asks[:DEPTH]] != sides:
        verdict.problems.append(f"{name}: the rebuilt book differs from the venue's")
        return
    live = store.query(
        "SELECT last_update_id, bids.price AS bp, bids.quantity AS bq, asks.price AS ap, asks.quantity AS aq "
        "FROM orderbook WHERE exchange_name = {venue:String} AND symbol_name = {symbol:String} "
        "ORDER BY receive_timestamp DESC LIMIT 1",
        venue=listing.venue,
        symbol=listing.symbol,
    ).to_pylist()
    if not live or live[0]["last_update_id"] != truth["update_id"]:
        verdict.problems.append(f"{name}: the last published book is not the venue's last")
        return
    row = live[0]
    published = [list(zip(row[p], row[q], strict=True)) for p, q in (("bp", "bq"), ("ap", "aq"))]
    if published != sides:
        verdict.problems.append(f"{name}: the last published book differs from the venue's")
        return
    verdict.books_equal += 1


def _in_base(levels: list[list[str]], listing: Listing) -> list[tuple[Decimal, Decimal]]:
    found = []
    with localcontext(prec=80):
        for price, quantity in levels:
            amount = Decimal(quantity)
            if listing.contract is not None:
                size, kind = listing.contract
                amount *= Decimal(size)
                if kind == "inverse":
                    amount = (amount / Decimal(price)).quantize(UNIT, rounding=ROUND_HALF_EVEN)
            found.append((Decimal(price), amount))
    return found

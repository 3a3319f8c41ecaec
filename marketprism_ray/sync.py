"""Keeping one book whole: snapshot and delta synchronisation.

Theory of operation
-------------------
A book is COLD until its stream is subscribed, SYNCING until a snapshot is continued by deltas, LIVE while every delta
follows the one before. What "follows" means is the venue's rule; this table is everybody's:

========  ===================================  ========  ==================================================
State     Event                                Next      Output
========  ===================================  ========  ==================================================
COLD      subscribed                           SYNCING   fetch a snapshot, unless the channel sends its own
SYNCING   delta                                SYNCING   hold it
SYNCING   snapshot that the deltas continue    LIVE      snapshot, then the held deltas that follow it
SYNCING   snapshot too old for them            SYNCING   fetch a snapshot after a delay
SYNCING   overflow of the held deltas          SYNCING   forget them, fetch again or resubscribe
LIVE      delta NEXT                           LIVE      the delta
LIVE      delta STALE                          LIVE      nothing, counted
LIVE      snapshot                             LIVE      gap, if it is another book; the snapshot
LIVE      broken (gap, checksum, crossed, ...) SYNCING   gap, then fetch a snapshot or resubscribe
any       closed                               COLD      gap, if the book was live
========  ===================================  ========  ==================================================

Rules: only a LIVE book answers; a snapshot that nothing has continued yet is LIVE too, for a quiet market sends
nothing; the delta after it decides. A server of REST may lag behind the stream, though, and what changed between its
snapshot and the subscription nobody tells: a gap is closed only when a delta has shown that the snapshot is not older
than the stream, or another snapshot, asked for later, is the same. One that is newer replaces it, with a gap.

Time is an argument, outputs are calls of an `Outputs`; there is no I/O here.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Protocol

from marketprism_ray.errors import BookError
from marketprism_ray.hot import Book, DeltaIntake
from marketprism_ray.venue import BookCodec, Delta, Follows, Snapshot, WireLevel

HELD_LIMIT = 5_000
"""Deltas held while a snapshot is on its way (500 s of a 100 ms stream)."""
OVERTAKEN = 8
"""Changes kept before a pushed snapshot: it may have been overtaken by those that continue it."""
DOUBT_NS = 2_000_000_000
"""A snapshot of REST that no change has spoken for is compared with another one after this."""
OLDER_LIMIT = 5
"""Snapshots older than the book that was lost are not taken so often; then the venue does count afresh."""
STORY_LENGTH = 100
SNAPSHOT_ID = -1
"""``previous_update_id`` of a snapshot row."""


class State(enum.Enum):
    """Where a book stands."""

    COLD = "cold"
    SYNCING = "syncing"
    LIVE = "live"


class Event(enum.Enum):
    """What can happen to it."""

    SUBSCRIBED = "subscribed"
    DELTA = "delta"
    SNAPSHOT = "snapshot"
    SNAPSHOT_TOO_OLD = "snapshot too old"
    SNAPSHOT_FAILED = "snapshot failed"
    OVERFLOW = "overflow"
    BROKEN = "broken"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.COLD, Event.SUBSCRIBED): State.SYNCING,
    (State.COLD, Event.CLOSED): State.COLD,
    (State.SYNCING, Event.SUBSCRIBED): State.SYNCING,
    (State.SYNCING, Event.DELTA): State.SYNCING,
    (State.SYNCING, Event.SNAPSHOT): State.LIVE,
    (State.SYNCING, Event.SNAPSHOT_TOO_OLD): State.SYNCING,
    (State.SYNCING, Event.SNAPSHOT_FAILED): State.SYNCING,
    (State.SYNCING, Event.OVERFLOW): State.SYNCING,
    (State.SYNCING, Event.BROKEN): State.SYNCING,
    (State.SYNCING, Event.CLOSED): State.COLD,
    (State.LIVE, Event.DELTA): State.LIVE,
    (State.LIVE, Event.SNAPSHOT): State.LIVE,
    (State.LIVE, Event.BROKEN): State.SYNCING,
    (State.LIVE, Event.CLOSED): State.COLD,
}


class Outputs(Protocol):
    """What a book asks of its feed."""

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        """Take an applied change; ``previous`` is the id of the book it continues."""

    def fetch_snapshot(self, attempt: int) -> None:
        """Fetch a snapshot through REST; ``attempt`` counts from 0 and grows while they fail or are too old."""

    def resubscribe(self) -> None:
        """Unsubscribe and subscribe this stream: the channel sends a new snapshot."""

    def gap_opened(self, reason: str, last: int, time: int) -> None:
        """Note that changes after ``last`` (at ``time``, venue units) are lost."""

    def gap_closed(self, last: int, time: int, received: int, *, is_whole: bool) -> None:
        """Note that changes are lost up to ``last`` (at ``time``, venue units); none at all if ``is_whole``."""


class BookSync(DeltaIntake):
    """One book and its state machine.

    Parameters
    ----------
    keep : levels a side to keep, see `Book`
    """

    def __init__(self, codec: BookCodec, outputs: Outputs, keep: int | None) -> None:
        self.codec = codec
        self.state = State.COLD
        self._live = False
        self.book = Book(None if codec.bounded else keep)
        self.last = 0
        self.last_time = 0
        self.begun = 0
        """Id of the last snapshot: from there on nothing is missing."""
        self.changed = False
        self.applied = 0
        self.counts = dict.fromkeys(
            (
                "stale",
                "dropped",
                "gaps",
                "resyncs",
                "crossed",
                "snapshots",
                "checksums",
                "checksum_mismatches",
                "overflows",
            ),
            0,
        )
        self.story: deque[tuple[str, str, str]] = deque(maxlen=STORY_LENGTH)
        self.outputs = outputs
        self._emit = outputs.delta
        self._follows = codec.follows
        self._bounded = codec.bounded
        self._held: deque[tuple[Delta, int]] = deque()
        self._attempt = 0
        self.gap_open = False
        self._lost = 0
        """While a gap is open: the id of the book before it."""
        self._fetching = False
        self._doubted: int | None = None
        """Since when (ns) it is not known whether changes were missed; None if none were."""
        self._begun_at = (0, 0)
        """When the last snapshot was the book (venue units), and when it came (ns)."""

    # --- events ---

    def subscribed(self) -> None:
        """Start: the venue has accepted the subscription, or its first delta came."""
        self._move(Event.SUBSCRIBED, "")
        self._start_over(resubscribe=False)

    def _unusual(self, delta: Delta, received: int) -> None:
        """Take a message that is no change which follows in a live book."""
        if delta.is_snapshot:
            self._pushed_snapshot(delta, received)
        elif self._live:
            if self._follows(self.last, delta) is Follows.STALE:
                self.counts["stale"] += 1
            else:
                self.broken("sequence", f"book at {self.last}, delta {delta.first}..{delta.last} ({delta.previous})")
                self._hold(delta, received)
        elif self.state is State.COLD:
            self.subscribed()
            self._hold(delta, received)
        else:
            self._hold(delta, received)

    def snapshot(self, snapshot: Snapshot, received: int) -> None:
        """Take a REST snapshot that was asked for."""
        self._fetching = False
        if self._doubted is not None:
            self._compare(snapshot, received)
            return
        if self.state is not State.SYNCING:
            return
        if self._held:
            if not self.codec.pushes_snapshot:
                # Ids only rise there: some may have come in the wrong order.
                self._held = deque(sorted(self._held, key=lambda held: held[0].last))
            # The first held delta must not be beyond the snapshot, or what lies between them is lost.
            first = self._held[0][0]
            if self.codec.splices(snapshot.last, first) is Follows.GAP and not self._any_splice(snapshot.last):
                self._too_old(f"snapshot {snapshot.last}, first held {first.first}..{first.last}")
                return
        elif self.gap_open and snapshot.last < self._lost and self._attempt < OLDER_LIMIT:
            self._too_old(f"snapshot {snapshot.last}, the book was at {self._lost}")
            return
        held, self._held = self._held, deque()
        if not self._replace(self._whole(snapshot, received), received, doubtful=True):
            return
        if held:
            # It came over this subscription: nothing after the snapshot was missed.
            self._believe(next((one for one, _ in held if self.codec.splices(self.last, one) is Follows.NEXT), None))
        spliced = False
        for position, (delta, at) in enumerate(held):
            rule = self._follows if spliced else self.codec.splices
            follows = rule(self.last, delta)
            if follows is Follows.STALE:
                self.counts["dropped"] += 1
            elif follows is Follows.NEXT:
                spliced = True
                self._apply(delta, at)
            else:
                self.broken("sequence", f"held delta {delta.first}..{delta.last} does not follow {self.last}")
            # Applying may break the book as well as a gap: the rest waits for the next snapshot.
            if not self.is_live:
                self._held.extend(list(held)[position + (follows is not Follows.GAP) :])
                return
        if not spliced:
            self._follows = self._first_follows

    def snapshot_failed(self, error: str) -> None:
        """Hear that the REST snapshot could not be had; asks again."""
        self._fetching = False
        if self.state is State.SYNCING:
            self._move(Event.SNAPSHOT_FAILED, error)
            self._attempt += 1
            self._fetch()
        elif self._doubted is not None:
            self._attempt += 1

    def interrupted(self) -> None:
        """Hear that a fetch under way will not end: asks again."""
        if self._fetching:
            self.snapshot_failed("interrupted")

    def broken(self, reason: str, detail: str) -> None:
        """Give up the book and start over; reason ends up in the gap."""
        was_live = self.state is State.LIVE
        if self.state is State.COLD:
            return
        self._move(Event.BROKEN, f"{reason}: {detail}")
        if was_live:
            self._open_gap(reason)
        self.counts["resyncs"] += 1
        self._start_over(resubscribe=self.codec.pushes_snapshot)

    def closed(self, reason: str) -> None:
        """Hear that the connection is gone."""
        if self.state is State.LIVE:
            self._open_gap(reason)
        self._move(Event.CLOSED, reason)
        self._held.clear()
        self._fetching = False
        self.book.clear()

    def overdue(self) -> None:
        """Hear that a pushed snapshot did not come in time: take it from REST instead."""
        if self.state is State.SYNCING and not self._fetching and self.codec.snapshot is not None:
            self.story.append((self.state.value, "snapshot overdue", "fetching"))
            self._held.clear()
            self._fetch()

    def doubt(self, now: int) -> None:
        """Hear that changes may be missed from now on (ns): the subscription is made anew."""
        if self.codec.pushes_snapshot:
            return
        self._held.clear()
        if self.state is State.LIVE:
            self._doubted = now
            self._follows = self._first_follows

    def look_again(self, now: int) -> None:
        """Ask for another snapshot, if no change has spoken for the last one for long (now in ns)."""
        if self._doubted is not None and not self._fetching and now - self._doubted >= DOUBT_NS:
            self._fetch()

    def clock_stepped(self, moved: int) -> None:
        """Move the time of a doubt along with the clock (ns)."""
        if self._doubted is not None:
            self._doubted += moved

    # --- what they do ---

    def _too_old(self, detail: str) -> None:
        self._move(Event.SNAPSHOT_TOO_OLD, detail)
        self._attempt += 1
        self._fetch()

    def _whole(self, snapshot: Snapshot, received: int) -> Delta:
        return Delta(
            first=snapshot.last,
            last=snapshot.last,
            previous=None,
            time=received // self.codec.time_ns if snapshot.time is None else snapshot.time,
            bids=snapshot.bids,
            asks=snapshot.asks,
            is_snapshot=True,
        )

    def _compare(self, snapshot: Snapshot, received: int) -> None:
        """Compare a snapshot with the live book, of which it is not known whether changes were missed."""
        if snapshot.last == self.last:
            self._believe()
        elif snapshot.last < self.last:
            self._doubted = received  # from a server that lags behind even more
        else:
            self._open_gap("sequence")
            if self._replace(self._whole(snapshot, received), received, doubtful=True):
                self._follows = self._first_follows

    def _believe(self, first: Delta | None = None) -> None:
        """Know that nothing was missed after the last snapshot, which ``first`` continues; it may begin before that."""
        self._doubted = None
        self._attempt = 0
        if not self.gap_open:
            return
        self.gap_open = False
        last = self.begun
        if first is not None and first.last == last > self._lost:
            last = max(first.first - 1, self._lost)
        is_whole = last == self._lost or (first is not None and first.previous == self._lost)
        self.outputs.gap_closed(last, *self._begun_at, is_whole=is_whole)

    def _first_follows(self, last: int, delta: Delta) -> Follows:
        """Judge the first delta after a snapshot that nothing had continued yet."""
        follows = self.codec.splices(last, delta)
        if follows is Follows.NEXT:
            self._follows = self.codec.follows
        if follows is not Follows.GAP and self._doubted is not None:
            # Also one that is older than the snapshot: whatever is newer comes after it.
            self._believe(delta if follows is Follows.NEXT else None)
        return follows

    def _any_splice(self, snapshot_id: int) -> bool:
        return any(self.codec.splices(snapshot_id, delta) is not Follows.GAP for delta, _ in self._held)

    def _start_over(self, *, resubscribe: bool) -> None:
        self._held.clear()
        self.book.clear()
        self.changed = False
        if self.codec.pushes_snapshot:
            if resubscribe:
                self.outputs.resubscribe()
        elif not self._fetching:
            self._fetch()

    def _fetch(self) -> None:
        self._fetching = True
        self.outputs.fetch_snapshot(self._attempt)

    def _hold(self, delta: Delta, received: int) -> None:
        if self.codec.pushes_snapshot and not self._fetching:
            # Nothing to splice: what the venue queued before its snapshot is part of it, unless they changed places.
            self._held.append((delta, received))
            if len(self._held) > OVERTAKEN:
                self._held.popleft()
                self.counts["dropped"] += 1
            return
        self._held.append((delta, received))
        if len(self._held) > HELD_LIMIT:
            self.counts["overflows"] += 1
            self._move(Event.OVERFLOW, f"{HELD_LIMIT} deltas held")
            self._start_over(resubscribe=True)

    def _pushed_snapshot(self, delta: Delta, received: int) -> None:
        if self.state is State.COLD:
            self._move(Event.SUBSCRIBED, "")
        if self.state is State.LIVE and delta.last < self.last:
            self.counts["stale"] += 1  # it was overtaken by the changes that continue it, or came twice
            return
        if self.state is State.LIVE and delta.last != self.last:
            self._open_gap("resubscribed")
        held, self._held = self._held, deque()
        self._fetching = False
        if not self._replace(delta, received, doubtful=False):
            return
        for late, at in held:
            if self.is_live and self.codec.splices(self.last, late) is Follows.NEXT:
                self._apply(late, at)
            else:
                self.counts["dropped"] += 1

    def _replace(self, whole: Delta, received: int, *, doubtful: bool) -> bool:
        try:
            crossed = self.book.replace(whole.bids, whole.asks)
        except BookError as error:
            self.broken("malformed", str(error))
            return False
        if crossed:
            self.counts["crossed"] += 1
            self._attempt += 1
            self.broken("crossed", f"snapshot {whole.last}")
            return False
        self._move(Event.SNAPSHOT, str(whole.last))
        self._follows = self.codec.follows
        self._attempt = 0
        self.counts["snapshots"] += 1
        self.last = self.begun = whole.last
        self.last_time = whole.time
        self._begun_at = (whole.time, received)
        self.changed = True
        self.outputs.delta(whole, SNAPSHOT_ID, received)
        if doubtful:
            self._doubted = received
        else:
            self._believe()
        return not whole.checksum or self._check(whole)

    def _examine(self, delta: Delta, crossed: bool) -> None:
        if crossed:
            self.counts["crossed"] += 1
            self.broken("crossed", f"after {delta.last}")
        else:
            self._check(delta)

    def _check(self, delta: Delta) -> bool:
        """Compare the venue's digest, while it sends one."""
        digest = self.codec.checksum
        if digest is None:
            return True
        found = digest(*self.book.top(self.codec.checksum_depth))
        if found == delta.checksum:
            self.counts["checksums"] += 1
            return True
        self.counts["checksum_mismatches"] += 1
        self.broken("checksum", f"after {delta.last}: ours {found}, theirs {delta.checksum}")
        return False

    def _open_gap(self, reason: str) -> None:
        self.counts["gaps"] += 1
        if not self.gap_open:
            self.gap_open = True
            self._lost = self.last
            self.outputs.gap_opened(reason, self.last, self.last_time)

    def hand_over(self, outputs: Outputs, *, lost: int | None) -> None:
        """Let another take the outputs; everything after ``lost`` is missing there, None if nothing is."""
        self.outputs = outputs
        self._emit = outputs.delta
        self.gap_open = lost is not None
        self._lost = lost or 0
        if lost is not None and self.is_live and self.begun <= lost <= self.last:
            # This book has all of it.
            self.gap_open = False
            outputs.gap_closed(lost, self.last_time, self._begun_at[1], is_whole=True)
        elif self.is_live and self._doubted is None:
            self._believe()

    def resume(self, last: int, time: int) -> None:
        """Continue after a lost predecessor whose last durable change was ``last``: opens the gap it left."""
        self.last = last
        self.last_time = time // self.codec.time_ns
        self._open_gap("collector_lost")

    def _move(self, event: Event, detail: str) -> None:
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            story = "; ".join(" ".join(step) for step in list(self.story)[-5:])
            raise BookError(f"book: {event.value} cannot happen in state {self.state.value} (story: {story})")
        self.story.append((event.value, f"{self.state.value}->{state.value}", detail))
        self.state = state
        self._live = state is State.LIVE
        if not self._live:
            self._doubted = None

    # --- reading ---

    @property
    def is_live(self) -> bool:
        """True when the book answers."""
        return self.state is State.LIVE

    @property
    def is_doubtful(self) -> bool:
        """True while changes after the last snapshot may have been missed."""
        return self._doubted is not None

    def best(self) -> tuple[WireLevel | None, WireLevel | None]:
        """Give best bid and offer.

        Raises
        ------
        BookError
            If the book is not live.
        """
        self._require_live()
        return self.book.best()

    def top(self, depth: int) -> tuple[list[WireLevel], list[WireLevel]]:
        """Give the best levels of a live book, best first.

        Raises
        ------
        BookError
            If the book is not live.
        """
        self._require_live()
        return self.book.top(depth)

    def _require_live(self) -> None:
        if self.state is not State.LIVE:
            raise BookError(f"the book is {self.state.value}, not live")

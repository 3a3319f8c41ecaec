"""Whatever a venue changes is stored, or lies in a gap; and no gap is about what is stored."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from marketprism_ray.sync import DOUBT_NS, SNAPSHOT_ID, BookSync, State
from marketprism_ray.venue import BookCodec, Delta, Snapshot, WireLevel
from marketprism_ray.venues import VENUES

BIDS, ASKS = [WireLevel("9", "1")], [WireLevel("20", "1")]


class World:
    """A venue whose changes count up by one, its subscriber, and what that writes down."""

    def __init__(self, venue: str) -> None:
        found = VENUES[venue].channel("orderbook").codec
        assert isinstance(found, BookCodec)
        self.codec = found
        self.says_previous = venue != "binance_spot"
        self.stored: set[int] = set()
        self.begun: int | None = None
        self.gaps: list[tuple[int, int, bool]] = []
        self.open: int | None = None
        self.wanted = 0
        self.resubscribing = False
        self.now = 0
        self.at = self.surely = 100
        """The newest change, and the newest that every server of REST knows."""
        self.connected = False
        self.held_back: Delta | None = None
        self.sync = BookSync(self.codec, self, None)

    # --- what the book says ---

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        if previous != SNAPSHOT_ID:
            self.stored.add(delta.last)
        elif self.begun is None:
            self.begun = delta.last

    def fetch_snapshot(self, attempt: int) -> None:
        self.wanted += 1

    def resubscribe(self) -> None:
        self.resubscribing = True

    def gap_opened(self, reason: str, last: int, time: int) -> None:
        assert self.open is None
        self.open = last

    def gap_closed(self, last: int, time: int, received: int, *, is_whole: bool) -> None:
        assert self.open is not None
        self.gaps.append((self.open + 1, last, is_whole))
        self.open = None

    # --- what happens ---

    def change(self, *, swapped: bool = False) -> None:
        self.at += 1
        if not self.connected:
            return
        previous = self.at - 1 if self.says_previous else None
        delta = Delta(self.at, self.at, previous, 1, [WireLevel("8", str(self.at))], [])
        if swapped and self.held_back is None:
            self.held_back = delta
            return
        self.sync.delta(delta, self.now)
        self.release()

    def release(self) -> None:
        delta, self.held_back = self.held_back, None
        if delta is not None:
            self.sync.delta(delta, self.now)

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.sync.subscribed()
            self.greet()

    def greet(self) -> None:
        if self.codec.pushes_snapshot:
            self.sync.delta(Delta(self.at, self.at, -1, 1, BIDS, ASKS, is_snapshot=True), self.now)

    def cut(self) -> None:
        if self.connected:
            self.connected, self.held_back, self.wanted, self.resubscribing = False, None, 0, False
            self.sync.closed("disconnected")

    def answer(self, late: int) -> None:
        """Answer one request for a snapshot, or for a new subscription."""
        if self.wanted:
            self.wanted -= 1
            self.sync.snapshot(Snapshot(max(self.at - late, self.surely), 1, BIDS, ASKS), self.now)
        elif self.resubscribing:
            self.resubscribing = False
            self.greet()

    def resubscribe_while_live(self, missed: int) -> None:
        """Subscribe anew because the stream seems too quiet; changes are missed meanwhile."""
        if self.connected:
            self.release()
            self.sync.doubt(self.now)
            self.at += missed
            self.greet()

    def pass_time(self) -> None:
        self.now += DOUBT_NS
        self.surely = self.at
        self.sync.look_again(self.now)

    def settle(self) -> None:
        """Let the market be silent, and the servers of REST come up with the stream."""
        self.connect()
        self.release()
        for _ in range(20):
            while self.wanted or self.resubscribing:
                self.answer(0)
            self.pass_time()
        assert self.sync.state is State.LIVE
        assert not self.sync.is_doubtful
        assert self.sync.last == self.at
        assert self.open is None

    def lost(self) -> set[int]:
        """Give what is neither stored nor in a gap."""
        assert self.begun is not None
        told = {one for first, last, is_whole in self.gaps if not is_whole for one in range(first, last + 1)}
        return set(range(self.begun + 1, self.at + 1)) - self.stored - told


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.booleans()),
        st.tuples(st.just("change"), st.just(False)),
        st.tuples(st.just("cut"), st.none()),
        st.tuples(st.just("connect"), st.none()),
        st.tuples(st.just("answer"), st.integers(0, 3)),
        st.tuples(st.just("time"), st.none()),
        st.tuples(st.just("again"), st.integers(0, 3)),
    ),
    max_size=40,
)


def play(world: World, steps: list[tuple[str, int | bool | None]]) -> None:
    for name, value in steps:
        match name:
            case "change":
                world.change(swapped=bool(value))
            case "cut":
                world.cut()
            case "connect":
                world.connect()
            case "answer":
                world.answer(int(value or 0))
            case "time":
                world.pass_time()
            case _:
                world.resubscribe_while_live(int(value or 0))
    world.settle()
    assert world.lost() == set()
    for first, last, is_whole in world.gaps:
        claimed = set(range(first, last + 1))
        assert not is_whole or claimed <= world.stored
        assert is_whole or not claimed or not claimed <= world.stored, (first, last)


@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_with_snapshots_of_servers_that_lag_behind_nothing_is_lost_silently(
    steps: list[tuple[str, int | bool | None]],
) -> None:
    play(World("binance_spot"), steps)
    play(World("binance_derivatives"), steps)


@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_with_pushed_snapshots_nothing_is_lost_silently(steps: list[tuple[str, int | bool | None]]) -> None:
    play(World("okx_spot"), steps)
    play(World("deribit_derivatives"), steps)


def test_a_silent_market_after_a_late_snapshot_leaves_a_gap_up_to_the_book_as_it_is() -> None:
    world = World("binance_coinm")
    world.connect()
    world.change()
    world.answer(0)
    world.cut()
    world.change()
    world.change()
    world.connect()
    world.answer(1)
    assert world.open is not None, "nobody knows yet whether the snapshot is the whole book"
    world.pass_time()
    world.answer(0)
    world.pass_time()
    world.answer(0)
    assert world.gaps == [(102, 103, False)]


def test_a_change_that_overtook_the_snapshot_it_continues_is_kept() -> None:
    world = World("okx_spot")
    world.sync.subscribed()
    world.sync.delta(Delta(6, 6, 5, 1, BIDS, []), 0)
    world.sync.delta(Delta(5, 5, -1, 1, BIDS, ASKS, is_snapshot=True), 0)
    assert (world.sync.last, world.stored) == (6, {6})

"""The protocol core of one connection: events in, rows and actions out. No I/O, no clock: time is an argument.

A shell (``connection.py``) owns the socket. It tells the feed what happened (`opened`, `frame`, `snapshot`, `tick`,
`closed`) and after each call carries out what stands in ``actions``. Streams outlive feeds: they are handed from one
connection to the next, so that a sequence is checked across reconnects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from marketprism_ray.book_stream import BookStream
from marketprism_ray.errors import DECODE_ERRORS, FrameError, shorten
from marketprism_ray.hot import FrameIntake
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.resubscribing import HourlyRequests, Patience
from marketprism_ray.streams import FeedLink, Stream, cause_of
from marketprism_ray.sync import State
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import (
    Ack,
    Data,
    Ignore,
    Rejected,
    Reply,
    Request,
    ShutdownNotice,
    Venue,
)

SECOND = 1_000_000_000
REQUESTS_REMEMBERED = 1_000
"""Subscribe messages whose answers we can place; venues that name streams in their answers need none."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write this text to the socket."""

    text: str


@dataclass(frozen=True, slots=True)
class FetchSnapshot:
    """Fetch a book snapshot, not before that time (ns), and hand it to `Feed.snapshot`."""

    stream: BookStream
    request: Request
    not_before: int


@dataclass(frozen=True, slots=True)
class FetchTrades:
    """Fetch past trades and hand them to `Feed.trades`."""

    stream: TradeStream
    request: Request


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Drop this socket; open another after backoff."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Open a second socket first, then close this one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A standby feed can take over: the old socket may be closed."""


Action = Send | FetchSnapshot | FetchTrades | Reconnect | Replace | Finished


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Deadlines of a feed, in seconds."""

    first_frame_s: float = 10.0
    """A stream with a cadence must send its first frame within this, or three cadences if that is longer."""
    silence_s: float = 30.0
    """A stream with a cadence that was silent for this, or ten cadences if longer, is subscribed anew."""
    quiet_s: float = 3_600.0
    """A stream without a cadence that was silent for this is subscribed anew."""
    pushed_snapshot_s: float = 5.0
    """A channel that sends its own snapshot gets this long; then REST is asked."""
    snapshot_retry_s: float = 1.0
    """Delay before a snapshot is asked for again, doubled each time up to 30 s."""
    ack_s: float = 15.0
    """A subscription that was not answered within this is sent again."""
    probe_after_s: float = 5.0
    """A trade stream that was accepted this long ago and has sent nothing asks the history what it missed."""
    rejected_retry_s: float = 60.0
    """A refused subscription is tried again after this."""


@dataclass(slots=True)
class Subscription:
    """What one feed knows of one stream on its socket."""

    stream: Stream
    sent: int = 0
    acked: int = 0
    frames_before: int = 0
    probed: bool = False
    refused: str = ""
    retry_at: int = 0
    alarms: int = 0
    frames_seen: int = 0
    last_frame: int = 0
    patience: Patience = field(default_factory=Patience)

    def clock_stepped(self, moved: int) -> None:
        """Move the times there are along with the clock; 0 means never."""
        self.patience.clock_stepped(moved)
        self.sent += moved if self.sent else 0
        self.acked += moved if self.acked else 0
        self.retry_at += moved if self.retry_at else 0
        self.last_frame += moved if self.last_frame else 0

    def look(self, now: int) -> None:
        """Note when the stream last had frames; the hot path only counts them."""
        if self.stream.frames != self.frames_seen:
            self.frames_seen = self.stream.frames
            self.last_frame = self.stream.last_received = now
            self.alarms = 0


class Feed(FrameIntake):
    """One connection's protocol.

    Parameters
    ----------
    standby : this is a planned replacement: nothing counts until it is finished and the other feed closed
    tap : called with each raw frame and its receive time, before decoding (recording)
    """

    def __init__(
        self,
        venue: Venue,
        endpoint: str,
        streams: Sequence[Stream],
        settings: FeedSettings | None = None,
        *,
        standby: bool = False,
        connection_id: str = "",
        tap: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self.venue = venue
        self.endpoint = endpoint
        self.streams = tuple(streams)
        self.settings = settings or FeedSettings()
        self.connection_id = connection_id
        self.actions: deque[Action] = deque()
        self.now = 0
        self.standby = standby
        self.frames = 0
        self.counts = dict.fromkeys(("unknown", "errors", "acks", "rejected", "notices", "alarms", "resubscribed"), 0)
        self.last_errors: deque[str] = deque(maxlen=20)
        self._tap = tap
        self._route = venue.route
        self._sharing: dict[str, list[Stream]] = {}
        # Several streams may read the frames of one key; the one with the strictest rules speaks for all of them.
        for stream in sorted(self.streams, key=lambda stream: isinstance(stream, RecordStream)):
            self._sharing.setdefault(stream.wire_key, []).append(stream)
        self._subscriptions = {key: Subscription(streams[0]) for key, streams in self._sharing.items()}
        self._handlers = {}
        self._requests: dict[str, tuple[str, ...]] = {}
        self._request_id = 0
        self._frames_seen = 0
        self._last_frame = 0
        self._next_check = 0
        self._pinged = 0
        self.caught_up = False
        self._asked_replacement = False
        self._hourly = HourlyRequests(venue.limits.requests_per_hour)
        self._books = [stream for stream in self.streams if isinstance(stream, BookStream)]
        self._trades = [stream for stream in self.streams if isinstance(stream, TradeStream)]

    # --- events ---

    def opened(self, now: int) -> None:
        """Hear that the socket is open: subscribe everything."""
        self.now = now
        self._last_frame = now
        for stream in self.streams:
            stream.feeds.insert(len(stream.feeds) if self.standby else 0, self)
        self._place_handlers()
        if self.venue.greeting is not None:
            self._request_id += 1
            self._requests[str(self._request_id)] = ()
            self.actions.extend(Send(text) for text in self.venue.greeting(self._request_id))
        self._subscribe(list(self._subscriptions))
        if self.standby:
            for book in self._books:
                book.start_standby(self)
        else:
            for stream in self.streams:
                stream.attached()

    def _place_handlers(self) -> None:
        for key, streams in self._sharing.items():
            handlers = [stream.standby_frame if self.standby else stream.frame for stream in streams]
            self._handlers[key.encode()] = handlers[0] if len(handlers) == 1 else _all_of(handlers)

    def snapshot(self, stream: BookStream, body: bytes, received: int) -> None:
        """Take the answer to a `FetchSnapshot`."""
        self.now = received
        if self not in stream.feeds:
            return
        decode = stream.codec.decode_snapshot
        assert decode is not None
        try:
            snapshot = decode(body)
        except DECODE_ERRORS as error:
            self._error(f"{stream.key}: snapshot: {type(error).__name__}: {error} in {shorten(body)}")
            stream.of(self).snapshot_failed(str(error))
            return
        stream.of(self).snapshot(snapshot, received)

    def snapshot_failed(self, stream: BookStream, error: str, now: int) -> None:
        """Hear that a snapshot could not be fetched."""
        self.now = now
        self._error(f"{stream.key}: snapshot: {error}")
        if self in stream.feeds:
            stream.of(self).snapshot_failed(error)

    def trades(self, stream: TradeStream, body: bytes, received: int) -> None:
        """Take the answer to a `FetchTrades`."""
        self.now = received
        try:
            stream.history(body, received)
        except FrameError as error:
            self._error(str(error))
            stream.history_failed(str(error))

    def trades_failed(self, stream: TradeStream, error: str, now: int) -> None:
        """Hear that past trades could not be fetched."""
        self.now = now
        self._error(f"{stream.key}: history: {error}")
        stream.history_failed(error)

    def tick(self, now: int) -> None:
        """Publish due books; a few times a second look at deadlines. Call about every 20 ms."""
        self.now = now
        if not self.standby:
            for stream in self._books:
                stream.publish(now)
        if now >= self._next_check:
            self._next_check = now + SECOND // 4
            self._check(now)

    def clock_stepped(self, now: int, moved: int) -> None:
        """Hear that the wall clock has stepped: deadlines stay as far away as they were.

        Parameters
        ----------
        now, moved : time after the step and its length, ns
        """
        self.now = now
        self._last_frame += moved
        self._next_check += moved
        self._pinged += moved
        self._hourly.clock_stepped(moved)
        for subscription in self._subscriptions.values():
            subscription.clock_stepped(moved)

    def closed(self, reason: str, now: int) -> None:
        """Hear that the socket is gone. A standby feed that carries the same streams counts from now on."""
        self.now = now
        cause = cause_of(reason)
        successors: set[FeedLink] = set()
        for stream in self.streams:
            if self not in stream.feeds:
                continue
            counted = stream.feeds[0] is self
            if counted and len(stream.feeds) == 1:
                stream.closed(cause)
            elif counted and not stream.feeds[1].caught_up:
                stream.cut_short(cause)
            stream.feeds.remove(self)
            if counted and stream.feeds:
                successors.add(stream.feeds[0])
                stream.promoted()
        for successor in successors:
            successor.promote(now)
        self.actions.clear()

    def promote(self, now: int) -> None:
        """Count from now on."""
        self.now = now
        self.standby = False
        self._place_handlers()
        for stream in self.streams:
            stream.attached()

    # --- what streams ask for ---

    def fetch_snapshot(self, stream: BookStream, attempt: int) -> None:
        """Ask the shell for a REST snapshot, later and later while it fails."""
        codec = stream.codec
        assert codec.snapshot is not None
        delay = 0.0 if attempt == 0 else min(30.0, self.settings.snapshot_retry_s * 2 ** min(attempt - 1, 10))
        request = codec.snapshot(stream.instrument, codec.depth)
        self.actions.append(FetchSnapshot(stream, request, self.now + int(delay * SECOND)))

    def fetch_trades(self, stream: TradeStream, request: Request) -> None:
        """Ask the shell for past trades."""
        self.actions.append(FetchTrades(stream, request))

    def resubscribe(self, stream: Stream, reason: str) -> None:
        """Unsubscribe and subscribe one stream: at once, or as soon as its patience and the venue's limit allow it."""
        key = stream.wire_key
        self._subscriptions[key].patience.wanted = True
        self._resubscribe_due(key)

    def _resubscribe_due(self, key: str) -> None:
        patience = self._subscriptions[key].patience
        if not patience.is_due(self.now) or not self._hourly.allows(2, self.now):
            return
        patience.asked(self.now)
        self.counts["resubscribed"] += 1
        for each in self._sharing[key]:
            each.unsubscribed(self)
        self._request_id += 1
        self._hourly.sent(self.now)
        self.actions.append(Send(self.venue.unsubscribe([key], self._request_id)))
        self._requests[str(self._request_id)] = ()
        self._subscribe([key])

    # --- subscribing ---

    def _subscribe(self, keys: list[str]) -> None:
        limits = self.venue.limits
        message: list[str] = []
        size = 0
        for key in keys:
            if message and (len(message) >= limits.keys_per_message or size + len(key) > limits.message_bytes - 200):
                self._send_subscribe(message)
                message, size = [], 0
            message.append(key)
            size += len(key.encode()) + 4
        if message:
            self._send_subscribe(message)

    def _send_subscribe(self, keys: list[str]) -> None:
        self._request_id += 1
        self._hourly.sent(self.now)
        self._requests[str(self._request_id)] = tuple(keys)
        while len(self._requests) > REQUESTS_REMEMBERED:
            del self._requests[next(iter(self._requests))]
        self.actions.append(Send(self.venue.subscribe(keys, self._request_id)))
        for key in keys:
            subscription = self._subscriptions[key]
            subscription.sent = self.now
            subscription.acked = 0
            subscription.refused = ""
            subscription.frames_before = subscription.stream.frames
            subscription.probed = False

    def _accepted(self, keys: Sequence[str]) -> None:
        for key in keys:
            subscription = self._subscriptions.get(key)
            if subscription is None or subscription.acked:
                continue
            self.counts["acks"] += 1
            subscription.acked = self.now
            for each in self._sharing[key]:
                each.accepted(self)
            stream = subscription.stream
            if isinstance(stream, BookStream) and self in stream.feeds:
                sync = stream.of(self)
                # Deltas may have come before the answer, and have started the book already.
                if sync.state is State.COLD:
                    sync.subscribed()

    # --- frames that are no data ---

    def _other(self, raw: bytes, received: int) -> None:
        try:
            control = self.venue.control(raw)
        except DECODE_ERRORS as error:
            self._unplaced(raw, error)
            return
        match control:
            case Data(key):
                handler = self._handlers.get(key.encode())
                if handler is None:
                    self.counts["unknown"] += 1
                    self._error(f"{self.venue.name}: data for {key!r}, which was not asked for")
                else:
                    handler(raw, received)
            case Ack(keys, request_id, True):
                asked = self._requests.pop(request_id or "", ())
                self._accepted(keys)
                for key in set(asked) - set(keys):
                    self._refused("unknown", "left out of what was accepted", key, None)
            case Ack(keys, request_id):
                self._accepted(keys or self._requests.pop(request_id or "", ()))
            case Rejected(code, message, key, request_id):
                self._refused(code, message, key, request_id)
            case ShutdownNotice(message):
                self.counts["notices"] += 1
                self._replace(f"notice: {message}")
            case Reply(text):
                self.actions.append(Send(text))
            case Ignore():
                pass

    def _unplaced(self, raw: bytes, error: Exception) -> None:
        """Count a frame nobody understands. Which stream lost data shows in its sequence."""
        self.counts["errors"] += 1
        self._error(f"{self.venue.name}: {type(error).__name__}: {error} in {shorten(raw)}")

    def _refused(self, code: str, message: str, key: str | None, request_id: str | None) -> None:
        self.counts["rejected"] += 1
        keys = (key,) if key is not None else self._requests.pop(request_id or "", ())
        text = f"{self.venue.name}: refused: {code} {message}"
        self._error(f"{text} ({key or ', '.join(keys) or 'no stream named'})")
        for name in keys:
            subscription = self._subscriptions.get(name)
            if subscription is not None:
                subscription.refused = f"{code} {message}"
                subscription.retry_at = self.now + int(self.settings.rejected_retry_s * SECOND)

    def _error(self, text: str) -> None:
        self.last_errors.append(text)

    def _replace(self, reason: str) -> None:
        if not self._asked_replacement and not self.standby:
            self._asked_replacement = True
            self.actions.append(Replace(reason))

    # --- deadlines ---

    def _check(self, now: int) -> None:
        if self.frames != self._frames_seen:
            self._frames_seen = self.frames
            self._last_frame = now
        for subscription in self._subscriptions.values():
            subscription.look(now)
        heartbeat = self.venue.heartbeat
        silent = (now - self._last_frame) / SECOND
        if silent > heartbeat.silent_s:
            self.actions.append(Reconnect(f"silent for {heartbeat.silent_s:g} s"))
            return
        wait = heartbeat.ping_after_s
        if heartbeat.ping is not None and wait is not None and silent > wait and now - self._pinged > wait * SECOND:
            self._pinged = now
            self.actions.append(Send(heartbeat.ping))
        again = [key for key, sub in self._subscriptions.items() if self._is_overdue(sub, now)]
        if again:
            self._subscribe(again)
        for key, subscription in self._subscriptions.items():
            if subscription.patience.wanted:
                self._resubscribe_due(key)
        for book in self._books:
            if self in book.feeds:
                book.of(self).look_again(now)
        if self.standby:
            self._check_standby()
        else:
            for stream in self._trades:
                stream.tick(now)

    def _is_overdue(self, subscription: Subscription, now: int) -> bool:
        """Look at one stream's deadlines; True if it is to be subscribed again."""
        settings = self.settings
        stream = subscription.stream
        if subscription.refused:
            return now >= subscription.retry_at and self._hourly.allows(1, now)
        if not subscription.acked and stream.frames == subscription.frames_before:
            if now - subscription.sent > settings.ack_s * SECOND and self._hourly.allows(1, now):
                self._alarm(subscription, f"{stream.key}: subscription not answered for {settings.ack_s:g} s")
                return True
            return False
        if isinstance(stream, BookStream) and self in stream.feeds and stream.codec.pushes_snapshot:
            sync = stream.of(self)
            since = max(subscription.acked or subscription.sent, subscription.sent)
            if sync.state is State.SYNCING and now - since > settings.pushed_snapshot_s * SECOND:
                if stream.codec.snapshot is not None:
                    sync.overdue()
                elif not subscription.patience.wanted:
                    self._alarm(subscription, f"{stream.key}: no snapshot for {settings.pushed_snapshot_s:g} s")
                    self.resubscribe(stream, "no snapshot")
        if isinstance(stream, TradeStream) and not self.standby and not subscription.probed:
            self._probe(subscription, stream, now)
        cadence = stream.channel.cadence_s
        if cadence is None:
            limit = settings.quiet_s
        elif stream.frames == subscription.frames_before:
            limit = max(settings.first_frame_s, 3 * cadence)
        else:
            limit = max(settings.silence_s, 10 * cadence)
        # Each alarm doubles the patience: a thin instrument must not use up the venue's message limit.
        limit *= 2 ** min(subscription.alarms, 6)
        since = max(subscription.last_frame, subscription.sent)
        if now - since > limit * SECOND and not subscription.patience.wanted:
            self._alarm(subscription, f"{stream.key}: silent for {limit:g} s")
            self.resubscribe(stream, "silent")
        return False

    def _probe(self, subscription: Subscription, stream: TradeStream, now: int) -> None:
        """Look once after each subscription whether trades were missed, unless they speak for themselves."""
        since = subscription.acked or now
        if stream.frames > subscription.frames_before:
            subscription.probed = True
        elif now - since > self.settings.probe_after_s * SECOND:
            subscription.probed = True
            stream.probe()

    def _alarm(self, subscription: Subscription, text: str) -> None:
        subscription.alarms += 1
        self.counts["alarms"] += 1
        self._error(text)

    def _check_standby(self) -> None:
        if self.caught_up:
            return
        for subscription in self._subscriptions.values():
            stream = subscription.stream
            if not subscription.acked:
                return
            if isinstance(stream, BookStream) and not stream.standby_is_live:
                return
            if isinstance(stream, TradeStream) and not stream.release_held():
                return
        self.caught_up = True
        self.actions.append(Finished())

    # --- reading ---

    @property
    def heard(self) -> int:
        """When anything last came, ns; a check's distance earlier, because frames are only counted."""
        return self._last_frame - SECOND // 4

    @property
    def spoken(self) -> int:
        """The venue's time of the newest row that came, ns: a socket gives first what it got first."""
        return max((stream.newest for stream in self.streams), default=0)

    @property
    def silent_streams(self) -> list[str]:
        """Streams that were asked for and have not sent anything."""
        return [sub.stream.key for sub in self._subscriptions.values() if not sub.stream.frames]

    @property
    def refused_streams(self) -> dict[str, str]:
        """Streams the venue refused, and why."""
        return {sub.stream.key: sub.refused for sub in self._subscriptions.values() if sub.refused}

    def summary(self) -> dict[str, object]:
        """Give what the log line at close says."""
        trades = [stream for stream in self.streams if isinstance(stream, TradeStream)]
        return {
            "frames": self.frames,
            **self.counts,
            "streams": len(self.streams),
            "trades": sum(stream.frames for stream in trades),
            "books_live": sum(stream.is_ready for stream in self._books),
            "decode_errors": sum(stream.decode_errors for stream in self.streams),
            "last_error": self.last_errors[-1] if self.last_errors else "",
        }


def _all_of(handlers: Sequence[Callable[[bytes, int], None]]) -> Callable[[bytes, int], None]:
    """Give one handler that hands a frame to each of these."""

    def handle(raw: bytes, received: int) -> None:
        for handler in handlers:
            handler(raw, received)

    return handle

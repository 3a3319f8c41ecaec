"""The one websocket shell: a socket that drives a `Feed`. Reconnects and backoff live here and nowhere else."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from marketprism_ray.clock import Clock
from marketprism_ray.errors import MarketPrismError, mask_urls
from marketprism_ray.feed import Feed, FetchSnapshot, FetchTrades, Finished, Reconnect, Replace, Send
from marketprism_ray.rest import RestClient, is_loopback
from marketprism_ray.venue import Venue

log = structlog.get_logger("connection")

TICK_S = 0.02
REPLACE_RETRY_S = 30.0
YIELD_EVERY = 64
"""Frames read from a full buffer before other tasks get a turn."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Limits of one socket."""

    connect_timeout_s: float = 10.0
    backoff_min_s: float = 1.0
    backoff_max_s: float = 30.0
    stable_s: float = 60.0
    """A connection that lived this long resets the backoff."""
    max_frame_bytes: int = 16 << 20
    queue_frames: int = 1024
    compression: bool = False
    proxy: str | None = field(default=None, repr=False)
    """It may hold a password."""
    replace_margin_s: float = 600.0
    replace_timeout_s: float = 60.0
    fetches: int = 4
    """REST requests of this connection in flight."""


def backoff(settings: ConnectionSettings, chance: random.Random) -> Iterator[float]:
    """Give delays for ever: doubling, half of each left to chance, so that a fleet does not come back at once."""
    delay = settings.backoff_min_s
    while True:
        yield delay * (0.5 + chance.random() / 2)
        delay = min(delay * 2, settings.backoff_max_s)


class Pacer:
    """Lets ``count`` things happen each ``period_s``; shared by all sockets of a venue, or by the messages of one."""

    def __init__(self, count: int, period_s: float) -> None:
        self._count = max(1, count)
        self._period = period_s
        self._times: deque[float] = deque(maxlen=self._count)
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for a place."""
        async with self._lock:
            if len(self._times) == self._count:
                delay = self._times[0] + self._period - time.monotonic()
                if delay > 0:
                    await asyncio.sleep(delay)
            self._times.append(time.monotonic())


class Connection:
    """Keeps the streams of one socket alive.

    Parameters
    ----------
    make_feed : gives the feed of a new socket; True for a planned replacement that stands by
    """

    def __init__(
        self,
        venue: Venue,
        endpoint: str,
        url: str,
        rest: RestClient,
        make_feed: Callable[[bool], Feed],
        settings: ConnectionSettings | None = None,
        *,
        name: str = "",
        connects: Pacer | None = None,
        chance: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.venue = venue
        self.endpoint = endpoint
        self.url = url
        self.settings = settings or ConnectionSettings()
        self.counts = dict.fromkeys(("connects", "failures", "replaced", "disconnects", "crashes"), 0)
        self.state = "closed"
        self.feed: Feed | None = None
        self.last_error = ""
        self._rest = rest
        self._make_feed = make_feed
        self._name = name
        self._connects = connects or Pacer(venue.limits.connects, venue.limits.connects_period_s)
        self._chance = chance or random.Random()
        self._log = log.bind(venue=venue.name, conn=name, endpoint=endpoint)
        self.clock = clock or Clock()
        self._socket: ClientConnection | None = None
        self._driver: _Driver | None = None
        self._reading = asyncio.Event()
        self._reading.set()

    def pause(self) -> None:
        """Stop reading: TCP holds the venue back, and it may cut us; what is lost then is a gap."""
        self._reading.clear()

    def resume(self) -> None:
        """Read on."""
        self._reading.set()

    def cut(self) -> int:
        """Abort the socket without a word, as a network would; gives 1 if there was one."""
        if self._socket is None:
            return 0
        self._socket.transport.abort()
        return 1

    def clock_stepped(self, now: int, moved: int) -> None:
        """Hear that the wall clock has stepped: the feeds move their deadlines along."""
        driver = self._driver
        while driver is not None:
            driver.feed.clock_stepped(now, moved)
            driver = driver.standby

    async def run(self) -> None:
        """Connect, read, reconnect; until cancelled."""
        delays = backoff(self.settings, self._chance)
        while True:
            began = time.monotonic()
            try:
                await self._live(standby=None)
            except (OSError, TimeoutError, WebSocketException, EOFError) as error:
                self.counts["failures"] += 1
                self.last_error = mask_urls(f"{type(error).__name__}: {error}")
                # For ever, whatever it is: a certificate or a proxy may be mended while we wait.
                self._log.warning("connect_failed", error=self.last_error)
            except Exception as error:  # noqa: BLE001 - the shell's edge: its streams must go on
                self.counts["crashes"] += 1
                self.last_error = f"internal error: {type(error).__name__}: {error}"
                self._log.error("connection_crashed", exc_info=error)
            if time.monotonic() - began > self.settings.stable_s:
                delays = backoff(self.settings, self._chance)
            self.state = "backoff"
            await asyncio.sleep(next(delays))

    async def _connect(self) -> ClientConnection:
        settings = self.settings
        await self._connects.wait()
        self.state = "connecting"
        pings = self.venue.heartbeat.ping is None
        socket = await connect(
            self.url,
            open_timeout=settings.connect_timeout_s,
            max_size=settings.max_frame_bytes,
            max_queue=settings.queue_frames,
            compression="deflate" if settings.compression else None,
            ping_interval=20 if pings else None,
            ping_timeout=20 if pings else None,
            close_timeout=1,
            proxy=settings.proxy or (None if is_loopback(self.url) else True),
        )
        self.counts["connects"] += 1
        return socket

    async def _live(self, standby: tuple[ClientConnection, Feed] | None) -> None:
        """Drive one socket until it ends, and its replacements."""
        socket, feed = standby or (await self._connect(), self._make_feed(False))
        while True:
            successor = await self._drive(socket, feed, opened=standby is None)
            if successor is None:
                return
            self.counts["replaced"] += 1
            (socket, feed), standby = successor, successor

    async def _drive(
        self, socket: ClientConnection, feed: Feed, *, opened: bool
    ) -> tuple[ClientConnection, Feed] | None:
        """Read a socket to its end; give the socket that replaces it, if that was planned."""
        self.feed = feed
        self._socket = socket
        self.state = "open"
        began = time.monotonic()
        driver = self._driver = _Driver(self, socket, feed)
        if opened:
            feed.opened(self.clock.wall_ns())
            self._log.info("opened", url=self.url, streams=len(feed.streams))
        reason = "cancelled"
        successor: tuple[ClientConnection, Feed] | None = None
        try:
            reason = await driver.run()
            successor = driver.replacement
            if successor is None:
                self.last_error = reason
        finally:
            self._socket = None
            await driver.stop()
            self._driver = None
            feed.closed(reason, self.clock.wall_ns())
            self.counts["disconnects"] += 1
            self.state = "closed"
            self._log.info("closed", reason=reason, seconds=round(time.monotonic() - began, 3), **feed.summary())
            socket.transport.abort() if successor is None else await socket.close()
        return successor


class _Driver:
    """Reads one socket, carries out its feed's actions, and prepares its replacement."""

    def __init__(self, owner: Connection, socket: ClientConnection, feed: Feed) -> None:
        self.replacement: tuple[ClientConnection, Feed] | None = None
        self._owner = owner
        self._socket = socket
        self.feed = feed
        self._sends: asyncio.Queue[str] = asyncio.Queue(10_000)
        self._fetches: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(owner.settings.fetches)
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self.standby: _Driver | None = None
        self._replacing = False
        lifetime = owner.venue.limits.lifetime_s
        margin = owner.settings.replace_margin_s * (1 + owner._chance.random())
        self._replace_at = None if lifetime is None else time.monotonic() + max(lifetime - margin, lifetime / 2)

    async def run(self) -> str:
        """Drive until the socket ends, is given up or replaced; gives the reason."""
        self.start()
        reason = await self._end
        standby = self.standby
        if self.replacement is None and standby is not None and not standby._end.done():
            # This socket died before its replacement had caught up: that one is further on than a new one would be.
            self.replacement = (standby._socket, standby.feed)
            self._owner.last_error = reason
            self._owner._log.info("replacing_early", reason=reason)
        return reason

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks += [loop.create_task(step()) for step in (self._read, self._tick, self._send)]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the connection when one of its loops fails: half a connection must not go unnoticed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection_loop_failed", venue=self._owner.venue.name, exc_info=error)
            self._finish(f"internal error: {type(error).__name__}: {error}")

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._fetches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Whoever goes on with this feed sends what is left.
        while not self._sends.empty():
            self.feed.actions.append(Send(self._sends.get_nowait()))
        if self.standby is not None:
            await self.standby.stop()
            if self.replacement is None:
                self.standby._socket.transport.abort()
                self.standby.feed.closed("the socket it was to replace is gone", self._owner.clock.wall_ns())

    def _finish(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)

    async def _read(self) -> None:
        socket, feed, reading = self._socket, self.feed, self._owner._reading
        receive, handle, clock, actions = socket.recv, feed.frame, self._owner.clock.wall_ns, feed.actions
        try:
            while True:
                for _ in range(YIELD_EVERY):
                    handle(await receive(decode=False), clock())
                    if actions:
                        self._act()
                await asyncio.sleep(0)
                if not reading.is_set():
                    await reading.wait()
        except ConnectionClosed as error:
            too_big = error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG
            limit = f"a frame above networking.max_frame_bytes ({self._owner.settings.max_frame_bytes:,}): "
            self._finish(f"disconnected: {limit if too_big else ''}{error}")
        except (OSError, WebSocketException) as error:
            self._finish(f"disconnected: {type(error).__name__}: {error}")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.feed.tick(self._owner.clock.tick_ns())
            if self.feed.actions:
                self._act()
            if self._replace_at is not None and time.monotonic() > self._replace_at and not self.feed.standby:
                self._replace_at = None
                self._start_replacement("lifetime")

    async def _send(self) -> None:
        rate = self._owner.venue.limits.messages_per_second
        pacer = Pacer(max(1, int(rate * 2)), 2.0)
        while True:
            await pacer.wait()
            text = await self._sends.get()
            try:
                await self._socket.send(text)
            except ConnectionClosed:
                return  # the reader reports it

    def _act(self) -> None:
        actions = self.feed.actions
        while actions:
            match actions.popleft():
                case Send(text):
                    self._sends.put_nowait(text)
                case FetchSnapshot() | FetchTrades() as fetch:
                    task = asyncio.get_running_loop().create_task(self._fetch(fetch))
                    self._fetches.add(task)
                    task.add_done_callback(self._fetches.discard)
                    task.add_done_callback(self._ended)
                case Reconnect(reason):
                    self._finish(reason)
                case Replace(reason):
                    self._start_replacement(reason)
                case Finished():
                    self._finish("replaced")

    async def _fetch(self, action: FetchSnapshot | FetchTrades) -> None:
        if isinstance(action, FetchSnapshot):
            await asyncio.sleep(max(0.0, (action.not_before - self._owner.clock.wall_ns()) / 1e9))
        feed = self.feed
        async with self._slots:
            try:
                answer = await self._owner._rest.get(action.request)
            except MarketPrismError as error:
                now = self._owner.clock.wall_ns()
                if isinstance(action, FetchSnapshot):
                    feed.snapshot_failed(action.stream, str(error), now)
                else:
                    feed.trades_failed(action.stream, str(error), now)
            else:
                if isinstance(action, FetchSnapshot):
                    feed.snapshot(action.stream, answer.body, answer.received)
                else:
                    feed.trades(action.stream, answer.body, answer.received)
        if feed.actions:
            self._act()

    def _start_replacement(self, reason: str) -> None:
        if not self._replacing:
            self._replacing = True
            self._owner._log.info("replacing", reason=reason)
            task = asyncio.get_running_loop().create_task(self._replace())
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def _replace(self) -> None:
        """Open a second socket and let it catch up; then the first one may go."""
        owner = self._owner
        try:
            socket = await owner._connect()
        except (OSError, TimeoutError, WebSocketException) as error:
            self._replace_later(f"{type(error).__name__}: {error}")
            return
        owner.state = "replacing"
        feed = owner._make_feed(True)
        standby = _Driver(owner, socket, feed)
        self.standby = standby
        feed.opened(owner.clock.wall_ns())
        standby.start()
        try:
            reason = await asyncio.wait_for(asyncio.shield(standby._end), owner.settings.replace_timeout_s)
        except TimeoutError:
            reason = "replaced"
            owner._log.warning("replacement_incomplete", silent=feed.silent_streams[:10])
        if reason != "replaced":
            self.standby = None
            await standby.stop()
            feed.closed(reason, owner.clock.wall_ns())
            socket.transport.abort()
            self._replace_later(reason)
            return
        self.replacement = (socket, feed)
        self._finish("replaced")

    def _replace_later(self, why: str) -> None:
        """Go on with the socket there is; try again in a while."""
        owner = self._owner
        owner.state = "open"
        owner.last_error = f"replacement: {why}"
        owner._log.warning("replacement_failed", error=owner.last_error)
        self._replacing = False
        self._replace_at = time.monotonic() + REPLACE_RETRY_S

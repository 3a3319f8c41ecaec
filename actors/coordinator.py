"""The coordinator: desired state, observation, one reconcile step after the other.

The one actor that Ray restarts, for ever. What is desired is on disk; what runs is found again by name, so a restart
disturbs nobody. It never waits on an actor inside a step: calls are started in one step and read in a later one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import structlog

from actors.cluster import ActorGone, Cluster
from actors.collector import Collector
from actors.dead_letters import Ask, note_dead_letters, redeliver
from actors.options import actor_name
from actors.sinks import SinkActor
from actors.takeover import Takeover
from marketprism_ray import __version__
from marketprism_ray.changes import applied, changes, with_applied
from marketprism_ray.config import Config, Exchange
from marketprism_ray.errors import ConfigError, MarketPrismError, VenueError
from marketprism_ray.logs import LogSettings, configure_actor
from marketprism_ray.metrics import Publisher
from marketprism_ray.placement import plan_shards
from marketprism_ray.reconcile import Action, Kill, Observed, StartCollector, StartSink, StopCollector, reconcile
from marketprism_ray.session import Shard, find_instruments, make_rest
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings
from marketprism_ray.state_file import StateFile
from marketprism_ray.venue import draws_from_same
from marketprism_ray.venues import VENUES

SINKS = ("clickhouse", "nats")
START_S = 120.0
"""A new actor must be heard within this time: on a loaded machine its process takes long to come up."""
CALL_S = 30.0
STARTED_S = 600.0
"""A collector that is heard may take so long to connect; one that is not heard is ended much sooner."""
STOP_S = 600.0
"""A collector delivers what it keeps while a server takes it, and gives up by itself when none does."""
HELD_BYTES = 16 << 20
EPOCHS_SKIPPED = 1000
"""If the latest state is lost: epochs that may have been used since the one before."""
EPOCHS_BEGAN = 1_577_836_800
"""If all of it is lost, epochs go on from the minutes since then (2020, in s): more than were ever counted up."""
SAVE_S = 10.0
"""What the sinks have is saved as often: after a whole outage only what came later is looked for row by row."""


class Actor:
    """What the coordinator remembers of one actor."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.handle: Any = None
        self.state: str = "absent"
        self.epoch = 0
        self.heard = 0
        self.shard: Shard | None = None
        self.status: dict[str, Any] = {}
        self.restarts = 0
        self.call: asyncio.Task[None] | None = None
        self.unlisted: list[str] = []

    def observed(self) -> Observed:
        """Give it as the pure step sees it."""
        return Observed(self.state, self.epoch, self.heard, self.shard)  # type: ignore[arg-type]


class Coordinator:
    """Supervises collectors and sinks.

    Parameters
    ----------
    settings : sink kind -> how to reach its server
    run : id of this start of the system; what was applied since counts again after a restart within the same run
    """

    def __init__(
        self,
        config: Config,
        settings: Mapping[str, ClickHouseSettings | NatsSettings],
        *,
        run: str = "",
        cluster: Cluster | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        configure_actor(LogSettings.of(config.system), "coordinator")
        self._config = config
        self._settings = dict(settings)
        self._cluster = cluster or Cluster()
        self._publisher = publisher
        self._log = structlog.get_logger("coordinator")
        path = config.system.data_dir.absolute() / "state" / "coordinator.json"
        self._state = StateFile(path, ("run", "applied", "shards", "epochs"))
        self._first_epoch = 0
        self._shards: dict[str, Shard] = {}
        self._planned = False
        self._planned_at = 0
        self._resolved: set[str] = set()
        self._run_id = run
        self._retired: dict[str, int] = {}
        self._stepped = time.monotonic_ns()
        self._actors: dict[str, Actor] = {}
        self._sinks = {kind: Actor(actor_name(config.system.name, "sink", kind), kind) for kind in SINKS}
        self._takeover = Takeover(self._cluster, self._sinks, lambda: self._config, self._collector_of)
        self._saved_at = time.monotonic()
        self._busy: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: dict[str, str] = {}
        self.story: deque[str] = deque(maxlen=100)
        self._restore()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return "Coordinator"

    # --- state on disk ---

    def _restore(self) -> None:
        recovered = self._state.read()
        for note in recovered.notes:
            self._note(note)
            self._log.error("state_damaged", what=note)
        skipped = 0
        if recovered.lost != "nothing":
            self._errors["state"] = "; ".join(recovered.notes)
            skipped = EPOCHS_SKIPPED
        if recovered.lost == "all":
            self._first_epoch = int(time.time() - EPOCHS_BEGAN) // 60
        saved = recovered.content
        if saved is None:
            return
        for name, item in saved["shards"].items():
            self._shards[name] = Shard(name, item["venue"], tuple((d, s) for d, s in item["streams"]))
        if saved["run"] == self._run_id:
            # The arguments of creation are older than what was applied since.
            self._config = with_applied(self._config, saved["applied"])
        self._takeover.restore(saved.get("stored", {}))
        for name, last_epoch in saved["epochs"].items():
            epoch = last_epoch + skipped
            actor = Actor(self._collector_name(name), "collector")
            actor.handle = self._cluster.find(actor.name)
            if actor.handle is None and name not in self._shards:
                self._retired[name] = epoch
                continue
            actor.epoch = epoch
            actor.state = "alive" if actor.handle is not None else "dead"
            actor.heard = time.monotonic_ns()
            self._actors[name] = actor
        for sink in self._sinks.values():
            sink.handle = self._cluster.find(sink.name)
            if sink.handle is not None:
                sink.state, sink.heard = "alive", time.monotonic_ns()
        self._note("restarted: found " + (", ".join(a.name for a in self._all() if a.handle) or "nobody"))

    def _save(self) -> None:
        content = {
            "version": __version__,
            "run": self._run_id,
            "applied": applied(self._config),
            "shards": {n: {"venue": s.venue, "streams": s.streams} for n, s in self._shards.items()},
            "epochs": self._retired | {name: actor.epoch for name, actor in self._actors.items()},
            "stored": self._takeover.saved(),
        }
        self._state.write(content)

    def _collector_name(self, shard: str) -> str:
        return actor_name(self._config.system.name, "collector", shard)

    def _all(self) -> list[Actor]:
        return [*self._sinks.values(), *self._actors.values()]

    def _note(self, text: str) -> None:
        self.story.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}")
        self._log.info("step", what=text)

    # --- the loop ---

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
            except Exception as error:  # noqa: BLE001 - the control loop must go on; the error is logged and shown
                self._errors["control loop"] = f"{type(error).__name__}: {error}"
                self._log.error("step_failed", exc_info=error)
            await asyncio.sleep(self._config.cluster.step_s / 5 if self._is_starting() else self._config.cluster.step_s)

    def _is_starting(self) -> bool:
        return any(actor.state != "alive" for actor in self._all()) or not self._planned

    async def _step(self) -> None:
        self._plan()
        now = time.monotonic_ns()
        held_up = now - self._stepped - int(self._config.cluster.step_s * 1e9)
        self._stepped = now
        for actor in self._all():
            # While this process stood still nobody could be heard; that is not their silence.
            actor.heard += max(0, held_up)
            self._listen(actor)
        for name, actor in list(self._actors.items()):
            if name not in self._shards and actor.state == "dead" and name not in self._busy:
                self._retire(name)
        actions = reconcile(
            self._shards,
            SINKS,
            {name: actor.observed() for name, actor in self._actors.items()},
            {kind: actor.observed() for kind, actor in self._sinks.items()},
            now,
            lease_ns=int(self._config.cluster.lease_s * 1e9),
            start_ns=int(START_S * 1e9),
        )
        for action in actions:
            self._carry_out(action)
        if time.monotonic() - self._saved_at > SAVE_S:
            self._saved_at = time.monotonic()
            self._save()
        if self._publisher is not None:
            self._publisher.publish([actor.status for actor in self._all()])

    def _retire(self, name: str) -> None:
        """Forget a collector, but never its epoch: the shard may come back."""
        self._retired[name] = self._actors.pop(name).epoch
        self._save()

    def _background(self, name: str, work: Any) -> None:
        """Run something beside the loop, one at a time under a name."""
        if name in self._busy:
            work.close()
            return
        self._busy.add(name)

        async def run() -> None:
            try:
                await work
                self._errors.pop(name, None)
            except Exception as error:  # noqa: BLE001 - part of the control loop's step: logged, shown and tried again
                text = f"{type(error).__name__}: {error}"
                if self._errors.get(name) != text:
                    self._log.warning("failed", what=name, error=text)
                self._errors[name] = text
                await asyncio.sleep(1)
            finally:
                self._busy.discard(name)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks = {t for t in self._tasks if not t.done()} | {task}

    # --- what is desired ---

    def _plan(self) -> None:
        refresh_ns = int(self._config.scheduler.jobs.instruments * 1e9)
        if not self._planned or time.monotonic_ns() - self._planned_at > refresh_ns:
            self._background("plan", self._plan_all())

    async def _plan_all(self) -> None:
        """Turn symbols and patterns of the config into shards; needs the venues' instruments.

        A venue that cannot be reached holds up no other: it keeps the shards it had and is asked again.
        """
        failed: list[MarketPrismError] = []

        async def shards_of(name: str, exchange: Exchange) -> list[Shard]:
            try:
                return await self._plan_venue(name, exchange)
            except MarketPrismError as error:
                failed.append(error)
                return [shard for shard in self._shards.values() if shard.venue == name]

        enabled = [(name, exchange) for name, exchange in self._config.exchanges.items() if exchange.enabled]
        found = await asyncio.gather(*(shards_of(name, exchange) for name, exchange in enabled))
        planned = {shard.name: shard for shards in found for shard in shards}
        if planned != self._shards:
            self._shards = planned
            self._save()
            self._note(f"planned {len(planned)} shards, {sum(len(s.streams) for s in planned.values())} streams")
        self._planned = not failed
        self._planned_at = time.monotonic_ns()
        if failed:
            raise failed[0]

    async def _plan_venue(self, name: str, exchange: Exchange) -> list[Shard]:
        venue = VENUES[name]
        rest = make_rest(venue, exchange, self._config)
        await rest.open()
        try:
            present = {symbol for s in self._shards.values() if s.venue == name for _, symbol in s.streams}
            table, wanted, problems = await find_instruments(venue, rest, exchange.symbols, present)
        finally:
            await rest.close()
        if not len(table):
            raise VenueError(f"{name} lists no instruments at all")
        if problems and not wanted and name not in self._resolved:
            raise ConfigError("\n".join(problems))
        # A name may be wrong, and what was there once may have expired or left: the others go on without it.
        self._errors.pop(f"symbols of {name}", None)
        if problems:
            self._errors[f"symbols of {name}"] = "; ".join(problems)
        self._errors.pop(f"instruments of {name}", None)
        halted = table.halted((i.symbol_name for i in wanted), time.time_ns())
        if halted:
            # A halt may end at any time, and what was collected goes on being so.
            words = ", ".join(f"{symbol} ({status})" for symbol, status in sorted(halted.items()))
            self._errors[f"instruments of {name}"] = f"not traded now, kept: {words}"
        self._resolved.add(name)
        symbols = sorted(instrument.symbol_name for instrument in wanted)
        data_types = [t for t in exchange.data_types if t != "orderbook_delta"]
        return plan_shards(name, symbols, data_types, self._config.cluster.streams_per_collector, self._shards)

    # --- what is observed ---

    def _listen(self, actor: Actor) -> None:
        """Ask an actor how it is; the answer is read when it is there."""
        if actor.handle is None or (actor.call is not None and not actor.call.done()):
            return
        if actor.state in ("alive", "starting"):
            actor.call = asyncio.get_running_loop().create_task(self._ask(actor))

    async def _ask(self, actor: Actor) -> None:
        handle = actor.handle
        is_collector = actor.kind == "collector"
        arguments = [self._share(actor.shard)] if is_collector else []
        try:
            status = await self._cluster.call(
                handle, "renew" if is_collector else "status", *arguments, timeout_s=self._config.cluster.lease_s
            )
        except TimeoutError:
            return  # the lease decides
        except ActorGone as error:
            if actor.handle is handle:
                self._lost(actor, str(error))
            return
        if actor.handle is not handle:
            return
        actor.heard = time.monotonic_ns()
        actor.status = status
        if actor.kind == "collector":
            if status["version"] != __version__:
                self._lost(actor, f"it runs version {status['version']}, this is {__version__}")
                self._cluster.kill(handle)
                return
            actor.epoch = max(actor.epoch, status["epoch"])
            self._note_unlisted(actor, status["unlisted"])
            if status["state"] in ("failed", "lapsed"):
                self._lost(actor, status["error"] or status["state"])
                self._cluster.kill(handle)
            elif actor.shard is None and (shard := self._shards.get(status["shard"])) is not None:
                # What it really collects: the plan may have changed between its start and our restart.
                actor.shard = Shard(shard.name, shard.venue, tuple((d, s) for d, s in status["owned"]))
        else:
            actor.state = "alive" if status["open"] else "starting"
            if status.get("dead_letters_unnoted"):
                self._background(
                    f"dead letters of {actor.kind}", note_dead_letters(self._asking(actor), self._takeover.tell_gaps)
                )
            self._takeover.remember(actor.kind, status["claims"])
            self._admit(actor)

    def _admit(self, sink: Actor) -> None:
        """Tell a sink actor who owns the shards that it does not know: it was started after their collectors."""
        epochs = sink.status["epochs"]
        for name, actor in self._actors.items():
            if actor.shard is not None and actor.state == "alive" and epochs.get(name, -1) < actor.epoch:
                work = self._takeover.admit(sink.kind, actor.shard, actor.epoch)
                self._background(f"{sink.name} admits {name}", work)

    def _collector_of(self, shard: str, epoch: int) -> Any | None:
        actor = self._actors.get(shard)
        return None if actor is None or actor.epoch != epoch else actor.handle

    def _note_unlisted(self, actor: Actor, unlisted: list[str]) -> None:
        """Plan anew when a collector says that symbols of its shard have left the venue's list."""
        if unlisted == actor.unlisted:
            return
        actor.unlisted = unlisted
        if unlisted:
            self._note(f"{actor.name} goes on without {', '.join(unlisted)}: not listed any more")
            self._planned = False

    def _lost(self, actor: Actor, why: str) -> None:
        actor.state, actor.handle, actor.status = "dead", None, {}
        self._note(f"{actor.name} is gone: {why}")

    # --- what is done ---

    def _carry_out(self, action: Action) -> None:
        match action:
            case StartSink(kind):
                self._start_sink(self._sinks[kind])
            case StartCollector(shard, epoch, after_loss):
                self._background(shard.name, self._start_collector(shard, epoch, after_loss))
            case StopCollector(name, reason):
                if name not in self._shards or not self._holds_much(self._actors[name]):
                    self._background(name, self._stop_collector(name, reason))
            case Kill(name, reason):
                actor = self._sinks.get(name) or self._actors[name]
                if actor.handle is not None:
                    self._cluster.kill(actor.handle)
                self._lost(actor, reason)

    def _holds_much(self, actor: Actor) -> bool:
        """Tell whether a server is behind: a collector's new streams wait until it has taken what there is."""
        found = actor.status
        return bool(found.get("spilled_bytes")) or found.get("retained_bytes", 0) > HELD_BYTES

    def _start_sink(self, actor: Actor) -> None:
        config = self._config
        letters = config.system.data_dir.absolute() / "dead-letters"
        linger_s = config.clickhouse.insert_s if actor.kind == "clickhouse" else 0.0
        actor.handle = self._cluster.start(
            "sink",
            actor.name,
            SinkActor,
            actor.kind,
            self._settings[actor.kind],
            letters,
            LogSettings.of(config.system),
            linger_s,
            config.clickhouse.insert_rows,
        )
        actor.state, actor.heard = "starting", time.monotonic_ns()
        actor.restarts += 1
        self._note(f"started {actor.name}")
        self._background(actor.name, self._cluster.call(actor.handle, "ready"))

    def _share(self, shard: Shard | None) -> float:
        """Give a collector's part of the request limits; one part is ours, for metadata."""
        shards = self._shards.values()
        if shard is None:
            return 1.0 / (1 + len(shards))
        return 1.0 / (1 + sum(draws_from_same(VENUES[s.venue], VENUES[shard.venue]) for s in shards))

    async def _start_collector(self, shard: Shard, epoch: int, after_loss: bool) -> None:
        actor = self._actors.get(shard.name)
        if actor is None:
            actor = self._actors[shard.name] = Actor(self._collector_name(shard.name), "collector")
            actor.epoch = self._retired.pop(shard.name, self._first_epoch)
        epoch = max(epoch, actor.epoch + 1)
        stale = self._cluster.find(actor.name)
        if stale is not None:
            self._cluster.kill(stale)
        # No epoch is used twice, also if this one comes to nothing: the revisions of its rows are its own.
        actor.epoch = epoch
        self._save()
        resume = await self._takeover.fence(shard, epoch, after_loss=after_loss)
        share = self._share(shard)
        sinks = {kind: sink.name for kind, sink in self._sinks.items()}
        actor.handle = self._cluster.start(
            "collector", actor.name, Collector, shard, self._config, epoch, resume, sinks, share
        )
        actor.state, actor.heard, actor.shard = "starting", time.monotonic_ns(), shard
        actor.restarts += 1
        self._note(f"started {actor.name}, epoch {epoch}" + (f", resuming {len(resume)} streams" if resume else ""))
        try:
            await self._cluster.call(actor.handle, "start", timeout_s=STARTED_S)
        except Exception as error:
            self._cluster.kill(actor.handle)
            self._lost(actor, f"{type(error).__name__}: {error}")
            raise
        actor.state, actor.heard = "alive", time.monotonic_ns()

    def _asking(self, sink: Actor) -> Ask:
        return lambda method, *arguments: self._cluster.call(sink.handle, method, *arguments)

    async def redeliver(self) -> str:
        """Try the rows again that servers have refused; says what became of them."""
        asks = [self._asking(sink) for sink in self._sinks.values() if sink.handle]
        return await redeliver(asks, self._takeover.tell_gaps)

    async def _stop_collector(self, name: str, reason: str) -> None:
        actor = self._actors[name]
        self._note(f"stopping {actor.name}: {reason}")
        try:
            whole = await self._cluster.call(actor.handle, "stop", timeout_s=STOP_S)
            self._note(f"{actor.name} drained" if whole else f"{actor.name} ended with rows not delivered")
        finally:
            if actor.handle is not None:
                self._cluster.kill(actor.handle)
            actor.state, actor.handle, actor.status, actor.shard = "absent", None, {}, None
            if name not in self._shards:
                self._retire(name)
            else:
                self._save()

    # --- what others ask ---

    async def status(self) -> dict[str, Any]:
        """Give everything an operator wants to see, as plain values."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "planned": self._planned,
            "streams": sum(len(shard.streams) for shard in self._shards.values()),
            "collectors": [
                {
                    **actor.status,
                    "shard": name,
                    "name": actor.name,
                    "state": actor.status.get("state", actor.state),
                    "epoch": actor.epoch,
                    "starts": actor.restarts,
                    "heard_s": _seconds_since(actor.heard),
                }
                for name, actor in self._actors.items()
            ],
            "sinks": [
                {
                    **{k: v for k, v in actor.status.items() if k not in ("claims", "epochs")},
                    "kind": kind,
                    "name": actor.name,
                    "state": actor.state,
                    "starts": actor.restarts,
                    "heard_s": _seconds_since(actor.heard),
                }
                for kind, actor in self._sinks.items()
            ],
            "errors": dict(self._errors),
            "story": list(self.story),
        }

    async def apply(self, config: Config) -> str:
        """Take a new config; only what differs is restarted.

        Raises
        ------
        MarketPrismError
            If something differs that cannot change while the system runs; nothing is changed then.
        """
        found = changes(self._config, config)
        if found.refused:
            raise MarketPrismError(f"{', '.join(found.refused)} cannot change while running: use `down`, then `up`")
        for name, actor in self._actors.items():
            if actor.shard is not None and (found.restarting or actor.shard.venue in found.venues):
                # It must be built anew even if its streams are the same.
                actor.shard = Shard(name, actor.shard.venue, ())
        self._config = config
        self._planned = False
        self._save()
        self._note(found.in_words())
        return found.in_words()

    async def cut(self, venue: str) -> int:
        """Cut the sockets of a venue: a drill."""
        cut = 0
        for actor in self._actors.values():
            if actor.handle is not None and actor.shard is not None and actor.shard.venue == venue:
                cut += await self._cluster.call(actor.handle, "cut", timeout_s=CALL_S)
        return cut

    async def step_clock(self, venue: str, seconds: float) -> None:
        """Let the wall clock of a venue's collectors step: a drill."""
        for actor in self._actors.values():
            if actor.handle is not None and actor.shard is not None and actor.shard.venue == venue:
                await self._cluster.call(actor.handle, "step_clock", seconds, timeout_s=CALL_S)

    async def stop(self) -> bool:
        """Drain every collector and end all actors; True if everything was delivered."""
        self._loop.cancel()
        whole = all(await asyncio.gather(*(self._end(actor) for actor in self._actors.values())))
        for sink in self._sinks.values():
            if sink.handle is not None:
                self._cluster.kill(sink.handle)
        return whole

    async def _end(self, actor: Actor) -> bool:
        """Drain and end a collector; True if all of its rows were delivered."""
        if actor.handle is None:
            return True
        try:
            return bool(await self._cluster.call(actor.handle, "stop", timeout_s=STOP_S))
        except (ActorGone, TimeoutError):
            return False
        finally:
            self._cluster.kill(actor.handle)


def _seconds_since(moment: int) -> float:
    """Give how long ago a moment of the monotonic clock (ns) was."""
    return round((time.monotonic_ns() - moment) / 1e9, 3)

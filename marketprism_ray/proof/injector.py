"""The thin shell that carries mishaps out: signals to processes, faults of simulated venues, changes of the store."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.proof.disk import UnsyncedDisk, fill
from marketprism_ray.proof.drills import Mishap
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.sinks.clickhouse import connect
from marketprism_ray.venues import VENUES

LOOK_S = 0.1
CRASHES = 3
"""Kills of a crash loop, at least, if the run is long enough."""
PATIENCE_S = 10.0
"""For a target that is just being started again."""
OURS = (b"ray::", b"nats-server", b"marketprism_ray")


class DrillError(MarketPrismError):
    """A mishap could not be carried out."""


class Injector:
    """Carries out mishaps; `carry_out` gives in words what was done.

    Parameters
    ----------
    system : the running system, as its owner holds it
    over : set when the run ends: what lasts ends then
    disk : that the data directory is on, where its power can be cut
    """

    def __init__(
        self,
        system: Any,
        simulator: SimulatorProcess,
        data_dir: Path,
        over: threading.Event,
        disk: UnsyncedDisk | None = None,
    ) -> None:
        self.calm = threading.Lock()
        """Held while there is no system to ask."""
        self._disk = disk
        self._system = system
        self._simulator = simulator
        self._data_dir = data_dir
        self._over = over
        self._kinds: dict[str, Callable[[Mishap], str]] = {
            "kill": self._kill,
            "kill_all": self._kill_all,
            "crash_loop": self._crash_loop,
            "power_cut": self._power_cut,
            "stall": self._stall,
            "away": self._away,
            "fill": self._fill,
            "drift": self._drift,
            "clock": self._clock,
            "disconnect": self._disconnect,
            "flap": self._flap,
            "drop": self._spoil,
            "reorder": self._spoil,
            "corrupt": self._spoil,
            "repeat": self._repeat,
            "rest": self._rest,
            "hang_up": self._hang_up,
            "quiet": self._quiet,
            "befall": self._befall,
        }

    @property
    def kinds(self) -> set[str]:
        """What can be carried out."""
        return set(self._kinds)

    def carry_out(self, mishap: Mishap) -> str:
        """Let it happen; returns when it is over.

        Raises
        ------
        DrillError
            If the target is not there.
        """
        try:
            return self._kinds[mishap.kind](mishap)
        except ProcessLookupError as error:
            raise DrillError(f"{mishap.target} was gone already") from error

    # --- processes ---

    def _find(self, target: str) -> int | None:
        """Give the process of a target, as status and ``servers.json`` say; None if it has none now."""
        what, _, name = target.partition(" ")
        if what == "server":
            return int(self._system.servers.state()[name]["pid"])
        status = self._system.status()
        if what == "coordinator":
            return int(status["pid"])
        if what == "sink":
            found = [sink.get("pid") for sink in status["sinks"] if sink["kind"] == name]
        else:
            found = [collector.get("pid") for collector in status["collectors"] if collector["shard"] == name]
        return found[0] if found else None

    def _pid(self, target: str, but: int | None = None, patience_s: float = PATIENCE_S) -> int:
        """Wait for the process of a target, and for another than a given one."""
        deadline = time.monotonic() + patience_s
        while True:
            pid = self._find(target)
            if pid is not None and pid != but and _is_ours(pid):
                return pid
            if time.monotonic() > deadline or self._over.wait(LOOK_S):
                raise DrillError(f"{target} is not there")

    def _kill(self, mishap: Mishap) -> str:
        os.kill(self._pid(mishap.target), signal.SIGKILL)
        return f"{mishap.target} killed"

    def _everybody(self) -> list[int]:
        """Give every process of ours: actors and servers."""
        status = self._system.status()
        actors = [status, *status["sinks"], *status["collectors"]]
        pids = [actor["pid"] for actor in actors if actor.get("pid")]
        return [*pids, *(self._pid(f"server {name}") for name in ("nats", "clickhouse"))]

    def _kill_all(self, _: Mishap) -> str:
        """Kill every process of ours: nothing is left that remembers how far the streams came, but the stores."""
        pids = self._everybody()
        _signal(pids, signal.SIGKILL)
        return f"coordinator, {len(pids) - 3} sinks and collectors, nats-server and ClickHouse killed"

    def _power_cut(self, _: Mishap) -> str:
        """End every process, lose what was not synced, and start again: neither memory nor all of the data is left."""
        if self._disk is None:
            raise DrillError("the data directory is on no disk whose power can be cut")
        with self.calm:
            pids = [int(self._system.servers.state()["supervisor"]), *self._everybody()]
            _signal(pids, signal.SIGSTOP)
            self._disk.copy()
            self._system.forget()
            _signal(pids, signal.SIGKILL)
            self._system.servers.stop()
            self._disk.put_back()
            self._system.start()
        return f"power cut: {len(pids)} processes ended, what was not synced is gone"

    def _crash_loop(self, mishap: Mishap) -> str:
        """Kill a process, and each that comes after it soon after it is there; on a slow machine for longer."""
        ends = time.monotonic() + mishap.seconds
        killed, last = 0, None
        for delay in mishap.more["delays"]:
            left = ends - time.monotonic()
            try:
                pid = self._pid(mishap.target, last, left if killed >= CRASHES else 3600.0)
            except DrillError:
                break
            if self._over.wait(delay if killed else 0.0) or (time.monotonic() > ends and killed >= CRASHES):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            last = pid
        if killed < 2:
            raise DrillError(f"{mishap.target} was killed {killed} times only: give the run more --seconds")
        return f"{mishap.target} killed {killed} times"

    def _stall(self, mishap: Mishap) -> str:
        """Stop a process, as an overloaded machine would, and let it go on."""
        pid = self._pid(mishap.target)
        os.kill(pid, signal.SIGSTOP)
        spilled = 0
        try:
            self._over.wait(mishap.seconds)
            if mishap.target.startswith("server"):
                collectors = self._system.status()["collectors"]
                spilled = sum(collector.get("spilled_bytes", 0) for collector in collectors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        kept = f", {spilled / 1024:,.0f} KiB were kept on local disk meanwhile" if spilled else ""
        return f"{mishap.target} stopped for {mishap.seconds:.1f} s{kept}"

    def _away(self, mishap: Mishap) -> str:
        """Kill a server while its supervisor stands still: nobody listens on its port until that goes on."""
        supervisor = int(self._system.servers.state()["supervisor"])
        pid = self._pid(mishap.target)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            self._over.wait(mishap.seconds)
        finally:
            os.kill(supervisor, signal.SIGCONT)
        return f"{mishap.target} away for {mishap.seconds:.1f} s"

    def _clock(self, mishap: Mishap) -> str:
        venue, step_s = _name(mishap), mishap.more["step_s"]
        self._system.call("step_clock", venue, step_s)
        self._over.wait(mishap.seconds)
        self._system.call("step_clock", venue, -step_s)
        return f"clock of {venue}'s collectors stepped by {step_s:+} s and back after {mishap.seconds:.1f} s"

    # --- the store ---

    def _fill(self, mishap: Mishap) -> str:
        ballast = fill(self._data_dir)
        try:
            size = ballast.stat().st_size
            self._over.wait(mishap.seconds)
        finally:
            ballast.unlink()
        return f"disk full for {mishap.seconds:.1f} s, by {size >> 20} MiB"

    def _drift(self, mishap: Mishap) -> str:
        return change_table(self._system.settings["clickhouse"], _name(mishap), mishap.more["change"])

    # --- venues ---

    def _disconnect(self, mishap: Mishap) -> str:
        self._simulator.fault("disconnect", _name(mishap))
        return f"sockets of {_name(mishap)} cut"

    def _flap(self, mishap: Mishap) -> str:
        """Cut the sockets of a venue again and again; for a while after a cut it takes no new ones."""
        ends = time.monotonic() + mishap.seconds
        cuts = 0
        for pause in mishap.more["pauses"]:
            self._simulator.fault("refuse", _name(mishap), seconds=pause / 3)
            self._simulator.fault("disconnect", _name(mishap))
            cuts += 1
            if self._over.wait(pause) or time.monotonic() > ends:
                break
        return f"sockets of {_name(mishap)} cut {cuts} times in {mishap.seconds:.1f} s"

    def _spoil(self, mishap: Mishap) -> str:
        """Let frames of one data type be lost, swapped or broken on the wire."""
        venue, count, data_type = _name(mishap), mishap.more["count"], mishap.more["data_type"]
        # What a stream's name begins with: at some venues the symbol stands in the middle of it.
        stream = VENUES[venue].channel(data_type).name.partition(".")[0]
        self._simulator.fault(mishap.kind, venue, stream=stream, count=count)
        return f"{mishap.kind} of {count} frames ({data_type}) of {venue}"

    def _repeat(self, mishap: Mishap) -> str:
        self._simulator.fault("repeat", _name(mishap), seconds=mishap.seconds)
        self._over.wait(mishap.seconds)
        return f"every frame of {_name(mishap)} sent twice for {mishap.seconds:.1f} s"

    def _rest(self, mishap: Mishap) -> str:
        venue, status = _name(mishap), mishap.more["status"]
        self._simulator.fault("status", venue, status=status, seconds=mishap.seconds)
        self._over.wait(mishap.seconds)
        return f"REST of {venue} answered {status} for {mishap.seconds:.1f} s"

    def _hang_up(self, mishap: Mishap) -> str:
        self._simulator.fault("hangup", _name(mishap), count=mishap.more["count"])
        return f"REST of {_name(mishap)} hung up {mishap.more['count']} times"

    def _quiet(self, _: Mishap) -> str:
        """Stop the market for good."""
        self._simulator.pause()
        return "the market fell silent"

    def _befall(self, mishap: Mishap) -> str:
        """Let something befall an instrument; a halt ends, an expiry does not."""
        _, venue, symbol = mishap.target.split(" ")
        action = mishap.more["action"]
        self._simulator.befall(action, venue, symbol)
        if mishap.seconds:
            self._over.wait(mishap.seconds)
            self._simulator.befall("resume", venue, symbol)
        return f"{action} of {venue} {symbol}" + (f" for {mishap.seconds:.1f} s" if mishap.seconds else "")


def change_table(settings: Any, table: str, change: str) -> str:
    """Change a table behind the sink's back.

    Parameters
    ----------
    settings : how to reach ClickHouse
    change : what stands after ``ALTER TABLE name``

    Raises
    ------
    DrillError
        If the server refuses.
    """
    client = connect(settings)
    try:
        client.command(f"ALTER TABLE `{table}` {change}")
    except ClickHouseError as error:
        raise DrillError(f"{table}: {change}: {error}") from error
    finally:
        client.close()
    return f"table {table}: {change}"


def _name(mishap: Mishap) -> str:
    return mishap.target.partition(" ")[2]


def _is_ours(pid: int) -> bool:
    """Tell a process of ours from one that was given the number of one of ours that ended (where /proc says it)."""
    words = Path(f"/proc/{pid}/cmdline")
    if not words.parent.parent.joinpath("self").exists():
        return True
    try:
        return any(word in words.read_bytes() for word in OURS)
    except OSError:
        return False


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        if _is_ours(pid):
            os.kill(pid, number)

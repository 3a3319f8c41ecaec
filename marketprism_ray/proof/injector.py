"""The thin shell that carries mishaps out: signals to processes, faults of the simulated venues."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.proof.drills import Mishap
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.venues import VENUES


class DrillError(MarketPrismError):
    """A mishap could not be carried out."""


class Injector:
    """Carries out mishaps; each kind is a method of the same name and gives what it did in words.

    Parameters
    ----------
    system : the running system, as its owner holds it
    over : set when the run ends: what lasts ends then
    """

    def __init__(self, system: Any, simulator: SimulatorProcess, over: threading.Event) -> None:
        self._system = system
        self._simulator = simulator
        self._over = over
        self._kinds: dict[str, Callable[[Mishap], str]] = {
            "kill": self._kill,
            "kill_all": self._kill_all,
            "stall": self._stall,
            "disconnect": self._disconnect,
            "drop": self._spoil,
        }

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

    def _pids(self, target: str) -> list[int]:
        """Give the processes of a target, as status and ``servers.json`` say."""
        what, _, name = target.partition(" ")
        if what == "server":
            return [int(self._system.servers.state()[name]["pid"])]
        status = self._system.status()
        if what == "coordinator":
            return [int(status["pid"])]
        if what == "sink":
            found = [sink.get("pid") for sink in status["sinks"] if sink["kind"] == name]
        else:
            found = [collector.get("pid") for collector in status["collectors"] if collector["shard"] == name]
        if not found or found[0] is None:
            raise DrillError(f"{target} is not there")
        return [int(found[0])]

    def _kill(self, mishap: Mishap) -> str:
        _signal(self._pids(mishap.target), signal.SIGKILL)
        return f"{mishap.target} killed"

    def _kill_all(self, _: Mishap) -> str:
        """Kill every process of ours: nothing is left that remembers how far the streams came, but the stores."""
        status = self._system.status()
        actors = [status, *status["sinks"], *status["collectors"]]
        servers = [pid for name in ("nats", "clickhouse") for pid in self._pids(f"server {name}")]
        _signal([actor["pid"] for actor in actors if "pid" in actor] + servers, signal.SIGKILL)
        return f"coordinator, {len(actors) - 1} sinks and collectors, nats-server and ClickHouse killed"

    def _stall(self, mishap: Mishap) -> str:
        """Stop a process, as an overloaded machine would, and let it go on."""
        pids = self._pids(mishap.target)
        _signal(pids, signal.SIGSTOP)
        try:
            self._over.wait(mishap.seconds)
            spilled = self._spilled() if mishap.target.startswith("server") else 0
        finally:
            _signal(pids, signal.SIGCONT)
        kept = f", {spilled / 1024:,.0f} KiB were kept on local disk meanwhile" if spilled else ""
        return f"{mishap.target} stopped for {mishap.seconds:.1f} s{kept}"

    def _spilled(self) -> int:
        return sum(collector.get("spilled_bytes", 0) for collector in self._system.status()["collectors"])

    # --- venues ---

    def _disconnect(self, mishap: Mishap) -> str:
        self._simulator.fault("disconnect", _venue(mishap))
        return f"sockets of {_venue(mishap)} cut"

    def _spoil(self, mishap: Mishap) -> str:
        """Let frames of one data type be lost, repeated or swapped on the wire."""
        venue, count, data_type = _venue(mishap), mishap.more["count"], mishap.more["data_type"]
        self._simulator.fault(mishap.kind, venue, stream=VENUES[venue].channel(data_type).name, count=count)
        return f"{mishap.kind} of {count} frames ({data_type}) of {venue}"


def _venue(mishap: Mishap) -> str:
    return mishap.target.removeprefix("venue ")


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)

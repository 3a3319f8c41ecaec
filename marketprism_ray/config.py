"""The one configuration file: every option, its default and its meaning.

A YAML file overrides the defaults, ``MARKETPRISM_<PATH>`` variables override the file (``MARKETPRISM_NATS__SERVERS``;
values are read as YAML). Unknown keys and wrong values are errors that name the path, the value and what is allowed.
Secrets come from the environment only, and are shown nowhere. Beside ``hot.py`` no other module reads the environment.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)

from marketprism_ray.bounded_yaml import FILE_BYTES, load_bounded
from marketprism_ray.errors import ConfigError, mask_urls, shorten
from marketprism_ray.records import RECORDS
from marketprism_ray.venues import VENUES

ENVIRONMENT_PREFIX = "MARKETPRISM_"
ERRORS = 50
"""Lines that say what is wrong."""
PURE_PYTHON = "MARKETPRISM_PURE_PYTHON"
"""No option: ``hot.py`` reads it when it is imported."""
SECRETS = {("nats", "password"), ("nats", "token"), ("clickhouse", "password"), ("networking", "proxy_password")}


ExistingFile = Annotated[FilePath, AfterValidator(Path.absolute)]
"""A file that is there; actors have a working directory of their own."""


class _Shown(str):
    """A text that is its own representation."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class _Section(BaseModel):
    # Pydantic's own messages would show what was given, also where it is a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show no user and password of a URL."""
        for name, value in super().__repr_args__():
            if isinstance(value, str):
                yield name, mask_urls(value)
            elif isinstance(value, (tuple, dict)):
                yield name, _Shown(mask_urls(repr(value)))
            else:
                yield name, value


class System(_Section):
    """The installation as a whole."""

    name: str = Field("marketprism", pattern=r"^[a-z][a-z0-9-]{0,30}$", description="prefix of actor names")
    data_dir: Path = Field(Path("data"), description="state, spill files and the embedded servers' data")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = Field(
        "console", description="of all processes; actors also write `data_dir/logs`, a file a day, 14 days kept"
    )


class Networking(_Section):
    """Sockets and HTTP."""

    connect_timeout_s: PositiveFloat = 10.0
    request_timeout_s: PositiveFloat = 10.0
    backoff_min_s: PositiveFloat = Field(1.0, description="first wait before a reconnect")
    backoff_max_s: PositiveFloat = Field(30.0, description="longest wait before a reconnect")
    max_frame_bytes: PositiveInt = Field(16 << 20, description="a larger frame closes the socket")
    compression: bool = Field(False, description="permessage-deflate: fewer bytes, 2 to 13 us more a frame")
    first_frame_s: PositiveFloat = Field(10.0, description="a stream with a cadence must have sent by then")
    silence_s: PositiveFloat = Field(30.0, description="a stream with a cadence silent for this is subscribed anew")
    replace_margin_s: PositiveFloat = Field(600.0, description="replace a socket this long before the venue cuts it")
    proxy: str | None = Field(
        None, description="http://, socks5:// or socks5h://; unset: the environment's, else direct"
    )
    proxy_user: str | None = None
    proxy_password: SecretStr | None = Field(None, description="from MARKETPRISM_NETWORKING__PROXY_PASSWORD only")

    @field_validator("proxy")
    @classmethod
    def _known_proxy(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "socks5://", "socks5h://")):
            raise ValueError("give http://host:port, socks5://host:port or socks5h://host:port")
        return value

    @property
    def proxy_url(self) -> str | None:
        """The proxy with its credentials; None leaves it to the environment."""
        if self.proxy is None or self.proxy_user is None:
            return self.proxy
        scheme, _, host = self.proxy.partition("://")
        password = self.proxy_password.get_secret_value() if self.proxy_password else ""
        return f"{scheme}://{quote(self.proxy_user, safe='')}:{quote(password, safe='')}@{host}"


class OrderBook(_Section):
    """Order books of a venue."""

    depth: PositiveInt = Field(400, description="levels a side that are published")
    keep: PositiveInt | None = Field(
        None, description="levels a side kept in memory; unset: the venue's snapshot depth"
    )
    interval_s: PositiveFloat = Field(1.0, description="least time between two published states")
    deltas: bool = Field(True, description="keep every change as orderbook_delta")


class Exchange(_Section):
    """One venue."""

    enabled: bool = True
    symbols: tuple[str, ...] = Field((), description="canonical names, venue names or patterns such as *-USDT")
    data_types: tuple[str, ...] = ("trade", "orderbook")
    orderbook: OrderBook = OrderBook()
    kline_intervals: tuple[str, ...] = Field(("1m",), description="lengths of candles, such as 1m, 1h, 1d")
    endpoints: dict[str, str] = Field(default_factory=dict, description="socket name, or rest, to URL")
    streams_per_socket: PositiveInt | None = Field(None, description="below the venue's limit")


class Nats(_Section):
    """Where live consumers read."""

    mode: Literal["embedded", "external"] = "embedded"
    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    port: int = Field(0, ge=0, le=65535, description="of the embedded server; 0 takes a free one")
    stream: str = Field("MARKET_DATA", pattern=r"^[A-Za-z0-9_-]+$")
    subjects: Literal["default", "market"] = Field("default", description="subject preset")
    max_messages: int = 5_000_000
    max_bytes: int = 10 << 30
    max_age_days: PositiveFloat = 7.0
    replicas: int = Field(1, ge=1, le=5)
    duplicate_window_s: PositiveFloat = 120.0
    sync_interval_s: NonNegativeFloat = Field(
        1.0, description="embedded: what is acknowledged is on the disk itself by then; 0: before it is acknowledged"
    )
    monitor_port: int | None = Field(
        None, ge=1, le=65535, description="embedded: of the server's monitoring page, on loopback; unset: none"
    )
    window: PositiveInt = Field(500, description="publishes that wait for their acknowledgement")
    tls_ca: ExistingFile | None = Field(None, description="certificate of the authority, if it is not a public one")
    credentials: ExistingFile | None = Field(None, description="file with JWT and seed")
    user: str | None = None
    password: SecretStr | None = Field(None, description="from MARKETPRISM_NATS__PASSWORD only")
    token: SecretStr | None = Field(None, description="from MARKETPRISM_NATS__TOKEN only")


class ClickHouse(_Section):
    """Where history is kept."""

    mode: Literal["embedded", "external"] = "embedded"
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="0 takes a free one (embedded) or 8123 (external)")
    database: str = Field("marketprism", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    secure: bool = Field(False, description="HTTPS")
    tls_ca: ExistingFile | None = Field(None, description="certificate of the authority, if it is not a public one")
    user: str = Field("default", description="external; the embedded server has `writer` and `reader`")
    password: SecretStr | None = Field(None, description="from MARKETPRISM_CLICKHOUSE__PASSWORD only")
    ttl_days: int | None = Field(None, description="rows older than this are dropped; unset keeps them")
    ttl_days_of: dict[str, int] = Field(default_factory=dict, description="by data type, over ttl_days")
    fsync_after_insert: bool = Field(
        True, description="embedded: an insert is acknowledged when it is on the disk itself"
    )
    insert_rows: PositiveInt = Field(10_000, description="rows that close an insert")
    insert_s: PositiveFloat = Field(0.25, description="age that closes an insert")

    @field_validator("ttl_days_of")
    @classmethod
    def _known(cls, value: dict[str, int]) -> dict[str, int]:
        return {_known_name(name, RECORDS, "data type"): days for name, days in value.items()}


class Batch(_Section):
    """When a collector hands rows on: whichever comes first."""

    rows: PositiveInt = 2_000
    bytes: PositiveInt = Field(1 << 18, description="estimated; 46 changed levels count as 2,400")
    age_s: PositiveFloat = 0.02


class Cluster(_Section):
    """Actors and Ray."""

    address: str | None = Field(None, description="of a running Ray cluster; unset starts a local one")
    num_cpus: PositiveInt = Field(2, description="of the local Ray")
    object_store_bytes: PositiveInt = 256 << 20
    dashboard: bool = False
    streams_per_collector: PositiveInt = Field(400, description="streams one collector actor takes on")
    batch: Batch = Batch()
    retention_bytes: PositiveInt = Field(256 << 20, description="unacknowledged batches a collector keeps in memory")
    write_ahead: bool = Field(
        True, description="keep every unacknowledged batch on local disk as well: a killed collector loses none"
    )
    spill_bytes: NonNegativeInt = Field(
        2 << 30, description="local disk for unacknowledged batches (`data_dir/spill`); when it is full, reading stops"
    )
    lease_s: PositiveFloat = Field(10.0, description="a collector that has not heard the coordinator for this stops")
    step_s: PositiveFloat = Field(1.0, description="period of the control loop")


class Jobs(_Section):
    """Seconds between two runs of each job."""

    funding_rate: PositiveFloat = Field(3600.0, description="charged rates; also right after each settlement")
    open_interest: PositiveFloat = 300.0
    long_short_ratio: PositiveFloat = 300.0
    volatility_index: PositiveFloat = Field(60.0, description="candles of the index, beside its stream")
    liquidation: PositiveFloat = Field(60.0, description="look whether liquidation streams are alive")
    health: PositiveFloat = Field(300.0, description="one log line about each shard")
    instruments: PositiveFloat = Field(3600.0, description="look for listings and expiries")


class Scheduler(_Section):
    """What is done by the clock."""

    jobs: Jobs = Jobs()


class Config(_Section):
    """Everything."""

    system: System = System()
    networking: Networking = Networking()
    exchanges: dict[str, Exchange] = Field(default_factory=dict)
    nats: Nats = Nats()
    clickhouse: ClickHouse = ClickHouse()
    scheduler: Scheduler = Scheduler()
    cluster: Cluster = Cluster()

    @field_validator("exchanges")
    @classmethod
    def _check_venues(cls, value: dict[str, Exchange]) -> dict[str, Exchange]:
        for name, exchange in value.items():
            venue = VENUES[_known_name(name, VENUES, "venue")]
            for data_type in exchange.data_types:
                _known_name(data_type, venue.data_types, f"data type of {name}")
            for interval in exchange.kline_intervals:
                _known_name(interval, venue.intervals, f"kline interval of {name}")
            for endpoint in exchange.endpoints:
                _known_name(endpoint, (*venue.sockets, "rest"), f"endpoint of {name}")
            if exchange.enabled and not exchange.symbols:
                raise ValueError(f"{name}.symbols: give at least one symbol or pattern, or set enabled: false")
        return value


def _known_name(name: str, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name!r} is no {what}; allowed: {', '.join(known)}{hint}")


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the file (None: defaults only), apply the environment, validate.

    Raises
    ------
    ConfigError
        With one line for each thing that is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(FILE_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not text: {error}") from error
        values = load_bounded(text, str(path)) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: the file must be a mapping of sections, it is a {type(values).__name__}")
    for section, key in sorted(SECRETS):
        if isinstance(values.get(section), dict) and values[section].get(key) is not None:
            name = f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
            raise ConfigError(f"{path}: {section}.{key}: secrets do not belong in the file; set {name} instead")
    for name, text in (os.environ if environment is None else environment).items():
        if name.startswith(ENVIRONMENT_PREFIX) and name != PURE_PYTHON:
            _override(values, name, text)
    return validate(values, str(path or "defaults"))


def _override(values: dict[str, Any], name: str, text: str) -> None:
    *sections, key = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
    if not sections or sections[0] not in Config.model_fields:
        known = [f"{ENVIRONMENT_PREFIX}{path}".upper() for path in _paths(Config)]
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(f"{name}: no such option" + (f"; did you mean {near[0]}?" if near else ""))
    place = values
    for section in sections:
        place = place.setdefault(section, {})
    secret = (sections[0], key) in SECRETS
    place[key] = text if secret else load_bounded(text, name)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _paths(kind, f"{prefix}{name}__")
        else:
            yield f"{prefix}{name}"


def validate(values: Mapping[str, Any], origin: str) -> Config:
    """Turn plain values into a Config.

    Raises
    ------
    ConfigError
        With one line for each thing that is wrong: path, value, what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                near = difflib.get_close_matches(str(item["loc"][-1]), _siblings(item["loc"]), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(_siblings(item['loc']))}"
                lines.append(f"{origin}: {path}: unknown key{hint}")
            else:
                value = item["input"]
                is_shown = not isinstance(value, dict) and item["loc"] not in SECRETS
                shown = f" (value {shorten(repr(value))})" if is_shown else ""
                lines.append(f"{origin}: {path}: {item['msg']}{shown}")
        # Not from the cause: that one would bring what was given into a traceback.
        more = [f"{origin}: and {len(lines) - ERRORS:,} more"] if len(lines) > ERRORS else []
        raise ConfigError(mask_urls("\n".join(lines[:ERRORS] + more))) from None


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location[:-1]:
        if model is Config and part == "exchanges":
            model = Exchange
        elif part in model.model_fields:
            kind = model.model_fields[str(part)].annotation
            model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else model
    return list(model.model_fields)


def dump(config: Config) -> str:
    """Write a config as YAML, secrets redacted."""
    values = config.model_dump(mode="json")
    for section, key in SECRETS:
        if values[section].get(key) is not None:
            values[section][key] = "<redacted>"
    return mask_urls(str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)))


def changed_venues(old: Config, new: Config) -> set[str]:
    """Give the venues whose section differs."""
    names = {*old.exchanges, *new.exchanges}
    return {name for name in names if old.exchanges.get(name) != new.exchanges.get(name)}


def reference() -> str:
    """Give a markdown table of every option, its default and its meaning."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    sections: list[tuple[str, type[BaseModel]]] = [
        (name, typing.cast(type[BaseModel], field.annotation))
        for name, field in Config.model_fields.items()
        if name != "exchanges"
    ]
    sections.append(("exchanges.<venue>", Exchange))
    for prefix, model in sections:
        rows.extend(_rows(prefix, model))
    return "\n".join(rows)


def _rows(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _rows(f"{prefix}.{name}", kind)
        else:
            default = field.get_default(call_default_factory=True)
            yield f"| `{prefix}.{name}` | `{default}` | {field.description or ''} |"

"""What a new configuration changes in a running system. Pure.

Some options are read again and again and need nothing, some are built into a collector and need a new one, and some
belong to what was started before the coordinator: those are refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from marketprism_ray.config import SECRETS, Config, validate

FIXED = (
    "nats",
    "clickhouse",
    "system",
    "cluster.address",
    "cluster.num_cpus",
    "cluster.object_store_bytes",
    "cluster.dashboard",
)
"""Belong to servers, to Ray or to every process: sections and options that need `down` and `up`."""
READ_AGAIN = ("scheduler.jobs.instruments", "cluster.streams_per_collector", "cluster.step_s")
"""Read by the coordinator each time it uses them."""


@dataclass(frozen=True)
class Changes:
    """What differs between two configurations, as paths of options.

    Parameters
    ----------
    refused : cannot be changed while the system runs
    restarting : every collector must be built anew
    read_again : take effect by themselves
    venues : whose collectors must be built anew
    """

    refused: tuple[str, ...] = ()
    restarting: tuple[str, ...] = ()
    read_again: tuple[str, ...] = ()
    venues: tuple[str, ...] = ()

    def in_words(self) -> str:
        """Say it in one line."""
        parts = [*self.venues]
        if self.restarting:
            parts.append(f"{', '.join(self.restarting)} (every collector restarts)")
        parts += self.read_again
        return f"changed: {', '.join(parts) or 'nothing'}"


def changes(running: Config, wanted: Config) -> Changes:
    """Compare the configuration that runs with another."""
    paths = [path for path in _differing(running, wanted) if not path.startswith("exchanges")]
    refused = [path for path in paths if any(f"{path}.".startswith(f"{fixed}.") for fixed in FIXED)]
    read_again = [path for path in paths if path in READ_AGAIN]
    names = sorted({*running.exchanges, *wanted.exchanges})
    return Changes(
        refused=tuple(refused),
        restarting=tuple(path for path in paths if path not in refused and path not in read_again),
        read_again=tuple(read_again),
        venues=tuple(name for name in names if running.exchanges.get(name) != wanted.exchanges.get(name)),
    )


CHANGEABLE = ("networking", "scheduler", "cluster", "exchanges")


def applied(config: Config) -> dict[str, Any]:
    """Give the sections that can change while the system runs, as plain values without secrets, to be kept on disk."""
    found = config.model_dump(mode="json", include=set(CHANGEABLE))
    for section, key in SECRETS:
        found.get(section, {}).pop(key, None)
    return found


def with_applied(config: Config, values: dict[str, Any]) -> Config:
    """Put kept sections back into a configuration; secrets are those it has.

    Raises
    ------
    ConfigError
        If they are of another version and are not understood.
    """
    kept = validate(values, "state")
    found = {name: getattr(kept, name) for name in CHANGEABLE}
    for section, key in SECRETS:
        if section in found:
            secret = getattr(getattr(config, section), key)
            found[section] = found[section].model_copy(update={key: secret})
    return config.model_copy(update=found)


def _differing(one: BaseModel, other: BaseModel, prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in type(one).model_fields:
        left, right = getattr(one, name), getattr(other, name)
        if left == right:
            continue
        if isinstance(left, BaseModel) and isinstance(right, BaseModel):
            found += _differing(left, right, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found

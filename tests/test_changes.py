"""What a new configuration changes: each option is refused, restarts somebody or is read again."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from marketprism_ray.changes import FIXED, READ_AGAIN, applied, changes, with_applied
from marketprism_ray.config import Config, validate


def config(**sections: Any) -> Config:
    return validate(sections, "test")


def paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += paths(kind, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def value_of(config: BaseModel, path: str) -> Any:
    found: Any = config
    for part in path.split("."):
        found = getattr(found, part)
    return found


def test_the_lists_name_options_that_there_are() -> None:
    known = paths(Config)
    assert all(any(f"{path}.".startswith(f"{name}.") for path in known) for name in FIXED)
    assert set(READ_AGAIN) <= set(known)


@pytest.mark.parametrize("section", ["networking", "scheduler", "cluster"])
def test_no_change_is_passed_over(section: str) -> None:
    for path in paths(Config):
        if not path.startswith(f"{section}."):
            continue
        *sections, name = path.split(".")
        value: dict[str, Any] = {name: {"address": "a", "proxy": "http://a", "proxy_user": "a"}.get(name, 7)}
        default = value_of(Config(), path)
        if isinstance(default, bool):
            value = {name: not default}
        if name == "proxy_password":
            value = {name: "secret"}
        for part in reversed(sections):
            value = {part: value}
        found = changes(Config(), validate(value, "test"))
        assert [*found.refused, *found.restarting, *found.read_again] == [path]
        assert path in found.in_words() or found.refused


def test_a_venue_that_differs_is_named_and_nothing_else() -> None:
    one, other = ({"binance_spot": {"symbols": [symbol]}} for symbol in ("BTC-USDT", "ETH-USDT"))
    found = changes(config(exchanges=one), config(exchanges=other))
    assert found.in_words() == "changed: binance_spot"
    assert changes(config(exchanges=one), config(exchanges=one)).in_words() == "changed: nothing"
    assert changes(config(), config(nats={"window": 5})).refused == ("nats.window",)


def test_what_was_applied_comes_back_without_secrets_on_disk() -> None:
    running = config(networking={"proxy_password": "secret", "silence_s": 3}, exchanges={})
    kept = applied(running)
    assert "secret" not in str(kept)
    fresh = config(networking={"proxy_password": "secret"})
    assert with_applied(fresh, kept) == running

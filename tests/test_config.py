from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from marketprism_ray.config import Config, dump, load, reference, validate
from marketprism_ray.errors import ConfigError
from marketprism_ray.logs import redact

ROOT = Path(__file__).resolve().parents[1]


def test_the_shipped_configurations_are_valid() -> None:
    files = list((ROOT / "config").glob("*.yaml"))
    assert files
    for file in files:
        load(file, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nats: {mod: x}", r"nats\.mod: unknown key; did you mean 'mode'\?"),
        ("nats: {replicas: 9}", r"nats\.replicas: .* less than or equal to 5 \(value 9\)"),
        ("exchanges: {okx_spott: {symbols: [A]}}", r"'okx_spott' is no venue; allowed: .*did you mean 'okx_spot'"),
        (
            "exchanges: {okx_spot: {symbols: [A], data_types: [tradez]}}",
            r"'tradez' is no data type of okx_spot.*'trade'",
        ),
        ("exchanges: {okx_spot: {}}", r"okx_spot\.symbols: give at least one"),
        (
            "exchanges: {okx_spot: {symbols: [A], endpoints: {pub: x}}}",
            r"'pub' is no endpoint of okx_spot; allowed: public",
        ),
        ("nats: {password: x}", r"secrets do not belong in the file; set MARKETPRISM_NATS__PASSWORD"),
        ("[1, 2]", r"must be a mapping"),
        ("a: [", r"not YAML"),
        ("clickhouse: {ttl_days_of: {trad: 3}}", r"'trad' is no data type.*did you mean 'trade'"),
    ],
)
def test_what_is_wrong_is_named_with_path_value_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(file, {})


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        validate({"nats": {"replicas": 9, "mode": "x"}, "sistem": {}}, "f")
    assert len(str(caught.value).splitlines()) == 3


def test_the_environment_overrides_the_file_and_secrets_come_only_from_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("nats: {replicas: 3}")
    environment = {"MARKETPRISM_NATS__REPLICAS": "2", "MARKETPRISM_NATS__PASSWORD": "123", "OTHER": "x",
                   "MARKETPRISM_NATS__SERVERS": "[nats://a:1, nats://b:2]"}  # fmt: skip
    config = load(file, environment)
    assert (config.nats.replicas, config.nats.password) == (2, SecretStr("123"))
    assert config.nats.servers == ("nats://a:1", "nats://b:2")
    assert "123" not in dump(config)


def test_an_unknown_variable_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean MARKETPRISM_NATS__SERVERS"):
        load(None, {"MARKETPRISM_NAT__SERVERS": "x"})


def test_what_is_dumped_can_be_loaded_again() -> None:
    config = validate({"exchanges": {"okx_spot": {"symbols": ["A-B"]}}}, "f")
    assert validate(yaml.safe_load(dump(config)), "f") == config


def test_every_option_of_every_section_is_in_the_reference() -> None:
    text = reference()
    for section in Config.model_fields:
        assert f"`{section}." in text or section == "exchanges"
    assert "`exchanges.<venue>.orderbook.interval_s`" in text


def test_secrets_are_redacted_from_logs() -> None:
    event = redact(None, "info", {"url": "socks5://u:p@h:1/x", "api_token": "t", "nats_password": "p", "n": 1})
    assert event == {
        "url": "socks5://<redacted>@h:1/x",
        "api_token": "<redacted>",
        "nats_password": "<redacted>",
        "n": 1,
    }


def test_the_switch_of_the_inner_loops_is_no_option_and_no_error() -> None:
    assert load(None, {"MARKETPRISM_PURE_PYTHON": "1"}) == load(None, {})
    with pytest.raises(ConfigError, match="MARKETPRISM_PURE_PYTHONS: no such option"):
        load(None, {"MARKETPRISM_PURE_PYTHONS": "1"})


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("nats: {stream: A}\nclickhouse: {}\nnats: {stream: B}\n")
    with pytest.raises(ConfigError, match="'nats' is given twice"):
        load(tmp_path / "c.yaml", {})
    (tmp_path / "c.yaml").write_text("? [nats]\n: {stream: A}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml", {})


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


HOSTILE = {
    "aliases of aliases": (_bomb(9, 10) + "\nexchanges: {okx_spot: {symbols: *a8}}", "aliases stand for more"),
    "the same under a key that is known": (
        "exchanges:\n okx_spot:\n  symbols:\n"
        + "".join(f"   - &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]\n" for n in range(12)),
        "aliases stand for more",
    ),
    "merged mappings": (
        "a0: &a0 {k: 1, l: 2}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
        "aliases stand for more",
    ),
    "an alias within itself": ("exchanges: &a {okx_spot: *a}", "within what it names"),
    "brackets": ("nats: " + "[" * 100_000, "nested more than 20 deep"),
    "braces": ("{a: " * 100_000, "nested more than 20 deep"),
    "dashes": ("- " * 100_000, "nested more than 20 deep"),
    "many values": ("exchanges: {okx_spot: {symbols: [" + "a, " * 30_000 + "]}}", "more than 20,000 values"),
    "a long text": ("nats: {stream: " + "a" * 100_000 + "}", "a value of 100,000 characters"),
    "a long file": ("# " + "a" * (1 << 20), "characters; a configuration has"),
    "a long number": ("nats: {port: " + "9" * 4000 + "}", "a number of 4,000 digits"),
    "a number too long to be read": ("nats: {port: 0x" + "f" * 4000 + "}", "a number of 4,002 digits"),
    "a date that is none": ("nats: {port: 2024-99-99}", "cannot be read"),
    "wrong values without end": ("exchanges: {okx_spot: {symbols: [" + "{a: b}, " * 4000 + "]}}", "and 3,950 more"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_configuration_that_stands_for_too_much_is_refused_with_little_memory(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    file = tmp_path / "c.yaml"
    file.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=re.escape(message)) as error:
            load(file, {})
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 20_000
    if len(text) < 50_000:
        with pytest.raises(ConfigError):
            load(None, {"MARKETPRISM_EXCHANGES": text})


def test_a_thousand_symbols_at_each_venue_and_honest_aliases_are_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    symbols = ", ".join(f"C{n}-USDT" for n in range(1000))
    rest = "".join(f"  {name}: {{symbols: *all}}\n" for name in ("binance_derivatives", "okx_derivatives"))
    file.write_text(f"exchanges:\n  okx_spot: {{symbols: &all [{symbols}]}}\n{rest}")
    assert {len(exchange.symbols) for exchange in load(file, {}).exchanges.values()} == {1000}

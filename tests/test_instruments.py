"""Names, patterns and rankings of instruments."""

from __future__ import annotations

import pytest
from conftest import instrument

from marketprism_ray.errors import ConfigError
from marketprism_ray.instruments import InstrumentTable, canonical_symbol, parse_top

NOW = 1_800_000_000_000_000_000
DAY = 86_400_000_000_000


def table() -> InstrumentTable:
    coins = ("BTC", "ETH", "SOL", "XRP")
    items = [instrument(symbol_name=f"{c}-USDT", venue_symbol=f"{c}USDT", base=c) for c in coins]
    items.append(instrument(symbol_name="BTC-EUR", venue_symbol="BTCEUR", quote="EUR"))
    items.append(instrument(symbol_name="OLD-USDT", venue_symbol="OLDUSDT", base="OLD", status="BREAK"))
    for name, expiry in (("BTC-USDT-270101", NOW - DAY), ("BTC-USDT-270401", NOW + DAY)):
        items.append(instrument(symbol_name=name, venue_symbol=name, market_type="futures", expiry=expiry))
    return InstrumentTable("binance_spot", items)


VOLUMES = {"BTCUSDT": 5.0, "ETHUSDT": 9.0, "SOLUSDT": 1.0, "BTCEUR": 7.0, "OLDUSDT": 100.0}


def names(*patterns: str) -> list[str]:
    found, problems = table().resolve(patterns, NOW, VOLUMES)
    assert problems == []
    return [item.symbol_name for item in found]


def test_canonical_and_venue_names_find_the_same_instrument_once() -> None:
    assert names("BTC-USDT", "BTCUSDT", "ETHUSDT") == ["BTC-USDT", "ETH-USDT"]


def test_a_pattern_finds_what_is_traded_now() -> None:
    assert names("*-USDT") == ["BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT"]
    assert names("BTC-USDT-*") == ["BTC-USDT-270401"]


def test_what_is_named_is_taken_even_if_it_is_not_traded() -> None:
    assert names("OLD-USDT") == ["OLD-USDT"]


def test_top_ranks_by_volume_and_what_has_none_comes_last() -> None:
    assert names("top:2") == ["ETH-USDT", "BTC-EUR"]
    assert names("top:3:*-USDT") == ["ETH-USDT", "BTC-USDT", "SOL-USDT"]
    assert names("top:99:*-USDT")[-1] == "XRP-USDT"


def test_what_is_collected_stays_among_the_top_until_it_is_well_below() -> None:
    def top(volumes: dict[str, float], *keep: str) -> set[str]:
        found, _ = table().resolve(["top:1:*-USDT"], NOW, volumes, keep)
        return {item.symbol_name for item in found}

    assert top({"ETHUSDT": 9, "BTCUSDT": 8}, "BTC-USDT") == {"BTC-USDT"}
    assert top({"ETHUSDT": 9, "SOLUSDT": 8, "BTCUSDT": 7}, "BTC-USDT") == {"BTC-USDT"}
    assert top({"ETHUSDT": 9, "SOLUSDT": 8, "XRPUSDT": 7, "BTCUSDT": 6}, "BTC-USDT") == {"ETH-USDT"}
    assert top({"ETHUSDT": 9, "OLDUSDT": 8}, "OLD-USDT") == {"OLD-USDT"}, "a halt is no reason to leave"
    assert top({"ETHUSDT": 9, "BTCUSDT": 8, "SOLUSDT": 7, "OLDUSDT": 1}, "OLD-USDT") == {"ETH-USDT"}


def test_what_is_collected_and_halted_stays_until_it_expires_or_leaves() -> None:
    found, problems = table().resolve(["OLD-*"], NOW, keep=["OLD-USDT"])
    assert [i.symbol_name for i in found] == ["OLD-USDT"]
    assert not problems
    assert table().halted(["OLD-USDT", "BTC-USDT", "GONE-USDT", "BTC-USDT-270101"], NOW) == {"OLD-USDT": "BREAK"}
    found, _ = table().resolve(["BTC-USDT-*"], NOW, keep=["BTC-USDT-270101"])
    assert [i.symbol_name for i in found] == ["BTC-USDT-270401"]


@pytest.mark.parametrize("pattern", ["top:", "top:x", "top:0", "top:-1", "top:1.5:*"])
def test_a_malformed_top_says_what_is_wanted(pattern: str) -> None:
    with pytest.raises(ConfigError, match="give top:N"):
        parse_top(pattern)


def test_what_matches_nothing_names_the_nearest_and_holds_up_no_other() -> None:
    found, problems = table().resolve(["BTC-USDX", "ETH-USDT", "ZZZ-*"], NOW)
    assert [item.symbol_name for item in found] == ["ETH-USDT"]
    assert len(problems) == 2
    assert "'BTC-USDX' matches none of the 8 instruments of binance_spot; nearest: BTC-USDT" in problems[0]


def test_option_names_are_built_from_metadata() -> None:
    name = canonical_symbol("XRP", "USDC", "option", expiry=NOW, strike="0.625", option_type="C")
    assert name == "XRP-USDC-270115-0.625-C"

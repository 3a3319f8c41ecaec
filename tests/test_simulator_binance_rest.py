"""The REST answers of the simulated futures of Binance, and the tickers of its spot market."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

from binance_bench import (
    COINM,
    FUTURES,
    NAMES,
    PREFIX,
    SPOT,
    USDM,
    bench,
)

from marketprism_ray.simulator.summaries import FUNDING_MS, funding_rate, long_share


@FUTURES
async def test_instruments_have_the_words_of_their_market(place: tuple[str, str]) -> None:
    async with bench(place[0]) as one:
        found = {row["symbol"]: row for row in (await one.get(f"{PREFIX[place]}/exchangeInfo"))["symbols"]}
        assert len(found) == 3
        perpetual = found[NAMES[place]]
        dated = next(row for row in found.values() if row["contractType"] != "PERPETUAL")
        assert perpetual["contractType"] == "PERPETUAL"
        assert (dated["contractType"], dated["deliveryDate"]) == ("CURRENT_QUARTER", 1_893_139_200_000)
        assert {f["filterType"]: f for f in perpetual["filters"]}["PRICE_FILTER"]["tickSize"] == "0.1"
        if place == USDM:
            assert (perpetual["pair"], perpetual["status"], perpetual["marginAsset"]) == ("BTCUSDT", "TRADING", "USDT")
            assert not perpetual.keys() & {"contractSize", "contractStatus"}
        else:
            assert (perpetual["pair"], perpetual["contractStatus"], perpetual["marginAsset"]) == (
                *("BTCUSD", "TRADING"),
                "BTC",
            )
            assert perpetual["contractSize"] == 100
            assert "status" not in perpetual


@FUTURES
async def test_history_pages_through_every_trade(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        for _ in range(250):
            one.step(place, "trade")
            one.wait(place[0], 20)
        one.wait(place[0], 100)
        truth, fills = one.told(place), one.symbol(place).truth
        found: list[dict[str, Any]] = []
        while page := await one.get(
            f"{path}/aggTrades?symbol={name}&limit=100&fromId={found[-1]['a'] + 1 if found else truth.ids[0]}"
        ):
            found += page
        assert [(row["a"], row["p"], row["q"], row["T"], row["m"]) for row in found] == list(
            zip(truth.ids, truth.prices, truth.quantities, truth.times_ms, truth.taker_sold, strict=True)
        )
        assert truth.ids == list(range(truth.ids[0], truth.ids[0] + len(truth.ids)))
        # Each fill is in one aggregate, but for those that the insurance fund took.
        inside = [fill for row in found for fill in range(row["f"], row["l"] + 1)]
        taken = {i for i, forced in zip(fills.ids, fills.liquidations, strict=True) if forced and i % 8 == 3}
        assert len(inside) == len(set(inside))
        assert set(fills.ids) - set(inside) <= taken
        assert any(row["l"] > row["f"] for row in found)
        by_id = dict(zip(fills.ids, fills.quantities, strict=True))
        for row in found:
            members = [i for i in range(row["f"], row["l"] + 1) if i not in taken]
            assert Decimal(row["q"]) == sum((Decimal(by_id[i]) for i in members), Decimal())
            if place == USDM:
                assert Decimal(row["nq"]) == sum((Decimal(by_id[i]) for i in members if i % 16 != 5), Decimal())
            else:
                assert "nq" not in row
        start, end = truth.times_ms[0], truth.times_ms[-1]
        by_time = await one.get(f"{path}/aggTrades?symbol={name}&limit=1000&startTime={start}&endTime={end}")
        assert by_time == found
        for query, code in (
            (f"fromId=1&startTime={start}", -1128),
            (f"startTime={start}&endTime={start + 3_600_000}", -1127),
            ("limit=x", -1100),
        ):
            assert (await one.get(f"{path}/aggTrades?symbol={name}&{query}"))["code"] == code
        newest = await one.get(f"{path}/trades?symbol={name}&limit=5")
        assert [row["id"] for row in newest] == fills.ids[-5:]
        assert [row.get("isRPITrade") for row in newest] == [
            i % 16 == 5 if place == USDM else None for i in fills.ids[-5:]
        ]
        assert (await one.get(f"{path}/historicalTrades?symbol={name}"))["code"] == -2014
        assert {"baseQty" if place == COINM else "quoteQty"} < newest[0].keys()
        assert (await one.get(f"{path}/trades?symbol=NOSUCH"))["code"] == -1121
        assert (await one.get(f"{path}/depth?symbol={name}&limit=30"))["code"] == -4021


@FUTURES
async def test_tickers_of_one_and_of_all(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        one.step(place, "trade")
        single, of_all = [await one.get(f"{path}/ticker/24hr{query}") for query in (f"?symbol={name}", "")]
        rows = {row["symbol"]: row for row in of_all}
        assert len(rows) == 3
        row = single[0] if place == COINM else single
        assert (row["count"], rows[name]["count"]) == (1, 1)
        assert {"baseVolume" if place == COINM else "quoteVolume"} < row.keys()
        assert not row.keys() & {"bidPrice", "askPrice"}
        assert {(r["count"], r["volume"]) for symbol, r in rows.items() if symbol != name} == {
            (0, "0.000" if place == USDM else "0")
        }
        quotes = await one.get(f"{path}/ticker/bookTicker")
        assert {quote["symbol"] for quote in quotes} == rows.keys()


async def test_spot_tickers_of_all_symbols_are_a_list() -> None:
    async with bench("binance_spot") as one:
        one.step(SPOT, "trade")
        _, headers, found = await one.raw("binance_spot/api/v3/ticker/24hr")
        assert headers["X-MBX-USED-WEIGHT-1M"] == "80"
        assert {row["symbol"]: row["count"] for row in found} == {"BTCUSDT": 1, "ETHUSDT": 0, "SOLUSDT": 0}
        assert len({frozenset(row) for row in found}) == 1


@FUTURES
async def test_premium_funding_and_interest(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        listing = one.symbol(place).listing
        answer = await one.get(f"{path}/premiumIndex?symbol={name}")
        row = answer[0] if place == COINM else answer
        assert Decimal(row["lastFundingRate"]) == funding_rate(listing, row["time"])
        assert row["nextFundingTime"] == (row["time"] // FUNDING_MS + 1) * FUNDING_MS
        of_all = {row["symbol"]: row for row in await one.get(f"{path}/premiumIndex")}
        assert len(of_all) == 3
        dated = next(row for symbol, row in of_all.items() if symbol.endswith("291228"))
        assert (dated["lastFundingRate"], dated["nextFundingTime"]) == ("", 0)
        newest = await one.get(f"{path}/fundingRate?symbol={name}&limit=3")
        last = row["time"] // FUNDING_MS * FUNDING_MS
        assert [paid["fundingTime"] for paid in newest] == [last - 2 * FUNDING_MS, last - FUNDING_MS, last]
        # What was announced during a period is what was charged at its end.
        assert [Decimal(paid["fundingRate"]) for paid in newest] == [
            funding_rate(listing, paid["fundingTime"] - 1) for paid in newest
        ]
        start = last - 10 * FUNDING_MS + 1
        page = await one.get(f"{path}/fundingRate?symbol={name}&startTime={start}&limit=4")
        assert [paid["fundingTime"] for paid in page] == [last - i * FUNDING_MS for i in (9, 8, 7, 6)]
        assert len(await one.get(f"{path}/fundingRate?symbol={name}")) == 200
        assert await one.get(f"{path}/fundingRate?symbol={dated['symbol']}") == []
        assert {row["fundingIntervalHours"] for row in await one.get(f"{path}/fundingInfo")} == {8}
        interest = await one.get(f"{path}/openInterest?symbol={name}")
        assert Decimal(interest["openInterest"]) > 0
        assert (interest.get("pair"), interest.get("contractType")) == (
            ("BTCUSD", "PERPETUAL") if place == COINM else (None, None)
        )


@FUTURES
async def test_statistics_end_with_the_last_full_period(place: tuple[str, str]) -> None:
    asked = "pair=BTCUSD" if place == COINM else "symbol=BTCUSDT"
    position = "Position" if place == COINM else "Account"
    async with bench(place[0]) as one:
        listing = one.symbol(place).listing
        path = f"{place[0]}/futures/data"
        for name, kind, noun in (
            ("topLongShortPositionRatio", "top_position", position),
            ("topLongShortAccountRatio", "top_account", "Account"),
            ("globalLongShortAccountRatio", "all_account", "Account"),
        ):
            before = int(time.time() * 1000) // 300_000 * 300_000
            found = await one.get(f"{path}/{name}?{asked}&period=5m&limit=3")
            assert found[-1]["timestamp"] - before in (0, 300_000)
            assert [row["timestamp"] - found[0]["timestamp"] for row in found] == [0, 300_000, 600_000]
            for row in found:
                share = long_share(kind, listing, row["timestamp"])
                assert (Decimal(row[f"long{noun}"]), Decimal(row[f"short{noun}"])) == (share, 1 - share)
                assert row["longShortRatio"] == f"{share / (1 - share):.4f}"
        start, end = found[0]["timestamp"], found[1]["timestamp"]
        path = f"{path}/openInterestHist?{asked}&period=5m&contractType=PERPETUAL"
        rows = await one.get(f"{path}&startTime={start}&endTime={end}")
        assert [row["timestamp"] for row in rows] == [start, end]
        assert Decimal(rows[0]["sumOpenInterest"]) > Decimal(rows[0]["sumOpenInterestValue"]) or place == USDM
        assert len(await one.get(path)) == 30
        for query, code in (("period=5m", -1102), (f"{asked}&period=7m", -1130)):
            assert (await one.get(f"{place[0]}/futures/data/openInterestHist?{query}"))["code"] == code

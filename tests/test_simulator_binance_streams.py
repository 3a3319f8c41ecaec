"""The streams of the simulated Binance as the venue has them: digits, ids, batches, aggregates, candles, windows."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any

import pytest
from binance_bench import (
    COINM,
    FUTURES,
    MARKET,
    NAMES,
    PREFIX,
    PUBLIC,
    SPOT,
    USDM,
    Bench,
    bench,
    best_first,
    change,
    future_minute,
    waiting,
)
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.simulator.binance.intervals import LENGTHS_MS, Interval
from marketprism_ray.simulator.market import TradeEvent, made_up_coin
from marketprism_ray.simulator.summaries import DAY_MS

PLACES = pytest.mark.parametrize("place", [SPOT, USDM, COINM], ids=["spot", "usdm", "coinm"])
REST = {SPOT: "binance_spot/api/v3", **PREFIX}


def digits(text: str) -> int:
    return len(text.partition(".")[2])


async def book_of(one: Bench, place: tuple[str, str], limit: int) -> Any:
    return await one.get(f"{REST[place]}/depth?symbol={NAMES[place]}&limit={limit}")


def splice(place: tuple[str, str], snapshot: Any, events: list[Any]) -> list[Any]:
    """Give the events that continue a snapshot, by the venue's rules."""
    last = snapshot["lastUpdateId"]
    kept = [event for event in events if (event["u"] > last if place == SPOT else event["u"] >= last)]
    if kept:
        assert kept[0]["U"] <= last + (place == SPOT) <= kept[0]["u"]
    return kept


# --- numbers and ids ---


@pytest.mark.parametrize(("place", "price", "quantity"), [(SPOT, 8, 8), (USDM, 1, 3), (COINM, 1, 0)])
async def test_numbers_have_the_digits_of_their_instrument(place: tuple[str, str], price: int, quantity: int) -> None:
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        socket = await one.socket(PUBLIC[place], f"{name}@depth@100ms", f"{name}@trade")
        for _ in range(200):
            one.step(place, "book")
        one.step(place, "trade")
        one.wait(place[0], 100)
        found = {frame["stream"]: frame["data"] for frame in await waiting(socket)}
        levels = [level for side in "ba" for level in found[f"{name}@depth@100ms"][side]]
        trade = found[f"{name}@trade"]
        snapshot = await book_of(one, place, 100)
        for p, q in [*levels, *snapshot["bids"], *snapshot["asks"], [trade["p"], trade["q"]]]:
            assert (digits(p), digits(q)) == (price, quantity)
        deletes = {q for _, q in levels if not Decimal(q)}
        assert deletes == {f"{0:.{quantity}f}"}


@FUTURES
async def test_ids_of_changes_jump_because_the_engine_counts_more_than_books(place: tuple[str, str]) -> None:
    symbol_name = NAMES[place].lower()
    async with bench(place[0]) as one:
        socket = await one.socket(PUBLIC[place], f"{symbol_name}@depth@0ms")
        for _ in range(2000):
            one.step(place, "book")
        events = [frame["data"] for frame in await waiting(socket)]
        assert len(events) == 2000
        assert all(event["pu"] == before["u"] for before, event in pairwise(events))
        following = sum(event["U"] == event["pu"] + 1 for event in events)
        assert 0.005 * len(events) < following < 0.06 * len(events)


# --- batches and snapshots ---


@PLACES
async def test_each_cadence_has_batches_and_a_chain_of_its_own(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    cadences = (
        {"depth": 1000, "depth@100ms": 100} if place == SPOT else {"depth": 250, "depth@500ms": 500, "depth@100ms": 100}
    )
    async with bench(place[0]) as one:
        one.wait(place[0], 1000)
        socket = await one.socket(PUBLIC[place], *(f"{name}@{cadence}" for cadence in cadences))
        snapshot = await book_of(one, place, 1000)
        for _ in range(400):
            one.step(place, "book")
            one.wait(place[0], 10)
        frames: dict[str, list[Any]] = {}
        for frame in await waiting(socket):
            frames.setdefault(frame["stream"].partition("@")[2], []).append(frame["data"])
        assert {cadence: len(events) for cadence, events in frames.items()} == {
            cadence: 4000 // ms for cadence, ms in cadences.items()
        }
        best = [side[:100] for side in one.symbol(place).book()]
        for events in frames.values():
            for before, event in pairwise(events):
                assert event["U"] == before["u"] + 1 if place == SPOT else event["pu"] == before["u"]
            assert events[-1]["u"] == one.symbol(place).update_id
            bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
            for event in events:
                change(bids, event["b"])
                change(asks, event["a"])
            assert [best_first(bids, bids=True)[:100], best_first(asks, bids=False)[:100]] == best


@PLACES
async def test_snapshots_are_older_than_the_stream_within_it_and_ahead_of_it(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        one.simulator._houses[place[0]].snapshot_lag_ms = 1500  # type: ignore[attr-defined]
        await one.socket(PUBLIC[place], f"{name}@bookTicker", f"{name}@depth@100ms")
        for _ in range(200):
            one.step(place, "book")
            one.wait(place[0], 10)
        ages = []
        for _ in range(60):
            # The servers' time is the market's.
            one.simulator.wire.clock_offset_ms = one.at - int(time.time() * 1000)
            snapshot = await book_of(one, place, 5)
            ages.append(one.symbol(place).update_id - snapshot["lastUpdateId"])
        # The same book is told at one moment and by an older server at the next.
        assert len(set(ages)) > 5
        assert any(later > earlier for earlier, later in pairwise(ages))


@PLACES
async def test_every_snapshot_however_late_splices_to_the_exact_book(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        house: Any = one.simulator._houses[place[0]]
        house.snapshot_lag_ms = 1500
        socket = await one.socket(PUBLIC[place], f"{name}@depth@100ms")
        replica = house._desk.books.replica(one.symbol(place))
        for _ in range(200):
            one.step(place, "book")
            one.wait(place[0], 10)
        events = [frame["data"] for frame in await waiting(socket)]
        seen = 0
        for lag in range(0, 1500, 50):
            update_id, _, best_bids, best_asks = replica.at(one.at - lag, 1000)
            kept = splice(place, {"lastUpdateId": update_id}, events)
            bids, asks = dict(best_bids), dict(best_asks)
            for event in kept:
                change(bids, event["b"])
                change(asks, event["a"])
            for side, levels in zip(
                (best_first(bids, bids=True), best_first(asks, bids=False)), one.symbol(place).book(100), strict=True
            ):
                assert side[:100] == levels
            seen += len(kept) > 1
        assert seen > 20


@PLACES
async def test_the_best_levels_come_as_a_whole(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        streams = [f"{name}@depth5", f"{name}@depth20@100ms"]
        socket = await one.socket(PUBLIC[place], *streams)
        for _ in range(10):
            one.step(place, "book")
        one.wait(place[0], 1000)
        one.wait(place[0], 1000)
        found = await waiting(socket)
        assert sorted(frame["stream"] for frame in found) == sorted(streams)
        for frame in found:
            levels, data = 5 if "depth5" in frame["stream"] else 20, frame["data"]
            expected = [[list(level) for level in side] for side in one.symbol(place).book(levels)]
            if place == SPOT:
                assert data.keys() == {"lastUpdateId", "bids", "asks"}
                assert (data["lastUpdateId"], [data["bids"], data["asks"]]) == (one.symbol(place).update_id, expected)
            else:
                assert (data["e"], data["u"], [data["b"], data["a"]]) == (
                    *("depthUpdate", one.symbol(place).update_id),
                    expected,
                )


async def test_best_prices_come_when_they_change_and_only_then() -> None:
    async with bench("binance_spot") as one:
        socket = await one.socket(PUBLIC[SPOT], "btcusdt@bookTicker")
        quotes = [one.symbol(SPOT).best()]
        for _ in range(300):
            one.step(SPOT, "book")
            quotes.append(one.symbol(SPOT).best())
        expected = [quote for quote, _ in groupby(quotes)][1:]
        found = [frame["data"] for frame in await waiting(socket)]
        assert [((q["b"], q["B"]), (q["a"], q["A"])) for q in found] == expected
        assert len(found) < 300


# --- trades ---


async def test_an_aggregate_of_spot_is_what_one_order_took_at_one_price() -> None:
    async with bench("binance_spot") as one:
        socket = await one.socket(PUBLIC[SPOT], "btcusdt@trade", "btcusdt@aggTrade")
        fills: list[TradeEvent] = []
        for _ in range(50):
            for event in one.symbol(SPOT).sweep(one.at):
                one.simulator._houses["binance_spot"].publish(event)
                if isinstance(event, TradeEvent):
                    fills.append(event)
        frames = await waiting(socket)
        trades, aggregates = (
            [frame["data"] for frame in frames if frame["stream"].endswith(end)] for end in ("@trade", "@aggTrade")
        )
        assert [trade["t"] for trade in trades] == [fill.id for fill in fills]
        runs = [list(run) for _, run in groupby(fills, key=lambda fill: (fill.order, fill.price))]
        assert [(a["f"], a["l"], a["p"], Decimal(a["q"]), a["m"]) for a in aggregates] == [
            (run[0].id, run[-1].id, run[0].price, sum(Decimal(f.quantity) for f in run), run[0].taker_sold)
            for run in runs
        ]
        assert [a["a"] for a in aggregates] == list(range(aggregates[0]["a"], aggregates[0]["a"] + len(runs)))
        rows = await one.get("binance_spot/api/v3/aggTrades?symbol=BTCUSDT&limit=1000")
        assert [(row["a"], row["f"], row["l"], row["q"]) for row in rows] == [
            (a["a"], a["f"], a["l"], a["q"]) for a in aggregates
        ]
        history = await one.get(f"binance_spot/api/v3/historicalTrades?symbol=BTCUSDT&limit=1000&fromId={fills[0].id}")
        assert [(row["id"], row["price"], row["qty"]) for row in history] == [(t["t"], t["p"], t["q"]) for t in trades]


@FUTURES
async def test_an_aggregate_of_futures_waits_for_its_tenth_of_a_second(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        socket = await one.socket(MARKET[place], f"{name}@aggTrade")
        fills = []
        for _ in range(400):
            fills.append(one.step(place, "trade"))
            one.wait(place[0], 7)
        one.wait(place[0], 100)
        found = [frame["data"] for frame in await waiting(socket)]
        rows = await one.get(f"{PREFIX[place]}/aggTrades?symbol={NAMES[place]}&limit=1000")
        assert [row["a"] for row in rows] == [a["a"] for a in found]
        assert all(later["a"] == earlier["a"] + 1 for earlier, later in pairwise(found))
        # Ids that the insurance fund's fills took are in no aggregate.
        skipped = [later["f"] - earlier["l"] - 1 for earlier, later in pairwise(found)]
        inside = sum(fill.is_liquidation and fill.id % 8 == 3 for fill in fills if isinstance(fill, TradeEvent))
        assert sum(skipped) <= inside
        times = {fill.id: fill.time_ms for fill in fills if isinstance(fill, TradeEvent)}
        assert any(a["l"] > a["f"] for a in found)
        for a in found:
            assert a["T"] == times[a["f"]]
            assert times[a["l"]] < a["T"] + 100
            assert a["T"] < a["E"]
        assert all(a["E"] <= a["T"] + 110 for a in found[:-1])


# --- candles ---


@given(st.integers(0, 4_102_444_800_000), st.sampled_from(sorted(LENGTHS_MS)), st.integers(-12 * 60, 14 * 60))
def test_each_moment_is_in_one_candle(at_ms: int, name: str, minutes: int) -> None:
    interval = Interval(name, minutes * 60_000)
    start = interval.open_of(at_ms)
    end = interval.end_of(start)
    assert start <= at_ms < end
    assert interval.open_of(start) == start
    assert interval.open_of(end - 1) == start
    assert interval.open_of(end) == end


@pytest.mark.parametrize(
    ("name", "begins"), [("1w", "2026-11-16"), ("1M", "2026-11-01"), ("3d", "2026-11-21"), ("1d", "2026-11-21")]
)
def test_weeks_begin_on_mondays_and_months_with_their_first_day(name: str, begins: str) -> None:
    at_ms = int(datetime(2026, 11, 21, 15, tzinfo=UTC).timestamp() * 1000)
    assert f"{datetime.fromtimestamp(Interval(name).open_of(at_ms) / 1000, UTC):%Y-%m-%d}" == begins


@PLACES
async def test_candles_without_trades_are_told_and_kept(place: tuple[str, str]) -> None:
    name, start = NAMES[place], future_minute()
    async with bench(place[0]) as one:
        event = one.step(place, "trade", start)
        assert isinstance(event, TradeEvent)
        socket = await one.socket(MARKET[place], f"{name.lower()}@kline_1m")
        for second in range(0, 181, 2):
            one.beat(place[0], start + second * 1000)
        closed = [frame["data"]["k"] for frame in await waiting(socket) if frame["data"]["k"]["x"]]
        assert [(k["t"] - start, k["n"]) for k in closed] == [(0, 1), (60_000, 0), (120_000, 0)]
        for k in closed[1:]:
            assert {k["o"], k["h"], k["l"], k["c"]} == {event.price}
            assert (Decimal(k["v"]), Decimal(k["q"]), k["f"], k["L"]) == (0, 0, -1, -1)
        rows = await one.get(
            f"{REST[place]}/klines?symbol={name}&interval=1m&startTime={start}&endTime={start + 179_999}"
        )
        assert [[row[0], *row[1:6], row[8]] for row in rows] == [
            [k["t"], k["o"], k["h"], k["l"], k["c"], k["v"], k["n"]] for k in closed
        ]


@PLACES
async def test_nobody_gets_the_candles_of_before_he_came(place: tuple[str, str]) -> None:
    key, start = f"{NAMES[place].lower()}@kline_1m", future_minute()
    async with bench(place[0]) as one:
        first = await one.socket(MARKET[place], key)
        for minute in range(3):
            one.step(place, "trade", start + minute * 60_000 + 1)
            one.beat(place[0], start + minute * 60_000 + 30_000)
        await first.close()
        for minute in range(3, 6):
            one.step(place, "trade", start + minute * 60_000 + 1)
            one.beat(place[0], start + minute * 60_000 + 30_000)
        second = await one.socket(MARKET[place], key)
        one.beat(place[0], start + 360_000)
        found = [frame["data"]["k"] for frame in await waiting(second)]
        assert [(k["t"] - start, k["x"]) for k in found] == [(300_000, True), (360_000, False)]


@pytest.mark.parametrize("name", sorted(LENGTHS_MS))
async def test_every_interval_delivers_on_the_stream_and_by_rest(name: str) -> None:
    async with bench("binance_spot", "binance_derivatives") as one:
        now = future_minute()
        places = [SPOT] if name == "1s" else [SPOT, USDM]
        for place in places:
            socket = await one.socket(MARKET[place], f"btcusdt@kline_{name}")
            one.step(place, "trade", now)
            one.beat(place[0], now + 500)
            (k,) = [frame["data"]["k"] for frame in await waiting(socket)]
            assert (k["i"], k["t"], k["n"]) == (name, Interval(name).open_of(now), 1)
            assert k["T"] == Interval(name).end_of(k["t"]) - 1
            (row,) = await one.get(
                f"{REST[place]}/klines?symbol=BTCUSDT&interval={name}&startTime={k['t']}&endTime={now}"
            )
            assert row[:7] == [k["t"], k["o"], k["h"], k["l"], k["c"], k["v"], k["T"]]


async def test_days_of_another_time_zone_and_candles_of_a_pair() -> None:
    now = future_minute() // DAY_MS * DAY_MS + 20 * 3_600_000
    async with bench("binance_spot", "binance_derivatives") as one:
        socket = await one.socket(MARKET[SPOT], "btcusdt@kline_1d@+08:00", "btcusdt@kline_1d")
        futures = await one.socket(
            MARKET[USDM], "btcusdt_perpetual@continuousKline_1m", "btcusdt_next_quarter@continuousKline_1m"
        )
        for place in (SPOT, USDM):
            one.step(place, "trade", now)
            one.beat(place[0], now + 2000)
        found = {frame["stream"]: frame["data"]["k"]["t"] for frame in await waiting(socket)}
        assert found["btcusdt@kline_1d@+08:00"] == found["btcusdt@kline_1d"] + 16 * 3_600_000
        rows = await one.get(
            f"binance_spot/api/v3/klines?symbol=BTCUSDT&interval=1d&timeZone=8&startTime={now - DAY_MS}&endTime={now}"
        )
        assert rows[-1][0] == found["btcusdt@kline_1d@+08:00"]
        (frame,) = await waiting(futures)
        data = frame["data"]
        assert (data["e"], data["ps"], data["ct"], data["k"]["n"]) == ("continuous_kline", "BTCUSDT", "PERPETUAL", 1)


# --- the other streams ---


async def test_windows_of_hours_and_average_prices_of_spot() -> None:
    start = future_minute()
    async with bench("binance_spot") as one:
        names = [
            "btcusdt@avgPrice",
            "!miniTicker@arr",
            *(f"btcusdt@ticker_{w}" for w in ("1h", "4h", "1d")),
            "!ticker_1h@arr",
        ]
        one.step(SPOT, "trade", start - 2 * 3_600_000)
        socket = await one.socket(PUBLIC[SPOT], *names)
        late = [one.step(SPOT, "trade", start + at) for at in range(3)]
        one.beat("binance_spot", start + 1000)
        found = {frame["stream"]: frame["data"] for frame in await waiting(socket)}
        assert found.keys() == set(names)
        assert [found[f"btcusdt@ticker_{window}"]["n"] for window in ("1h", "4h", "1d")] == [3, 4, 4]
        assert found["btcusdt@ticker_1h"]["e"] == "1hTicker"
        assert (
            [row["s"] for row in found["!ticker_1h@arr"]]
            == [row["s"] for row in found["!miniTicker@arr"]]
            == ["BTCUSDT"]
        )
        quantity = sum((Decimal(t.quantity) for t in late if isinstance(t, TradeEvent)), Decimal())
        value = sum((Decimal(t.price) * Decimal(t.quantity) for t in late if isinstance(t, TradeEvent)), Decimal())
        average = found["btcusdt@avgPrice"]
        assert (average["w"], average["T"]) == (f"{value / quantity:.8f}", start + 2)
        rest = await one.get("binance_spot/api/v3/ticker/24hr?symbol=BTCUSDT")
        assert "prevClosePrice" in rest


async def test_marks_of_a_pair_come_in_one_message() -> None:
    async with bench("binance_coinm") as one:
        socket = await one.socket(MARKET[COINM], "btcusd@markPrice@1s")
        one.wait("binance_coinm", 1000)
        (frame,) = await waiting(socket)
        assert [mark["s"] for mark in frame["data"]] == ["BTCUSD_PERP", "BTCUSD_291228"]
        assert all(mark["p"] != mark["i"] for mark in frame["data"])


@pytest.mark.parametrize(
    ("place", "halted"),
    [(SPOT, "BREAK"), (USDM, "TRADING_HALT"), (COINM, "TRADING_HALT")],
    ids=["spot", "usdm", "coinm"],
)
async def test_a_halt_is_told(place: tuple[str, str], halted: str) -> None:
    async with bench(place[0]) as one:

        async def status() -> str:
            found = (await one.get(f"{REST[place]}/exchangeInfo"))["symbols"]
            row = next(row for row in found if row["symbol"] == NAMES[place])
            return str(row.get("status") or row["contractStatus"])

        socket = await one.socket(MARKET[place], "!contractInfo")
        for state, expected in (("halt", halted), ("resume", "TRADING")):
            body = {"action": state, "venue": place[0], "symbol": place[1]}
            async with one.http.post(f"http://{one.host}/control/market", json=body) as answer:
                assert answer.status == 200
            assert await status() == expected
        told = [(frame["data"]["s"], frame["data"]["cs"]) for frame in await waiting(socket)]
        assert told == ([] if place == SPOT else [(NAMES[place], halted), (NAMES[place], "TRADING")])


async def test_a_contract_that_was_delivered_is_told_of_until_it_is_forgotten() -> None:
    async with bench("binance_derivatives") as one:
        soon = int(time.time() * 1000) + 200
        body = {"action": "list", "venue": "binance_derivatives", "symbol": "BTC-USDT-291228", "expiry_ms": soon}
        async with one.http.post(f"http://{one.host}/control/market", json=body) as answer:
            assert answer.status == 200

        async def found() -> dict[str, str]:
            rows = (await one.get(f"{PREFIX[USDM]}/exchangeInfo"))["symbols"]
            return {row["symbol"]: row["status"] for row in rows}

        (name,) = (await found()).keys() - {"BTCUSDT", "ETHUSDT", "BTCUSDT_291228"}
        assert (await found())[name] == "TRADING"
        one.simulator.market.expired(soon)
        one.simulator._relist()
        while (await found()).get(name) != "SETTLING":
            pass


async def test_who_asked_before_a_symbol_was_listed_gets_it_when_it_is() -> None:
    async with bench("binance_spot") as one:
        names = [f"c000usdt@{channel}" for channel in ("trade", "depth@100ms", "kline_1m")]
        socket = await one.socket(PUBLIC[SPOT], *names)
        one.simulator.enter(made_up_coin("binance_spot", 0))
        place = ("binance_spot", "C000-USDT")
        one.step(place, "trade")
        one.step(place, "book")
        one.wait("binance_spot", 2000)
        assert {frame["stream"] for frame in await waiting(socket)} == set(names)
        assert one.symbol(place).truth.subscribed_from == one.symbol(place).truth.ids[0]


@PLACES
async def test_a_wrong_name_is_acknowledged_and_silent(place: tuple[str, str]) -> None:
    name = NAMES[place].lower()
    wrong = [
        *(f"{name}@depth@7ms", f"{name}@depth7", f"{name}@kline_7m", f"{name}@ticker_2h", "nosuch@trade"),
        *(f"{name.upper()}@trade", f"{name}@nosuch", "!nosuch@arr", f"{name}@kline_1m@08:00"),
        *(["!ticker@arr", f"{name}@markPrice"] if place == SPOT else [f"{name}@kline_1s", f"{name}@avgPrice"]),
    ]
    async with bench(place[0]) as one:
        sockets = [await one.socket(path, *wrong) for path in {PUBLIC[place], MARKET[place]}]
        for _ in range(50):
            one.step(place, "book")
            one.step(place, "trade")
            one.wait(place[0], 200)
        for socket in sockets:
            assert await waiting(socket) == []


async def test_instruments_of_spot_have_what_a_strict_client_wants() -> None:
    async with bench("binance_spot") as one:
        found = await one.get("binance_spot/api/v3/exchangeInfo")
        kinds = [(limit["rateLimitType"], limit["limit"]) for limit in found["rateLimits"]]
        assert {("REQUEST_WEIGHT", 6000), ("RAW_REQUESTS", 300_000)} < set(kinds)
        for row in found["symbols"]:
            flags = ("icebergAllowed", "ocoAllowed", "otoAllowed", "quoteOrderQtyMarketAllowed", "allowTrailingStop")
            assert all(row[flag] is True for flag in (*flags, "cancelReplaceAllowed", "amendAllowed"))
            assert row["permissionSets"] == [["SPOT", "MARGIN"]]
            assert {f["filterType"] for f in row["filters"]} > {"PRICE_FILTER", "LOT_SIZE", "NOTIONAL"}

"""The README is true: generated parts are fresh, and its queries run and give what they say."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from marketprism_ray import records
from marketprism_ray.query import Store
from marketprism_ray.readme import render
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSink

README = Path(__file__).resolve().parents[1] / "README.md"
NOW = 1_795_132_800_000_000_000


def test_the_generated_parts_of_the_readme_are_true() -> None:
    text = README.read_text()
    assert render(text) == text, "run `make docs`"


def common(venue: str, symbol: str, time: int = NOW, source: str = "stream") -> dict[str, Any]:
    return {
        "exchange_name": venue,
        "market_type": "perpetual",
        "symbol_name": symbol,
        "timestamp": time,
        "receive_timestamp": time,
        "source": source,
    }


async def test_the_queries_of_the_readme_answer_what_they_say(tmp_path: Path) -> None:
    funding, ratios, interest = re.findall(r"```sql\n(.*?)```", README.read_text(), re.S)
    rates = {"binance_derivatives": "0.0001", "okx_derivatives": "0.0002", "deribit_derivatives": "-0.0001"}
    symbols = {"binance_derivatives": "BTC-USDT-SWAP", "okx_derivatives": "BTC-USDT-SWAP"}
    with EmbeddedServers(tmp_path) as servers:
        settings = servers.clickhouse_settings()
        sink = ClickHouseSink(settings)
        await sink.open()
        for rows in (
            [
                records.FundingRate(**common(venue, symbols.get(venue, "BTC-USD-SWAP")), funding_rate=rate)
                for venue, rate in rates.items()
            ],
            [
                kind(**common("okx_derivatives", "BTC-USDT-SWAP", source="poll"), long_ratio=share, period="5m")
                for kind, share in ((records.LsrTopPosition, "0.7"),)
            ],
            [
                records.LsrAllAccount(
                    **common("okx_derivatives", "BTC-USDT-SWAP", source="poll"), long_ratio="0.4", period="5m"
                )
            ],
            [
                records.OpenInterest(**common("okx_derivatives", "BTC-USDT-SWAP", NOW + n), open_interest=coins)
                for n, coins in enumerate(("10", "20"))
            ],
            [records.OpenInterest(**common("deribit_derivatives", "BTC-USD-SWAP"), open_interest="5.5")],
        ):
            await sink.write([batch_from_records(rows)], repr(rows))
        await sink.close()
        store = Store(settings)
        (row,) = store.query(funding).to_pylist()
        assert row["base"] == "BTC"
        assert row["hour"].minute == 0
        assert [round(row[name], 4) for name in ("binance", "okx", "deribit")] == [0.1095, 0.219, -0.1095]
        (row,) = store.query(ratios).to_pylist()
        assert (row["top_traders"], row["everybody"]) == (Decimal("0.7"), Decimal("0.4"))
        assert [(r["exchange_name"], r["coins"]) for r in store.query(interest).to_pylist()] == [
            ("okx_derivatives", Decimal(20)),
            ("deribit_derivatives", Decimal("5.5")),
        ]
        store.close()

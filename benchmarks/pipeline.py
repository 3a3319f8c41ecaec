"""How much goes through the whole product, and how late it arrives: simulator to NATS subscriber and to ClickHouse.

Each row is one demo of the given market rate on this machine: simulated venues, collectors, sinks, nats-server, the
ClickHouse engine, Ray and a subscriber share its cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tracemalloc

from marketprism_ray.hot import Book
from marketprism_ray.venue import WireLevel


def kib_per_book(levels: int = 1000, books: int = 20) -> float:
    """Measure what one book of so many levels a side takes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = []
    for _ in range(books):
        book = Book()
        bids = [WireLevel(f"{90000 - i}.{i % 100:02d}000000", f"{i % 7}.{i:08d}1") for i in range(levels)]
        asks = [WireLevel(f"{90001 + i}.{i % 100:02d}000000", f"{i % 7}.{i:08d}1") for i in range(levels)]
        book.replace(bids, asks)
        kept.append(book)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / books / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[500, 2000, 4000])
    parser.add_argument("--seconds", type=float, default=12)
    arguments = parser.parse_args()
    print(f"One book of 1000 + 1000 levels: {kib_per_book():.0f} KiB.\n")
    print("| events/s asked | trades/s | frames/s | p50 ms | p99 ms | store p50 ms | collector MiB | verdict |")
    print("|---:|---:|---:|---:|---:|---:|---:|---|")
    for rate in arguments.rates:
        command = [sys.executable, "-m", "marketprism_ray.cli", "demo", "--json"]
        command += ["--rate", str(rate), "--seconds", str(arguments.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        verdict = json.loads(done.stdout.strip().splitlines()[-1])
        latency, seconds = verdict["latency_ms"], verdict["seconds"]
        cells = [
            f"{rate:g}",
            f"{verdict['trades_emitted'] / seconds:,.0f}",
            f"{verdict['frames'] / seconds:,.0f}",
            latency["p50"],
            latency["p99"],
            verdict["store_age_ms"]["p50"],
            verdict["collector_mib"],
            "whole" if verdict["ok"] else "NOT whole",
        ]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()

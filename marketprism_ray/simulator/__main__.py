"""Run the simulated venues as a process of their own: ``python -m marketprism_ray.simulator``."""

from __future__ import annotations

import argparse
import asyncio
import signal

from marketprism_ray.processes import die_with_parent
from marketprism_ray.simulator.server import VENUES, serve


async def _main(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    names = ("seed", "rate", "port", "extra", "unrest", "clock_offset_ms")
    options = {name: getattr(arguments, name) for name in names}
    task = loop.create_task(serve(arguments.venues, **options), name="serve")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Simulated venues on loopback.")
    parser.add_argument("--extra", type=int, default=0)
    parser.add_argument("--unrest", type=float, default=0.0, help="halts, auctions, listings, delistings a minute")
    parser.add_argument("--clock-offset-ms", type=int, default=0, help="the venues' clock against the machine's")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=200.0, help="market events a second; 0 is as fast as it goes")
    parser.add_argument("--venues", nargs="+", default=list(VENUES))
    die_with_parent()
    asyncio.run(_main(parser.parse_args()))

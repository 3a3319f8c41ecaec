"""The table of scenarios: what ``prove`` can let go wrong. Help texts and README are made from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from marketprism_ray.proof import drills
from marketprism_ray.proof.drills import Draw, Mishap, Targets


@dataclass(frozen=True)
class Scenario:
    """One way in which things go wrong.

    Parameters
    ----------
    words : what happens, for help texts
    plan : draws the mishaps
    config : what differs from the configuration of a demo
    seconds : length of a run that shows it in full
    """

    words: str
    plan: Callable[[Draw], list[Mishap]]
    config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 20.0


SCENARIOS: dict[str, Scenario] = {
    "kill-collector": Scenario("SIGKILL to a collector process while its venue goes on", drills.kill_collector),
    "kill-clickhouse-sink": Scenario("SIGKILL to the ClickHouse sink's process", drills.kill_sink),
    "kill-nats-server": Scenario("SIGKILL to nats-server; its supervisor starts it again", drills.kill_nats),
    "kill-coordinator": Scenario(
        "SIGKILL to the coordinator's process, then to a collector's", drills.kill_coordinator
    ),
    "kill-all": Scenario(
        "SIGKILL to coordinator, sinks, collectors and both servers at once, as when a machine goes down",
        drills.kill_all,
    ),
    "stall-servers": Scenario(
        "nats-server and ClickHouse stop answering for half the time; what comes is kept on local disk",
        drills.stall_servers,
        {"cluster": {"retention_bytes": 512 << 10}},
    ),
    "disconnect": Scenario("every socket of one venue is cut", drills.disconnect),
    "drop-delta": Scenario("book changes of two venues are lost on the wire", drills.drop_delta),
    "chaos": Scenario("a collector is killed, then the sockets of a venue are cut", drills.chaos),
}


def make_plan(name: str, seconds: float, seed: int, targets: Targets, at_s: float | None = None) -> list[Mishap]:
    """Draw the plan of a scenario.

    Parameters
    ----------
    seconds : length of the run
    at_s : when the first mishap happens; None draws it as well
    """
    draw = Draw(seconds, random.Random(f"{name}/{seed}"), targets, at_s)
    return sorted(SCENARIOS[name].plan(draw), key=lambda mishap: mishap.at_s)


def reference() -> str:
    """Give one line a scenario, aligned, as the help text of ``prove`` shows them."""
    width = max(map(len, SCENARIOS))
    return "\n".join(f"  {name:{width}}  {scenario.words}" for name, scenario in SCENARIOS.items())


def markdown_table() -> str:
    """Give the table of the README."""
    rows = [f"| `{name}` | {scenario.words} |" for name, scenario in SCENARIOS.items()]
    return "\n".join(["| scenario | what happens |", "|---|---|", *rows])

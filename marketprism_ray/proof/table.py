"""The table of the README that says what became of the data under each fault; ``make prove-table`` makes it.

Every run is a process of its own, its verdict a line of a file. A run that is in the file already, of the same code, is
not done again: an interrupted table is gone on with. The table shows the runs of the code as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from marketprism_ray.proof.disk import NOT_TRIED
from marketprism_ray.proof.recovery import percentiles
from marketprism_ray.proof.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- begin proofs -->\n", "<!-- end proofs -->"


def code() -> str:
    """Give a digest of the code that runs: figures of other code are not this code's."""
    digest = hashlib.sha256()
    for folder in ("marketprism_ray", "actors"):
        for path in sorted((ROOT / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def prove(scenario: str, seed: int, seconds: float, at: str | None) -> dict[str, Any]:
    """Run a scenario; give one line of the file.

    Raises
    ------
    subprocess.TimeoutExpired
        If it has not ended long after it should have.
    """
    command = [sys.executable, "-m", "marketprism_ray.cli", "prove", scenario, "--seed", str(seed)]
    command += ["--seconds", f"{seconds:g}", "--json", *(("--at", at) if at else ())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600 + 2 * seconds)
    lines = done.stdout.strip().splitlines()
    verdict = json.loads(lines[-1]) if lines else {"failed": done.stderr.strip()[-500:]}
    return {
        "scenario": scenario,
        "seed": seed,
        "seconds": seconds,
        "at": at,
        "code": code(),
        "exit_status": done.returncode,
        "verdict": verdict,
    }


def render(lines: Iterable[dict[str, Any]]) -> str:
    """Give the table of these runs, in the order of the scenarios."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["exit_status"] != NOT_TRIED:
            runs[line["scenario"]].append(line)
    rows = [
        "| fault | times tried | whole | missing | doubled | altered | recovery p50 s | max s | command |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name in SCENARIOS:
        if name in runs:
            rows.append(_row(name, runs[name]))
    return "\n".join(rows)


def _row(name: str, runs: Sequence[dict[str, Any]]) -> str:
    verdicts = [run["verdict"] for run in runs if "missing" in run["verdict"]]

    def total(*fields: str) -> int:
        return sum(verdict[field] for verdict in verdicts for field in fields)

    recoveries = [
        injected["recovered_s"]
        for verdict in verdicts
        for injected in verdict["injected"]
        if injected["recovered_s"] is not None
    ]
    found = percentiles(recoveries)
    p50, most = (f"{value:.1f}" if value is not None else "-" for value in (found["p50"], found["max"]))
    seeds = [run["seed"] for run in runs]
    command = f"marketprism prove {name} --seconds {runs[0]['seconds']:g} --seed {min(seeds)}"
    command += f" ... {max(seeds)}" if len(set(seeds)) > 1 else ""
    whole = sum(run["exit_status"] == 0 for run in runs)
    cells = [
        f"`{name}`",
        len(runs),
        whole,
        total("missing", "stream_missing"),
        total("duplicated", "stream_duplicated"),
        total("wrong", "invented"),
        p50,
        most,
        f"`{command}`",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def put(readme: str, table: str) -> str:
    """Put the table into a README.

    Raises
    ------
    ValueError
        If it has no place for it.
    """
    pattern = re.compile(f"({re.escape(BEGIN)}).*?({re.escape(END)})", re.S)
    text, count = pattern.subn(lambda match: f"{match[1]}{table}\n{match[2]}", readme)
    if count != 1:
        raise ValueError(f"README.md has {count} places for the table")
    return text


def main() -> None:
    """Run what is not in the file yet, then renew the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, help="length of each run; unset: as each scenario needs")
    parser.add_argument("--at", help="when the first fault happens, as `prove --at` takes it; unset: drawn")
    parser.add_argument("--file", type=Path, default=ROOT / "build" / "proofs.jsonl")
    parser.add_argument("--render-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    arguments.file.touch()
    known = [json.loads(line) for line in arguments.file.read_text().splitlines()]
    known = [line for line in known if line["code"] == code()]
    done = {(line["scenario"], line["seed"], line["seconds"], line["at"]) for line in known}
    for seed in [] if arguments.render_only else arguments.seeds:
        for name in arguments.scenarios:
            seconds = arguments.seconds or SCENARIOS[name].seconds
            if (name, seed, seconds, arguments.at) in done:
                continue
            line = prove(name, seed, seconds, arguments.at)
            known.append(line)
            with arguments.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{name} seed {seed}: exit status {line['exit_status']}", flush=True)
    readme = ROOT / "README.md"
    readme.write_text(put(readme.read_text(), render(known)))


if __name__ == "__main__":
    main()

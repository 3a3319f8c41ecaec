"""The simulator's ledger as expected rows: every frame and answer, read in its house's words, in the order of time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from marketprism_ray.proof.derive import Contract, Expected, words_of

Place = tuple[str, str]
"""Venue and canonical symbol."""


@dataclass(frozen=True)
class Said:
    """Something a venue said, as a row.

    Parameters
    ----------
    time : when it was said, ns
    order : position in what the venue said: frames and answers together
    heard : sockets it was sent to; of an answer 1
    eaten : fault that kept it from a listener, ``unheard`` if there was none
    """

    expected: Expected
    time: int
    order: int
    heard: int
    eaten: str = ""
    is_greeting: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """The row."""
        return self.expected.row

    @property
    def place(self) -> Place:
        """Venue and symbol."""
        return self.expected.contract.venue, self.expected.contract.symbol


@dataclass
class Truth:
    """All that the venues of a run said, by data type, in order."""

    said: dict[str, list[Said]] = field(default_factory=lambda: defaultdict(list))
    contracts: dict[str, dict[str, Contract]] = field(default_factory=lambda: defaultdict(dict))
    """Venue -> native name -> instrument."""
    described: dict[str, list[Contract]] = field(default_factory=lambda: defaultdict(list))
    """Venue -> every description of an instrument that was given."""
    frames: int = 0
    injected: int = 0
    """Holes: runs of frames of one stream that no listener got."""


def truth_of(frames: Iterable[dict[str, Any]], answers: Iterable[dict[str, Any]]) -> Truth:
    """Read the ledger's frames and answers (``simulator/truth.py``)."""
    truth = Truth()
    good = [entry for entry in answers if entry["status"] == 200]
    for entry in good:
        words = words_of(entry["venue"])
        if any(name in entry["path"] for name in ("exchangeInfo", "public/instruments", "get_instruments")):
            for contract in words.contracts(entry["venue"], entry["path"], _decoded(entry["body"])):
                truth.contracts[entry["venue"]][contract.native] = contract
                truth.described[entry["venue"]].append(contract)
    spoken = [(entry["time"], False, entry) for entry in frames] + [(entry["time"], True, entry) for entry in good]
    spoken.sort(key=lambda part: part[0])
    in_hole: dict[tuple[str, str], bool] = {}
    for order, (time, is_answer, entry) in enumerate(spoken):
        known, words = truth.contracts[entry["venue"]], words_of(entry["venue"])
        if is_answer:
            asked = dict(parse_qsl(entry["query"], keep_blank_values=True))
            if entry["request"]:
                asked |= {name: str(value) for name, value in json.loads(entry["request"]).get("params", {}).items()}
            heard, eaten, greeting = 1, "", False
            rows = words.answer(entry["venue"], entry["path"], asked, _decoded(entry["body"]), known)
        else:
            truth.frames += 1
            heard, eaten, greeting = entry["sent"], entry["eaten"], bool(entry["socket"])
            rows = words.frame(entry["venue"], entry["key"], _decoded(entry["text"]), known)
            if rows:
                stream = (entry["venue"], entry["key"])
                truth.injected += heard == 0 and not in_hole.get(stream, False)
                in_hole[stream] = heard == 0
        for expected in rows:
            truth.said[expected.data_type].append(Said(expected, time, order, heard, eaten, greeting))
    return truth


def _decoded(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)

"""What the rows of each venue must be, from its own words: one file a house, written from the venues' documentation.

References
----------
The venues' documentation is named in each file; units, sides and names follow the README's section on data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from marketprism_ray.proof.derive import binance, deribit, okx
from marketprism_ray.proof.derive.common import Contract, Expected

__all__ = ["Contract", "Expected", "Words", "words_of"]


class Words:
    """How a house's frames and answers are read.

    Parameters
    ----------
    contracts : (venue, path, parameters, answer) -> the instruments that an answer lists
    frame : (venue, stream key, message, contracts by the venue's name) -> rows
    answer : (venue, path, parameters, answer, contracts by the venue's name) -> rows
    """

    def __init__(
        self,
        contracts: Callable[[str, str, Any], list[Contract]],
        frame: Callable[[str, str, Any, dict[str, Contract]], list[Expected]],
        answer: Callable[[str, str, dict[str, str], Any, dict[str, Contract]], list[Expected]],
    ) -> None:
        self.contracts = contracts
        self.frame = frame
        self.answer = answer


_HOUSES = {
    "binance": Words(binance.contracts, binance.frame, binance.answer),
    "okx": Words(okx.contracts, okx.frame, okx.answer),
    "deribit": Words(deribit.contracts, deribit.frame, deribit.answer),
}


def words_of(venue: str) -> Words:
    """Give the reader of a venue's words."""
    return _HOUSES[venue.partition("_")[0]]

"""One side of a simulated book."""

from __future__ import annotations

from bisect import bisect_left, insort


class Side:
    """Goodness (higher is better) of each level, sorted, and its lots.

    Parameters
    ----------
    window : levels that the venue's channel shows; None for all
    """

    def __init__(self, window: int | None) -> None:
        self.order: list[int] = []
        self.lots: dict[int, int] = {}
        self._window = window

    @property
    def best(self) -> int:
        """Goodness of the best level."""
        return self.order[-1]

    def _edge(self) -> int:
        """Give the worst goodness inside the venue's window."""
        if not self.order:
            return 0
        return self.order[0] if self._window is None else self.order[-min(self._window, len(self.order))]

    def before(self, changes: dict[int, int]) -> dict[int, int]:
        """Give the lots of levels that will change, 0 where there are none."""
        return {good: self.lots.get(good, 0) for good in changes}

    def apply(self, changes: dict[int, int]) -> dict[int, int]:
        """Change levels; give what the venue sends: its window loses and gains levels at the far edge as well."""
        before = self._edge()
        was_inside = {good for good in changes if good in self.lots and good >= before}
        left = self.order[bisect_left(self.order, before) :] if self._window else []
        for good, lots in changes.items():
            if lots:
                if good not in self.lots:
                    insort(self.order, good)
                self.lots[good] = lots
            elif good in self.lots:
                del self.lots[good]
                del self.order[bisect_left(self.order, good)]
        if self._window is None:
            return changes
        after = self._edge()
        sent = {g: lots for g, lots in changes.items() if g >= after and (lots or g in was_inside)}
        sent.update(dict.fromkeys((g for g in was_inside if g < after), 0))
        if after > before:
            sent.update(dict.fromkeys((g for g in left if g < after), 0))
        elif after < before:
            entered = self.order[bisect_left(self.order, after) : bisect_left(self.order, before)]
            sent.update((g, self.lots[g]) for g in entered)
        return sent

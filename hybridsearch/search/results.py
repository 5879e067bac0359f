"""What was recorded at one rung, as arrays that grow with the search: ranking 10,000 results starts from numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hybridsearch.objectives import Score
from hybridsearch.pareto.dominance import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A result recorded at one rung."""

    trial: int
    score: Score
    control: bool = False


class Results:
    """Entries by trial number, and the same as arrays."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = sorted(entries, key=lambda entry: entry.trial)
        self.trials: Ints = np.array([entry.trial for entry in self.entries], dtype=np.int64)
        """(n,) rising."""
        self.values: Floats = _rows([entry.score.minimised for entry in self.entries])
        """(n, objectives), minimised."""
        self.violations: Floats = np.array([entry.score.violation for entry in self.entries], dtype=np.float64)
        """(n,), 0 where feasible."""
        self.errors: Floats = _rows([entry.score.errors_of_values for entry in self.entries])
        """(n, objectives) standard errors, 0 where there is one seed."""

    def __len__(self) -> int:
        return len(self.entries)

    def index(self, trial: int) -> int | None:
        """Place of a trial, or none."""
        at = int(np.searchsorted(self.trials, trial))
        return at if at < len(self.entries) and self.entries[at].trial == trial else None

    def copy(self) -> "Results":
        """Another with the same entries; arrays are never changed in place, so they are shared."""
        other = Results.__new__(Results)
        other.entries = list(self.entries)
        other.trials, other.values = self.trials, self.values
        other.violations, other.errors = self.violations, self.errors
        return other

    def record(self, entry: Entry) -> None:
        """Add an entry, or replace that of its trial."""
        self.discard(entry.trial)
        at = int(np.searchsorted(self.trials, entry.trial))
        values, errors = _rows([entry.score.minimised]), _rows([entry.score.errors_of_values])
        self.entries.insert(at, entry)
        self.trials = np.insert(self.trials, at, entry.trial)
        self.values = np.insert(self.values, at, values, axis=0) if len(self.values) else values
        self.violations = np.insert(self.violations, at, entry.score.violation)
        self.errors = np.insert(self.errors, at, errors, axis=0) if len(self.errors) else errors

    def discard(self, trial: int) -> None:
        """Forget a trial's entry, if there is one."""
        at = self.index(trial)
        if at is not None:
            del self.entries[at]
            self.trials = np.delete(self.trials, at)
            self.values = np.delete(self.values, at, axis=0)
            self.violations = np.delete(self.violations, at)
            self.errors = np.delete(self.errors, at, axis=0)


def _rows(rows: Sequence[Sequence[float]]) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)

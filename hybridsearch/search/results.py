"""What was recorded at one rung: as arrays, and as fronts that grow with the search."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hybridsearch.objectives import Score
from hybridsearch.pareto.dominance import Floats, Ints
from hybridsearch.pareto.layers import Layers, Place


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
        self._margin = 1.0
        self._layers: Layers | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def index(self, trial: int) -> int | None:
        """Place of a trial, or none."""
        at = int(np.searchsorted(self.trials, trial))
        return at if at < len(self.entries) and self.entries[at].trial == trial else None

    def entry(self, trial: int) -> Entry:
        """The entry of a trial.

        Raises:
            KeyError: it has none.
        """
        at = self.index(trial)
        if at is None:
            raise KeyError(trial)
        return self.entries[at]

    def layers(self, margin: float) -> Layers:
        """The fronts of the entries; from the first call on they are kept up to date with every entry that comes.

        Args:
            margin: standard errors by which an entry must be better to dominate another.
        """
        if self._layers is None or margin != self._margin:
            self._margin = margin
            certain = not (self.errors * margin).any()
            self._layers = Layers.of([_place(entry, margin, certain=certain) for entry in self.entries])
        return self._layers

    def place(self, entry: Entry) -> Place:
        """An entry as `layers` knows it, for the margin that was last asked for."""
        return _place(entry, self._margin, certain=not (self.errors * self._margin).any())

    def copy(self) -> "Results":
        """Another with the same entries; arrays are never changed in place, so they are shared."""
        other = Results.__new__(Results)
        other.entries = list(self.entries)
        other.trials, other.values = self.trials, self.values
        other.violations, other.errors = self.violations, self.errors
        other._margin, other._layers = self._margin, self._layers
        return other

    def record(self, entry: Entry) -> None:
        """Add an entry, or replace that of its trial."""
        self.discard(entry.trial)
        if self._layers is not None:
            self._layers = self._with_entry(self._layers, entry)
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
            self._layers = None
            del self.entries[at]
            self.trials = np.delete(self.trials, at)
            self.values = np.delete(self.values, at, axis=0)
            self.violations = np.delete(self.violations, at)
            self.errors = np.delete(self.errors, at, axis=0)

    def _with_entry(self, layers: Layers, entry: Entry) -> Layers | None:
        """The fronts with one more entry; none if it is the first that is uncertain, so that all have to be ranked."""
        certain = not (self.errors * self._margin).any()
        place = _place(entry, self._margin, certain=False)
        if certain and any(place.margins):
            return None
        return layers.with_point(_place(entry, self._margin, certain=certain))


def _place(entry: Entry, margin: float, *, certain: bool) -> Place:
    score = entry.score
    margins = () if certain else tuple(error * margin for error in score.errors_of_values)
    return Place(entry.trial, score.minimised, score.violation, margins)


def _rows(rows: Sequence[Sequence[float]]) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)

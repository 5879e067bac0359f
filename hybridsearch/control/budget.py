"""When a search has done enough: trials, or minutes of search summed over resumes."""

from dataclasses import dataclass
from math import inf

from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import BudgetSettings

UNITS = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, "d": 1440.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a search has used so far."""

    trials: int
    """Trials beside controls and screened ones."""
    minutes: float


def exhausted(budget: BudgetSettings, spent: Spent) -> str | None:
    """The limit that is reached, in words, or none."""
    if budget.trials is not None and spent.trials >= budget.trials:
        return f"{spent.trials} of {budget.trials} trials are done or under way"
    if budget.minutes is not None and spent.minutes >= budget.minutes:
        return f"{spent.minutes:.1f} of {budget.minutes:g} minutes are spent"
    return None


def out_of_time(budget: BudgetSettings, spent: Spent) -> bool:
    """Whether the minutes are spent: then nothing is started any more, whatever it is."""
    return budget.minutes is not None and spent.minutes >= budget.minutes


def is_larger(budget: BudgetSettings, than: BudgetSettings) -> bool:
    """Whether one of the limits leaves more room."""
    return (budget.trials or inf) > (than.trials or inf) or (budget.minutes or inf) > (than.minutes or inf)


def share(budget: BudgetSettings, spent: Spent) -> float:
    """How much of the budget is used, 0 to 1, by the limit that is nearer."""
    shares = [0.0]
    if budget.trials is not None:
        shares.append(spent.trials / budget.trials)
    if budget.minutes is not None:
        shares.append(spent.minutes / budget.minutes)
    return min(1.0, max(shares))


def parse(text: str) -> BudgetSettings:
    """A budget as written on the command line: `20trials`, `30m`, `2h`, or both as `20trials,30m`.

    Raises:
        InvalidSetting: the text is no budget.
    """
    trials: int | None = None
    minutes: float | None = None
    for part in text.replace(" ", "").split(","):
        digits = part.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = part[len(digits) :]
        try:
            number = float(digits)
        except ValueError:
            number = 0.0
        if unit in ("trial", "trials", "") and number >= 1 and number.is_integer():
            trials = int(number)
        elif unit in UNITS and 0 < number < float("inf"):
            minutes = number * UNITS[unit]
        else:
            raise InvalidSetting(
                f"budget `{text}` is not understood at `{part}`; write `20trials`, `30m`, `2h` or `20trials,30m`"
            )
    return BudgetSettings(trials=trials, minutes=minutes)

"""Budgets as written, and when they are spent."""

import pytest

from hybridsearch.control.budget import Spent, exhausted, parse, share
from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import BudgetSettings


@pytest.mark.parametrize(
    ("text", "trials", "minutes"),
    [
        ("20trials", 20, None),
        ("1trial", 1, None),
        ("7", 7, None),
        ("30m", None, 30.0),
        ("2h", None, 120.0),
        ("90s", None, 1.5),
        ("1d", None, 1440.0),
        ("20trials, 30m", 20, 30.0),
    ],
)
def test_budgets_read_as_people_write_them(text: str, trials: int | None, minutes: float | None) -> None:
    assert parse(text) == BudgetSettings(trials=trials, minutes=minutes)


@pytest.mark.parametrize(
    "text", ["", "many", "-3trials", "0trials", "2.5trials", "3weeks", "nan m", "infh", "20trials,"]
)
def test_what_is_no_budget_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InvalidSetting, match="write `20trials`, `30m`"):
        parse(text)


def test_the_nearer_limit_counts() -> None:
    budget = BudgetSettings(trials=10, minutes=5)
    assert exhausted(budget, Spent(trials=9, minutes=4.9)) is None
    assert "10 of 10 trials" in str(exhausted(budget, Spent(trials=10, minutes=1)))
    assert "5.5 of 5 minutes" in str(exhausted(budget, Spent(trials=1, minutes=5.5)))
    assert share(budget, Spent(trials=2, minutes=4)) == 0.8
    assert share(budget, Spent(trials=20, minutes=4)) == 1.0

"""The ladder read from settings, and climbed."""

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.search.rungs import Ladder
from hybridsearch.settings import EvaluationSettings

EVALUATION = EvaluationSettings.model_validate(
    {"rungs": {"steps": [50, 200, 1000], "reduction": 3}, "training": {"warmup": 0.1}}
)


def test_the_warm_up_is_a_share_of_full_training() -> None:
    assert Ladder.of(EVALUATION).warmup_steps == 100.0
    assert Ladder.of(EVALUATION).stopping == "stop"
    assert Ladder.of(EVALUATION, stopping=False).stopping == "off"


def test_a_trial_climbs_what_it_has_not_reached() -> None:
    ladder = Ladder.of(EVALUATION)
    assert [f.steps for f in ladder.remaining(None)] == [50, 200, 1000]
    assert [f.steps for f in ladder.remaining(0)] == [200, 1000]
    assert ladder.remaining(2) == ()
    assert [ladder.is_last(rung) for rung in range(3)] == [False, False, True]


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_the_share_that_goes_on_is_rounded_up(count: int, kept: int) -> None:
    assert Ladder.of(EVALUATION).keep(count) == kept


@pytest.mark.parametrize("rung", [-1, 3])
def test_only_rungs_of_the_ladder_exist(rung: int) -> None:
    with pytest.raises(InvalidSetting, match=f"rung {rung} is not on the ladder"):
        Ladder.of(EVALUATION).at(rung)

"""The ladder read from settings, and climbed."""

import pytest

from hybridsearch.errors import InvalidSetting
from hybridsearch.search.rungs import Ladder
from hybridsearch.settings import EvaluationSettings, RungSettings

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


def test_rungs_may_raise_the_number_of_seeds() -> None:
    rungs = RungSettings(steps=(10, 20, 40), seeds=(1, 1, 3))
    assert [(f.steps, f.seeds) for f in rungs.ladder] == [(10, 1), (20, 1), (40, 3)]
    assert [f.seeds for f in RungSettings(steps=(10, 20)).ladder] == [None, None]
    with pytest.raises(ValueError, match="one number for each of 2 rungs"):
        RungSettings(steps=(10, 20), seeds=(1,))
    with pytest.raises(ValueError, match="may not fall"):
        RungSettings(steps=(10, 20), seeds=(2, 1))


def test_rungs_may_have_fewer_learning_rates_or_more() -> None:
    rungs = RungSettings(steps=(10, 20, 40), learning_rates=(3, 2, 1))
    assert [(f.steps, f.learning_rates) for f in rungs.ladder] == [(10, 3), (20, 2), (40, 1)]
    assert [f.learning_rates for f in RungSettings(steps=(10, 20)).ladder] == [None, None]
    with pytest.raises(ValueError, match="learning_rates needs one number for each of 2 rungs"):
        RungSettings(steps=(10, 20), learning_rates=(1,))
    with pytest.raises(ValueError, match=r"may rise or fall from rung to rung, not both, found \[2, 1, 2\]"):
        RungSettings(steps=(10, 20, 40), learning_rates=(2, 1, 2))
    with pytest.raises(ValueError, match=r"asks for 2 of training.learning_rates, which has 1"):
        EvaluationSettings.model_validate({"rungs": {"steps": [10, 20], "learning_rates": [2, 1]}})


@pytest.mark.parametrize(
    ("rates", "seeds", "runs"),
    [
        (None, None, (0, 0, 6)),
        ((3, 2, 1), None, (2, 2, 2)),
        ((3, 1, 1), (1, 2, 4), (2, 0, 4)),
        ((1, 1, 3), (1, 1, 4), (0, 0, 12)),
    ],
)
def test_runs_end_where_their_learning_rate_is_left_behind(
    rates: list[int] | None, seeds: list[int] | None, runs: tuple[int, ...]
) -> None:
    rungs = {"steps": [10, 20, 40], "learning_rates": rates, "seeds": seeds}
    training = {"learning_rates": [0.1, 0.2, 0.3], "seeds": 2}
    assert EvaluationSettings.model_validate({"rungs": rungs, "training": training}).runs == runs

"""A stack of models trains as its members would alone."""

import pytest
import torch

from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.space import Space
from hybridsearch.settings import EvaluationSettings, RecallLevel, RungSettings, TaskSettings, TrainingSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.training import scoring
from hybridsearch.training.replicate import Plan, Replicate
from hybridsearch.training.stacked import Member, Stack

LEVELS = (RecallLevel(length=16, pairs=2), RecallLevel(length=32, pairs=4))
EVALUATION = EvaluationSettings(
    task=TaskSettings(vocabulary=32, train=LEVELS, test=LEVELS, test_examples=16),
    training=TrainingSettings(batch=4, learning_rates=(0.005,)),
    rungs=RungSettings(steps=(3, 20)),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def space() -> Space:
    return catalog.load("tiny")


def kinds(architecture: Architecture) -> list[str]:
    return [layer.mixer.kind for layer in architecture.layers]


def some(space: Space) -> list[Architecture]:
    """Every mixer of the space, at every depth."""
    assert space.listing is not None
    return list(space.listing[::450])


def alone(architecture: Architecture, seed: int) -> Replicate:
    return Replicate(Plan(architecture=architecture, evaluation=EVALUATION, seed=seed, device=CPU), 0.005, 0)


def test_members_have_the_weights_and_answers_of_models_built_alone(space: Space) -> None:
    members = [Member(architecture=a, seed=seed) for seed in (1, 2) for a in some(space)]
    assert {kind for m in members for kind in kinds(m.architecture)} >= {"token_route", "head_split", "sliding"}
    stack = Stack(members, EVALUATION, CPU)
    sets = scoring.test_sets(EVALUATION.task, CPU)
    for number, (member, found) in enumerate(zip(members, stack.score(), strict=True)):
        model = alone(member.architecture, member.seed).model.eval()
        assert found == pytest.approx(scoring.score(model, sets), rel=1e-5)
        own = stack.model(number).state_dict()
        assert all(torch.equal(own[name], weight) for name, weight in model.state_dict().items())


def test_training_is_that_of_every_member_alone(space: Space) -> None:
    """In float64: Adam divides small gradients by themselves, so that float32's rounding grows within a few steps."""
    quiet = [a for a in some(space) if "token_route" not in kinds(a)]  # a router draws noise
    members = [Member(architecture=a, seed=seed) for seed, a in enumerate(quiet)]
    stack = Stack(members, EVALUATION, CPU).double()
    stack.advance(3)
    for number, member in enumerate(members):
        replicate = alone(member.architecture, member.seed)
        replicate.model.double()
        for _ in range(3):
            replicate.advance()
        own = stack.model(number).state_dict()
        for name, weight in replicate.model.state_dict().items():
            torch.testing.assert_close(own[name].double(), weight, rtol=0.0, atol=1e-4)


def test_a_member_that_breaks_leaves_the_others_alone(space: Space) -> None:
    members = [Member(architecture=a, seed=3) for a in some(space)[:3]]
    stack, broken = Stack(members, EVALUATION, CPU), Stack(members, EVALUATION, CPU)
    with torch.no_grad():
        broken.embedding[1, 5] = torch.inf
    stack.advance(3)
    broken.advance(3)
    scores, others = stack.score(), broken.score()
    assert others[0] == pytest.approx(scores[0], rel=1e-5)
    assert others[2] == pytest.approx(scores[2], rel=1e-5)
    assert others[1]["answer_loss"] != others[1]["answer_loss"]

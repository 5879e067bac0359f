"""Training to rungs: it learns, early rungs are prefixes, interruptions leave no trace, and divergence is a failure."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hybridsearch.errors import FailureReason, TrialFailure, TrialPaused
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import Mixer, TokenRoute
from hybridsearch.spec.mixers import FullAttention, GatedDelta
from hybridsearch.training import exclusive, proxy, scoring
from hybridsearch.training.replicate import Plan, Replicate
from hybridsearch.trial import Fidelity

FULL = FullAttention(heads=1, head_dim=16, rope_theta=None, short_conv=2)
DELTA = GatedDelta(heads=1, head_dim=8)
ROUTE = TokenRoute(
    softmax=FullAttention(heads=1, head_dim=8), linear=GatedDelta(heads=1, head_dim=8), chunk=4, routing="gumbel"
)


def plan(mixer: Mixer = FULL, *, width: int = 16, steps: tuple[int, ...] = (4, 8), **training: object) -> Plan:
    level = {"length": 16, "pairs": 2}
    evaluation = EvaluationSettings.model_validate(
        {
            "task": {
                "vocabulary": 16,
                "train": [level, {"length": 12, "pairs": 3}],
                "test": [level],
                "test_examples": 32,
            },
            "training": {"batch": 4, "learning_rates": [0.01], **training},
            "rungs": {"steps": steps},
        }
    )
    architecture = Architecture(width=width, layers=(Layer(mixer=mixer, feed_forward=0),))
    return Plan(architecture=architecture, evaluation=evaluation, seed=3, device=torch.device("cpu"))


@pytest.fixture
def slot(tmp_path: Path) -> exclusive.Slot:
    return exclusive.Slot(tmp_path)


class Drawer:
    """Keeps the latest snapshot in memory, as a copy."""

    def __init__(self) -> None:
        self.held: proxy.Snapshot | None = None
        self.saves = 0

    def load(self) -> proxy.Snapshot | None:
        return self.held

    def save(self, snapshot: proxy.Snapshot) -> None:
        copies = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.held, self.saves = proxy.Snapshot(copies, snapshot.steps, snapshot.lost), self.saves + 1


def run(wanted: Plan, around: proxy.Surroundings, rungs: tuple[Fidelity, ...] | None = None) -> list[proxy.Reached]:
    return list(proxy.train(wanted, wanted.evaluation.rungs.ladder if rungs is None else rungs, around))


def test_it_learns_to_recall(slot: exclusive.Slot) -> None:
    first, last = run(plan(width=32, steps=(20, 300), batch=16), proxy.Surroundings(slot))
    assert first.metrics["recall"] < 0.6
    assert last.metrics["recall"] > 0.9
    assert last.metrics["answer_loss"] < first.metrics["answer_loss"]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_it_learns_on_a_gpu_and_goes_on_from_a_snapshot(slot: exclusive.Slot) -> None:
    wanted = dataclasses.replace(plan(width=32, steps=(20, 300), batch=16), device=torch.device("cuda"))
    drawer = Drawer()
    run(wanted, proxy.Surroundings(slot, drawer), wanted.evaluation.rungs.ladder[:1])
    (last,) = run(wanted, proxy.Surroundings(slot, drawer), wanted.evaluation.rungs.ladder[1:])
    assert last.metrics["recall"] > 0.9
    assert last.peak_bytes > 0


@needs_gpu
@pytest.mark.parametrize("mixer", [FULL, DELTA, ROUTE], ids=["full", "gated_delta", "gumbel"])
def test_a_step_never_waits_for_the_gpu(mixer: Mixer) -> None:
    replicate = Replicate(dataclasses.replace(plan(mixer), device=torch.device("cuda")), 0.01, 0)
    for _ in range(4):  # kernels are compiled and tables made
        replicate.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        replicate.advance()
        replicate.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_early_rung_is_a_prefix_of_the_same_run(slot: exclusive.Slot) -> None:
    wanted = plan()
    through = run(wanted, proxy.Surroundings(slot))
    direct = run(wanted, proxy.Surroundings(slot), wanted.evaluation.rungs.ladder[1:])
    assert through[1].metrics == direct[0].metrics
    assert through[0].metrics["answer_loss"] != through[1].metrics["answer_loss"]


def pausing(looks: int) -> Callable[[], None]:
    left = itertools.count(looks - 1, -1)

    def look() -> None:
        if next(left) == 0:
            raise TrialPaused("enough")

    return look


@pytest.mark.parametrize("mixer", [FULL, DELTA, ROUTE], ids=["full", "gated_delta", "gumbel"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(mixer: Mixer, slot: exclusive.Slot) -> None:
    wanted = plan(mixer, steps=(6, 14), seeds=2)
    whole, parts = Drawer(), Drawer()
    uninterrupted = run(wanted, proxy.Surroundings(slot, whole))
    with pytest.raises(TrialPaused):
        run(wanted, proxy.Surroundings(slot, parts, pausing(4)))
    assert parts.held is not None
    assert parts.held.steps == (12, 6)
    resumed = run(wanted, proxy.Surroundings(slot, parts), wanted.evaluation.rungs.ladder[1:])
    assert resumed[-1].metrics == uninterrupted[-1].metrics
    assert resumed[-1].replicates == uninterrupted[-1].replicates
    assert whole.held is not None
    assert parts.held.tensors.keys() == whole.held.tensors.keys()
    assert all(torch.equal(tensor, whole.held.tensors[name]) for name, tensor in parts.held.tensors.items())


def test_a_snapshot_past_the_wanted_rung_is_of_no_use(slot: exclusive.Slot) -> None:
    wanted, drawer = plan(), Drawer()
    fresh = run(wanted, proxy.Surroundings(slot, drawer))
    again = run(wanted, proxy.Surroundings(slot, drawer))
    assert [reached.metrics for reached in again] == [reached.metrics for reached in fresh]


def test_the_best_learning_rate_counts_and_its_seeds_are_the_replicates(slot: exclusive.Slot) -> None:
    (reached,) = run(plan(steps=(60,), learning_rates=[1e-7, 0.02], seeds=3, batch=8), proxy.Surroundings(slot))
    assert reached.metrics["learning_rate"] == 0.02
    assert len(set(reached.replicates["answer_loss"])) == 3
    for name, values in reached.replicates.items():
        assert reached.metrics[name] == pytest.approx(sum(values) / 3)
    assert reached.metrics["answer_loss"] < math.log(16)


def test_seeds_differ_in_weights_and_data_and_learning_rates_do_not() -> None:
    wanted = plan()
    one, two, other = Replicate(wanted, 0.01, 0), Replicate(wanted, 0.1, 0), Replicate(wanted, 0.01, 1)
    weights = [replicate.model.embedding.weight for replicate in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    batches = [replicate._batch().tokens for replicate in (one, two, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])


def test_a_learning_rate_that_diverges_is_no_choice(slot: exclusive.Slot) -> None:
    (reached,) = run(plan(steps=(4,), learning_rates=[3e38, 0.01]), proxy.Surroundings(slot))
    assert reached.metrics["learning_rate"] == 0.01


def test_if_all_diverge_the_trial_fails_and_says_where(slot: exclusive.Slot) -> None:
    with pytest.raises(TrialFailure, match=r"loss was nan by step 4 at learning rate 3e\+38") as caught:
        run(plan(steps=(4, 8), learning_rates=[3e38]), proxy.Surroundings(slot))
    assert caught.value.reason is FailureReason.NOT_A_NUMBER


def test_work_is_saved_about_every_fifteen_seconds(slot: exclusive.Slot) -> None:
    ticking, drawer = itertools.count(0.0, 4.0), Drawer()
    run(plan(steps=(80,)), proxy.Surroundings(slot, drawer, clock=lambda: next(ticking)))
    # 20 looks, 4 s each and 4 s a save: a save at every 4th look, and the one at the rung.
    assert drawer.saves == 6


def test_bfloat16_products_leave_float32_weights(slot: exclusive.Slot) -> None:
    (reached,) = run(plan(DELTA, steps=(4,), precision="bfloat16"), proxy.Surroundings(slot))
    assert {parameter.dtype for parameter in reached.model.parameters()} == {torch.float32}
    (precise,) = run(plan(DELTA, steps=(4,)), proxy.Surroundings(slot))
    assert reached.metrics["answer_loss"] == pytest.approx(precise.metrics["answer_loss"], rel=0.05)
    assert reached.metrics["answer_loss"] != precise.metrics["answer_loss"]


def test_scores_are_those_of_all_positions_read_at_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 5 * 16)
    wanted = plan()
    replicate = Replicate(wanted, 0.05, 0)
    for _ in range(30):
        replicate.advance()
    sets = scoring.test_sets(wanted.evaluation.task, wanted.device)
    scored = scoring.score(replicate.model, sets)
    questions = sets["16x2"]
    with torch.no_grad():
        everywhere = replicate.model.logits(replicate.model(questions.tokens)).log_softmax(-1)
    right, loss = 0, 0.0
    for row, positions, answers in zip(
        everywhere, questions.positions.tolist(), questions.answers.tolist(), strict=True
    ):
        for position, answer in zip(positions, answers, strict=True):
            right += int(row[position].argmax()) == answer
            loss -= float(row[position, answer])
    assert 0 < right < 64
    assert scored["recall/16x2"] == scored["recall"] == pytest.approx(right / 64)
    assert scored["answer_loss/16x2"] == pytest.approx(loss / 64, rel=1e-5)


def test_test_sets_are_the_same_for_every_seed_and_differ_by_level() -> None:
    task = plan().evaluation.task
    once, again = (scoring.test_sets(task, torch.device("cpu"))["16x2"] for _ in range(2))
    assert torch.equal(once.tokens, again.tokens)
    harder = task.model_copy(update={"test": (task.test[0].model_copy(update={"pairs": 3}),)})
    assert not torch.equal(scoring.test_sets(harder, torch.device("cpu"))["16x3"].tokens, once.tokens)


def test_seeds_that_join_at_a_later_rung_are_as_if_they_had_run_from_the_first(slot: exclusive.Slot) -> None:
    """At the last rung it makes no difference when the second and third seed were trained."""
    late, early = wanted_with_seeds((1, 3)), wanted_with_seeds((3, 3))
    drawer = Drawer()
    first, last = run(late, proxy.Surroundings(slot, drawer))
    (_, whole) = run(early, proxy.Surroundings(slot))
    assert {len(values) for values in first.replicates.values()} == {1}
    assert {len(values) for values in last.replicates.values()} == {3}
    assert last.replicates == whole.replicates
    assert drawer.held is not None and drawer.held.steps == (6, 6, 6)


def test_seeds_that_join_survive_an_interruption(slot: exclusive.Slot) -> None:
    late = wanted_with_seeds((1, 2))
    drawer = Drawer()
    (_,) = run(late, proxy.Surroundings(slot, drawer), late.evaluation.rungs.ladder[:1])
    assert drawer.held is not None and drawer.held.steps == (3, 0)
    (resumed,) = run(late, proxy.Surroundings(slot, drawer), late.evaluation.rungs.ladder[1:])
    assert resumed.replicates == run(late, proxy.Surroundings(slot))[1].replicates


def wanted_with_seeds(counts: tuple[int, int]) -> Plan:
    wanted = plan(steps=(3, 6))
    rungs = wanted.evaluation.rungs.model_copy(update={"seeds": counts})
    return dataclasses.replace(wanted, evaluation=wanted.evaluation.model_copy(update={"rungs": rungs}))


RATES = [1e-7, 0.02, 1e-3]


def wanted_with_rates(
    counts: tuple[int, ...] | None, seeds: tuple[int, ...] | None = None, rates: list[float] = RATES
) -> Plan:
    wanted = plan(steps=(10, 20, 30), learning_rates=rates, batch=8)
    rungs = wanted.evaluation.rungs.model_copy(update={"learning_rates": counts, "seeds": seeds})
    return dataclasses.replace(wanted, evaluation=wanted.evaluation.model_copy(update={"rungs": rungs}))


@pytest.mark.parametrize("seeds", [(1, 1, 1), (1, 2, 3)])
def test_the_best_learning_rates_go_on_and_the_others_end(slot: exclusive.Slot, seeds: tuple[int, ...]) -> None:
    """As if each had been trained alone, the worst were dropped after each rung, and the best counted."""
    drawer, left, ends = Drawer(), RATES, dict.fromkeys(RATES, 0)
    alone = {rate: run(wanted_with_rates(None, seeds, [rate]), proxy.Surroundings(slot)) for rate in RATES}
    found = run(wanted_with_rates((3, 2, 1), seeds), proxy.Surroundings(slot, drawer))
    for rung, kept in enumerate((2, 1, 0)):
        standing = {rate: (m["recall"], -m["answer_loss"]) for rate in left if (m := alone[rate][rung].metrics)}
        left = sorted(left, key=lambda rate: standing[rate], reverse=True)
        assert found[rung].replicates == alone[left[0]][rung].replicates
        ends |= dict.fromkeys(left, (10, 20, 30)[rung])
        left = left[:kept]
    began = {10: seeds[0], 20: seeds[1], 30: seeds[2]}
    assert drawer.held is not None
    assert drawer.held.steps == tuple(end * (n < began[end]) for end in ends.values() for n in range(seeds[-1]))
    assert sum(reason.startswith(proxy.LEFT) for reason in drawer.held.lost) == 2 * seeds[-1]


def test_who_was_left_behind_stays_there_after_an_interruption(slot: exclusive.Slot) -> None:
    wanted = wanted_with_rates((3, 1, 1), (1, 2, 2))
    ladder = wanted.evaluation.rungs.ladder
    uninterrupted = run(wanted, proxy.Surroundings(slot))
    for looks in range(2, 18, 3):
        drawer = Drawer()
        with pytest.raises(TrialPaused):
            run(wanted, proxy.Surroundings(slot, drawer, pausing(looks)))
        assert drawer.held is not None
        done = sum(max(drawer.held.steps) > fidelity.steps for fidelity in ladder)
        resumed = run(wanted, proxy.Surroundings(slot, drawer), ladder[done:])
        assert [reached.replicates for reached in resumed] == [r.replicates for r in uninterrupted[done:]]
        assert sorted(drawer.held.steps) == [0, 0, 10, 10, 30, 30]


def test_a_run_that_lost_its_snapshot_leaves_the_same_learning_rates_behind(slot: exclusive.Slot) -> None:
    wanted, drawer = wanted_with_rates((3, 2, 1)), Drawer()
    (last,) = run(wanted, proxy.Surroundings(slot, drawer), wanted.evaluation.rungs.ladder[2:])
    assert last.replicates == run(wanted, proxy.Surroundings(slot))[-1].replicates
    assert drawer.held is not None and sorted(drawer.held.steps) == [10, 20, 30]


def test_learning_rates_that_join_are_trained_from_the_start(slot: exclusive.Slot) -> None:
    drawer = Drawer()
    first, second, last = run(wanted_with_rates((1, 1, 3)), proxy.Surroundings(slot, drawer))
    every = run(wanted_with_rates((3, 3, 3)), proxy.Surroundings(slot))
    assert first.metrics["learning_rate"] == second.metrics["learning_rate"] == 1e-7
    assert last.replicates == every[-1].replicates
    assert drawer.held is not None and drawer.held.steps == (30, 30, 30)


def test_a_learning_rate_that_diverges_is_left_behind_first(slot: exclusive.Slot) -> None:
    wanted = plan(steps=(4, 8), learning_rates=[3e38, 1e-7])
    rungs = wanted.evaluation.rungs.model_copy(update={"learning_rates": (2, 1)})
    wanted = dataclasses.replace(wanted, evaluation=wanted.evaluation.model_copy(update={"rungs": rungs}))
    assert [reached.metrics["learning_rate"] for reached in run(wanted, proxy.Surroundings(slot))] == [1e-7, 1e-7]

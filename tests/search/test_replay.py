"""Whole searches on a made-up table of learning curves, on a simulated clock: what the search must be good for.

The table gives every architecture of a real space a recall, a speed and a loss at each rung. Its rules are those
that hybrids are known by: softmax recalls, linear layers are fast, the first layer is a bad place for softmax, even
spacing or the middle is a good one, and the early loss tells the final one only roughly.
"""

import heapq
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from hybridsearch import seeds
from hybridsearch.objectives import OBJECTIVES, reference_point, score
from hybridsearch.pareto.front import Front
from hybridsearch.search.history import Entry, History, Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.samplers import SAMPLERS, Request
from hybridsearch.search.scheduler import Action, decide
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash, parse
from hybridsearch.trial import Fidelity, TrialState

AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])
RECALL = defaultdict(lambda: 0.25, full=1.0, sliding=0.35, gated_delta=0.3, delta=0.2, gated_linear=0.12)
SECONDS = defaultdict(lambda: 2.2, full=9.0, sliding=2.5, gated_delta=2.0, delta=1.7, gated_linear=1.2)
STATES = {Action.CONTINUE: TrialState.RUNNING, Action.FINISH: TrialState.FINISHED, Action.STOP: TrialState.STOPPED}


def spaced(kinds: Sequence[str]) -> float:
    """Recall adds up over the layers; softmax is worth most when it is not first and far from the last one."""
    recall, since = 0.0, 3
    for index, kind in enumerate(kinds):
        place = 0.3 if index == 0 and kind == "full" else 0.7 + 0.3 * index / len(kinds)
        recall += 0.9 * RECALL[kind] * place * min(1.0, 0.4 + 0.2 * since)
        since = 0 if kind == "full" else since + 1
    return recall


def single(kinds: Sequence[str]) -> float:
    """One well-placed softmax layer does nearly all; the linear layers before it help, those after it little."""
    best = memory = 0.0
    for index, kind in enumerate(kinds):
        height = index / max(len(kinds) - 1, 1)
        if kind == "full":
            best = max(best, math.exp(-(((height - 0.6) / 0.25) ** 2)))
        else:
            memory += RECALL[kind] * (1.3 - height) * 0.5
    return 2.2 * best + 0.6 * memory


Landscape = Callable[[Sequence[str]], float]


def metrics(landscape: Landscape, architecture: Architecture, progress: float) -> dict[str, float]:
    """What a worker would report; the same architecture always gives the same numbers. `progress` is 1 at the end."""
    rng = seeds.stream(0, "table", content_hash(architecture))
    kinds = [layer.mixer.kind for layer in architecture.layers]
    final = 8.0 * math.exp(-landscape(kinds)) + rng.gauss(0.0, 0.05)
    loss = final + (9.0 - final) * math.exp(-4.0 * progress) + rng.gauss(0.0, 0.2)
    seconds = 3.0 + sum(SECONDS[kind] for kind in kinds)
    return {
        "recall": 1.0 / (1.0 + math.exp(2.0 * (final - 1.5))),
        "answer_loss": max(loss, 0.0),
        "decode_tokens_per_second": 1e5 / seconds * math.exp(rng.gauss(0.0, 0.02)),
    }


def ladder(stopping: bool) -> Ladder:
    fidelities = tuple(Fidelity(rung=rung, steps=steps) for rung, steps in enumerate((25, 50, 100)))
    return Ladder(fidelities=fidelities, reduction=2.0, warmup_steps=0.0, stopping="stop" if stopping else "off")


@dataclass
class Search:
    """One search with four workers; nothing new is started once the budget of steps is spent."""

    space: Space
    sampler: str
    seed: int
    landscape: Landscape
    ladder: Ladder
    crashes: random.Random | None = None
    """Forgets everything but the recorded trials before each event, and reads these in any order."""
    history: History = field(default_factory=History)
    spent: int = 0
    decisions: list[str] = field(default_factory=list)

    def run(self, budget: int) -> "Search":
        clock: list[tuple[int, int, int]] = []  # when, trial, rung that will be reached
        while True:
            while len(clock) < 4 and self.spent < budget:
                now = clock[0][0] if clock else 0
                heapq.heappush(clock, (now + self._start(), len(self.history) - 1, 0))
            if not clock:
                return self
            now, trial, rung = heapq.heappop(clock)
            if self._reach(trial, rung) is Action.CONTINUE:
                cost = self.ladder.at(rung + 1).steps - self.ladder.at(rung).steps
                self.spent += cost
                heapq.heappush(clock, (now + cost, trial, rung + 1))

    def _start(self) -> int:
        self._crash()
        number = len(self.history)
        request = Request(space=self.space, objectives=AXES, seed=self.seed, number=number)
        (proposal,) = SAMPLERS[self.sampler](self.history, request)
        self.history.record(
            Observation(
                trial=number,
                hash=content_hash(proposal.architecture),
                architecture=canonical_json(proposal.architecture),
                state=TrialState.RUNNING,
                parents=proposal.parents,
                sampler=proposal.sampler,
            )
        )
        self.spent += self.ladder.at(0).steps
        return self.ladder.at(0).steps

    def _reach(self, trial: int, rung: int) -> Action:
        self._crash()
        known = self.history.observations[trial]
        progress = self.ladder.at(rung).steps / self.ladder.fidelities[-1].steps
        found = metrics(self.landscape, parse(known.architecture), progress)
        result = score(AXES, (), found, final=self.ladder.is_last(rung))
        decision = decide(self.history.entries(rung), Entry(trial=trial, score=result), rung, self.ladder)
        self.decisions.append(f"trial {trial}, {decision.reason}")
        self.history.record(
            Observation(
                trial=trial,
                hash=known.hash,
                architecture=known.architecture,
                state=STATES[decision.action],
                score=result if decision.action is Action.FINISH else None,
                rung_scores={**known.rung_scores, rung: result},
                parents=known.parents,
                sampler=known.sampler,
            )
        )
        return decision.action

    def _crash(self) -> None:
        if self.crashes is not None:
            self.history = History(self.crashes.sample(self.history.observations, len(self.history)))

    @property
    def hypervolume(self) -> float:
        front: Front[int] = Front(reference_point(AXES))
        for observation in self.history.finished:
            front.add(observation.rung_scores[2].minimised, observation.trial)
        return front.hypervolume


@pytest.mark.parametrize(("landscape", "searcher"), [(spaced, "cluster"), (single, "cluster"), (single, "evolution")])
def test_halving_and_a_sampler_that_learns_beat_random_search_at_equal_budget(
    layers: Space, landscape: Landscape, searcher: str
) -> None:
    def median(sampler: str, stopping: bool) -> float:
        runs = (Search(layers, sampler, seed, landscape, ladder(stopping)).run(3000) for seed in range(5))
        return statistics.median(run.hypervolume for run in runs)

    assert median(searcher, stopping=True) > median("random", stopping=False)


def test_halving_tries_more_architectures_for_the_same_steps(layers: Space) -> None:
    full = Search(layers, "random", 0, spaced, ladder(stopping=False)).run(3000)
    halved = Search(layers, "random", 0, spaced, ladder(stopping=True)).run(3000)
    assert len(halved.history) > 1.5 * len(full.history)
    assert len(halved.history.stopped) > len(halved.history.finished) > 3
    assert not full.history.stopped


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"qlognehvi"}))  # an extra, and a second an ask
def test_a_search_that_crashes_at_every_step_decides_as_one_that_never_did(sampler: str, layers: Space) -> None:
    whole = Search(layers, sampler, 3, single, ladder(stopping=True)).run(1500)
    broken = Search(layers, sampler, 3, single, ladder(stopping=True), crashes=random.Random(0)).run(1500)
    assert broken.decisions == whole.decisions
    assert broken.history.observations == whole.history.observations
    assert len(whole.history.stopped) > 3
    assert len(whole.history.hashes) == len(whole.history)

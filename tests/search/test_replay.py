"""Whole searches on a made-up table of learning curves, on a simulated clock: what the search must be good for.

The table gives every architecture of a real space a recall, a speed and a loss at each rung. Its rules are those
that hybrids are known by: softmax recalls, linear layers are fast, the first layer is a bad place for softmax, even
spacing is a good one, and the early loss tells the final one only roughly.
"""

import heapq
import math
from dataclasses import dataclass, field

from hybridsearch import seeds
from hybridsearch.objectives import OBJECTIVES, Objective, reference_point, score
from hybridsearch.pareto.front import Front
from hybridsearch.search.history import Entry, History, Observation
from hybridsearch.search.proposals import Proposal, Request
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.samplers import SAMPLERS
from hybridsearch.search.scheduler import Action, decide
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import Fidelity, TrialState

AXES: tuple[Objective, ...] = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])
RECALL = {"full": 1.0, "token_route": 0.7, "sliding": 0.35, "gated_delta": 0.3, "delta": 0.2, "gated_linear": 0.12}
SECONDS = {"full": 9.0, "token_route": 6.0, "sliding": 2.5, "gated_delta": 2.0, "delta": 1.7, "gated_linear": 1.2}


def worth(kind: str, table: dict[str, float], branches: tuple[str, ...]) -> float:
    return sum(table[b] for b in branches) / len(branches) if branches else table[kind]


@dataclass
class Table:
    """Metrics of an architecture after some steps; the same architecture always gives the same numbers."""

    last: int

    def metrics(self, architecture: Architecture, steps: int) -> dict[str, float]:
        rng = seeds.stream(0, "table", content_hash(architecture))
        depth = len(architecture.layers)
        recall, seconds, since = 0.0, 1.0, 3
        for index, layer in enumerate(architecture.layers):
            branches = tuple(b.kind for b in getattr(layer.mixer, "branches", ()))
            value = worth(layer.mixer.kind, RECALL, branches)
            place = 0.3 if index == 0 and value > 0.5 else 0.7 + 0.3 * index / depth
            recall += value * place * min(1.0, 0.4 + 0.2 * since)
            since = 0 if value > 0.5 else since + 1
            seconds += worth(layer.mixer.kind, SECONDS, branches)
        final = 8.0 * math.exp(-0.9 * recall) + rng.gauss(0.0, 0.05)
        loss = final + (9.0 - final) * math.exp(-4.0 * steps / self.last) + rng.gauss(0.0, 0.2)
        return {
            "recall": 1.0 / (1.0 + math.exp(2.0 * (final - 1.5))),
            "answer_loss": max(loss, 0.0),
            "decode_tokens_per_second": 1e5 / seconds * math.exp(rng.gauss(0.0, 0.02)),
        }


@dataclass
class Search:
    """One search with a few workers; stops handing out work when the budget of steps is spent."""

    space: Space
    sampler: str
    seed: int
    ladder: Ladder
    workers: int = 4
    history: History = field(default_factory=History)
    spent: int = 0
    decisions: list[str] = field(default_factory=list)

    def run(self, budget: int) -> "Search":
        table = Table(self.ladder.fidelities[-1].steps)
        clock: list[tuple[int, int, int]] = []  # when, trial, rung that will be reached
        while True:
            while len(clock) < self.workers and self.spent < budget:
                now = clock[0][0] if clock else 0
                heapq.heappush(clock, (now + self._start(), len(self.history) - 1, 0))
            if not clock:
                return self
            now, trial, rung = heapq.heappop(clock)
            if self._reach(trial, rung, table) is Action.CONTINUE:
                cost = self.ladder.at(rung + 1).steps - self.ladder.at(rung).steps
                self.spent += cost
                heapq.heappush(clock, (now + cost, trial, rung + 1))

    def propose(self, number: int) -> Proposal:
        request = Request(space=self.space, objectives=AXES, seed=self.seed, number=number)
        return SAMPLERS[self.sampler](self.history, request)[0]

    def _start(self) -> int:
        number = len(self.history)
        proposal = self.propose(number)
        text = canonical_json(proposal.architecture)
        self._note(
            Observation(
                trial=number, hash=content_hash(proposal.architecture), architecture=text, state=TrialState.RUNNING,
                parents=proposal.parents, sampler=proposal.sampler,
            )
        )  # fmt: skip
        self.spent += self.ladder.at(0).steps
        return self.ladder.at(0).steps

    def _reach(self, trial: int, rung: int, table: Table) -> Action:
        known = next(o for o in self.history.running if o.trial == trial)
        architecture = Architecture.model_validate_json(known.architecture)
        result = score(
            AXES, (), table.metrics(architecture, self.ladder.at(rung).steps), final=self.ladder.is_last(rung)
        )
        decision = decide(self.history.entries(rung), Entry(trial=trial, score=result), rung, self.ladder)
        self.decisions.append(f"{trial}: {decision.reason}")
        states = {Action.FINISH: TrialState.FINISHED, Action.STOP: TrialState.STOPPED}
        state = states.get(decision.action, TrialState.RUNNING)
        self._note(
            Observation(
                trial=trial, hash=known.hash, architecture=known.architecture, state=state, parents=known.parents,
                sampler=known.sampler, rung_scores={**known.rung_scores, rung: result},
                score=result if state is TrialState.FINISHED else None,
            )
        )  # fmt: skip
        return decision.action

    def _note(self, observation: Observation) -> None:
        self.history.record(observation)

    @property
    def hypervolume(self) -> float:
        front: Front[int] = Front(reference_point(AXES))
        for observation in self.history.finished:
            assert observation.score is not None
            front.add(observation.score.minimised, observation.trial)
        return front.hypervolume


def ladder(stopping: bool, steps: tuple[int, ...] = (25, 50, 100)) -> Ladder:
    fidelities = tuple(Fidelity(rung=rung, steps=steps) for rung, steps in enumerate(steps))
    return Ladder(fidelities=fidelities, reduction=2.0, warmup_steps=0.0, stopping=stopping)

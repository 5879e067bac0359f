"""CPU time of one ask by number of trials, for every sampler, and of one decision at a rung.

`python benchmarks/samplers.py [space]` prints medians in milliseconds of the process's own time, so other programs on
the machine do not count. Histories are random architectures of the space (a large one is needed): half finished, four
in ten stopped at the first rung, the rest failed, four running.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable

from hybridsearch.objectives import OBJECTIVES, Score
from hybridsearch.pareto.front import Front
from hybridsearch.search.history import Entry, History, Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.search.samplers import SAMPLERS, Request
from hybridsearch.search.scheduler import decide
from hybridsearch.search_spaces import catalog, sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.canonical import canonical_json, content_hash
from hybridsearch.trial import TrialState

SIZES = (100, 1_000, 10_000)
REPEATS = 9
AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])
STATES = [TrialState.FINISHED] * 5 + [TrialState.STOPPED] * 4 + [TrialState.FAILED]


def observation(number: int, text: str, digest: str, rng: random.Random, state: TrialState) -> Observation:
    """A trial with random scores."""
    score = Score(values=(rng.random(), rng.uniform(10.0, 1000.0)), directions=("maximize", "maximize"))
    rungs = {TrialState.FINISHED: (0, 1, 2), TrialState.STOPPED: (0,)}.get(state, ())
    return Observation(
        trial=number,
        hash=digest,
        architecture=text,
        state=state,
        score=score if state is TrialState.FINISHED else None,
        rung_scores=dict.fromkeys(rungs, score),
        sampler="random",
    )


def filled(space: Space, count: int) -> History:
    """A history of `count` different architectures."""
    rng = random.Random(count)
    history = History()
    while len(history) < count:
        architecture = sampling.sample(space, rng)
        digest = content_hash(architecture)
        if digest not in history.hashes:
            number = len(history)
            state = TrialState.RUNNING if number >= count - 4 else STATES[number % len(STATES)]
            history.record(observation(number, canonical_json(architecture), digest, rng, state))
    return history


def milliseconds(action: Callable[[int], object]) -> tuple[float, float]:
    """Time of the first call, and the median of the following ones."""
    times = []
    for repeat in range(REPEATS + 1):
        start = time.process_time()
        action(repeat)
        times.append((time.process_time() - start) * 1e3)
    return times[0], statistics.median(times[1:])


def measure(space: Space, count: int) -> dict[str, tuple[float, float]]:
    """Milliseconds by what was asked; a result is recorded before each ask, as in a search."""
    history = filled(space, count)
    rng = random.Random(0)
    last = history.finished[-1]

    def ask(name: str) -> Callable[[int], object]:
        def action(repeat: int) -> object:
            history.record(observation(last.trial, last.architecture, last.hash, rng, TrialState.FINISHED))
            request = Request(space=space, objectives=AXES, seed=repeat, number=count)
            return SAMPLERS[name](history, request)

        return action

    def decision(repeat: int) -> object:
        score = Score(values=(rng.random(), 50.0), directions=("maximize", "maximize"))
        ladder = Ladder.of(EvaluationSettings())
        return decide(history.entries(1), Entry(trial=count, score=score), 1, ladder)

    def front(repeat: int) -> object:
        grown: Front[int] = Front((0.0, 0.0))
        for o in history.finished:
            grown.add(o.rung_scores[2].minimised, o.trial)
        return grown

    present = [name for name in SAMPLERS if name != "qlognehvi"]  # an extra, and a second an ask
    actions = {name: ask(name) for name in present} | {"decide": decision, "front of all": front}
    return {name: milliseconds(action) for name, action in actions.items()}


def main() -> None:
    """Print the table."""
    space = catalog.load(sys.argv[1] if len(sys.argv) > 1 else "layers")
    columns = {count: measure(space, count) for count in SIZES}
    sys.stdout.write(f"{'ms, median (first)':20}" + "".join(f"{count:>20,}" for count in SIZES) + "\n")
    for name in columns[SIZES[0]]:
        cells = (f"{columns[count][name][1]:.1f} ({columns[count][name][0]:.1f})" for count in SIZES)
        sys.stdout.write(f"{name:20}" + "".join(f"{cell:>20}" for cell in cells) + "\n")


if __name__ == "__main__":
    main()

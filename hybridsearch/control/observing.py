"""A trial as samplers and the scheduler see it."""

from dataclasses import replace

from hybridsearch.control.active import Active
from hybridsearch.control.standing import score_of
from hybridsearch.objectives import Score
from hybridsearch.search.history import Observation
from hybridsearch.search.rungs import Ladder
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import TrialState


def observation(trial: Active, settings: SearchSettings, ladder: Ladder) -> Observation:
    """The observation of a trial; a confirmation stands in the place of its last rung."""
    scores = {
        min(report.rung, ladder.top): score_of(
            settings, trial.reports[: index + 1], final=ladder.is_last(min(report.rung, ladder.top))
        )
        for index, report in enumerate(trial.reports)
    }
    finished = trial.state is TrialState.FINISHED
    return Observation(
        trial=trial.number,
        hash=trial.candidate.hash,
        architecture=trial.candidate.canonical,
        state=trial.state,
        score=scores[max(scores)] if finished else None,
        rung_scores=scores,
        parents=trial.parents,
        sampler=trial.sampler,
        control=trial.control,
        seconds=trial.reports[0].seconds if trial.reports else 0.0,
    )


def moved(
    seen: Observation, state: TrialState, reached: tuple[int, Score] | None = None, seconds: float = 0.0
) -> Observation:
    """The same trial in another state, perhaps with the score of one more rung, which took so long."""
    scores = seen.rung_scores if reached is None else {**seen.rung_scores, reached[0]: reached[1]}
    finished = state is TrialState.FINISHED
    first = seen.seconds if seen.rung_scores else seconds
    score = scores[max(scores)] if finished else None
    return replace(seen, state=state, score=score, rung_scores=scores, seconds=first)

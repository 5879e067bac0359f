"""Members of the front measured again with further seeds, once the search is over.

A front is made of the luckiest trials: with one seed, recall varies by about 0.04 (2507.06457). A confirmation trains
the same architecture to the last rung with other weights and other data, at the learning rate that was chosen. What it
says is pooled with the report of the last rung, seed by seed, and recorded as a report of one rung more.
"""

import math
from dataclasses import replace

from hybridsearch import seeds
from hybridsearch.control.active import Active
from hybridsearch.settings import SearchSettings
from hybridsearch.trial import Job, Report


def confirmation(job: Job, trial: Active, settings: SearchSettings) -> Job:
    """The job that measures a finished trial again.

    Args:
        job: as the trial itself would be run.
        trial: finished.
        settings: of the study; `confirm` is the number of further seeds.
    """
    chosen = trial.reports[-1].metrics.get("learning_rate")
    training = settings.evaluation.training
    rates = training.learning_rates if chosen is None else (chosen,)
    changed = {
        "training": training.model_copy(update={"seeds": settings.confirm, "learning_rates": rates}),
        "rungs": settings.evaluation.rungs.model_copy(update={"seeds": None, "learning_rates": None}),
    }
    again = settings.evaluation.model_copy(update=changed)
    return replace(
        job,
        seed=seeds.derive(trial.seed, "confirm"),
        rungs=again.rungs.ladder[-1:],
        evaluation=again.model_dump_json(),
        folder=f"{job.folder}-confirm",
    )


def pooled(known: Report, further: Report, rung: int) -> Report:
    """The last rung's report with the seeds of the confirmation; throughput stays as it was measured first.

    Args:
        known: the trial's report of the last rung.
        further: what the confirmation said.
        rung: under which the pooled report is recorded.
    """
    replicates = {
        name: (*_seeds_of(known, name), *_seeds_of(further, name))
        for name in known.metrics
        if name in further.replicates
    }
    means = {name: math.fsum(values) / len(values) for name, values in replicates.items()}
    return replace(known, rung=rung, metrics={**known.metrics, **means}, replicates=replicates, seconds=further.seconds)


def _seeds_of(report: Report, name: str) -> tuple[float, ...]:
    return tuple(report.replicates.get(name, ())) or (report.metrics[name],)

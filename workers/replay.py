"""Answers jobs from a table in place of training: an `hybridsearch.trial.Evaluator`, without torch and without a clock.

A trial takes one of its candidate's runs, by its own seed, and reports that run's rungs with the seconds that they took
when they were trained. The same job gets the same answers.
"""

from collections.abc import Iterator
from dataclasses import replace

from hybridsearch.errors import FailureReason, TrialFailure
from hybridsearch.seeds import derive
from hybridsearch.tabular.table import Run, Table
from hybridsearch.trial import Evaluator, Job, Report


def evaluator(table: Table) -> Evaluator:
    """An evaluator that trains nothing; see `answers` for what it raises."""

    def evaluate(job: Job) -> Iterator[Report]:
        yield from answers(table, job)

    return evaluate


def answers(table: Table, job: Job) -> Iterator[Report]:
    """The reports of the job's rungs.

    Raises:
        TrialFailure: the run failed there, or the table has no run of the candidate.
    """
    run = chosen(table, job)
    for fidelity in job.rungs:
        if fidelity.rung >= len(run.reports):
            reason = run.failure or FailureReason.ERROR
            raise TrialFailure(reason, run.message or f"the table's run ends before rung {fidelity.rung}")
        yield replace(run.reports[fidelity.rung], trial=job.trial)


def chosen(table: Table, job: Job) -> Run:
    """The run that a job replays.

    Raises:
        TrialFailure: the table has none.
    """
    runs = table.playable.get(job.hash)
    if not runs:
        raise TrialFailure(FailureReason.ERROR, f"the table has no run of {job.hash[:8]}")
    return runs[derive(job.seed, "replay") % len(runs)]

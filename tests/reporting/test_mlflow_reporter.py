"""Against a real MLflow database: one search, interrupted and resumed, read back through mlflow itself."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from hybridsearch.objectives import Objective
from hybridsearch.reporting.background import Patience
from hybridsearch.reporting.mlflow_places import default_uri
from hybridsearch.reporting.mlflow_reporter import MlflowReporter, open_reporter
from hybridsearch.reporting.points import Point
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.trial import Candidate, Report, TrialState

SETTINGS = "study: demo\nseed: 3\nbudget:\n  trials: 9\nevaluation:\n  task:\n    name: recall\n    vocabulary: 64\n"
IMPATIENT = Patience(pause_seconds=0.01, close_seconds=20.0)


class Mirror:
    """The database that the tests of this file share: a fresh one takes MLflow 2 s to create."""

    def __init__(self, folder: Path) -> None:
        self.uri = default_uri(folder)
        self.warnings: list[str] = []
        self.client = MlflowClient(tracking_uri=self.uri)

    def reporter(self, experiment: str = "tests") -> MlflowReporter:
        return MlflowReporter(
            self.uri, experiment=experiment, warn=self.warnings.append, patience=IMPATIENT, figure_seconds=0.0
        )

    def runs(self, study: str, kind: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name("tests")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id], f"tags.study = '{study}' and tags.kind = '{kind}'")
        return sorted(runs, key=lambda run: str(run.info.run_name))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    yield Mirror(tmp_path_factory.mktemp("runs with space"))


def tell_two_trials(
    reporter: MlflowReporter, candidates: Sequence[Candidate], make_reports: Callable[..., list[Report]]
) -> None:
    """A control that finishes and a candidate that has reached its first rung."""
    reporter.trial_started(0, candidates[0], {"control": "full", "sampler": "controls"})
    for report in make_reports(0, 0.9, 1000.0):
        reporter.rung(0, report, "goes on")
    reporter.trial_ended(0, TrialState.FINISHED, "", on_front=True)
    reporter.trial_started(1, candidates[1], {"sampler": "evolution"})
    reporter.rung(1, make_reports(1, 0.3, 9000.0)[0], "rung 0: position 1 of 2, goes on")


def test_a_resumed_search_continues_its_runs_and_duplicates_nothing(
    mirror: Mirror,
    objectives: Sequence[Objective],
    points: list[Point],
    make_candidate: Callable[[str], Candidate],
    make_reports: Callable[..., list[Report]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    candidates = [make_candidate("ff"), make_candidate("gg")]
    first = mirror.reporter()
    first.study_started("demo", SETTINGS, objectives, {"full": candidates[0]}, resumed=False)
    tell_two_trials(first, candidates, make_reports)
    first.front_changed(lambda: points[:1], {0}, 900.0, 1, 30.0)
    first.close()

    second = mirror.reporter()
    second.study_started("demo", SETTINGS.replace("9", "19"), objectives, {"full": candidates[0]}, resumed=True)
    tell_two_trials(second, candidates, make_reports)
    second.rung(1, make_reports(1, 0.3, 9000.0)[1], "last rung")
    second.trial_ended(1, TrialState.FINISHED, "", on_front=True)
    left = [replace(points[0], on_front=False), points[1]]
    second.front_changed(lambda: left, {1}, 2700.0, 2, 60.0)
    second.study_ended("finished", points[:2], {"knee.yaml": "width: 16\n"})
    second.close()
    assert mirror.warnings == []

    (study,), trials = mirror.runs("demo", "study"), mirror.runs("demo", "trial")
    assert [run.info.run_name for run in trials] == ["t0000-full", f"t0001-{candidates[1].name}"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    assert [run.info.status for run in (study, *trials)] == ["FINISHED"] * 3
    assert [run.data.tags["on_front"] for run in trials] == ["false", "true"]
    assert trials[1].data.tags["decision.0"] == "rung 0: position 1 of 2, goes on"
    assert trials[1].data.params["layer.01"] == "gated delta 2x8; feed-forward 32"
    assert trials[0].data.metrics["recall.low"] == pytest.approx(0.85)
    recalls = [(m.step, m.value) for m in mirror.client.get_metric_history(trials[0].info.run_id, "recall")]
    assert recalls == [(250, 0.45), (500, 0.9)]
    volumes = [(m.step, m.value) for m in mirror.client.get_metric_history(study.info.run_id, "hypervolume")]
    assert volumes == [(1, 900.0), (2, 2700.0)]
    assert study.data.params["evaluation.task.vocabulary"] == "64"
    assert study.inputs is not None
    assert study.inputs.dataset_inputs[0].dataset.name == "recall"
    check_artifacts(mirror, study, candidates)


def check_artifacts(mirror: Mirror, study: Run, candidates: Sequence[Candidate]) -> None:
    folder = Path(mirror.client.download_artifacts(study.info.run_id, ""))
    assert "19" in (folder / "settings.yaml").read_text()
    assert (folder / "best" / "knee.yaml").read_text() == "width: 16\n"
    page = (folder / "pareto" / "front.html").read_text()
    assert '"text":["full"]' in page
    assert candidates[1].name in page
    assert (folder / "pareto" / "front.png").stat().st_size > 10_000
    table = json.loads((folder / "pareto" / "front.json").read_text())
    first = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (first["control"], first["decode_tokens_per_second.low"]) == ("full", 900.0)
    assert "pareto/front.json" in study.data.tags["mlflow.loggedArtifacts"]


def test_states_are_told_apart(
    mirror: Mirror, objectives: Sequence[Objective], make_candidate: Callable[[str], Candidate]
) -> None:
    reporter = mirror.reporter()
    reporter.study_started("states", SETTINGS, objectives, {}, resumed=True)
    ends = [TrialState.STOPPED, TrialState.FAILED, TrialState.PAUSED, TrialState.SCREENED]
    for number, state in enumerate(ends):
        reporter.trial_started(number, make_candidate("fg"), {})
        reporter.trial_ended(number, state, f"because {state}", on_front=False)
    reporter.trial_started(2, make_candidate("fg"), {})
    reporter.study_ended("interrupted", [], {})
    reporter.close()
    (study,), trials = mirror.runs("states", "study"), mirror.runs("states", "trial")
    assert [run.info.status for run in (study, *trials)] == ["KILLED", "KILLED", "FAILED", "RUNNING", "KILLED"]
    assert [run.data.tags["state"] for run in trials] == ["stopped", "failed", "running", "screened"]
    assert trials[1].data.tags["reason"] == "because failed"
    assert study.data.params["seed"] == "3", "a study that MLflow has never seen is new, even when it is resumed"


def test_a_trial_that_is_reopened_ends_again(
    mirror: Mirror,
    objectives: Sequence[Objective],
    make_candidate: Callable[[str], Candidate],
    make_reports: Callable[..., list[Report]],
) -> None:
    first, last = make_reports(0, 0.9, 1000.0)
    for reports, state in (([first], TrialState.STOPPED), ([first, last], TrialState.FINISHED)):
        reporter = mirror.reporter()
        reporter.study_started("longer", SETTINGS, objectives, {}, resumed=state is TrialState.FINISHED)
        reporter.trial_reopened(0)
        reporter.trial_started(0, make_candidate("ff"), {})
        for report in reports:
            reporter.rung(0, report, "")
        reporter.trial_ended(0, state, "", on_front=False)
        reporter.close()
    (trial,) = mirror.runs("longer", "trial")
    assert (trial.info.status, trial.data.tags["state"]) == ("FINISHED", "finished")
    assert trial.data.metrics["recall"] == 0.9


def test_a_record_that_mlflow_refuses_is_one_warning_and_loses_nothing_else(
    mirror: Mirror, objectives: Sequence[Objective], make_candidate: Callable[[str], Candidate]
) -> None:
    reporter = mirror.reporter()
    reporter.study_started("refused", SETTINGS, objectives, {}, resumed=False)
    reporter.trial_started(0, make_candidate("ff"), {})
    for rung, name in enumerate(("not? allowed", "nor! this")):
        reporter.rung(0, Report(trial=0, rung=rung, steps=1, metrics={name: 1.0}), "")
    reporter.rung(0, Report(trial=0, rung=2, steps=1, metrics={"recall": 0.5}), "")
    reporter.close()
    (trial,) = mirror.runs("refused", "trial")
    assert trial.data.metrics["recall"] == 0.5
    assert len(mirror.warnings) == 2
    assert "the search goes on" in mirror.warnings[0]
    assert mirror.warnings[1].startswith("2 records were not written")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///{}/file/mlflow.db", "file/mlflow.db cannot be used"),
        ("file:///{}/runs", "maintenance mode"),
        ("nonsense://me:secret@host", "nonsense://me:[*]{3}@host cannot be used"),
    ],
)
def test_a_place_that_cannot_be_used_gives_a_reporter_that_records_nothing(
    tmp_path: Path, uri: str, message: str
) -> None:
    (tmp_path / "file").write_text("")
    warnings: list[str] = []
    reporter = open_reporter(uri.format(tmp_path), warn=warnings.append)
    assert isinstance(reporter, NullReporter)
    assert len(warnings) == 1
    assert re.search(message, warnings[0])
    assert "secret" not in warnings[0]


def test_no_address_means_no_reporter() -> None:
    assert isinstance(open_reporter(None), NullReporter)

"""The contract of the store on every engine: reports and the result cache."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from hybridsearch.db.store import Event, Store, StudyRecord, evaluation_digest
from hybridsearch.errors import InvalidSetting
from hybridsearch.settings import EvaluationSettings, TrainingSettings
from hybridsearch.trial import Candidate, Report, TrialState

MakeCandidate = Callable[..., Candidate]
MakeReport = Callable[..., Report]
Drive = Callable[[int, TrialState], None]


class TestReports:
    @pytest.fixture(autouse=True)
    def _a_running_trial(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        store.set_state("recall", 0, TrialState.RUNNING)

    def test_every_number_comes_back_exactly(self, store: Store, report: MakeReport) -> None:
        assert store.add_report("recall", report(rung=1)) is True
        assert store.add_report("recall", report(rung=0)) is True
        assert store.trial("recall", 0).reports == (report(rung=0), report(rung=1))

    def test_a_report_sent_twice_is_one_row_and_the_first_stays(self, store: Store, report: MakeReport) -> None:
        assert store.add_report("recall", report(recall=0.25)) is True
        assert store.add_report("recall", report(recall=0.75)) is False
        assert store.trial("recall", 0).reports == (report(recall=0.25),)

    def test_record_is_report_state_and_event_at_once(self, store: Store, report: MakeReport) -> None:
        event = Event(kind="stop", rung=1, rank=5, message="rank 5 of 8 at rung 1")
        assert store.record("recall", report(rung=1), state=TrialState.STOPPED, event=event) is True
        trial = store.trial("recall", 0)
        assert (trial.state, trial.message, trial.reports) == (TrialState.STOPPED, event.message, (report(rung=1),))
        [told] = store.events("recall", newest=True, limit=1)
        assert (told.kind, told.trial, told.rung, told.rank, told.message) == ("stop", 0, 1, 5, event.message)

    def test_record_sent_twice_changes_nothing(self, store: Store, report: MakeReport) -> None:
        event = Event(kind="promote", rung=0, rank=0)
        for rung, state in enumerate((None, TrialState.FINISHED)):
            assert store.record("recall", report(rung=rung), state=state, event=event) is True
            before = (store.trial("recall", 0), store.events("recall"))
            assert store.record("recall", report(rung=rung), state=state, event=event) is False
            assert (store.trial("recall", 0), store.events("recall")) == before

    def test_record_refused_in_one_part_leaves_no_other(self, store: Store, report: MakeReport) -> None:
        told = len(store.events("recall"))
        with pytest.raises(InvalidSetting, match="cannot become screened"):
            store.record("recall", report(), state=TrialState.SCREENED)
        assert store.trial("recall", 0).reports == ()
        assert len(store.events("recall")) == told

    def test_a_final_trial_takes_no_further_rung(self, store: Store, report: MakeReport) -> None:
        store.record("recall", report(rung=0), state=TrialState.STOPPED)
        with pytest.raises(InvalidSetting, match="trial 0 is stopped, which is final"):
            store.add_report("recall", report(rung=1))
        assert store.add_report("recall", report(rung=0)) is False
        assert store.trial("recall", 0).reports == (report(rung=0),)

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_refuses_numbers_that_are_not_finite(self, store: Store, report: MakeReport, number: float) -> None:
        good = report()
        shape = replace(good.measurements[0], high=number)
        for bad in (
            replace(good, metrics={"recall": number}),
            replace(good, replicates={"recall": (0.5, number)}),
            replace(good, measurements=(shape,)),
            replace(good, seconds=number),
        ):
            with pytest.raises(InvalidSetting, match="only finite numbers"):
                store.add_report("recall", bad)
        assert store.trial("recall", 0).reports == ()


class TestResultCache:
    def test_only_a_finished_trial_of_the_same_evaluation_is_reused(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport
    ) -> None:
        digest = study.evaluation_digest
        store.create_study("other", "{}", seed=0, space_json="{}", versions={}, evaluation_digest="e" * 64)
        for name in ("recall", "other"):
            store.add_trial(name, candidate(), sampler="random", seed=1)
        store.record("recall", report(rung=0))
        assert store.cached_reports(candidate().hash, digest) == ()
        store.record("recall", report(rung=1), state=TrialState.FINISHED)
        assert store.cached_reports(candidate().hash, digest) == (report(rung=0), report(rung=1))
        assert store.cached_reports(candidate().hash, "e" * 64) == ()
        assert store.cached_reports(candidate(1).hash, digest) == ()

    def test_stopped_and_failed_trials_are_not_reused(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, drive: Drive
    ) -> None:
        for number, state in enumerate((TrialState.STOPPED, TrialState.FAILED)):
            store.add_trial("recall", candidate(), sampler="random", seed=1)
            drive(number, state)
        assert store.cached_reports(candidate().hash, study.evaluation_digest) == ()

    def test_studies_without_digest_share_nothing(self, store: Store, candidate: MakeCandidate, drive: Drive) -> None:
        store.create_study("recall", "{}", seed=0, space_json="{}", versions={})
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        drive(0, TrialState.FINISHED)
        assert store.cached_reports(candidate().hash, "") == ()

    def test_the_digest_covers_every_setting_and_the_machine(self) -> None:
        usual = EvaluationSettings()
        other = EvaluationSettings(training=TrainingSettings(batch=32))
        digests = {evaluation_digest(usual, "cpu"), evaluation_digest(other, "cpu"), evaluation_digest(usual, "H100")}
        assert len(digests) == 3
        assert evaluation_digest(EvaluationSettings(), "cpu") in digests
        assert {len(digest) for digest in digests} == {64}

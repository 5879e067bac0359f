"""The contract of the store, on every engine."""

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from hybridsearch.db.store import Event, Store, StudyRecord, evaluation_digest
from hybridsearch.db.trials import TRANSITIONS
from hybridsearch.errors import FailureReason, InvalidSetting, UnknownStudy
from hybridsearch.settings import EvaluationSettings, TrainingSettings
from hybridsearch.trial import Candidate, Report, TrialState

MakeCandidate = Callable[..., Candidate]
MakeReport = Callable[..., Report]

ROADS: dict[TrialState, tuple[TrialState, ...]] = {
    TrialState.WAITING: (),
    TrialState.RUNNING: (TrialState.RUNNING,),
    TrialState.PAUSED: (TrialState.RUNNING, TrialState.PAUSED),
    TrialState.FINISHED: (TrialState.RUNNING, TrialState.FINISHED),
    TrialState.STOPPED: (TrialState.RUNNING, TrialState.STOPPED),
    TrialState.SCREENED: (TrialState.SCREENED,),
    TrialState.FAILED: (TrialState.RUNNING, TrialState.FAILED),
}
"""How a new trial gets into each state."""


def reason_for(state: TrialState) -> FailureReason | None:
    return FailureReason.OUT_OF_MEMORY if state is TrialState.FAILED else None


def drive(store: Store, number: int, state: TrialState, report: Report) -> None:
    store.add_report("recall", report)
    for step in ROADS[state]:
        store.set_state("recall", number, step, reason=reason_for(step))


class TestStudies:
    def test_reads_back_what_was_created(self, store: Store, study: StudyRecord) -> None:
        assert store.study("recall") == study
        assert store.studies() == [study]
        assert (study.seed, study.settings_json, study.space_json) == (7, '{"study":"recall"}', '{"name":"tiny"}')
        assert study.versions == {"hybridsearch": "0.1.0"}
        assert (study.created, study.elapsed, study.owner) == (1_700_000_000.0, 0.0, None)

    def test_refuses_a_name_that_is_taken(self, store: Store, study: StudyRecord) -> None:
        with pytest.raises(InvalidSetting, match="`recall` exists already"):
            store.create_study("recall", "{}", seed=0, space_json="{}", versions={})
        assert store.studies() == [study]

    def test_an_unknown_study_names_the_nearest(self, store: Store, study: StudyRecord) -> None:
        store.create_study("throughput", "{}", seed=0, space_json="{}", versions={})
        for call in (store.study, store.trials, store.counts, store.events, store.heartbeat, store.claim):
            with pytest.raises(UnknownStudy, match=r"no study `recal` in this store; nearest: recall$"):
                call("recal")

    def test_an_unknown_study_in_an_empty_store(self, store: Store) -> None:
        with pytest.raises(UnknownStudy, match="holds no study yet"):
            store.study("recall")

    @pytest.mark.parametrize("seed", [0, 2**63 - 1])
    def test_keeps_every_seed_of_63_bits(self, store: Store, seed: int) -> None:
        assert store.create_study("s", "{}", seed=seed, space_json="{}", versions={}).seed == seed

    @pytest.mark.parametrize("seed", [-1, 2**63])
    def test_refuses_other_seeds(self, store: Store, seed: int) -> None:
        with pytest.raises(InvalidSetting, match="out of range"):
            store.create_study("s", "{}", seed=seed, space_json="{}", versions={})

    def test_search_time_adds_up_over_resumes(self, store_url: str, store: Store, study: StudyRecord) -> None:
        assert store.heartbeat("recall", 1.5) == 1.5
        with Store.open(store_url) as again:
            assert again.heartbeat("recall", 2.25) == 3.75
        assert store.study("recall").elapsed == 3.75


class TestTrials:
    def test_numbers_are_dense_in_each_study(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        store.create_study("other", "{}", seed=0, space_json="{}", versions={})
        for name, expected in (("recall", 0), ("other", 0), ("recall", 1), ("other", 1), ("recall", 2)):
            assert store.add_trial(name, candidate(0), sampler="random", seed=1).number == expected
        assert [trial.number for trial in store.trials("recall")] == [0, 1, 2]

    def test_reads_back_what_was_added(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        plain = store.add_trial("recall", candidate(0), sampler="random", seed=2**63 - 1)
        full = store.add_trial(
            "recall", candidate(1), sampler="evolution", seed=3, parents=(0, 0), control="all_full", note="from ü"
        )
        assert store.trials("recall") == [plain, full]
        assert store.trial("recall", 1) == full
        assert full.candidate == candidate(1)
        assert (full.sampler, full.parents, full.control, full.note) == ("evolution", (0, 0), "all_full", "from ü")
        assert (full.state, full.reason, full.message, full.reports) == (TrialState.WAITING, None, "", ())
        assert (plain.seed, plain.parents, plain.control, plain.note) == (2**63 - 1, (), None, "")

    def test_a_screened_trial_is_final_from_the_start(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate
    ) -> None:
        note = "state_bytes 81920 is above 65536"
        trial = store.add_trial("recall", candidate(), sampler="random", seed=1, state=TrialState.SCREENED, note=note)
        assert (trial.state, trial.ended, trial.started) == (TrialState.SCREENED, trial.created, None)
        assert [(event.kind, event.message, event.trial) for event in store.events("recall")] == [("screened", note, 0)]

    @pytest.mark.parametrize("state", sorted(set(TrialState) - {TrialState.WAITING, TrialState.SCREENED}))
    def test_a_new_trial_has_a_first_state(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, state: TrialState
    ) -> None:
        with pytest.raises(InvalidSetting, match="waiting or screened"):
            store.add_trial("recall", candidate(), sampler="random", seed=1, state=state)
        assert store.trials("recall") == []

    def test_context_dependent_counts_belong_to_the_study(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate
    ) -> None:
        store.create_study("longer", "{}", seed=0, space_json="{}", versions={})
        store.add_trial("recall", candidate(5, state_bytes=100), sampler="random", seed=1)
        store.add_trial("longer", candidate(5, state_bytes=900), sampler="random", seed=1)
        assert store.trials("recall")[0].candidate.state_bytes == 100
        assert store.trials("longer")[0].candidate.state_bytes == 900
        assert store.candidate(candidate(5).hash, study="recall").state_bytes == 100

    def test_selects_by_state(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport
    ) -> None:
        for number, state in enumerate(TrialState):
            store.add_trial("recall", candidate(number), sampler="random", seed=1)
            drive(store, number, state, report(number))
        everything = store.trials("recall")
        assert [trial.state for trial in everything] == list(TrialState)
        assert [trial.reports for trial in everything] == [(report(number),) for number in range(len(TrialState))]
        wanted = [TrialState.FINISHED, TrialState.FAILED]
        assert store.trials("recall", wanted) == [trial for trial in everything if trial.state in wanted]
        assert store.trials("recall", []) == []
        assert store.counts("recall") == dict.fromkeys(TrialState, 1)

    def test_counts_of_an_empty_study(self, store: Store, study: StudyRecord) -> None:
        assert store.counts("recall") == dict.fromkeys(TrialState, 0)

    def test_an_unknown_trial(self, store: Store, study: StudyRecord, report: MakeReport) -> None:
        for call in (
            lambda: store.trial("recall", 4),
            lambda: store.set_state("recall", 4, TrialState.RUNNING),
            lambda: store.add_report("recall", report(4)),
        ):
            with pytest.raises(InvalidSetting, match="no trial 4"):
                call()

    def test_records_are_frozen_and_do_not_change_under_the_reader(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport
    ) -> None:
        before = store.add_trial("recall", candidate(), sampler="random", seed=1)
        store.record("recall", report(), state=TrialState.FINISHED)
        assert (before.state, before.reports) == (TrialState.WAITING, ())
        after = store.trial("recall", 0)
        with pytest.raises(FrozenInstanceError):
            after.state = TrialState.FAILED  # type: ignore[misc]
        after.reports[0].metrics.clear()  # type: ignore[attr-defined]
        assert store.trial("recall", 0).reports == (report(),)


class TestStates:
    @pytest.mark.parametrize("old", TrialState)
    def test_only_legal_transitions_happen(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport, old: TrialState
    ) -> None:
        for number, new in enumerate(TrialState):
            store.add_trial("recall", candidate(), sampler="random", seed=1)
            drive(store, number, old, report(number))
            before, told = store.trial("recall", number), len(store.events("recall"))
            if new is old:
                assert store.set_state("recall", number, new, reason=reason_for(new)) is False
                assert store.trial("recall", number) == before
            elif new in TRANSITIONS.get(old, ()):
                assert store.set_state("recall", number, new, reason=reason_for(new), message="why") is True
                after = store.trial("recall", number)
                assert (after.state, after.message) == (new, "why")
                told += 1
            else:
                refusal = rf"trial {number} is {old} and cannot become {new}; .*(may become|final)"
                with pytest.raises(InvalidSetting, match=refusal):
                    store.set_state("recall", number, new, reason=reason_for(new))
                assert store.trial("recall", number) == before
            assert len(store.events("recall")) == told

    def test_final_states_have_no_successor(self) -> None:
        assert {state for state in TrialState if not TRANSITIONS.get(state)} == {s for s in TrialState if s.final}

    def test_a_failure_keeps_reason_and_message(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate
    ) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        store.set_state("recall", 0, TrialState.RUNNING)
        store.set_state("recall", 0, TrialState.FAILED, reason=FailureReason.NOT_A_NUMBER, message="loss at step 3")
        trial = store.trial("recall", 0)
        assert (trial.reason, trial.message) == (FailureReason.NOT_A_NUMBER, "loss at step 3")
        last = store.events("recall")[-1]
        assert (last.kind, last.trial, last.message) == ("failed", 0, "not a number: loss at step 3")

    def test_only_a_failure_has_a_reason(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        with pytest.raises(InvalidSetting, match="needs a reason"):
            store.set_state("recall", 0, TrialState.FAILED)
        with pytest.raises(InvalidSetting, match="only a failed one"):
            store.set_state("recall", 0, TrialState.RUNNING, reason=FailureReason.KERNEL)

    def test_nothing_finishes_without_a_report(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate
    ) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        store.set_state("recall", 0, TrialState.RUNNING)
        with pytest.raises(InvalidSetting, match="without a report"):
            store.set_state("recall", 0, TrialState.FINISHED)
        assert store.trial("recall", 0).state is TrialState.RUNNING

    def test_times_of_a_trial(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport, clock: Any
    ) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        start = clock.now
        for state in (TrialState.RUNNING, TrialState.WAITING, TrialState.RUNNING):
            clock.now += 10
            store.set_state("recall", 0, state)
        clock.now += 10
        store.record("recall", report(), state=TrialState.FINISHED)
        trial = store.trial("recall", 0)
        assert (trial.created, trial.started, trial.ended) == (start, start + 10, start + 40)
        assert trial.seconds == 12.5

    @pytest.mark.parametrize("hostile", ["nul \x00 byte", "half \ud800 character", "x" * 100_000, "ünïcode ✓"])
    def test_any_message_can_be_kept(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, hostile: str
    ) -> None:
        store.add_trial("recall", candidate(), sampler="random", seed=1, note=hostile)
        store.set_state("recall", 0, TrialState.FAILED, reason=FailureReason.ERROR, message=hostile)
        assert store.trial("recall", 0).message[:4] == hostile[:4]


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


class TestCandidates:
    def test_is_found_by_hash_or_prefix(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        one, two = candidate(digest="ab12" + "0" * 60), candidate(digest="ab13" + "f" * 60)
        for added in (one, two):
            store.add_trial("recall", added, sampler="random", seed=1)
        assert store.candidate(one.hash) == one
        assert store.candidate("AB13") == two

    def test_is_one_row_however_often_it_is_tried(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate
    ) -> None:
        for _ in range(3):
            store.add_trial("recall", candidate(), sampler="random", seed=1)
        assert store.candidate(candidate().hash[:8]) == candidate()

    @pytest.mark.parametrize(
        ("digits", "message"),
        [
            ("ab1", "4 or more hexadecimal digits"),
            ("wxyz", "4 or more hexadecimal digits"),
            ("%%%%", "4 or more hexadecimal digits"),
            ("ffff", "no candidate `ffff` in this store"),
            ("ab12", r"one of 2 \(ab120000, ab12ffff\); give more digits"),
        ],
    )
    def test_a_wrong_prefix(
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, digits: str, message: str
    ) -> None:
        for fill in "0f":
            store.add_trial("recall", candidate(digest="ab12" + fill * 60), sampler="random", seed=1)
        with pytest.raises(InvalidSetting, match=message):
            store.candidate(digits)

    def test_a_candidate_of_another_study(self, store: Store, study: StudyRecord, candidate: MakeCandidate) -> None:
        store.create_study("other", "{}", seed=0, space_json="{}", versions={})
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        with pytest.raises(InvalidSetting, match="in study `other`"):
            store.candidate(candidate().hash, study="other")
        with pytest.raises(UnknownStudy):
            store.candidate(candidate().hash, study="elsewhere")


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
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, report: MakeReport
    ) -> None:
        for number, state in enumerate((TrialState.STOPPED, TrialState.FAILED)):
            store.add_trial("recall", candidate(), sampler="random", seed=1)
            drive(store, number, state, report(number))
        assert store.cached_reports(candidate().hash, study.evaluation_digest) == ()

    def test_studies_without_digest_share_nothing(
        self, store: Store, candidate: MakeCandidate, report: MakeReport
    ) -> None:
        store.create_study("recall", "{}", seed=0, space_json="{}", versions={})
        store.add_trial("recall", candidate(), sampler="random", seed=1)
        drive(store, 0, TrialState.FINISHED, report())
        assert store.cached_reports(candidate().hash, "") == ()

    def test_the_digest_covers_every_setting_and_the_machine(self) -> None:
        usual = EvaluationSettings()
        other = EvaluationSettings(training=TrainingSettings(batch=32))
        digests = {evaluation_digest(usual, "cpu"), evaluation_digest(other, "cpu"), evaluation_digest(usual, "H100")}
        assert len(digests) == 3
        assert evaluation_digest(EvaluationSettings(), "cpu") in digests
        assert {len(digest) for digest in digests} == {64}


class TestEvents:
    def test_are_read_in_order_from_any_point(self, store: Store, study: StudyRecord, clock: Any) -> None:
        for number in range(5):
            clock.now += 1
            store.add_event("recall", Event(kind="note", message=f"{number}", rung=number))
        every = store.events("recall")
        assert [event.message for event in every] == ["0", "1", "2", "3", "4"]
        assert every[-1].time == clock.now
        assert store.events("recall", after=every[1].id) == every[2:]
        assert store.events("recall", after=every[1].id, limit=2) == every[2:4]
        assert store.events("recall", limit=2, newest=True) == every[3:]
        assert store.events("recall", after=every[-1].id) == []

    def test_belong_to_their_study(self, store: Store, study: StudyRecord) -> None:
        store.create_study("other", "{}", seed=0, space_json="{}", versions={})
        store.add_event("other", Event(kind="note"))
        assert store.events("recall") == []


def test_a_store_is_opened_where_it_is_used(store: Store) -> None:
    with pytest.raises(TypeError, match="send its URL"):
        pickle.dumps(store)


def test_closing_twice_is_allowed(store: Store) -> None:
    store.close()
    store.close()

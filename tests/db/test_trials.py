"""The contract of the store on every engine: trials and their states."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from hybridsearch.db.store import Store, StudyRecord
from hybridsearch.db.trials import TRANSITIONS
from hybridsearch.errors import FailureReason, InvalidSetting
from hybridsearch.trial import Candidate, Report, TrialState

MakeCandidate = Callable[..., Candidate]
MakeReport = Callable[..., Report]
Drive = Callable[[int, TrialState], None]


def reason_for(state: TrialState) -> FailureReason | None:
    return FailureReason.OUT_OF_MEMORY if state is TrialState.FAILED else None


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
        self, store: Store, study: StudyRecord, candidate: MakeCandidate, drive: Drive, report: MakeReport
    ) -> None:
        for number, state in enumerate(TrialState):
            store.add_trial("recall", candidate(number), sampler="random", seed=1)
            drive(number, state)
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
        self,
        store: Store,
        study: StudyRecord,
        candidate: MakeCandidate,
        report: MakeReport,
        old: TrialState,
        drive: Drive,
    ) -> None:
        for number, new in enumerate(TrialState):
            store.add_trial("recall", candidate(), sampler="random", seed=1)
            drive(number, old)
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

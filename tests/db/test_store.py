"""The contract of the store on every engine: studies, candidates, events."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from hybridsearch.db.store import Event, Store, StudyRecord
from hybridsearch.errors import InvalidSetting, UnknownStudy
from hybridsearch.trial import Candidate

MakeCandidate = Callable[..., Candidate]


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

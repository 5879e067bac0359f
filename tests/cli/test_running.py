"""What a search gets of the machine."""

import pytest
import torch

from hybridsearch.cli import running
from hybridsearch.settings import SearchSettings
from hybridsearch.workers import device


def settings(**changes: object) -> SearchSettings:
    return SearchSettings.model_validate({"space": "tiny", **changes})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose `auto` is a GPU."""
    monkeypatch.setattr(device, "choose", lambda name: torch.device("cuda"))


def test_trials_share_the_gpu_where_there_is_one(gpu: None) -> None:
    assert running.with_gpu(settings(), None).workers.gpus == running.GPU_SHARE


@pytest.mark.parametrize(
    "changes", [{"workers": {"gpus": 0}}, {"workers": {"gpus": 1}}, {"evaluation": {"device": "cpu"}}]
)
def test_what_the_settings_say_is_kept(gpu: None, changes: dict[str, object]) -> None:
    given = settings(**changes)
    assert running.with_gpu(given, None) == given


def test_nothing_is_assumed_of_a_cluster_or_a_machine_without_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert running.with_gpu(settings(), "auto") == settings()
    monkeypatch.setattr(device, "choose", lambda name: torch.device("cpu"))
    assert running.with_gpu(settings(), None) == settings()


def test_a_cluster_stays_out_of_the_result_cache_and_this_machine_is_described() -> None:
    assert running.machine(settings(), "auto") == ""
    assert '"device": "cpu"' in running.machine(settings(evaluation={"device": "cpu"}), None)

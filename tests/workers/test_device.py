import json
import os

import pytest
import torch

from hybridsearch.errors import InvalidSetting
from hybridsearch.workers import device


def test_the_machine_is_told_in_one_line_without_names_of_host_or_user() -> None:
    told = device.describe(torch.device("cpu"))
    facts = json.loads(told)
    assert "\n" not in told
    assert facts["torch"] == torch.__version__
    assert facts["cores"] == os.cpu_count()
    assert facts["cpu"]
    assert os.uname().nodename not in told


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose("auto") == device.choose("cuda") == torch.device("cuda")
    assert device.choose("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose("auto") == torch.device("cpu")
    with pytest.raises(InvalidSetting, match="PyTorch sees no GPU here"):
        device.choose("cuda")


def test_a_share_of_a_core_is_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        device.use_threads(0.5)
        assert torch.get_num_threads() == 1
        device.use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

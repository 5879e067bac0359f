"""BoTorch is an extra: without it one clear error, with it better proposals than chance."""

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from hybridsearch.control.launch import plan
from hybridsearch.control.places import places
from hybridsearch.errors import InvalidSetting
from hybridsearch.objectives import OBJECTIVES
from hybridsearch.search.history import History
from hybridsearch.search.samplers import SAMPLERS, Request, require
from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.space import Space
from hybridsearch.settings import SearchSettings
from hybridsearch.spec.architecture import Architecture

INSTALLED = find_spec("botorch") is not None
AXES = (OBJECTIVES["recall"], OBJECTIVES["decode_tokens_per_second"])


@pytest.mark.skipif(INSTALLED, reason="botorch is installed")
def test_without_botorch_the_extra_is_named_before_anything_runs(layers: Space, tmp_path: Path) -> None:
    said = r"needs BoTorch, which is not installed; run `pip install 'hybridsearch\[botorch\]'`"
    with pytest.raises(InvalidSetting, match=said):
        plan(
            SearchSettings(space="layers", sampler="qlognehvi"),
            catalog.document("layers", tmp_path),
            places(tmp_path, tracking="none"),
        )
    with pytest.raises(InvalidSetting, match=said):
        SAMPLERS["qlognehvi"](History(), Request(space=layers, objectives=AXES, seed=0, number=0))


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"qlognehvi"}))
def test_the_others_need_nothing(name: str) -> None:
    require(name)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # GPyTorch 1.15 on torch 2.13
@pytest.mark.skipif(not INSTALLED, reason="botorch is not installed")
def test_with_it_proposals_are_better_than_what_was_told(
    layers: Space, random_history: Callable[[int], History], gated_share: Callable[[Architecture], float]
) -> None:
    history = random_history(40)
    request = Request(space=layers, objectives=AXES, seed=0, number=40, count=6)
    seen = [o.score.values[0] for o in history.finished if o.score is not None]
    proposed = [gated_share(proposal.architecture) for proposal in SAMPLERS["qlognehvi"](history, request)]
    assert statistics.median(proposed) > statistics.median(seen)

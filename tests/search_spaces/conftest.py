"""Spaces small enough to be listed, and ways to write them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.space import Space

MENU = {
    "full": {"head_dim": 8},
    "gdn": {"kind": "gated_delta", "heads": 2, "head_dim": [4, 8]},
    "swa": {"kind": "sliding", "head_dim": 8, "window": 8},
}
SMALL: dict[str, dict[str, Any]] = {
    "free": {"depth": [1, 2, 3], "width": 16, "mixers": MENU},
    "pattern": {
        "depth": [2, 4],
        "width": 16,
        "mixers": MENU,
        "layers": {
            "pattern": {
                "ratio": ["3:1", "1:1", "1:0", "0:1"],
                "placement": ["uniform", "last", "scattered"],
                "linear": ["gdn", "swa"],
            }
        },
        "feed_forward": {"ratio": [1, 2]},
    },
    "both": {
        "depth": [2, 3],
        "width": 16,
        "mixers": MENU,
        "layers": {
            "free": ["full", "gdn"],
            "pattern": {"ratio": ["1:1", "2:1"], "placement": ["first", "middle", "ends"], "linear": "swa"},
            "not_last": "swa",
        },
    },
    "heads_and_tokens": {
        "depth": [1, 2],
        "width": 16,
        "mixers": {
            **MENU,
            "split": {"kind": "head_split", "of": [["full", "gdn"], ["full", "swa"]], "split": ["1:1"]},
            "route": {"kind": "token_route", "linear": "gdn", "chunk": [4, 8]},
        },
        "layers": {"free": ["gdn", "split", "route"]},
    },
    "constrained": {
        "depth": [2, 3],
        "width": [16, 24],
        "mixers": MENU,
        "layers": {"free": ["full", "gdn", "swa"], "not_first": ["full"], "not_adjacent": ["swa"]},
        "constraints": {
            "full_layers": {"minimum": 1, "maximum": 2},
            "state_bytes": {"context": 64, "maximum": 6000},
        },
    },
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> Space:
    """Each of the small spaces in turn."""
    return catalog.load(SMALL[request.param])


@pytest.fixture
def space_of() -> Callable[..., Space]:
    """Builds a space from one of the small ones with some top-level keys replaced."""

    def build(name: str = "free", **changes: Any) -> Space:
        return catalog.load({**SMALL[name], **changes})

    return build


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the text of a space into a file."""

    def write(text: str) -> Path:
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def menu() -> Mapping[str, Any]:
    """The menu that the small spaces share."""
    return MENU

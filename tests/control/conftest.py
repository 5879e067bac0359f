"""A tiny space, a fake evaluator with a known trade-off, and a search that runs in milliseconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridsearch.control.launch import plan
from hybridsearch.control.ledger import Ledger
from hybridsearch.control.loop import Controller, Plan
from hybridsearch.control.places import Places, places
from hybridsearch.db.store import Event, Store
from hybridsearch.reporting.reporter import NullReporter
from hybridsearch.settings import SearchSettings
from hybridsearch.spec import cost
from hybridsearch.spec.canonical import parse
from hybridsearch.trial import Evaluator, Job, Report
from hybridsearch.yaml_files import Document

SPACE = (Path(__file__).parents[1] / "small_space.yaml").read_text(encoding="utf-8")


def fake(job: Job) -> Iterator[Report]:
    """Full layers buy recall and cost throughput; numbers depend on the architecture alone."""
    architecture = parse(job.architecture)
    depth = len(architecture.layers)
    full = cost.full_layers(architecture)
    spread = int(job.hash[:4], 16) / 65536 * 1e-3
    for fidelity in job.rungs:
        recall = (0.2 + 0.7 * full / depth + spread) * (fidelity.steps / 100) ** 0.1
        yield Report(
            trial=job.trial,
            rung=fidelity.rung,
            steps=fidelity.steps,
            metrics={
                "recall": recall,
                "answer_loss": 5 * (1 - recall),
                "decode_tokens_per_second": 1e4 / (depth + 3 * full),
                "prefill_tokens_per_second": 1e5 / depth,
                "cache_bytes": 100.0 * full + 10,
            },
            seconds=1.0,
            device="fake",
        )


class Search:
    """A study in a temporary folder; `controller()` opens it anew, as a fresh process would."""

    def __init__(self, root: Path, **changes: object) -> None:
        data = {"study": "s", "space": "given", "budget": {"trials": 8}, **changes}
        data.setdefault("evaluation", {"rungs": {"steps": [25, 50, 100]}, "training": {"warmup": 0.1}})
        self.settings = SearchSettings.model_validate(data)
        self.places: Places = places(root, tracking="none")
        self.plan: Plan = plan(self.settings, Document(SPACE, "space.yaml"), self.places)
        self.store = Store.open(self.places.store)
        self.store.create_study("s", self.settings.model_dump_json(), seed=0, space_json="{}", versions={})
        self.events: list[Event] = []

    def controller(self, study: str = "s") -> Controller:
        """A controller on what the store holds now."""
        self.places.study(study).mkdir(parents=True, exist_ok=True)
        return Controller(self.plan, Ledger(self.store, study, self.settings, NullReporter(), self.events.append))


@pytest.fixture
def evaluator() -> Evaluator:
    """The fake evaluator."""
    return fake


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Makes searches; closes their stores."""
    made: list[Search] = []

    def build(**changes: object) -> Search:
        made.append(Search(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield build
    for search in made:
        search.store.close()

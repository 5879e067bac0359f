"""The table that comes with the benchmarks is what its datasheet says."""

from pathlib import Path

from hybridsearch.search.throughput import learn
from hybridsearch.search_spaces import catalog
from hybridsearch.spec.canonical import parse
from hybridsearch.tabular import parquet

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "benchmarks" / "tables" / "recall.parquet"


def test_the_shipped_table_holds_what_its_datasheet_says() -> None:
    table = parquet.read(SHIPPED)
    sheet = (ROOT / "docs" / "table.md").read_text()
    assert (len(table.candidates), len(table.runs)) == (655, 1_965)
    assert "655 of the 4,038" in sheet and "1,965 trainings" in sheet
    assert all(run.failure is None and len(run.reports) == 4 for run in table.runs)
    assert len(table.front().keys) == 11
    recalls = sorted(metrics["recall"] for metrics in table.finals().values())
    assert (round(recalls[0], 3), round(recalls[327], 3)) == (0.023, 0.993)
    steps = [run.seconds / 400 for run in table.runs]
    assert (round(min(steps), 3), round(max(steps), 3)) == (0.005, 0.066)


def test_its_candidates_lie_in_its_space() -> None:
    table = parquet.read(SHIPPED)
    space = catalog.load(table.about.space)
    assert space.size() == 4038
    assert not any(space.violations(parse(candidate.canonical)) for candidate in table.candidates.values())


def test_its_throughputs_are_foretold_as_the_documentation_says() -> None:
    table = parquet.read(SHIPPED)
    finals = table.finals()
    architectures = [parse(table.candidates[digest].canonical) for digest in finals]
    model = learn(architectures, [metrics["decode_tokens_per_second"] for metrics in finals.values()])
    assert model is not None
    assert (len(model.seconds), round(model.error.median, 3), round(model.error.most, 3)) == (9, 0.026, 0.062)
    documentation = (ROOT / "docs" / "search.md").read_text()
    assert "2.6 % at the median" in documentation
    assert "6.2 % in nine" in documentation

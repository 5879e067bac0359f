"""Raw records: two seeds become two runs, a broken one fails, a line cut short is passed over."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridsearch.errors import FailureReason, InvalidFile
from hybridsearch.tabular import records

Write = Callable[..., Path]


def test_records_become_runs_with_costs_and_quartiles(write_records: Write) -> None:
    table = records.read(write_records('{"hash": "cut sh'), {"torch": "2"}, "abc")
    assert (len(table.candidates), len(table.runs)) == (2, 4)
    run = table.runs[0]
    assert [report.seconds for report in run.reports] == [pytest.approx(10 * 0.02), pytest.approx(20 * 0.02)]
    last = run.reports[-1]
    assert last.metrics["recall"] == 0.5 and last.metrics["cache_bytes"] == 640.0
    assert last.metrics["decode_tokens_per_second"] == last.metrics["decode_tokens_per_second/4096x8"]
    assert (last.measurements[0].low, last.measurements[0].high) == (99.0, 105.0)
    assert "gpu" in last.device


def test_a_loss_that_is_no_number_is_a_failure_at_its_rung(write_records: Write) -> None:
    table = records.read(write_records(lost=math.nan), {}, "")
    assert {run.failure for run in table.runs} == {FailureReason.NOT_A_NUMBER}
    assert {len(run.reports) for run in table.runs} == {1}
    assert not table.finals()


def test_files_without_sense_are_refused(write_records: Write, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("[1]\n\nhello")
    with pytest.raises(InvalidFile, match="holds no records"):
        records.read(tmp_path / "empty.jsonl", {}, "")
    with pytest.raises(InvalidFile, match="cannot be read"):
        records.read(tmp_path / "none.jsonl", {}, "")
    with pytest.raises(InvalidFile, match="different spaces or settings"):
        records.read(write_records('{"header": 1, "space": {}, "evaluation": {}, "machine": {}}'), {}, "")
    with pytest.raises(InvalidFile, match="holds a record that cannot be read"):
        records.read(write_records('{"hash": "00", "architecture": "{}"}'), {}, "")

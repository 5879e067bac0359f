"""Tables as files: what is written comes back, and every bad file gets one clear line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridsearch.errors import InvalidFile, StoreUnavailable
from hybridsearch.tabular import parquet
from hybridsearch.tabular.table import Table

Change = Callable[[pa.Table], pa.Table]


def test_what_is_written_comes_back(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write(table, path)
    found = parquet.read(path)
    assert found.about == table.about
    assert found.candidates == table.candidates
    assert {(run.hash, run.seed): run for run in found.runs} == {(run.hash, run.seed): run for run in table.runs}
    parquet.write(found, path)
    assert parquet.read(path).about == table.about
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_the_file_explains_itself(table: Table, tmp_path: Path) -> None:
    parquet.write(table, tmp_path / "t.parquet")
    raw = pq.read_table(tmp_path / "t.parquet")
    about = json.loads(raw.schema.metadata[parquet.KEY])
    assert about["version"] == 1 and about["commit"] == "abc" and about["space"]["width"] == 64
    assert raw.num_rows == 10  # nine rungs and one failure
    assert {"metric/recall", "measurements", "seconds", "failure"} <= set(raw.schema.names)
    assert pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def metadata(**changes: object) -> Change:
    def change(raw: pa.Table) -> pa.Table:
        about = {**json.loads(raw.schema.metadata[parquet.KEY]), **changes}
        return raw.replace_schema_metadata({parquet.KEY: json.dumps(about).encode()})

    return change


def column(name: str, values: Callable[[list[object]], list[object]]) -> Change:
    def change(raw: pa.Table) -> pa.Table:
        place = raw.schema.get_field_index(name)
        kind = raw.schema.field(name).type
        return raw.set_column(place, name, pa.array(values(raw.column(name).to_pylist()), kind))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.replace_schema_metadata({}), "no table of hybridsearch"),
        (metadata(version=2), "version 2, this program reads version 1"),
        (metadata(evaluation={"rungs": {"steps": [9, 1]}}), "metadata that cannot be read"),
        (metadata(colour="red"), "metadata that cannot be read"),
        (lambda raw: raw.drop_columns(["seconds"]), "no column `seconds`"),
        (lambda raw: raw.set_column(7, "rung", pa.array(["a"] * len(raw))), "no column `rung`"),
        (column("architecture", lambda v: [v[0], *v[:-1]]), "damaged"),
        (column("architecture", lambda v: ["{}"] * len(v)), "damaged"),
        (column("metric/recall", lambda v: [float("nan"), *v[1:]]), "not finite"),
        (column("seconds", lambda v: [1.0 if s is None else -float(str(s)) for s in v]), "time runs back"),
        (column("rung", lambda v: [1, *v[1:]]), "damaged"),
        (column("failure", lambda v: ["bad luck" if f else None for f in v]), "damaged"),
        (column("hash", lambda v: [None, *v[1:]]), "damaged"),
    ],
)
def test_a_bad_table_is_refused(table: Table, tmp_path: Path, change: Change, said: str) -> None:
    path = tmp_path / "t.parquet"
    parquet.write(table, path)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(InvalidFile, match=said) as caught:
        parquet.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_parquet_are_refused(table: Table, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="is no file"):
        parquet.read(tmp_path / "none.parquet")
    with pytest.raises(InvalidFile, match="is no file"):
        parquet.read(tmp_path)
    whole = tmp_path / "t.parquet"
    parquet.write(table, whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    for name, content in (("empty.parquet", b""), ("text.parquet", b"hash,recall\n1,2\n")):
        (tmp_path / name).write_bytes(content)
    for name in ("cut", "empty", "text"):
        with pytest.raises(InvalidFile, match="is no Parquet file"):
            parquet.read(tmp_path / f"{name}.parquet")
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        parquet.write(replace(table), tmp_path / "no" / "t.parquet")

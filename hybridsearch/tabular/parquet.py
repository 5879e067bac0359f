"""A table as a Parquet file: one row a rung of a run, and what the numbers mean in the schema's metadata.

| column | |
|---|---|
| `hash`, `architecture`, `name` | SHA-256, canonical JSON and short name of the candidate |
| `parameters`, `state_bytes`, `flops_per_token` | counted |
| `seed` | of the run |
| `rung`, `steps` | fidelity; null in the row of a failure |
| `seconds` | from the start of training to this rung |
| `metric/NAME` | e.g. `metric/recall`, `metric/decode_tokens_per_second` |
| `measurements` | throughput: phase, context, batch, median, quartiles, repeats |
| `device`, `peak_bytes` | as reported |
| `failure`, `message` | why a run ended, in a row of its own after its last rung |

Only the file's own types are read: nothing in it can run code.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridsearch.errors import FailureReason, HybridSearchError, InvalidFile, StoreUnavailable
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.canonical import content_hash, parse
from hybridsearch.tabular.table import About, Run, Table
from hybridsearch.trial import Candidate, Measurement, Report

VERSION = 1
KEY = b"hybridsearch.table"
METRIC = "metric/"
MEASUREMENT = pa.struct(
    [
        ("phase", pa.string()),
        ("context", pa.int64()),
        ("batch", pa.int64()),
        ("tokens_per_second", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("repeats", pa.int64()),
    ]
)
COLUMNS = {
    "hash": pa.string(),
    "architecture": pa.string(),
    "name": pa.string(),
    "parameters": pa.int64(),
    "state_bytes": pa.int64(),
    "flops_per_token": pa.int64(),
    "seed": pa.int64(),
    "rung": pa.int32(),
    "steps": pa.int64(),
    "seconds": pa.float64(),
    "measurements": pa.list_(MEASUREMENT),
    "device": pa.string(),
    "peak_bytes": pa.int64(),
    "failure": pa.string(),
    "message": pa.string(),
}


def write(table: Table, path: Path) -> None:
    """Write a table, compressed with zstd; a file of that name is replaced as a whole.

    Raises:
        StoreUnavailable: the place cannot be written.
    """
    rows = [row for run in sorted(table.runs, key=lambda run: (run.hash, run.seed)) for row in _rows(table, run)]
    names = sorted({name for row in rows for name in row if name.startswith(METRIC)})
    fields = [*COLUMNS.items(), *((name, pa.float64()) for name in names)]
    schema = pa.schema(fields, metadata={KEY: json.dumps(_about_plain(table.about)).encode()})
    beside = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), beside, compression="zstd", compression_level=12)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StoreUnavailable(f"{path} cannot be written: {error.strerror or error}; choose another place") from None


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        InvalidFile: there is none, or it is no table that this program can read; the text says why.
    """
    try:
        data = pq.read_table(path, partitioning=None) if path.is_file() else None
    except (OSError, pa.ArrowException) as error:
        said = getattr(error, "strerror", None) or "or it is damaged"
        raise InvalidFile(f"{path} is no Parquet file ({said}); make one with `hybridsearch table build`") from None
    if data is None:
        raise InvalidFile(f"{path} is no file; make a table with `hybridsearch table build`")
    about = _about(path, data.schema.metadata or {})
    lacking = [
        name for name, kind in COLUMNS.items() if name not in data.schema.names or data.schema.field(name).type != kind
    ]
    if lacking:
        raise InvalidFile(
            f"{path} has no column `{lacking[0]}` of type {COLUMNS[lacking[0]]}; it is no table of version {VERSION}"
        )
    try:
        return _table(about, data.to_pylist())
    except (HybridSearchError, ValueError, TypeError) as error:
        raise InvalidFile(f"{path} is damaged: {error}") from None


def _rows(table: Table, run: Run) -> list[dict[str, Any]]:
    candidate = table.candidates[run.hash]
    shared = {
        "hash": candidate.hash,
        "architecture": candidate.canonical,
        "name": candidate.name,
        "parameters": candidate.parameters,
        "state_bytes": candidate.state_bytes,
        "flops_per_token": candidate.flops_per_token,
        "seed": run.seed,
    }
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for report in run.reports:
        seconds += report.seconds
        rows.append(
            {
                **shared,
                "rung": report.rung,
                "steps": report.steps,
                "seconds": seconds,
                "measurements": [asdict(measurement) for measurement in report.measurements],
                "device": report.device,
                "peak_bytes": report.peak_bytes,
                **{f"{METRIC}{name}": value for name, value in report.metrics.items()},
            }
        )
    if run.failure is not None:
        rows.append({**shared, "failure": run.failure.value, "message": run.message})
    return rows


def _table(about: About, rows: list[dict[str, Any]]) -> Table:
    candidates: dict[str, Candidate] = {}
    grouped: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        digest = row["hash"]
        if digest not in candidates:
            candidates[digest] = _candidate(row)
        elif row["architecture"] != candidates[digest].canonical:
            raise ValueError(f"candidate {digest[:8]} has two architectures")
        grouped[digest, row["seed"]].append(row)
    runs = [_run(digest, seed, own) for (digest, seed), own in grouped.items()]
    return Table(about=about, candidates=candidates, runs=tuple(runs))


def _candidate(row: Mapping[str, Any]) -> Candidate:
    if content_hash(parse(row["architecture"])) != row["hash"]:
        raise ValueError(f"candidate {row['hash'][:8]} is not the architecture beside it")
    names = ("hash", "name", "parameters", "state_bytes", "flops_per_token")
    return Candidate(canonical=row["architecture"], **{name: row[name] for name in names})


def _run(digest: str, seed: int, rows: list[dict[str, Any]]) -> Run:
    failed = [row for row in rows if row["failure"] is not None]
    reached = sorted((row for row in rows if row["failure"] is None), key=lambda row: row["rung"])
    before = [0.0, *(row["seconds"] for row in reached)]
    reports = [_report(row, row["seconds"] - earlier) for row, earlier in zip(reached, before, strict=False)]
    reason = FailureReason(failed[0]["failure"]) if failed else None
    message = failed[0]["message"] or "" if failed else ""
    return Run(hash=digest, seed=seed, reports=tuple(reports), failure=reason, message=message)


def _report(row: Mapping[str, Any], seconds: float) -> Report:
    metrics = {
        name.removeprefix(METRIC): value for name, value in row.items() if name.startswith(METRIC) and value is not None
    }
    if not all(math.isfinite(value) for value in (*metrics.values(), seconds)) or seconds < 0:
        raise ValueError(
            f"candidate {row['hash'][:8]} has a number at rung {row['rung']} that is not finite, or time runs back"
        )
    return Report(
        trial=0,
        rung=row["rung"],
        steps=row["steps"],
        metrics=metrics,
        measurements=tuple(Measurement(**measurement) for measurement in row["measurements"] or ()),
        seconds=seconds,
        device=row["device"] or "",
        peak_bytes=row["peak_bytes"] or 0,
    )


def _about_plain(about: About) -> dict[str, Any]:
    plain = {name: getattr(about, name) for name in About.__slots__}
    return {"version": VERSION, **plain, "evaluation": about.evaluation.model_dump(mode="json")}


def _about(path: Path, metadata: Mapping[bytes, bytes]) -> About:
    if KEY not in metadata:
        raise InvalidFile(
            f"{path} is a Parquet file, but no table of hybridsearch: its metadata has no {KEY.decode()!r}"
        )
    try:
        plain = json.loads(metadata[KEY])
        version = plain.pop("version")
        if version != VERSION:
            raise InvalidFile(f"{path} is a table of version {version}, this program reads version {VERSION}")
        evaluation = EvaluationSettings.model_validate(plain.pop("evaluation"))
        listed: dict[str, Any] = {name: tuple(plain.pop(name)) for name in ("objectives", "machines", "sources")}
        return About(evaluation=evaluation, **listed, **plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidFile(f"{path} has metadata that cannot be read: {str(error).splitlines()[0]}") from None

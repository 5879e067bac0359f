"""Raw records of `benchmarks/build_table.py`: lines of JSON, one an architecture, become a table."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridsearch.errors import FailureReason, HybridSearchError, InvalidFile
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec import cost
from hybridsearch.spec.canonical import content_hash, parse, readable_name
from hybridsearch.tabular.table import About, Run, Table
from hybridsearch.trial import Candidate, Fidelity, Measurement, Report

OBJECTIVES = ("recall", "decode_tokens_per_second")
SECONDS = "steps times the median time of a training step of this architecture, trained alone on the machine"


def read(path: Path, versions: Mapping[str, str], commit: str) -> Table:
    """The table of a file of records; a repeated one counts once.

    A line that a kill cut short is passed over, and so is what was trained and not measured.

    Raises:
        InvalidFile: it cannot be read, holds no records, or its runs had different settings.
    """
    try:
        found = list(_lines(path))
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror}; correct the path") from None
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path} is no file of records: not UTF-8 text (byte {error.start})") from None
    headers = [line for line in found if "header" in line]
    records = {line["hash"]: line for line in reversed(found) if "hash" in line}
    records = {digest: line for digest, line in records.items() if line.get("decode_tokens_per_second", ()) is not None}
    if not headers or not records:
        raise InvalidFile(f"{path} holds no records; they are made by benchmarks/build_table.py")
    if any((h["space"], h["evaluation"]) != (headers[0]["space"], headers[0]["evaluation"]) for h in headers):
        raise InvalidFile(f"{path} holds records of different spaces or settings; keep them in files of their own")
    try:
        evaluation = EvaluationSettings.model_validate(headers[0]["evaluation"])
        machines = tuple(dict.fromkeys(json.dumps(header["machine"], sort_keys=True) for header in headers))
        candidates = [_candidate(record, evaluation) for record in records.values()]
        runs = [run for record in records.values() for run in _runs(record, evaluation, machines[0])]
    except (HybridSearchError, KeyError, TypeError, ValueError) as error:
        raise InvalidFile(f"{path} holds a record that cannot be read: {error}") from None
    about = About(
        space=headers[0]["space"],
        evaluation=evaluation,
        objectives=OBJECTIVES,
        machines=machines,
        versions=versions,
        commit=commit,
        sources=(path.name,),
        seconds=SECONDS,
    )
    return Table(about=about, candidates={c.hash: c for c in candidates}, runs=tuple(runs))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _candidate(record: Mapping[str, Any], evaluation: EvaluationSettings) -> Candidate:
    architecture = parse(record["architecture"])
    if content_hash(architecture) != record["hash"]:
        raise ValueError(f"{record['hash'][:8]} is not the architecture beside it")
    context = evaluation.throughput.contexts[-1]
    return Candidate(
        hash=record["hash"],
        canonical=record["architecture"],
        name=readable_name(architecture),
        parameters=cost.parameters(architecture),
        state_bytes=cost.state_bytes(architecture, context),
        flops_per_token=cost.flops_per_token(architecture, context),
    )


def _runs(record: Mapping[str, Any], evaluation: EvaluationSettings, device: str) -> Iterator[Run]:
    """The runs of all seeds; one ends at the first rung whose loss is no number."""
    measured = _measured(record, evaluation)
    extra = {name: float(record[name]) for name in ("cache_bytes", "softmax_share") if record[name] is not None}
    extra |= {measured.key: measured.tokens_per_second, "decode_tokens_per_second": measured.tokens_per_second}
    step_seconds = record["train_step_seconds"][1]
    by_seed: Sequence[Sequence[Mapping[str, float]]] = list(zip(*record["scores"], strict=True))
    for seed, scores in enumerate(by_seed):
        reports: list[Report] = []
        before = 0
        failed = False
        for fidelity, metrics in zip(evaluation.rungs.ladder, scores, strict=True):
            failed = not all(math.isfinite(value) for value in metrics.values())
            if failed:
                break
            seconds = (fidelity.steps - before) * step_seconds
            reports.append(_report(fidelity, {**metrics, **extra}, measured, seconds, device))
            before = fidelity.steps
        yield Run(
            hash=record["hash"],
            seed=seed,
            reports=tuple(reports),
            failure=FailureReason.NOT_A_NUMBER if failed else None,
            message=f"the loss was no number at rung {len(reports)}" if failed else "",
        )


def _measured(record: Mapping[str, Any], evaluation: EvaluationSettings) -> Measurement:
    low, middle, high = record["decode_tokens_per_second"]
    return Measurement(
        phase="decode",
        context=evaluation.throughput.contexts[-1],
        batch=evaluation.throughput.batches[-1],
        tokens_per_second=middle,
        low=low,
        high=high,
        repeats=record.get("repeats", evaluation.throughput.repeats),
    )


def _report(
    fidelity: Fidelity, metrics: Mapping[str, float], measured: Measurement, seconds: float, device: str
) -> Report:
    return Report(
        trial=0,
        rung=fidelity.rung,
        steps=fidelity.steps,
        metrics=metrics,
        measurements=(measured,),
        seconds=seconds,
        device=device,
    )

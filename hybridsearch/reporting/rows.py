"""Records as the flat names and values that MLflow keeps: parameters, metrics, tags, tables."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hybridsearch.errors import InvalidFile
from hybridsearch.objectives import Objective
from hybridsearch.reporting.points import Point, spreads
from hybridsearch.reporting.wording import describe_layers
from hybridsearch.trial import Candidate, Report
from hybridsearch.yaml_files import Document

LONGEST = 500
"""Characters of a parameter or tag; the full text is always in an artifact."""


def candidate_parameters(candidate: Candidate) -> dict[str, str]:
    """What an architecture is and costs, one entry a layer."""
    architecture = json.loads(candidate.canonical)
    layers = describe_layers(architecture)
    named = {f"layer.{number:02d}": text[:LONGEST] for number, text in enumerate(layers, start=1)}
    return {
        "name": candidate.name[:LONGEST],
        "hash": candidate.hash,
        "width": str(architecture["width"]),
        "depth": str(len(layers)),
        "parameters": str(candidate.parameters),
        "state_bytes": str(candidate.state_bytes),
        "flops_per_token": str(candidate.flops_per_token),
        **named,
    }


def report_metrics(report: Report) -> dict[str, float]:
    """A report's metrics, with `.low` and `.high` beside those whose spread is known."""
    metrics = {"seconds": report.seconds, "peak_bytes": float(report.peak_bytes)}
    for name, spread in spreads([report]).items():
        metrics[name] = spread.value
        if spread.count > 1:
            metrics[f"{name}.low"] = spread.low
            metrics[f"{name}.high"] = spread.high
    return metrics


def settings_parameters(settings_yaml: str) -> dict[str, str]:
    """Resolved settings with dotted names; lists as JSON, a space given in full left out."""
    return {
        name: str(value)[:LONGEST]
        for name, value in _flat(_plain(settings_yaml), "")
        if not name.startswith("space.") and value not in ("", None)
    }


def task_digest(settings_yaml: str) -> tuple[str, str, str]:
    """Name, digest and full settings (JSON) of the task that the search trains on."""
    evaluation = _plain(settings_yaml).get("evaluation")
    task = evaluation.get("task") if isinstance(evaluation, dict) else None
    text = json.dumps(task or {}, sort_keys=True)
    name = str(task.get("name", "task")) if isinstance(task, dict) else "task"
    return name, hashlib.sha256(text.encode()).hexdigest()[:16], text


def front_table(points: Sequence[Point], objectives: Sequence[Objective]) -> dict[str, list[Any]]:
    """The front and the controls as a table, best first objective on top, in the form of MLflow's tables."""
    names = [objective.name for objective in objectives]
    columns = ["trial", "control", "on_front", "name", "hash"]
    columns += [f"{name}{part}" for name in names for part in ("", ".low", ".high")]
    columns += ["parameters", "state_bytes", "flops_per_token"]
    shown = [p for p in points if (p.on_front or p.control) and all(name in p.metrics for name in names)]
    sign = -1.0 if objectives[0].direction == "maximize" else 1.0
    shown.sort(key=lambda p: (sign * p.metrics[names[0]].value, p.trial))
    data = [
        [p.trial, p.control or "", p.on_front, p.name, p.hash]
        + [value for name in names for s in (p.metrics[name],) for value in (s.value, s.low, s.high)]
        + [p.parameters, p.state_bytes, p.flops_per_token]
        for p in shown
    ]
    return {"columns": columns, "data": data}


def _plain(settings_yaml: str) -> dict[str, Any]:
    try:
        return Document(settings_yaml, "settings").data
    except InvalidFile:
        return {}


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(inner) if isinstance(inner, list | tuple) else inner

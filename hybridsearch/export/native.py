"""An architecture as a YAML file: the description itself, what it costs, where it comes from, and how to use it.

Only the description is needed to read a file back; the rest is checked for its form and otherwise believed, but for
the hash, which must be that of the description.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hybridsearch import __version__, yaml_files
from hybridsearch.errors import InvalidFile, StoreUnavailable
from hybridsearch.reporting.points import Point, Spread
from hybridsearch.spec import canonical, cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.mixers import Description

CONTEXT = 4096
"""Tokens at which decode memory and FLOPs are counted if nothing else is asked for."""
MARK = ": an architecture of hybridsearch"
"""In the first line of every file."""


class Counts(Description):
    """What the architecture costs, by counting."""

    context: int
    """Tokens in memory for the next two."""
    state_bytes: int
    """Decode memory of one sequence."""
    flops_per_token: int
    """Of one decoded token; with the output head if `vocabulary` is given."""
    parameters: int
    """Without embedding and output head."""
    full_layers: int
    vocabulary: int | None = None
    parameters_with_vocabulary: int | None = None


class Provenance(Description):
    """Where the architecture and its numbers come from."""

    study: str = ""
    trial: int | None = None
    control: str | None = None
    settings_digest: str | None = None
    """SHA-256 of the evaluation settings: numbers of equal digests can be compared."""
    device: str = ""
    """Machine that the throughput was measured on."""
    versions: dict[str, str] | None = None


class Number(Description):
    """A measured value with its range over seeds or timed repeats."""

    value: float
    low: float
    high: float
    count: int = 1


class Exported(Description):
    """A whole file."""

    format: Literal[1] = 1
    name: str | None = None
    hash: str | None = None
    provenance: Provenance | None = None
    counts: Counts | None = None
    metrics: dict[str, Number] | None = None
    architecture: Architecture


def text(
    architecture: Architecture,
    *,
    vocabulary: int | None = None,
    context: int = CONTEXT,
    provenance: Provenance | None = None,
    metrics: Mapping[str, Spread] | None = None,
) -> str:
    """The file's content. Equal arguments give equal text."""
    provenance = provenance or Provenance()
    counted = Counts(
        context=context,
        state_bytes=cost.state_bytes(architecture, context),
        flops_per_token=cost.flops_per_token(architecture, context, vocabulary),
        parameters=cost.parameters(architecture),
        full_layers=cost.full_layers(architecture),
        vocabulary=vocabulary,
        parameters_with_vocabulary=None if vocabulary is None else cost.parameters(architecture, vocabulary),
    )
    data = {
        "format": 1,
        "name": canonical.readable_name(architecture),
        "hash": canonical.content_hash(architecture),
        "provenance": _without_empty(provenance.model_dump(mode="json")),
        "counts": counted.model_dump(mode="json", exclude_none=True),
        "metrics": {name: _number(spread) for name, spread in sorted((metrics or {}).items())},
        # Twice through JSON: equal layers are equal objects otherwise, which YAML would write as references.
        "architecture": json.loads(architecture.model_dump_json()),
    }
    return _header(data["name"], provenance) + yaml_files.dump(data)


def text_of_point(
    point: Point,
    *,
    study: str,
    vocabulary: int | None = None,
    context: int = CONTEXT,
    settings_digest: str | None = None,
    device: str = "",
    versions: Mapping[str, str] | None = None,
) -> str:
    """The file's content for a finished trial of a study, with its measured numbers."""
    provenance = Provenance(
        study=study,
        trial=point.trial,
        control=point.control,
        settings_digest=settings_digest,
        device=device,
        versions=dict(versions) if versions else None,
    )
    architecture = canonical.parse(point.canonical)
    return text(architecture, vocabulary=vocabulary, context=context, provenance=provenance, metrics=point.metrics)


def write(path: Path, content: str) -> None:
    """Write a file whole or not at all; folders are made.

    Raises:
        StoreUnavailable: the folder is read-only or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(content, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise StoreUnavailable(f"{path} cannot be written: {error.strerror}; choose another place") from None


def is_foreign(path: Path) -> bool:
    """Whether a file is there that is none of this module's."""
    try:
        with path.open("rb") as file:
            return MARK.encode() not in file.readline()
    except OSError:
        return False


def read(path: Path) -> Architecture:
    """The architecture of a file written by `write`, or of a bare description (`width` and `layers` on top).

    Raises:
        InvalidFile: the file is missing, breaks its schema, or its hash is not that of its architecture; file, line
            and key are in the text.
    """
    return of(yaml_files.read(path))


def of(document: yaml_files.Document) -> Architecture:
    """The architecture of a file that is read already.

    Raises:
        InvalidFile: as for `read`.
    """
    if "architecture" not in document.data and "layers" in document.data:
        return document.validate(Architecture)
    return _checked(document).architecture


def read_all(path: Path) -> Exported:
    """Everything in a file written by `write`.

    Raises:
        InvalidFile: as for `read`.
    """
    return _checked(yaml_files.read(path))


def _checked(document: yaml_files.Document) -> Exported:
    exported = document.validate(Exported)
    found = canonical.content_hash(exported.architecture)
    if exported.hash is not None and exported.hash != found:
        raise InvalidFile(
            f"{document.source}, line {document.line(('hash',))}: `hash`: {exported.hash[:8]} is not the hash of this "
            f"architecture, {found[:8]}; if it was changed on purpose, delete the hash and the numbers measured before"
        )
    return exported


def _header(name: str, provenance: Provenance) -> str:
    origin = f", study {provenance.study}" if provenance.study else ""
    origin += f", trial {provenance.trial}" if provenance.trial is not None else ""
    lines = (
        f"{name}{MARK} {__version__}{origin}",
        "Train it on text:  hybridsearch train THIS_FILE --data book.txt",
        "In Python:         architecture = hybridsearch.export.native.read(Path('THIS_FILE'))",
        "                   model = hybridsearch.models.build.build(architecture, vocabulary=256)",
    )
    return "".join(f"# {line}\n" for line in lines)


def _number(spread: Spread) -> dict[str, float | int]:
    """Six digits: more than any measurement here has."""
    rounded = {key: float(f"{getattr(spread, key):.6g}") for key in ("value", "low", "high")}
    return {**rounded, "count": spread.count}


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "")}

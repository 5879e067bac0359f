"""Canonical JSON, content hash and short readable name: same architecture, same text, same hash, same row."""

import hashlib
import json
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hybridsearch.errors import InvalidArchitecture
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.combinators import HeadSplit, Mixer

_MIXER: TypeAdapter[Mixer] = TypeAdapter(Mixer)

SHORT_KINDS = {
    "full": "full",
    "sliding": "swa",
    "gated_delta": "gdn",
    "delta": "delta",
    "gated_linear": "gla",
    "kimi_delta": "kda",
    "hgrn": "hgrn",
    "token_route": "route",
    "head_split": "split",
}

SAME_AS = {"kv_heads": "heads", "value_heads": "heads", "value_head_dim": "head_dim"}
"""Fields that may be left out, and the field whose value they then take."""


def canonical_json(architecture: Architecture) -> str:
    """Compact JSON: sorted keys, every default written out, sizes that follow from others as null, branches sorted."""
    return _compact(_canonical(architecture.model_dump(mode="json")))


def content_hash(architecture: Architecture) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(architecture).encode()).hexdigest()


def parse(text: str) -> Architecture:
    """An architecture from its (canonical) JSON.

    Raises:
        InvalidArchitecture: the text is no JSON of an architecture.
    """
    try:
        return Architecture.model_validate_json(text)
    except ValidationError as error:
        raise InvalidArchitecture(_explain(error)) from None


def parse_mixer(data: Mapping[str, Any]) -> Mixer:
    """A mixer from plain values, the branches of a head split in canonical order.

    Raises:
        InvalidArchitecture: the values describe no mixer, or do not fit each other.
    """
    try:
        mixer = _MIXER.validate_python(data)
        return _MIXER.validate_python(_canonical(mixer.model_dump(mode="json")))
    except ValidationError as error:
        raise InvalidArchitecture(_explain(error)) from None


def readable_name(architecture: Architecture) -> str:
    """Runs of mixers in depth order and the first hash digits, e.g. `gdn3.full1-3f9a01bc`."""
    runs = [(kind, len(list(run))) for kind, run in groupby(_kind(layer.mixer) for layer in architecture.layers)]
    pattern = ".".join(f"{kind}{length}" for kind, length in runs)
    return f"{pattern}-{content_hash(architecture)[:8]}"


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "(top)"
    return f"`{where}`: {first['msg'].removeprefix('Value error, ')}"


def _kind(mixer: Mixer) -> str:
    if isinstance(mixer, HeadSplit):
        return "(" + "+".join(sorted(f"{_kind(b)}{_heads(b)}" for b in mixer.branches)) + ")"
    return SHORT_KINDS[mixer.kind]


def _heads(mixer: Any) -> int:
    return int(mixer.softmax.heads if mixer.kind == "token_route" else mixer.heads)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {key: _canonical(item) for key, item in value.items()}
        for field, meaning in SAME_AS.items():
            if inner.get(field) is not None and inner[field] == inner.get(meaning):
                inner[field] = None
        if inner.get("kind") == "head_split":
            inner["branches"] = sorted(inner["branches"], key=_compact)
        return inner
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

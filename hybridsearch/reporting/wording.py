"""Architectures and numbers in words, for hover texts, run parameters and cards."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

LABELS = {
    "recall": "recall",
    "answer_loss": "loss at answers (nats)",
    "decode_tokens_per_second": "decode throughput (tokens/s)",
    "prefill_tokens_per_second": "prefill throughput (tokens/s)",
    "cache_bytes": "decode memory (bytes per sequence)",
}
KINDS = {
    "full": "full attention",
    "sliding": "sliding window",
    "gated_delta": "gated delta",
    "delta": "delta",
    "gated_linear": "gated linear",
    "kimi_delta": "Kimi delta",
    "hgrn": "HGRN",
}


def label(metric: str) -> str:
    """A metric's name with its unit, as written beside an axis."""
    return LABELS.get(metric, metric)


def describe_mixer(mixer: Mapping[str, Any]) -> str:
    """A mixer from its plain (JSON) form, e.g. `gated delta 4x16` (heads x key size)."""
    if mixer["kind"] == "head_split":
        return "heads side by side: " + " + ".join(describe_mixer(branch) for branch in mixer["branches"])
    if mixer["kind"] == "token_route":
        branches = f"{describe_mixer(mixer['softmax'])} | {describe_mixer(mixer['linear'])}"
        return f"tokens routed ({mixer['routing']}, chunks of {mixer['chunk']}): {branches}"
    text = f"{KINDS.get(mixer['kind'], mixer['kind'])} {mixer['heads']}x{mixer['head_dim']}"
    if mixer.get("kv_heads") and mixer["kv_heads"] != mixer["heads"]:
        text += f", {mixer['kv_heads']} kv heads"
    if mixer.get("window"):
        text += f", window {mixer['window']}"
    return text


def describe_layers(architecture: Mapping[str, Any]) -> list[str]:
    """One text a layer of an architecture in plain form, mixer then feed-forward."""
    return [
        describe_mixer(layer["mixer"]) + (f"; feed-forward {layer['feed_forward']}" if layer["feed_forward"] else "")
        for layer in architecture["layers"]
    ]


def runs(texts: Sequence[str]) -> list[tuple[int, int, str]]:
    """Equal neighbours joined, as (first, last, text), counted from 1."""
    joined: list[tuple[int, int, str]] = []
    position = 1
    for text, group in groupby(texts):
        length = len(list(group))
        joined.append((position, position + length - 1, text))
        position += length
    return joined


def amount(value: float) -> str:
    """A number with three digits and a thousands prefix, e.g. `12.3k`, `4.5M`; small ones as they are."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"

"""Decode throughput on a GPU, replayed as a CUDA graph as `hybridsearch` measures it, and launch by launch.

    python benchmarks/decode_graphs.py --spaces tiny layers --output benchmarks/results/decode_graphs.json

The three controls of each space (full attention, one linear mixer, their 3:1 mix) are measured in bfloat16, their
repeats taking turns; first all of them from graphs, then all without.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernel_cases.machine import machine

from hybridsearch.search_spaces import catalog
from hybridsearch.search_spaces.controls import controls
from hybridsearch.settings import ThroughputSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.training import meter
from hybridsearch.workers.bench import bench

SETTINGS = ThroughputSettings(contexts=(4096, 16384), batches=(1, 16), decode_tokens=16, repeats=7)
VOCABULARY = 8192


def measured(architectures: Mapping[str, Architecture]) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Medians and quartiles of decoding by control, context and batch."""
    found = bench(list(architectures.values()), SETTINGS, vocabulary=VOCABULARY, device="cuda", precision="bfloat16")
    return {
        (name, m.context, m.batch): asdict(m)
        for name, throughput in zip(architectures, found, strict=True)
        for m in throughput.measurements
        if m.phase == "decode"
    }


def compared(space: str) -> list[dict[str, Any]]:
    """A row for every control and shape of a space."""
    architectures = dict(controls(catalog.load(space)))
    graphs = measured(architectures)
    capture = meter.captured
    meter.captured = lambda *_, **__: None  # what the meter is told where there is no GPU
    try:
        launches = measured(architectures)
    finally:
        meter.captured = capture
    return [
        {
            "space": space,
            "control": name,
            "context": context,
            "batch": batch,
            "graph": graphs[name, context, batch],
            "launches": launches[name, context, batch],
        }
        for name, context, batch in graphs
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", default=["tiny", "layers"])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for space in options.spaces for row in compared(space)]
    record = {"machine": machine(), "unit": "tokens a second", "rows": rows}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        shape = f"{row['space']:8} {row['control']:13} {row['context']:6} x {row['batch']:2}"
        graph, launches = (row[kind]["tokens_per_second"] for kind in ("graph", "launches"))
        sys.stdout.write(f"{shape} {graph:10,.0f} {launches:10,.0f}  {graph / launches:4.1f}x\n")


if __name__ == "__main__":
    main()

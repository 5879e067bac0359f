"""Hypervolume over GPU-seconds, for `search_on_table.py`: quartiles over the seeds, and their figure."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHARE = 0.95
"""Of the best hypervolume: when a search has arrived."""
POINTS = 80
"""Of a curve."""


def curve(
    seeds: Sequence[Sequence[tuple[float, float]]], workers: int, budget_seconds: float
) -> dict[str, list[float]]:
    """Quartiles of the share over the seeds, at GPU-seconds that rise by equal factors."""
    points = [budget_seconds * 200 ** (step / POINTS - 1) for step in range(POINTS + 1)]
    rows: dict[str, list[float]] = {"gpu_seconds": [], "low": [], "median": [], "high": []}
    for point in points:
        shares = [max((share for when, share in steps if when <= point), default=0.0) for steps in seeds]
        low, middle, high = statistics.quantiles(shares, n=4, method="inclusive")
        for key, value in zip(rows, (point * workers, low, middle, high), strict=True):
            rows[key].append(round(value, 4))
    return rows


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Median share of the hypervolume over GPU-seconds, with quartiles."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
    for name, result in results.items():
        rows = result["curve"]
        (line,) = axes.plot(rows["gpu_seconds"], rows["median"], label=name)
        axes.fill_between(
            rows["gpu_seconds"], rows["low"], rows["high"], alpha=0.15, color=line.get_color(), linewidth=0
        )
    axes.axhline(SHARE, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="simulated GPU-seconds", ylabel="share of the best hypervolume", ylim=(0.5, 1.01))
    axes.set_xlim(left=max(result["curve"]["gpu_seconds"][-1] for result in results.values()) / 60)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=130)

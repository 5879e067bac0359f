"""All figures of a study as files: what MLflow keeps beside the study and what `pareto` writes into a folder."""

from collections.abc import Sequence

from hybridsearch.objectives import Objective
from hybridsearch.reporting.plots import interactive, still
from hybridsearch.reporting.points import Point, Progress


def figure_files(
    study: str, points: Sequence[Point], objectives: Sequence[Objective], progress: Sequence[Progress]
) -> dict[str, bytes]:
    """File name -> content: `front.html` (all figures on one page), `front.png`, `hypervolume.png`, `difficulties.png`.

    The first objective is drawn upwards, the second to the right. With more objectives the front is not a line in
    this picture: its members are those of the whole front.
    """
    y, x = objectives[0], objectives[1]
    titles = (
        f"{study}: front after {len(points)} finished trials",
        f"{study}: progress",
        f"{study}: recall by difficulty",
    )
    page = interactive.page(
        study,
        {
            "front": interactive.front(points, x, y, titles[0]),
            "hypervolume": interactive.hypervolume(progress, titles[1]),
            "difficulties": interactive.difficulties(points, titles[2]),
        },
    )
    return {
        "front.html": page.encode(),
        "front.png": still.front(points, x, y, titles[0]),
        "hypervolume.png": still.hypervolume(progress, titles[1]),
        "difficulties.png": still.difficulties(points, titles[2]),
    }

"""The house rules: imports point down, each heavy library has one door, files stay short, the five links hold."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "search_spaces", "workers", "cli", "db")
FOLDERS = ("hybridsearch", *LINKED)
MODULES = tuple(
    path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if "/versions/" not in path.as_posix()
)

WORDS = ("errors", "seeds", "yaml_files", "objectives", "trial", "settings")
"""Row 0, in order: each may import only those to its left."""
ROWS = (
    WORDS,
    ("spec", "pareto", "tasks", "kernels"),
    ("search_spaces", "models", "db", "reporting", "tabular"),
    ("search", "training", "export"),
    ("workers",),
    ("control",),
    ("cli",),
)
RANK = {part: rank for rank, parts in enumerate(ROWS) for part in parts}
DOORS = {
    "triton": ("kernels",),
    "torch": ("kernels", "models", "tasks", "training", "workers", "export/huggingface", "search/botorch_sampler"),
    "botorch": ("search/botorch_sampler",),
    "gpytorch": ("search/botorch_sampler",),
    "optuna": ("search/optuna_samplers",),
    "ray": ("control/ray_cluster", "control/ray_tune", "workers/trainable"),
    "sqlalchemy": ("db",),
    "alembic": ("db",),
    "mlflow": ("reporting/mlflow_runs",),
    "plotly": ("reporting/plots",),
    "matplotlib": ("reporting/plots",),
    "transformers": ("export/huggingface",),
    "tokenizers": ("tasks/text",),
    "safetensors": ("training", "workers/checkpoint"),
    "pyarrow": ("tabular",),
    "typer": ("cli",),
    "rich": ("cli",),
    "yaml": ("yaml_files",),
    "pydantic": ("spec", "search_spaces/space", "settings", "yaml_files"),
}
UNSAFE = ("pickle", "dill", "cloudpickle", "shelve", "marshal")


def imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(module: Path) -> str:
    """`search/scheduler` for hybridsearch/search/scheduler.py, `cli/main` for cli/main.py."""
    parts = module.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[1:] if parts[0] == "hybridsearch" else parts)


def may_import(here: str, there: str) -> bool:
    """Whether the part `here` may import the part `there`, both named by their first folder or module."""
    if here == there or here not in RANK or there not in RANK:
        return True
    if RANK[here] == RANK[there] == 0:
        return WORDS.index(there) < WORDS.index(here)
    return RANK[there] < RANK[here]


def names(module: Path) -> list[object]:
    return [pytest.param(module, id=place(module))]


@pytest.mark.parametrize("module", [parameter for module in MODULES for parameter in names(module)])
def test_imports_point_down_and_go_through_the_doors(module: Path) -> None:
    here = place(module)
    for name in imported(module):
        library, _, rest = name.partition(".")
        if library == "hybridsearch" and rest:
            there = rest.split(".")[0]
            assert may_import(here.split("/")[0], there), f"{here} may not import {there}"
        if library in DOORS:
            allowed = any(here == door or here.startswith(f"{door}/") for door in DOORS[library])
            assert allowed, f"{here} imports {library}; only {DOORS[library]} may"
        assert library not in UNSAFE, f"{here} imports {library}, which runs code from data"
        assert library not in LINKED, f"{here} imports {library}; write hybridsearch.{library}"


def test_the_rule_itself_refuses_upward_and_sideways_imports() -> None:
    assert may_import("control", "search")
    assert not may_import("search", "control")
    assert not may_import("search", "training")
    assert not may_import("errors", "trial")
    assert may_import("trial", "errors")


def test_every_part_has_a_row() -> None:
    parts = {place(module).split("/")[0] for module in MODULES} - {"__init__", "__main__"}
    assert parts <= set(RANK)


@pytest.mark.parametrize("module", [parameter for module in MODULES for parameter in names(module)])
def test_files_stay_readable(module: Path) -> None:
    limit = 500 if place(module).startswith("kernels/") else 300
    assert len(module.read_text().splitlines()) <= limit


def test_every_folder_is_linked_and_shadows_nothing() -> None:
    for folder in LINKED:
        assert (ROOT / "hybridsearch" / folder).is_symlink()
        assert (ROOT / "hybridsearch" / folder).resolve() == ROOT / folder
        assert not list((ROOT / folder).rglob("__init__.py"))


def test_the_version_is_said_once() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{declared}"' in (ROOT / "hybridsearch" / "__init__.py").read_text()

"""`hybridsearch doctor`: whether this machine can search, what will be used, and what to do about what is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from hybridsearch.cli import session, show
from hybridsearch.cli.session import Session
from hybridsearch.cli.show import Column, Format, FormatOption
from hybridsearch.errors import HybridSearchError

EXAMPLES = show.examples("hybridsearch doctor", "hybridsearch doctor --root /data/runs --format json")
FAILED = 2
LEAST_FREE = 1e9
"""Bytes: a hundred trials with checkpoints of a few megabytes."""
ANSWER_SECONDS = 5.0
Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    what: str
    found: str
    remedy: str = ""


def doctor(context: typer.Context, form: FormatOption = Format.TABLE) -> None:
    """Check Python, the libraries, the GPU and its kernels, the store, MLflow and the folders. Nothing is changed."""
    place = session.of(context)
    found = [finding for check in CHECKS for finding in _careful(check, place)]
    columns = (Column("level", ""), Column("what", ""), Column("found", ""), Column("remedy", ""))
    if form is Format.TABLE:
        _show(found)
    else:
        show.listing([asdict(finding) for finding in found], columns, form)
    if any(finding.level == "fail" for finding in found):
        raise typer.Exit(FAILED)


def _show(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for finding in found:
        remedy = f"\n-> {finding.remedy}" if finding.remedy else ""
        drawn.add_row(Text(finding.level, style=styles[finding.level]), finding.what, finding.found + remedy)
    show.put(drawn)


def _careful(check: "Check", place: Session) -> Iterator[Finding]:
    """A check's findings; what it stumbles over is a finding too."""
    try:
        yield from check(place)
    except HybridSearchError as error:
        yield Finding("fail", check.__name__.strip("_"), str(error))
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Finding("fail", check.__name__.strip("_"), text, "install hybridsearch again: `make install`")


def _python(place: Session) -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")


def _libraries(place: Session) -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version  # 40 ms that no other verb needs

    for name in ("torch", "ray", "optuna", "mlflow", "sqlalchemy"):
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("fail", name, "not installed", f"pip install {name}")
    try:
        yield Finding("ok", "triton", version("triton"))
    except PackageNotFoundError:
        yield Finding("warn", "triton", "not installed: PyTorch serves instead", "pip install triton")


def _ray(place: Session) -> Iterator[Finding]:
    from hybridsearch.control import ray_tune

    yield Finding("ok", "ray tune", f"imports; {ray_tune.__name__} is ready")


def _machine(place: Session) -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding("ok", "machine", f"{os.cpu_count()} cores, {memory:.0f} GB memory")


def _gpu(place: Session) -> Iterator[Finding]:
    import json

    from hybridsearch.workers import device

    chosen = device.choose("auto")
    facts = json.loads(device.describe(chosen))
    if chosen.type == "cuda":
        yield Finding("ok", "gpu", f"{facts['gpu']}, {facts['gpu_bytes'] / 1e9:.0f} GB, CUDA {facts['cuda']}")
    elif shutil.which("nvidia-smi"):
        remedy = "install a CUDA build of torch, or check `nvidia-smi`"
        yield Finding("warn", "gpu", f"nvidia-smi is here, but torch {facts['torch']} sees no GPU", remedy)
    else:
        yield Finding("ok", "gpu", f"none: everything runs on the CPU ({facts['cpu']})")


def _kernels(place: Session) -> Iterator[Finding]:
    from hybridsearch.kernels import dispatch
    from hybridsearch.workers import device

    for operation, name, why in dispatch.describe(device.choose("auto")):
        yield Finding("ok", operation.replace("_", " "), f"{name} ({why})")


def _folder(place: Session) -> Iterator[Finding]:
    folder = place.folder
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        yield Finding("fail", "folder", f"{nearest} cannot be written", "choose another with --root")
        return
    free = shutil.disk_usage(nearest).free
    state = "" if nearest == folder else " (a search makes it)"
    enough = free >= LEAST_FREE
    remedy = "" if enough else "free some space, or choose another with --root"
    yield Finding("ok" if enough else "warn", "folder", f"{folder}{state}, {free / 1e9:.0f} GB free", remedy)


def _store(place: Session) -> Iterator[Finding]:
    url = place.store_url
    path = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if path is not None and not path.exists():
        yield Finding("ok", "store", f"{url}: none yet, a search makes it")
        return
    with place.open_store() as store:
        count = len(store.studies())
        yield Finding("ok", "store", f"{store.url}: {count} studies, its schema fits this program")


def _mlflow(place: Session) -> Iterator[Finding]:
    from hybridsearch.reporting.mlflow_places import is_server, shown

    uri = place.tracking_uri()
    if uri is None:
        yield Finding("warn", "tracking", "switched off: searches are recorded in the store alone", "drop --tracking")
    elif is_server(uri):
        yield _server(uri, shown(uri))
    else:
        yield Finding("ok", "tracking", f"{shown(uri)}; `hybridsearch ui` shows it")


def _server(uri: str, name: str) -> Finding:
    import urllib.error
    import urllib.request  # 20 ms that no other verb needs

    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return Finding("ok", "tracking", f"{name} answers")
    except urllib.error.HTTPError as error:
        return Finding("warn", "tracking", f"{name} answers with {error.code}", "check its address and its log-in")
    except (OSError, ValueError) as error:
        return Finding("fail", "tracking", f"{name} does not answer: {error}", "start it, or use --tracking none")


def _slot(place: Session) -> Iterator[Finding]:
    from hybridsearch.training.exclusive import own_folder

    yield Finding("ok", "measuring", f"takes turns through {own_folder()}")


Check = Callable[[Session], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    _python, _machine, _libraries, _ray, _gpu, _kernels, _slot, _folder, _store, _mlflow
)  # fmt: skip

"""Where a search keeps its things: one folder with the store, MLflow's database, and a folder a study."""

import os
from dataclasses import dataclass
from pathlib import Path

from hybridsearch.db.store import default_url
from hybridsearch.errors import StoreUnavailable
from hybridsearch.reporting.mlflow_places import default_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Folder, store and MLflow address of this program run."""

    root: Path
    store: str
    """SQLAlchemy URL."""
    tracking: str | None
    """MLflow tracking URI; none records nothing there."""

    def study(self, name: str) -> Path:
        """A study's own folder: resolved settings, checkpoints, exports."""
        return self.root / name

    def trial(self, name: str, number: int) -> Path:
        """A trial's own folder."""
        return self.study(name) / "trials" / f"t{number:05d}"


def places(root: Path, store: str | None = None, tracking: str | None = None) -> Places:
    """Fill in what was not given: both databases lie in `root`. `tracking` "none" switches MLflow off.

    Raises:
        StoreUnavailable: `root` cannot be made or written to.
    """
    root = root.expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"folder {root} cannot be made: {error.strerror}; choose another with --root") from None
    if not os.access(root, os.W_OK):
        raise StoreUnavailable(f"folder {root} is read-only; choose another with --root")
    return Places(
        root=root,
        store=store or default_url(root),
        tracking=None if tracking == "none" else tracking or default_uri(root),
    )

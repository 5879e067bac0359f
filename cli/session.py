"""What every verb knows: where things are kept, and how much to say. Heavy parts are imported when they are needed."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hybridsearch.control.places import Places
    from hybridsearch.db.store import Store

DEFAULT_ROOT = Path("runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The options that stand before (or after) every verb."""

    root: Path = DEFAULT_ROOT
    store: str | None = None
    tracking: str | None = None
    verbose: bool = False
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """The runs folder, absolute."""
        return self.root.expanduser().absolute()

    @property
    def store_url(self) -> str:
        """The store that is meant."""
        from hybridsearch.db.store import default_url

        return self.store or default_url(self.folder)

    def open_store(self) -> "Store":
        """The store for reading; nothing is made where there is none.

        Raises:
            StoreUnavailable: there is none, or it cannot be used.
        """
        from hybridsearch.db.store import Store

        return Store.open(self.store_url, create=False)

    def places(self) -> "Places":
        """The places of a search; the runs folder is made.

        Raises:
            StoreUnavailable: the folder cannot be made or written to.
        """
        from hybridsearch.control.places import places

        return places(self.root, self.store, self.tracking)

    def tracking_uri(self) -> str | None:
        """MLflow's address, or none if it is switched off."""
        from hybridsearch.reporting.mlflow_places import default_uri

        return None if self.tracking == "none" else self.tracking or default_uri(self.folder)

    def options(self) -> str:
        """The options to repeat in a command that the user is told to type."""
        given = {
            "--root": None if self.root == DEFAULT_ROOT else str(self.root),
            "--store": self.store,
            "--tracking": self.tracking,
        }
        return "".join(f" {option} {shlex.quote(value)}" for option, value in given.items() if value)


def of(context: typer.Context) -> Session:
    """The session of a verb's context."""
    session = context.obj
    return session if isinstance(session, Session) else Session()

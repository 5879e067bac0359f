"""The only door to mlflow: experiment, runs, metrics, artifacts. Importing this file costs over a second.

Runs are addressed by id through `MlflowClient`, never through mlflow's "active run", so that `MLFLOW_RUN_ID`,
`MLFLOW_EXPERIMENT_ID` and `MLFLOW_TRACKING_URI` of the surroundings change nothing (mlflow#15713).
"""

import fcntl
import json
import logging
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hybridsearch.errors import StoreUnavailable
from hybridsearch.reporting.mlflow_places import artifact_folder, database_file, shown

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "KILLED", "FAILED"]
PARENT = "mlflow.parentRunId"
STUDY, TRIAL, RUNG, STATE, ON_FRONT = "study", "trial", "rung", "state", "on_front"
TABLES = "mlflow.loggedArtifacts"
"""Tag that makes MLflow's pages show JSON artifacts as tables."""
LONGEST = 200
"""Characters of another library's message that an error repeats."""
BATCH = 100
"""Most parameters or tags of one `log_batch`; of metrics MLflow takes 1000."""


@dataclass(slots=True, kw_only=True)
class KnownTrial:
    """What MLflow holds of a trial already."""

    run: str
    rung: int = -1
    """Last rung recorded."""
    ended: bool = False
    on_front: bool = False


class Runs:
    """One experiment of an MLflow database or server.

    Args:
        uri: tracking URI. A SQLite file is created and migrated here, under a file lock: two programs that open a
            fresh one at once would otherwise race MLflow's migrations.
        experiment: the experiment's name; created if it does not exist.

    Raises:
        StoreUnavailable: the database or server cannot be used.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is told in one line, without its traceback
        logging.getLogger("alembic").setLevel(logging.ERROR)
        database = database_file(uri)
        try:
            with _locked(database) if database is not None else nullcontext():
                self._client = MlflowClient(tracking_uri=uri)
                self._experiment = self._find_or_create(uri, experiment)
                if database is not None:
                    _write_ahead(database)
        except Exception as error:  # mlflow lets its database's, driver's and network's own errors through
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise StoreUnavailable(f"MLflow at {shown(uri)} cannot be used: {shown(first)[:LONGEST]}") from None

    def answers(self) -> bool:
        """Whether the database or server responds; raises whatever it raises."""
        return self._client.get_experiment(self._experiment) is not None

    def find_study(self, study: str) -> str | None:
        """The newest run of a study of that name."""
        found = self._client.search_runs(
            [self._experiment], f"tags.{STUDY} = '{study}' and tags.kind = 'study'",
            order_by=["attributes.start_time DESC"], max_results=1,
        )  # fmt: skip
        return str(found[0].info.run_id) if found else None

    def create_study(self, study: str) -> str:
        """A new parent run."""
        tags = {STUDY: study, "kind": "study", "mlflow.source.name": "hybridsearch"}
        return str(self._client.create_run(self._experiment, tags=tags, run_name=study).info.run_id)

    def trials(self, parent: str) -> dict[int, KnownTrial]:
        """The nested runs of a study, by trial number."""
        return {int(run.data.tags[TRIAL]): _known(run) for run in self._children(parent) if TRIAL in run.data.tags}

    def create_trial(self, parent: str, number: int, name: str, start: int) -> KnownTrial:
        """A new nested run, started at `start` (milliseconds since 1970)."""
        tags = {PARENT: parent, TRIAL: str(number), "kind": "trial", "mlflow.source.name": "hybridsearch"}
        return KnownTrial(run=self._client.create_run(self._experiment, start, tags, name).info.run_id)

    def log(
        self,
        run: str,
        *,
        parameters: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
        stamp: int = 0,
    ) -> None:
        """Parameters, metrics (at `step`, taken at `stamp`, milliseconds since 1970) and tags, in few transactions."""
        params = [Param(name, value) for name, value in (parameters or {}).items()]
        values = [Metric(name, value, stamp, step) for name, value in (metrics or {}).items()]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        while params or values or marks:
            self._client.log_batch(run, values[:1000], params[:BATCH], marks[:BATCH], synchronous=True)
            params, values, marks = params[BATCH:], values[1000:], marks[BATCH:]

    def log_dataset(self, run: str, name: str, digest: str, source: str) -> None:
        """The task's name and digest as the run's data set."""
        dataset = Dataset(name=name, digest=digest, source_type="code", source=source)
        self._client.log_inputs(run, [DatasetInput(dataset=dataset, tags=[])])

    def write(self, run: str, files: Mapping[str, bytes], *, tables: Sequence[str] = ()) -> None:
        """Artifacts by path; `tables` names the JSON files among them that MLflow shows as tables."""
        with tempfile.TemporaryDirectory(prefix="hybridsearch-") as folder:
            for path, content in files.items():
                place = Path(folder) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._client.log_artifacts(run, folder)
        if tables:
            self.log(run, tags={TABLES: json.dumps([{"path": path, "type": "table"} for path in tables])})

    def set_status(self, run: str, status: Status, stamp: int) -> None:
        """The run's status; a final one ends it at `stamp` (milliseconds since 1970)."""
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status, stamp)

    def history(self, run: str, metric: str) -> dict[int, float]:
        """A metric's values by step."""
        return {point.step: point.value for point in self._client.get_metric_history(run, metric)}

    def _children(self, parent: str) -> Iterator[Run]:
        token: str | None = None
        while True:
            found = self._client.search_runs([self._experiment], f"tags.`{PARENT}` = '{parent}'", page_token=token)
            yield from found
            token = found.token
            if not token:
                return

    def _find_or_create(self, uri: str, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            folder = artifact_folder(uri)
            return self._client.create_experiment(name, folder.as_uri() if folder is not None else None)
        if found.lifecycle_stage != "active":
            raise MlflowException(f"experiment {name!r} was deleted there; restore it or name another one")
        return str(found.experiment_id)


def _known(run: Run) -> KnownTrial:
    tags = run.data.tags
    return KnownTrial(
        run=run.info.run_id,
        rung=int(tags.get(RUNG, -1)),
        ended=run.info.status in ("FINISHED", "KILLED", "FAILED"),
        on_front=tags.get(ON_FRONT) == "true",
    )


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_ahead(database: Path) -> None:
    """Keep a write-ahead log: readers (MLflow's pages) no longer block the search's writes, and a commit syncs once."""
    with closing(sqlite3.connect(database, timeout=30.0)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")

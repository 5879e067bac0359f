"""What `search` and `resume` share: the executor, the screen, and the summary at the end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hybridsearch.cli import show
from hybridsearch.cli.session import Session
from hybridsearch.errors import HybridSearchError

if TYPE_CHECKING:
    from hybridsearch.control.launch import Execute, Outcome
    from hybridsearch.control.loop import Controller
    from hybridsearch.settings import SearchSettings, WorkerSettings

INTERRUPTED = 130
NOTHING_FINISHED = 1
GPU_SHARE = 0.25
"""Of a GPU for a trial: proxies are small, so four train together; throughput is measured alone in any case."""


def executor(address: str | None, log: Path) -> "Execute":
    """Ray Tune with real training; Ray's own words go to the file `log`.

    Raises:
        ClusterUnreachable: nobody listens at the address; asked here, before a study is recorded.
        InvalidSetting: it is no address of a cluster.
    """
    if address is not None:
        from hybridsearch.control import ray_cluster

        ray_cluster.check_address(address)

    def execute(controller: "Controller", workers: "WorkerSettings") -> None:
        from hybridsearch.control import ray_cluster, ray_tune
        from hybridsearch.workers.evaluate import evaluate

        ray_tune.run(controller, evaluate, workers, ray_cluster.Cluster(address=address, log=str(log)))

    return execute


def on_paper(session: Session) -> Session:
    """The session of a replay: MLflow, which takes far longer than the search, is told only if it was asked for."""
    return session if session.tracking else replace(session, tracking="none")


def with_gpu(settings: "SearchSettings", address: str | None) -> "SearchSettings":
    """A share of this machine's GPU for every trial, unless the settings say otherwise: Ray hides it from others."""
    if address is not None or settings.evaluation.device == "cpu" or "gpus" in settings.workers.model_fields_set:
        return settings
    from hybridsearch.workers import device

    if device.choose("auto").type != "cuda":
        return settings
    return settings.model_copy(update={"workers": settings.workers.model_copy(update={"gpus": GPU_SHARE})})


def machine(settings: "SearchSettings", address: str | None) -> str:
    """What the result cache knows this machine by; a cluster's machines are not known here."""
    if address is not None:
        return ""
    from hybridsearch.workers import device

    device.use_threads(settings.workers.cpus)  # as in a worker: threads are part of the description
    return device.describe(device.choose(settings.evaluation.device))


def summary(session: Session, outcome: "Outcome") -> int:
    """The front, and the commands that come next."""
    from hybridsearch.control.launch import recorded_settings
    from hybridsearch.trial import TrialState

    with session.open_store() as store:
        settings = recorded_settings(store.study(outcome.study))
    stands = outcome.standing
    rows = show.point_rows(stands.front, settings.objective_list)
    told = session.tracking != "none" and (settings.replay is None or bool(session.tracking))
    if rows:
        show.line(f"front of {outcome.study}: {len(rows)} of {len(stands.points)} finished trials\n")
        show.listing(rows, show.point_columns(settings.objective_list), show.Format.TABLE)
        show.line()
        _next_commands(session, outcome.study, mlflow=told)
    if outcome.ending == "interrupted":
        tell_interrupted(session, outcome.study)
        return INTERRUPTED
    if not stands.points:
        failed = outcome.counts.get(TrialState.FAILED, 0)
        command = f"hybridsearch status {outcome.study}{session.options()}"
        show.failure(f"no trial finished, {failed} failed; `{command}` says why")
        return NOTHING_FINISHED
    return 0


@contextmanager
def interruptible(session: Session, study: str) -> Iterator[None]:
    """A search that ends at once, by Ctrl-C before its workers listen or by a second one, says how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(HybridSearchError), session.open_store() as store:
            store.study(study)  # raises if the search was not recorded yet: then there is nothing to go on with
            tell_interrupted(session, study)
        raise


def tell_interrupted(session: Session, study: str) -> None:
    """How to go on with a study."""
    show.note(f"interrupted; go on with:  hybridsearch resume {study}{session.options()}")


def _next_commands(session: Session, study: str, *, mlflow: bool) -> None:
    from hybridsearch.reporting import mlflow_places

    options = session.options()
    if mlflow and session.tracking and mlflow_places.is_server(session.tracking):
        show.line(f"look at it:     {mlflow_places.shown(session.tracking)}    (MLflow)")
    elif mlflow:
        show.line(f"look at it:     hybridsearch ui{options}    (MLflow, on http://127.0.0.1:5000)")
    show.line(f"take the knee:  hybridsearch export {study} --pick knee --out best.yaml{options}")

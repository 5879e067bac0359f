"""A Ray cluster to run on: a local one that ends with this process, or a running one by its address."""

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from hybridsearch.errors import ClusterUnreachable, InvalidSetting
from hybridsearch.settings import WorkerSettings

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the first Ctrl-C drains the search instead of aborting Tune
    "TUNE_WARN_THRESHOLD_S": "60",
}
os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})

import ray  # noqa: E402 - reads the switches above when it is imported

ATTACH_SECONDS = 5.0
"""How long a cluster may take to accept a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where trials run."""

    address: str | None
    """`host:port` or `auto` of a running cluster; none starts a local one that ends with this process."""
    log: str
    """File that takes what Ray and its workers print."""


@contextmanager
def attached(workers: WorkerSettings, cluster: Cluster) -> Iterator[None]:
    """Connect to the cluster, or start a local one, with all that Ray says going to the log.

    Raises:
        ClusterUnreachable: nobody answers at the address.
    """
    handler = logging.FileHandler(cluster.log, encoding="utf-8")
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.air", "ray.train")]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it warns that its default is safe
    try:
        with redirect_stdout(handler.stream):
            _connect(workers, cluster.address)
            yield
    finally:
        ray.shutdown()
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()


def _connect(workers: WorkerSettings, address: str | None) -> None:
    if address is None:
        wanted = workers.count * workers.cpus if workers.count else 0
        cores = max(os.cpu_count() or 1, math.ceil(wanted))
        ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, configure_logging=False)
        return
    check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ClusterUnreachable(
            f"no Ray cluster at `{address}`: {lines[0]}; start one with `ray start --head`, or leave --address out"
        ) from None


def check_address(address: str) -> None:
    """Raise `ClusterUnreachable` if nobody listens there: Ray itself would wait a minute and more."""
    if "://" in address:
        raise InvalidSetting(
            f"address `{address}` is a Ray Client address; run this on a machine of the cluster with `--address auto`"
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidSetting(
            f"address `{address}` is not understood; write `host:port`, e.g. `10.0.0.5:6379`, or `auto`"
        )
    try:
        socket.create_connection((host, int(port)), timeout=ATTACH_SECONDS).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"no Ray cluster at `{address}`: {error.strerror or error}; "
            "start one with `ray start --head`, or leave --address out"
        ) from None


def largest() -> tuple[float, float]:
    """CPUs and GPUs of the attached cluster's largest machine."""
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus, gpus = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU"))
    return max(cpus, default=0.0), max(gpus, default=0.0)


def room(workers: WorkerSettings) -> int:
    """Trials that run at once on the attached cluster as it is now; machines may have joined or left it.

    At most `workers.count`.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fits = [int(total.get("CPU", 0) // workers.cpus)]
    if workers.gpus:
        fits.append(int(total.get("GPU", 0) / workers.gpus + 1e-9))
    return min(fits) if workers.count is None else min(workers.count, *fits)


def require_room(workers: WorkerSettings) -> None:
    """See to it that the attached cluster can run a trial.

    Raises:
        InvalidSetting: a trial asks for more than it has.
    """
    if room(workers) >= 1:
        return
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    found = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
    raise InvalidSetting(
        f"a trial asks for {workers.cpus:g} CPUs and {workers.gpus:g} GPUs, Ray has {found}; "
        "lower workers.cpus or workers.gpus"
    )

"""All samplers by name. A new one is a function here or in a file of its own, and a line in `SAMPLERS`."""

import random
from collections.abc import Iterator
from importlib.util import find_spec

from hybridsearch.errors import InvalidSetting
from hybridsearch.search.cluster import cluster
from hybridsearch.search.evolution import evolution
from hybridsearch.search.history import History
from hybridsearch.search.prior import prior
from hybridsearch.search.proposals import Draft, Proposal, Request, Sampler, at_random, collect

__all__ = ["SAMPLERS", "Proposal", "Request", "Sampler", "require"]


def random_search(history: History, request: Request) -> list[Proposal]:
    """Draw independently from the whole space: the yardstick of every other sampler."""
    return collect(history, request, "random", _drafts)


def nsga2(history: History, request: Request) -> list[Proposal]:
    """NSGA-II of Optuna over the space's flat encoding."""
    from hybridsearch.search import optuna_samplers  # 0.2 s that other searches need not wait for

    return optuna_samplers.nsga2(history, request)


def tpe(history: History, request: Request) -> list[Proposal]:
    """Multi-objective TPE of Optuna over the space's flat encoding."""
    from hybridsearch.search import optuna_samplers

    return optuna_samplers.tpe(history, request)


def qlognehvi(history: History, request: Request) -> list[Proposal]:
    """qLogNEHVI of BoTorch over the terms of architectures.

    Raises:
        InvalidSetting: BoTorch is not installed.
    """
    require("qlognehvi")
    from hybridsearch.search import botorch_sampler

    return botorch_sampler.qlognehvi(history, request)


def require(sampler: str) -> None:
    """See to it that what a sampler needs beyond this package is there.

    Raises:
        InvalidSetting: it is not; the text names the extra to install.
    """
    if sampler == "qlognehvi" and find_spec("botorch") is None:
        raise InvalidSetting(
            "sampler `qlognehvi` needs BoTorch, which is not installed; run `pip install 'hybridsearch[botorch]'`, "
            "or choose `cluster`"
        )


def _drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    while True:
        yield at_random(request.space, rng)


SAMPLERS: dict[str, Sampler] = {
    "random": random_search,
    "evolution": evolution,
    "prior": prior,
    "cluster": cluster,
    "nsga2": nsga2,
    "tpe": tpe,
    "qlognehvi": qlognehvi,
}

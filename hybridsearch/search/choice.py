"""Which sampler `auto` means, by the size of the space and the budget, with the reason in words."""

from hybridsearch.search.cluster import ENOUGH
from hybridsearch.search_spaces.space import Space


def choose(sampler: str, space: Space, trials: int | None) -> tuple[str, str]:
    """The sampler to use, and why; a sampler that was named is used as it is.

    Args:
        sampler: from the settings, perhaps `auto`.
        space: to be searched.
        trials: the budget's; none where time alone limits the search.
    """
    if sampler != "auto":
        return sampler, "the settings name it"
    size = space.size()
    if trials is not None and size <= min(trials, 2 * ENOUGH):
        return (
            "random",
            f"{trials} trials cover all {size} architectures, which are too few to learn an order from",
        )
    if trials is not None and trials <= ENOUGH:
        return "prior", f"{trials} trials are too few to fit a model: the expert prior knows more"
    budget = "as many trials as the time allows" if trials is None else f"{trials} trials"
    return "cluster", f"{budget} in a space of {size:,} architectures: a model of layers and neighbours learns fastest"

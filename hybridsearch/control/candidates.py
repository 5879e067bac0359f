"""An architecture as a candidate: its identity, and everything that can be counted before any training."""

from collections.abc import Sequence
from dataclasses import dataclass

from hybridsearch import seeds
from hybridsearch.errors import Infeasible
from hybridsearch.objectives import Constraint
from hybridsearch.search_spaces import sampling
from hybridsearch.search_spaces.space import Space
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.canonical import canonical_json, content_hash, readable_name
from hybridsearch.trial import Candidate

DRAWS = 500
"""Architectures looked at before the constraints count as impossible; about 1 ms each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrial:
    """A trial that is about to be recorded."""

    architecture: Architecture
    candidate: Candidate
    sampler: str
    parents: tuple[int, ...]
    control: str | None
    seed: int


def describe(architecture: Architecture, context: int) -> Candidate:
    """The candidate of an architecture; `context` is the longest at which the study measures throughput."""
    return Candidate(
        hash=content_hash(architecture),
        canonical=canonical_json(architecture),
        name=readable_name(architecture),
        parameters=cost.parameters(architecture),
        state_bytes=cost.state_bytes(architecture, context),
        flops_per_token=cost.flops_per_token(architecture, context),
    )


def screen(architecture: Architecture, candidate: Candidate, constraints: Sequence[Constraint]) -> str | None:
    """The first constraint that the counts alone break, in words, or none."""
    counted = {
        "parameters": float(candidate.parameters),
        "state_bytes": float(candidate.state_bytes),
        "flops_per_token": float(candidate.flops_per_token),
        "full_layers": float(cost.full_layers(architecture)),
    }
    for constraint in constraints:
        if constraint.violation(counted) > 0:
            return constraint.explain(counted)
    return None


def require_feasible(space: Space, constraints: Sequence[Constraint], context: int, seed: int) -> None:
    """See to it that a search will find something to train, before it begins.

    Raises:
        Infeasible: the space is empty, or none of `DRAWS` random architectures meets the counted constraints.
    """
    rng = seeds.stream(seed, "feasibility")
    reason: str | None = ""
    for _ in range(DRAWS if constraints else 1):
        architecture = sampling.sample(space, rng)
        reason = screen(architecture, describe(architecture, context), constraints)
        if reason is None:
            return
    raise Infeasible(
        f"none of {DRAWS} random architectures meets the constraints, the last one: {reason}; loosen them or the space"
    )

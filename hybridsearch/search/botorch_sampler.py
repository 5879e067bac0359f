"""qLogNEHVI of BoTorch over the terms of architectures. The only door to BoTorch, an optional extra.

Each objective gets a Gaussian process over the terms of `chain.Chain`; of a pool of candidates the one with the largest
log noisy expected hypervolume improvement (2105.08195, 2310.20708) is proposed, trials that run counted as pending. The
space is discrete, so the pool is ranked and nothing is optimised by gradient. An ask takes about a second.
"""

import math
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.exceptions.warnings import InputDataWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.models.transforms.outcome import Standardize
from botorch.sampling.normal import SobolQMCNormalSampler
from gpytorch.kernels import RBFKernel
from gpytorch.mlls import SumMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from hybridsearch.pareto.dominance import Floats
from hybridsearch.search.chain import chain_of, plan_of, row_of
from hybridsearch.search.history import Cohort, History
from hybridsearch.search.proposals import Draft, Proposal, Request, at_random, collect
from hybridsearch.search_spaces import sampling, steps
from hybridsearch.search_spaces.plan import Plan
from hybridsearch.search_spaces.rules import judge

ENOUGH = 8
"""Comparable trials before the first model; until then draws are random."""
TOLD = 128
"""Most trials that a process is fitted to: half the best, half the latest."""
NEAR = 120
"""Candidates one to three small steps away from the front."""
FAR = 80
"""Candidates from anywhere."""
DRAWS = 64
"""Quasi-random draws of the posterior."""


def qlognehvi(history: History, request: Request) -> list[Proposal]:
    """Propose what adds most to the hypervolume by BoTorch's reckoning."""
    return collect(history, request, "qlognehvi", _drafts)


def _drafts(history: History, request: Request, rng: random.Random) -> Iterator[Draft]:
    cohort = history.cohort(ENOUGH)
    told = [] if cohort is None else _told(cohort, request)
    if cohort is None or len(told) < ENOUGH:
        while True:
            yield at_random(request.space, rng)
    candidates = _candidates(cohort, request, rng)
    spreads = chain_of(request.space).spreads
    rows = [chain_of(request.space).row(plan) * spreads for plan, _ in candidates]
    pending = [row * spreads for o in history.running if (row := row_of(request.space, o.architecture)) is not None]
    worth = _acquisition(told, rows, pending, rng.getrandbits(31))
    for place in sorted(range(len(candidates)), key=lambda place: -worth[place]):
        plan, parents = candidates[place]
        verdict = judge(request.space, plan)
        if verdict.architecture is not None and not verdict.faults:
            yield Draft(verdict.architecture, parents)


def _told(cohort: Cohort, request: Request) -> list[tuple[Floats, tuple[float, ...]]]:
    """Terms, by their prior spreads, and maximised values of the trials that the processes are fitted to."""
    members = cohort.best_and_latest(TOLD)
    rows = [(row_of(request.space, o.architecture), cohort.score(o).minimised) for o in members]
    spreads = chain_of(request.space).spreads
    return [(row * spreads, tuple(-value for value in values)) for row, values in rows if row is not None]


def _candidates(cohort: Cohort, request: Request, rng: random.Random) -> list[tuple[Plan, tuple[int, ...]]]:
    space = request.space
    front = [cohort.members[place] for place in cohort.leading]
    plans = [(o.trial, plan) for o in front if (plan := plan_of(space, o.architecture)) is not None]
    found: list[tuple[Plan, tuple[int, ...]]] = [(sampling.draw(space, rng), ()) for _ in range(FAR)]
    for _ in range(NEAR if plans else 0):
        trial, plan = rng.choice(plans)
        for _ in range(rng.choice((1, 1, 2, 3))):
            plan = steps.small_step(space, plan, rng) or plan
        found.append((plan, (trial,)))
    return found


def _acquisition(
    told: list[tuple[Floats, tuple[float, ...]]], rows: list[Floats], pending: list[Floats], seed: int
) -> list[float]:
    """Log noisy expected hypervolume improvement of every row."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # An objective that is the same for all trials cannot be standardised, and candidates may be alike: no harm.
        for kind in (InputDataWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        torch.manual_seed(seed)
        x = torch.tensor([row.tolist() for row, _ in told], dtype=torch.float64)
        y = torch.tensor([values for _, values in told], dtype=torch.float64)
        models = [
            SingleTaskGP(x, y[:, j : j + 1], covar_module=_kernel(x), outcome_transform=Standardize(m=1))
            for j in range(y.shape[1])
        ]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        worst = y.amin(dim=0) - 0.1 * (y.amax(dim=0) - y.amin(dim=0))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=worst.tolist(),
            X_baseline=x,
            sampler=SobolQMCNormalSampler(sample_shape=torch.Size([DRAWS]), seed=seed),
            X_pending=torch.tensor(np.array(pending), dtype=torch.float64) if pending else None,
            prune_baseline=True,
        )
        with torch.no_grad():
            worth: list[float] = acquisition(torch.tensor(np.array(rows), dtype=torch.float64).unsqueeze(1)).tolist()
    return worth


def _kernel(x: Tensor) -> RBFKernel:
    """One length for all terms, about half the largest distance: with one for each a fit took 2,000 steps and 9 s.

    What each term counts for beside others is said by its prior spread.
    """
    far = float(torch.pdist(x).max()) or 1.0
    kernel = RBFKernel(lengthscale_prior=LogNormalPrior(math.log(far / 2), 1.0))
    kernel.initialize(lengthscale=far / 2)
    return kernel

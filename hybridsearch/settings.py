"""A search as read from YAML: every field with its unit and its default. Unknown keys are errors."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from hybridsearch.objectives import COUNTED, OBJECTIVES, Constraint, Objective
from hybridsearch.trial import Fidelity
from hybridsearch.yaml_files import ProblemAt

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Stopping = Literal["promote", "stop", "off"]
TieRule = Literal["crowding", "epsilon_net"]


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RecallLevel(Settings):
    """One difficulty of multi-query associative recall."""

    length: PositiveInt
    """Tokens of a sequence."""
    pairs: PositiveInt
    """Key-value pairs to remember; 4 * pairs may not exceed length."""

    @model_validator(mode="after")
    def _fits(self) -> "RecallLevel":
        if 4 * self.pairs > self.length:
            raise ValueError(f"{self.pairs} pairs need a length of at least {4 * self.pairs}, found {self.length}")
        return self


class TaskSettings(Settings):
    """The data a proxy is trained and scored on."""

    name: Literal["recall"] = "recall"
    vocabulary: Annotated[int, Field(ge=8)] = 8192
    """Tokens; keys come from its lower half, values from its upper half."""
    power: PositiveFloat = 0.01
    """Exponent a of the gap law p(x) ~ a x^(a-1) between a pair and its query."""
    random_non_queries: bool = True
    """Whether unused positions hold random tokens instead of zeros."""
    train: tuple[RecallLevel, ...] = (RecallLevel(length=64, pairs=4), RecallLevel(length=256, pairs=32))
    """Levels mixed in training; every batch is of one level."""
    test: tuple[RecallLevel, ...] = (RecallLevel(length=64, pairs=8), RecallLevel(length=256, pairs=64))
    """The difficulty ladder: recall is the mean over these levels."""
    test_examples: PositiveInt = 512
    """Sequences scored per level."""

    @model_validator(mode="after")
    def _vocabulary_is_large_enough(self) -> "TaskSettings":
        if not self.train or not self.test:
            raise ValueError("train and test need at least one level each")
        most = max(level.pairs for level in (*self.train, *self.test))
        if self.vocabulary // 2 - 1 < most:
            raise ValueError(f"{most} pairs need a vocabulary of at least {2 * (most + 1)}, found {self.vocabulary}")
        return self


class TrainingSettings(Settings):
    """How a proxy is trained."""

    batch: PositiveInt = 64
    """Sequences a step."""
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (3e-3,)
    """Peak AdamW learning rates; each candidate is trained with all of them and scored by its best."""
    embedding_factor: PositiveFloat = 8.0
    """Learning rate of the embedding over that of the rest. A row learns only where its token stands, and an input's
    rate need not shrink with width (2203.03466). With 1, three linear layers under a full one hide the tokens: recall
    0.05 after 300 steps of 4-layer 3:1 hybrids, against 0.99 with 8."""
    seeds: PositiveInt = 1
    """Replicates per learning rate: other initial weights and other data."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the last rung's steps over which the learning rate rises; no trial is stopped inside it."""
    clip: PositiveFloat = 1.0
    """Largest gradient norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products, and of the weights while throughput is measured; auto is bfloat16 on a GPU, else float32."""


class RungSettings(Settings):
    """The ladder of fidelities, in optimiser steps."""

    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (250, 500, 1000)
    """Steps from the start of training to each rung; the last is full training."""
    reduction: Annotated[float, Field(gt=1)] = 2.0
    """Of those that reach a rung, about one in `reduction` goes on."""
    seeds: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Replicates per learning rate at each rung, in place of `training.seeds`: the first rungs may do with one, and
    those that go on are told apart by more."""
    learning_rates: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Learning rates at each rung, in place of all of `training.learning_rates`. Where the number falls, the best go on
    and the others end there; where it rises, the next ones of the list join, trained from the start."""

    @model_validator(mode="after")
    def _rises(self) -> "RungSettings":
        if any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"steps must rise, found {list(self.steps)}")
        if self.seeds is not None and len(self.seeds) != len(self.steps):
            raise ValueError(f"seeds needs one number for each of {len(self.steps)} rungs, found {list(self.seeds)}")
        if self.seeds is not None and any(a > b for a, b in zip(self.seeds, self.seeds[1:], strict=False)):
            raise ValueError(f"seeds may not fall, found {list(self.seeds)}")
        rates = None if self.learning_rates is None else list(self.learning_rates)
        if rates is not None and len(rates) != len(self.steps):
            raise ValueError(f"learning_rates needs one number for each of {len(self.steps)} rungs, found {rates}")
        if rates not in (None, sorted(rates or ()), sorted(rates or (), reverse=True)):
            raise ValueError(f"learning_rates may rise or fall from rung to rung, not both, found {rates}")
        return self

    @property
    def ladder(self) -> tuple[Fidelity, ...]:
        """The rungs, cheapest first."""
        seeds = self.seeds or (None,) * len(self.steps)
        rates = self.learning_rates or (None,) * len(self.steps)
        return tuple(
            Fidelity(rung=rung, steps=steps, seeds=count, learning_rates=share)
            for rung, (steps, count, share) in enumerate(zip(self.steps, seeds, rates, strict=True))
        )


class ThroughputSettings(Settings):
    """The shapes at which tokens/s are measured. The objectives are read at the last context and the last batch."""

    contexts: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (512, 4096)
    """Tokens in memory; rising."""
    batches: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (1, 8)
    """Sequences decoded together; rising."""
    decode_tokens: PositiveInt = 16
    """Tokens decoded in one repeat."""
    repeats: Annotated[int, Field(ge=3)] = 7
    """Timed repeats per shape, after warming up."""


class EvaluationSettings(Settings):
    """Everything that changes what a number means: two equal hashes under equal evaluation settings are one result."""

    task: TaskSettings = TaskSettings()
    training: TrainingSettings = TrainingSettings()
    rungs: RungSettings = RungSettings()
    throughput: ThroughputSettings = ThroughputSettings()
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _has_so_many_learning_rates(self) -> "EvaluationSettings":
        most, known = max(self.rungs.learning_rates or (1,)), len(self.training.learning_rates)
        if most > known:
            raise ValueError(f"rungs.learning_rates asks for {most} of training.learning_rates, which has {known}")
        return self

    @property
    def runs(self) -> tuple[int, ...]:
        """Training runs (learning rates times seeds) that end at each rung, of a trial that reaches the last."""
        rates = [*(fidelity.learning_rates or len(self.training.learning_rates) for fidelity in self.rungs.ladder), 0]
        ends = [max(here - above, 0) for here, above in pairwise(rates)]
        return tuple(n * (f.seeds or self.training.seeds) for n, f in zip(ends, self.rungs.ladder, strict=True))


class BudgetSettings(Settings):
    """When a search ends; the first limit reached counts."""

    trials: PositiveInt | None = None
    """Trials beside the controls."""
    minutes: PositiveFloat | None = None
    """Wall-clock minutes, summed over resumes; running trials finish."""


class WorkerSettings(Settings):
    """The Ray workers."""

    count: PositiveInt | None = None
    """Trials at once; none fills the machine or cluster."""
    cpus: PositiveFloat = 1.0
    """CPU cores a trial."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPU share a trial; 0 on a machine without GPU."""
    timeout_minutes: PositiveFloat = 60.0
    """Longest a trial may take from one report to the next."""
    retries: Annotated[int, Field(ge=0)] = 1
    """Times a trial is started again after its worker was lost."""
    slow_factor: Annotated[float, Field(gt=1)] | None = 10.0
    """A worker that is silent for so many times the median of its rung (and a minute at least) is slow: its trial goes
    on with another, once; none waits until `timeout_minutes`."""


class ConstraintSettings(Settings):
    """Limits on one metric."""

    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "ConstraintSettings":
        if self.minimum is None and self.maximum is None:
            raise ValueError("give a minimum, a maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        return self


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError("use letters, digits, `_`, `.` and `-`, at most 64, a letter or digit first")
    return name


class SearchSettings(Settings):
    """One search."""

    study: Annotated[str, AfterValidator(_study_name)] | None = None
    """Name in the store; none takes the file's name and, if that is taken, numbers it."""
    space: str | dict[str, Any]
    """Preset name, path of a YAML file (relative to this one), or the space itself."""
    seed: Annotated[int, Field(ge=0)] = 0
    sampler: Literal["auto", "random", "evolution", "prior", "cluster", "nsga2", "tpe", "qlognehvi"] = "auto"
    """`auto` chooses by the size of the space and the budget, and says why."""
    budget: BudgetSettings = BudgetSettings(trials=50)
    objectives: Annotated[tuple[str, ...], Field(min_length=2)] = ("recall", "decode_tokens_per_second")
    constraints: dict[str, ConstraintSettings] = {}
    evaluation: EvaluationSettings = EvaluationSettings()
    stopping: Stopping = "promote"
    """What becomes of a trial at a rung. `promote`: it pauses, and goes on once it stands among the best one in
    `reduction`, which later arrivals may let it do. `stop`: it is told at once and for good. `off`: all go on."""
    ties: TieRule = "crowding"
    """Who goes first inside a front: the roomiest (NSGA-II), or the farthest from those before it (MO-ASHA)."""
    margin: Annotated[float, Field(ge=0)] = 1.0
    """Combined standard errors (over the seeds) by which a trial must be better in every objective to dominate another
    at a rung. It has an effect from two seeds on."""
    confirm: Annotated[int, Field(ge=0)] = 0
    """Further seeds with which every member of the front is measured again at the end, beyond the budget."""
    screen_error: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest relative error (of nine of ten held-out architectures) at which a foretold throughput may turn down a
    candidate that would break a constraint on it; 0 never does."""
    workers: WorkerSettings = WorkerSettings()
    replay: str | None = None
    """Path of a table (relative to this file) to search in place of training: its candidates, evaluation and results,
    on a simulated clock with `workers.count` simulated workers."""

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, data: Any) -> Any:
        """Studies recorded earlier say `early_stopping: true|false`; an unquoted `off` is false in YAML."""
        if isinstance(data, Mapping) and data.get("stopping") is False:
            return {**data, "stopping": "off"}
        if not isinstance(data, Mapping) or "early_stopping" not in data or "stopping" in data:
            return data
        rest = {key: value for key, value in data.items() if key != "early_stopping"}
        return {**rest, "stopping": "stop" if data["early_stopping"] is True else "off"}

    @model_validator(mode="after")
    def _consistent(self) -> "SearchSettings":
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            raise ProblemAt(f"unknown objective {unknown[0]!r}; known: {', '.join(OBJECTIVES)}", "objectives")
        if len(set(self.objectives)) != len(self.objectives):
            raise ProblemAt(f"an objective is named twice in {list(self.objectives)}", "objectives")
        if self.budget.trials is None and self.budget.minutes is None:
            raise ProblemAt("needs trials, minutes or both", "budget")
        return self

    @property
    def objective_list(self) -> tuple[Objective, ...]:
        """The objectives as records, in order."""
        return tuple(OBJECTIVES[name] for name in self.objectives)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that a constraint may limit: what is counted, and what a trial of this search reports."""
        throughput = self.evaluation.throughput
        levels = [f"{level.length}x{level.pairs}" for level in self.evaluation.task.test]
        shapes = [f"{context}x{batch}" for context in throughput.contexts for batch in throughput.batches]
        parts = {"recall": levels, "answer_loss": levels}
        parts |= {f"{phase}_tokens_per_second": shapes for phase in ("decode", "prefill")}
        measured = [f"{name}/{part}" for name, of in parts.items() for part in of]
        return (*COUNTED, *OBJECTIVES, "softmax_share", *measured)

    @property
    def constraint_list(self) -> tuple[Constraint, ...]:
        """The constraints as records."""
        return tuple(
            Constraint(metric=metric, minimum=limits.minimum, maximum=limits.maximum)
            for metric, limits in self.constraints.items()
        )


def override(data: Mapping[str, Any], dotted_key: str, value: Any) -> dict[str, Any]:
    """A copy of nested plain values with `a.b.c` set; what stands in the way of the path is replaced."""
    head, _, rest = dotted_key.partition(".")
    inner = data.get(head)
    changed = override(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value
    return {**data, head: changed}

"""One model on its way to the last rung: weights, optimiser, and how far it is. A step never waits for a GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridsearch.models.build import build
from hybridsearch.models.routing import Router
from hybridsearch.seeds import derive
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Architecture
from hybridsearch.tasks.catalog import TASKS
from hybridsearch.tasks.recall import Batch
from hybridsearch.training.optimizer import adamw, factor, set_learning_rate
from hybridsearch.training.scoring import answer_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, and how."""

    architecture: Architecture
    evaluation: EvaluationSettings
    seed: int
    """Root of the trial's random streams."""
    device: torch.device


class Replicate:
    """One learning rate and one seed of a plan.

    Replicates of one seed start from the same weights and see the same data whatever their learning rate. The data and
    the noise of a step depend on the seed and the step alone, so that a resumed run needs no generator's state.
    """

    def __init__(self, plan: Plan, learning_rate: float, index: int) -> None:
        self.learning_rate, self.index = learning_rate, index
        self.step = 0
        self.lost = ""
        """Why this replicate is out of the race; empty while it is in."""
        self._plan = plan
        self._data, self._noise = torch.Generator(plan.device), torch.Generator(plan.device)
        weights = torch.Generator().manual_seed(derive(plan.seed, "weights", index))
        vocabulary = plan.evaluation.task.vocabulary
        self.model = build(plan.architecture, vocabulary, generator=weights, device=plan.device, dtype=torch.float32)
        for router in (module for module in self.model.modules() if isinstance(module, Router)):
            router.noise = self._noise
        training = plan.evaluation.training
        self.optimizer = adamw(
            self.model,
            learning_rate=learning_rate,
            weight_decay=training.weight_decay,
            embedding_factor=training.embedding_factor,
        )

    def advance(self) -> Tensor:
        """One optimiser step; gives the batch's loss as a tensor on the device."""
        training = self._plan.evaluation.training
        last = self._plan.evaluation.rungs.steps[-1]
        set_learning_rate(self.optimizer, self.learning_rate * factor(self.step, last, training.warmup))
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self._plan):
            loss = answer_loss(self.model, self._batch())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _batch(self) -> Batch:
        """The data of the next step; the levels take turns. Its random streams start here."""
        task = self._plan.evaluation.task
        level = task.train[self.step % len(task.train)]
        for generator, name in ((self._data, "data"), (self._noise, "noise")):
            generator.manual_seed(derive(self._plan.seed, name, self.index, self.step))
        return TASKS[task.name].batch(level, task, self._plan.evaluation.training.batch, self._data)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimiser state by name; views, not copies."""
        named = {f"weight/{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                named[f"{key}/{name}"] = value
        return named

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from what `tensors` gave after `step` steps.

        Raises:
            KeyError: a weight is missing.
        """
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            if step > 0:
                state = {key: tensors[f"{key}/{name}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
        self.step = step


def in_bfloat16(plan: Plan) -> bool:
    """Whether matrix products are in bfloat16."""
    precision = plan.evaluation.training.precision
    return precision == "bfloat16" or (precision == "auto" and plan.device.type == "cuda")


def autocast(plan: Plan) -> torch.autocast:
    """Matrix products in bfloat16 if the settings say so; weights and optimiser stay float32."""
    return torch.autocast(plan.device.type, dtype=torch.bfloat16, enabled=in_bfloat16(plan))

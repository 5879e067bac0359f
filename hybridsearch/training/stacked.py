"""Many models trained as one: each weight of N models lies in one tensor, and each product is a batched one.

A proxy of width 64 leaves a GPU idle between its launches; hundreds of them side by side fill it. Members may differ
in depth and in every mixer: at each layer those with the same description are stacked, and run as one module whose
batch is all their sequences. Training is that of `replicate`: same first weights, same data for a seed, same schedule,
clipping and optimiser, member by member. Only the noise of routers is drawn from torch's own generator.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.seeds import derive
from hybridsearch.settings import EvaluationSettings
from hybridsearch.spec.architecture import Layer
from hybridsearch.tasks.recall import Batch
from hybridsearch.training import scoring
from hybridsearch.training.stacked_modules import stack
from hybridsearch.training.stacked_steps import Data, Member, Schedule

__all__ = ["Member", "Stack"]

EAGER_STEPS = 2
"""Steps of every level before its step is captured as a CUDA graph: they fill caches and make the optimiser's state."""
TOKENS_A_MEMBER = 4096
"""Tokens of a member in one forward pass while scoring."""


class Stack(nn.Module):
    """N models of one width on their way to the last rung, at one learning rate.

    Args:
        members: what is trained; all of one width.
        evaluation: task and training; the first learning rate counts.
        device: where.
        graphs: whether a step is captured once and replayed, where the device is a GPU.
    """

    def __init__(
        self, members: Sequence[Member], evaluation: EvaluationSettings, device: torch.device, *, graphs: bool = True
    ) -> None:
        super().__init__()
        self.members, self.evaluation = tuple(members), evaluation
        self.step = 0
        self._device, self._graphs = device, graphs and device.type == "cuda"
        models = [_built(member, evaluation.task.vocabulary) for member in members]
        self.embedding = nn.Parameter(torch.stack([model.embedding.weight.detach() for model in models]))
        self.layers = nn.ModuleList(_Level(models, depth) for depth in range(max(len(m.blocks) for m in models)))
        self.norm = stack([model.norm for model in models])
        self.to(device)
        self._schedule = Schedule(self.embedding, list(self.parameters())[1:], evaluation, device)
        self._data = Data(self.members, evaluation, device)
        self._captured: dict[int, torch.cuda.CUDAGraph] = {}

    def advance(self, steps: int) -> None:
        """Train until `steps` steps are done; does not wait for a GPU."""
        self.train()
        levels = len(self.evaluation.task.train)
        while self.step < steps:
            level = self.step % levels
            if not self._graphs or self.step < EAGER_STEPS * levels:
                self._one_step(level)
            else:
                if level not in self._captured:
                    self._captured[level] = self._capture(level)
                self._captured[level].replay()
            self.step += 1

    def _capture(self, level: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        pool = next((known.pool() for known in self._captured.values()), None)
        self.zero_grad(set_to_none=True)
        if not self._captured:
            torch.cuda.empty_cache()  # the eager steps' memory, which the graph's own pool cannot use
        with torch.cuda.graph(graph, pool=pool):
            self._one_step(level)
        return graph

    def _one_step(self, level: int) -> None:
        self.zero_grad(set_to_none=True)
        losses = self.losses(self._data.next_batch(level))
        torch.autograd.backward(losses.sum())
        self._clip()
        self._schedule.advance()

    def losses(self, batch: Batch) -> Tensor:
        """[N]: every member's mean cross entropy of the answers, in nats; `batch` holds [N, B, ...]."""
        logits = self._answer_logits(batch)
        entropy = F.cross_entropy(logits.flatten(0, 2), batch.answers.flatten(), reduction="none")
        return entropy.view(len(self.members), -1).mean(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [N, B, T] -> final-normed hidden states [N, B, T, width]."""
        count, vocabulary = self.embedding.shape[:2]
        first = torch.arange(count, device=tokens.device).view(-1, 1, 1) * vocabulary
        x = F.embedding(tokens + first, self.embedding.flatten(0, 1))
        for layer in self.layers:
            x = layer(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def _answer_logits(self, batch: Batch) -> Tensor:
        """[N, B, questions, vocabulary]."""
        hidden = self.forward(batch.tokens)
        asked = hidden.gather(2, batch.positions[..., None].expand(-1, -1, -1, hidden.shape[-1]))
        logits = torch.bmm(asked.flatten(1, 2), self.embedding.mT)
        return logits.view(*asked.shape[:3], -1)

    @torch.no_grad()
    def _clip(self) -> None:
        """As `clip_grad_norm_`, for each member by its own norm."""
        rows = list(self._rows())
        squares = self.embedding.new_zeros(len(self.members))
        for parameter, members in rows:
            assert parameter.grad is not None
            squares.index_add_(0, members, parameter.grad.flatten(1).square().sum(1))
        scale = (self.evaluation.training.clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for parameter, members in rows:
            assert parameter.grad is not None
            parameter.grad.mul_(scale[members].view(-1, *[1] * (parameter.dim() - 1)))

    def _rows(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every weight with the members that its rows belong to."""
        for name, parameter in self.named_parameters():
            if not name.startswith("layers."):
                yield parameter, self._data.everyone
        for layer in self.layers:
            assert isinstance(layer, _Level)
            yield from layer.rows()

    @torch.no_grad()
    def score(self) -> list[dict[str, float]]:
        """For every member `recall`, `answer_loss` and both per level, as `scoring.score` gives them."""
        self.eval()
        sets = scoring.test_sets(self.evaluation.task, self._device)
        totals = torch.stack([self._totals(questions) for questions in sets.values()]).cpu().double()
        self.train()
        return [_metrics(list(sets), totals[:, member]) for member in range(len(self.members))]

    def _totals(self, questions: Batch) -> Tensor:
        """[N, 2]: share of right answers and mean loss."""
        count, at_once = len(self.members), max(1, TOKENS_A_MEMBER // questions.tokens.shape[1])
        totals = self.embedding.new_zeros(count, 2)
        parts = (torch.split(x, at_once) for x in (questions.tokens, questions.positions, questions.answers))
        for part in zip(*parts, strict=True):
            batch = Batch(*(x.expand(count, *x.shape) for x in part))
            logits, answers = self._answer_logits(batch).flatten(1, 2), batch.answers.flatten(1)
            loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view(count, -1)
            totals += torch.stack((logits.argmax(-1).eq(answers).sum(1), loss.sum(1)), 1)
        return totals / questions.answers.numel()

    def model(self, member: int) -> LanguageModel:
        """A member as a model of its own, with a copy of its weights."""
        architecture = self.members[member].architecture
        model = build(architecture, self.evaluation.task.vocabulary, device=self._device)
        with torch.no_grad():
            model.embedding.weight.copy_(self.embedding[member])
            model.norm.load_state_dict({name: p[member] for name, p in self.norm.named_parameters()})
            for layer, block in zip(self.layers, model.blocks, strict=False):
                assert isinstance(layer, _Level)
                block.load_state_dict(layer.weights(member))
        return model


class _Level(nn.Module):
    """The layers of all members at one depth, those of one description stacked; shallower members pass through."""

    def __init__(self, models: Sequence[LanguageModel], depth: int) -> None:
        super().__init__()
        groups: dict[Layer | None, list[int]] = {}
        for number, model in enumerate(models):
            layers = model.architecture.layers
            groups.setdefault(layers[depth] if depth < len(layers) else None, []).append(number)
        self._passing = groups.pop(None, [])
        self._members = list(groups.values())
        self.groups = nn.ModuleList(stack([models[n].blocks[depth] for n in numbers]) for numbers in self._members)
        ordered = [*(number for numbers in self._members for number in numbers), *self._passing]
        self.register_buffer("order", torch.tensor(ordered), persistent=False)
        self.register_buffer("back", torch.tensor(ordered).argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, B, T, width], same shape out."""
        sizes = [len(members) for members in self._members]
        order, back = self.get_buffer("order"), self.get_buffer("back")
        ordered: Tensor = _Reordered.apply(x, order, back)  # type: ignore[no-untyped-call]
        parts = list(torch.split(ordered, [*sizes, len(self._passing)]))
        for index, group in enumerate(self.groups):
            parts[index] = group(parts[index].flatten(0, 1)).view(parts[index].shape)
        restored: Tensor = _Reordered.apply(torch.cat(parts), back, order)  # type: ignore[no-untyped-call]
        return restored

    def rows(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every weight with the members that its rows belong to."""
        sizes = [len(members) for members in self._members]
        owners = torch.split(self.get_buffer("order"), [*sizes, len(self._passing)])
        for group, members in zip(self.groups, owners, strict=False):
            for parameter in group.parameters():
                yield parameter, members

    def weights(self, member: int) -> dict[str, Tensor]:
        """A member's own weights by name."""
        group, row = next((g, m.index(member)) for g, m in enumerate(self._members) if member in m)
        return {name: parameter.detach()[row] for name, parameter in self.groups[group].named_parameters()}


class _Reordered(torch.autograd.Function):
    """Members in another order; the gradient is put back by a copy too, where that of an index would be added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return dy.index_select(0, back), None, None


def _built(member: Member, vocabulary: int) -> LanguageModel:
    weights = torch.Generator().manual_seed(derive(member.seed, "weights", 0))
    return build(member.architecture, vocabulary, generator=weights)


def _metrics(levels: Sequence[str], rows: Tensor) -> dict[str, float]:
    """Of one member; `rows` [levels, 2]."""
    found: Mapping[str, tuple[float, float]] = dict(zip(levels, map(tuple, rows.tolist()), strict=True))
    metrics = {f"recall/{name}": right for name, (right, _) in found.items()}
    metrics |= {f"answer_loss/{name}": loss for name, (_, loss) in found.items()}
    for total in ("recall", "answer_loss"):
        values = [value for name, value in metrics.items() if name.startswith(f"{total}/")]
        metrics[total] = math.fsum(values) / len(values)
    return metrics

"""Recall and loss at the answers, per level of the difficulty ladder, on test sets that are the same everywhere."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridsearch.kernels import dispatch
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.seeds import derive
from hybridsearch.settings import RecallLevel, TaskSettings
from hybridsearch.tasks.catalog import TASKS
from hybridsearch.tasks.recall import Batch

TOKENS_AT_ONCE = 2**15
"""Tokens of one forward pass while scoring: bounds the memory at long levels."""

TEST_SEED = 1_312_040
"""Root of the test sets: no part of a study or trial, so that every candidate answers the same questions."""


def level_name(level: RecallLevel) -> str:
    """As in metric names: `128x32` is 128 tokens with 32 pairs."""
    return f"{level.length}x{level.pairs}"


def test_sets(task: TaskSettings, device: torch.device) -> dict[str, Batch]:
    """The fixed test set of each level, made on the CPU so that they are equal on every machine."""
    sets = {}
    for level in task.test:
        seed = derive(TEST_SEED, task.name, task.vocabulary, level.length, level.pairs)
        made = TASKS[task.name].batch(level, task, task.test_examples, torch.Generator().manual_seed(seed))
        sets[level_name(level)] = Batch(made.tokens.to(device), made.positions.to(device), made.answers.to(device))
    return sets


def answer_logits(model: LanguageModel, batch: Batch) -> Tensor:
    """[B, N, vocabulary] in float32, at the questions only: a tenth of the head's work at all positions, or less."""
    return model.logits(_asked(model, batch)).float()


def answer_loss(model: LanguageModel, batch: Batch) -> Tensor:
    """Mean cross entropy of the answers, in nats."""
    hidden = _asked(model, batch).flatten(0, 1)
    return dispatch.cross_entropy(hidden, model.vocabulary_matrix, batch.answers.flatten())


def _asked(model: LanguageModel, batch: Batch) -> Tensor:
    """Hidden states at the questions, [B, N, width]."""
    hidden: Tensor = model(batch.tokens)
    return hidden.gather(1, batch.positions[..., None].expand(-1, -1, hidden.shape[-1]))


@torch.no_grad()
def score(model: LanguageModel, sets: Mapping[str, Batch]) -> dict[str, float]:
    """`recall`, `answer_loss` and both per level; the totals are the means over the levels.

    One transfer from the device in all. Values are not finite if the model's outputs are not.
    """
    rows = torch.stack([_totals(model, questions) for questions in sets.values()]).cpu().double()
    metrics = {}
    for name, (right, loss) in zip(sets, rows.tolist(), strict=True):
        metrics[f"recall/{name}"], metrics[f"answer_loss/{name}"] = right, loss
    right, loss = rows.mean(0).tolist()
    return {"recall": right, "answer_loss": loss, **metrics}


def _totals(model: LanguageModel, questions: Batch) -> Tensor:
    """[share of right answers, mean loss] as one tensor on the device."""
    at_once = max(1, TOKENS_AT_ONCE // questions.tokens.shape[1])
    totals = [_sums(model, Batch(*parts)) for parts in zip(*_split(questions, at_once), strict=True)]
    return torch.stack(totals).sum(0) / questions.answers.numel()


def _split(questions: Batch, at_once: int) -> Sequence[tuple[Tensor, ...]]:
    return [torch.split(tensor, at_once) for tensor in (questions.tokens, questions.positions, questions.answers)]


def _sums(model: LanguageModel, questions: Batch) -> Tensor:
    logits, answers = answer_logits(model, questions).flatten(0, 1), questions.answers.flatten()
    right = logits.argmax(-1).eq(answers).sum()
    return torch.stack((right.float(), F.cross_entropy(logits, answers, reduction="sum")))

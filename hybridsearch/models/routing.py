"""The router of a token-routed mixer: types every complete chunk softmax or linear, per head (NAtS-L, 2602.03681).

Scores are computed of every token and pooled over its chunk, so that a decode step needs only a running pool, and whole
sequences and steps decide alike. There is no auxiliary loss: the share of softmax-typed chunks follows from the task's.

Axes: B sequences, T tokens, N = T // C complete chunks of C tokens, H linear heads, S scores of a token.
"""

from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from hybridsearch.spec.combinators import TokenRoute


class Router(nn.Module):
    """Routes as one-hot [B, N, H, 2] (softmax, linear); straight-through for a router, constant for a fixed control."""

    def __init__(self, description: TokenRoute, width: int) -> None:
        super().__init__()
        self.description = description
        self.scorer = None if description.fixed else nn.Linear(width, description.router_scores, bias=False)
        self.share: Tensor | None = None
        """Share of softmax-typed chunks in the last whole sequences, a scalar tensor on their device; none before."""
        self.noise: Generator | None = None
        """Source of the Gumbel noise in training, on the device of the model; none means torch's own."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole sequences [B, T, width]: the route, and the pooled scores [B, S] of the open chunk."""
        description = self.description
        complete = x.shape[1] // description.chunk
        if self.scorer is None:
            route = _fixed_route(description, complete, x.dtype, x.device).expand(x.shape[0], -1, -1, -1)
            pooled = x.new_empty(x.shape[0], 0)
        else:
            route, pooled = self._learned(self.token_scores(x), complete)
        if complete:
            self.share = route[..., 0].detach().mean()
        return route, pooled

    def token_scores(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., S] in float32 (float64 in a float64 model); none for a fixed control."""
        if self.scorer is None:
            return x.new_empty(*x.shape[:-1], 0)
        scores: Tensor = self.scorer(x)
        return scores.to(torch.promote_types(x.dtype, torch.float32))

    def pool_step(self, pooled: Tensor, scores: Tensor, position: int) -> Tensor:
        """The pooled scores [B, S] with one more token's, which stands at `position` in its chunk."""
        if self.scorer is None or self.description.score == "last":
            return pooled
        if self.description.score == "mean" or position == 0:
            return pooled + scores
        half = scores.shape[-1] // 2
        return torch.cat((pooled[:, :half] + scores[:, :half], torch.maximum(pooled[:, half:], scores[:, half:])), 1)

    def close(self, pooled: Tensor, scores: Tensor, chunk: int) -> Tensor:
        """Type a chunk that is full: [B, H], true for softmax; `scores` are its last token's, `chunk` is its index."""
        description = self.description
        if self.scorer is None:
            typed = _fixed_route(description, chunk + 1, torch.bool, pooled.device)[0, chunk, :, 0]
            return typed.expand(len(pooled), -1)
        logits = _decisions(scores if description.score == "last" else self._averaged(pooled))
        return _per_head(logits[..., 0] >= logits[..., 1], description)

    def _learned(self, scores: Tensor, complete: int) -> tuple[Tensor, Tensor]:
        description = self.description
        length = complete * description.chunk
        rest = scores[:, length:]
        chunks = scores[:, :length].reshape(len(scores), complete, description.chunk, scores.shape[-1])
        if description.score == "last":
            return self._route(_decisions(chunks[:, :, -1])), scores.new_empty(len(scores), 0)
        half = scores.shape[-1] // (2 if description.score == "mean_max" else 1)
        pooled, rest_pooled = chunks[..., :half].sum(2), rest[..., :half].sum(1)
        if description.score == "mean_max":
            most = rest[..., half:].amax(1) if rest.shape[1] else scores.new_zeros(len(scores), half)
            pooled = torch.cat((pooled, chunks[..., half:].amax(2)), -1)
            rest_pooled = torch.cat((rest_pooled, most), -1)
        return self._route(_decisions(self._averaged(pooled))), rest_pooled

    def _averaged(self, pooled: Tensor) -> Tensor:
        """Pooled scores [..., S] -> scores of a chunk [..., 2 decisions]."""
        if self.description.score == "mean":
            return pooled / self.description.chunk
        total, most = pooled.chunk(2, -1)
        return total / self.description.chunk + most

    def _route(self, logits: Tensor) -> Tensor:
        """Straight through: one-hot of the larger of [..., 2], with the gradient of their softmax."""
        if self.training and self.description.routing == "gumbel":
            waiting = torch.empty_like(logits).exponential_(generator=self.noise)
            logits = logits - waiting.clamp(min=torch.finfo(logits.dtype).tiny).log()
        soft = logits.softmax(-1)
        softmax = logits[..., 0] >= logits[..., 1]
        hard = torch.stack((softmax, ~softmax), -1).to(logits.dtype)
        return _per_head(hard + (soft - soft.detach()), self.description, dim=2)


def softmax_share(model: nn.Module) -> float | None:
    """Mean share of softmax-typed chunks over the token-routed mixers' last whole sequences; none without any.

    Reads from the device: ask between steps, not in them.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    shares = [router.share for router in routers if router.share is not None]
    return float(torch.stack(shares).mean()) if shares else None


def _decisions(scores: Tensor) -> Tensor:
    return scores.view(*scores.shape[:-1], scores.shape[-1] // 2, 2)


def _per_head(decisions: Tensor, description: TokenRoute, dim: int = 1) -> Tensor:
    """Hands one decision for a whole layer to every head, along `dim`."""
    if description.scope == "head":
        return decisions
    shape = list(decisions.shape)
    shape[dim] = description.linear.heads
    return decisions.expand(shape)


@lru_cache(maxsize=64)
def _fixed_route(description: TokenRoute, chunks: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, N, H, 2]. Made outside of inference mode: what a measurement makes also serves the training after it."""
    with torch.inference_mode(False), torch.no_grad():
        typed = torch.tensor(description.fixed_types(chunks), dtype=torch.bool).view(
            1, chunks, description.linear.heads
        )
        return torch.stack((typed, ~typed), -1).to(device, dtype)

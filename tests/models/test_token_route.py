"""Token routing with a router: what the tests of every mixer, which need routes known in advance, leave out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hybridsearch.kernels import dispatch
from hybridsearch.kernels.token_routing import reference
from hybridsearch.models.build import build
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.models.memory import MemoryGroup
from hybridsearch.models.routed_memory import Pages, RoutedMemory
from hybridsearch.models.routing import Router, softmax_share
from hybridsearch.models.token_route import TokenRoute as Module
from hybridsearch.spec import cost
from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.combinators import TokenRoute
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta

CHUNK, WIDTH, VOCABULARY = 8, 24, 32
BARE = TokenRoute(
    softmax=FullAttention(heads=4, head_dim=4, value_head_dim=6, rope_theta=None),
    linear=GatedDelta(heads=2, head_dim=8, value_head_dim=12),
    chunk=CHUNK,
)
ROUTED: dict[str, TokenRoute] = {
    "mean": BARE,
    "mean and largest, per layer, own chunk softmax": BARE.model_copy(
        update={"score": "mean_max", "scope": "layer", "own_chunk": "softmax", "decay_through": False}
    ),
    "last, own chunk linear": BARE.model_copy(update={"score": "last", "own_chunk": "linear", "mix": "sum"}),
    "gumbel, delta, rotary": TokenRoute(
        softmax=FullAttention(heads=2, head_dim=8, rope_theta=50.0),
        linear=Delta(heads=2, head_dim=8),
        chunk=CHUNK,
        routing="gumbel",
        mix="scalar",
    ),
}


def model_of(
    description: TokenRoute, layers: int = 2, dtype: torch.dtype = torch.float64, *, always: str | None = None
) -> LanguageModel:
    """A model with weights large enough to matter; `always` makes every router choose one type."""
    layer = Layer(mixer=description, feed_forward=0)
    architecture = Architecture(width=WIDTH, layers=(layer,) * layers)
    model = build(architecture, VOCABULARY, generator=torch.Generator().manual_seed(5), dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
        if always is not None:
            model.embedding.weight[:, 0] = 1e3  # one channel whose sign is known in every layer
            for router in routers(model):
                assert router.scorer is not None
                router.scorer.weight.zero_()
                router.scorer.weight[("softmax", "linear").index(always) :: 2, 0] = 1.0
    return model.eval()


def routers(model: LanguageModel) -> list[Router]:
    return [module for module in model.modules() if isinstance(module, Router)]


def follow(model: LanguageModel, tokens: Tensor, memory: MemoryGroup) -> Tensor:
    return torch.stack([model.step(token, memory)[0] for token in tokens.unbind(1)], 1)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 61), generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=list(ROUTED.values()), ids=list(ROUTED))
def description(request: pytest.FixtureRequest) -> TokenRoute:
    routed: TokenRoute = request.param
    return routed


@pytest.mark.parametrize("prompt", [0, 5, 8, 30])
def test_prompts_and_steps_are_the_whole_sequence(description: TokenRoute, tokens: Tensor, prompt: int) -> None:
    model = model_of(description)
    with torch.inference_mode():
        whole = model(tokens)
        share = softmax_share(model)
        assert share is not None
        assert 0.1 < share < 0.9
        if prompt:
            hidden, memory = model.prefill(tokens[:, :prompt])
        else:
            hidden, memory = whole[:, :0], model.empty_memory(3)
        found = torch.cat((hidden, follow(model, tokens[:, prompt:], memory)), 1)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("at", [0, 12, 23, 24, 57])
def test_nothing_looks_ahead(description: TokenRoute, tokens: Tensor, at: int) -> None:
    """Also where the token turns its chunk's type over: only later chunks may see that."""
    model = model_of(description, dtype=torch.float32)
    with torch.no_grad():
        whole = model(tokens)
        for other in range(1, 4):
            changed = tokens.clone()
            changed[:, at] = (tokens[:, at] + other) % VOCABULARY
            assert torch.equal(model(changed)[:, :at], whole[:, :at])


def test_gradients_are_those_of_the_dense_reference(
    description: TokenRoute, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(description, layers=1)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(model(tokens).square().mul(torch.linspace(-1, 1, 61)[:, None]).sum(), parameters)

    found = gradients()
    monkeypatch.setattr(dispatch, "token_routed_attention", reference.token_routed_attention)
    for name, mine, theirs in zip(names, found, gradients(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9, msg=name)
        assert mine.abs().max() > 0, name


def test_the_route_is_straight_through() -> None:
    """dL/dscores is p (dr - <p, dr>) over the chunk, an equal part for each of its tokens."""
    router = routers(model_of(BARE))[0]
    x = torch.randn(2, 2 * CHUNK + 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert router.scorer is not None
    weight = router.scorer.weight
    route, _ = router(x)
    assert set(route.unique().tolist()) == {0.0, 1.0}
    d_route = torch.randn(route.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(route, weight, d_route)
    mean = x[:, : 2 * CHUNK].view(2, 2, CHUNK, WIDTH).mean(2)
    soft = (mean @ weight.detach().T).view(2, 2, 2, 2).softmax(-1)
    d_scores = soft * (d_route - (soft * d_route).sum(-1, keepdim=True))
    torch.testing.assert_close(found, torch.einsum("bns,bnw->sw", d_scores.flatten(2), mean), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("score", "expected"), [("mean", 2.0), ("mean_max", 2.0 + 7.0), ("last", 4.0)])
def test_what_the_router_reads_of_a_chunk(score: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel is 0 but for two tokens, 12 and, the last, 4; read with weight 1 and, as the largest, 7 / 12."""
    description = BARE.model_copy(update={"score": score, "scope": "layer"})
    router = Router(description, 1)
    assert router.scorer is not None
    with torch.no_grad():
        router.scorer.weight.zero_()
        router.scorer.weight[0] = 1.0
        if score == "mean_max":
            router.scorer.weight[2] = 7 / 12
    chunk = torch.zeros(1, CHUNK, 1)
    chunk[0, 3], chunk[0, CHUNK - 1] = 12.0, 4.0
    for threshold, chosen in ((expected - 1e-3, True), (expected + 1e-3, False)):
        # The linear score is the threshold: the same for every token, whatever the chunk holds.
        monkeypatch.setattr(router, "token_scores", partial(biased, router.scorer, threshold=threshold))
        route, _ = router(chunk)
        assert bool(route[0, 0, 0, 0] == 1) is chosen


def biased(scorer: torch.nn.Linear, x: Tensor, *, threshold: float) -> Tensor:
    scores: Tensor = scorer(x).clone()
    scores[..., 1] = threshold
    return scores


def test_gumbel_noise_is_drawn_in_training_only(tokens: Tensor) -> None:
    model = model_of(ROUTED["gumbel, delta, rotary"])
    source = torch.Generator()

    def routes(*, training: bool, seed: int) -> Tensor:
        model.train(training)
        router = routers(model)[0]
        router.noise = source.manual_seed(seed)
        x = torch.randn(8, 61, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        route: Tensor = router(x)[0].detach()
        assert torch.equal(route.sum(-1), torch.ones_like(route[..., 0]))
        return route

    assert torch.equal(routes(training=False, seed=1), routes(training=False, seed=2))
    assert torch.equal(routes(training=True, seed=1), routes(training=True, seed=1))
    assert not torch.equal(routes(training=True, seed=1), routes(training=True, seed=2))


@pytest.mark.parametrize(("always", "share"), [("softmax", 1.0), ("linear", 0.0)])
@pytest.mark.parametrize(("prompt", "steps"), [(0, 3), (16, 0), (30, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_memory_of_one_type_only(
    description: TokenRoute, tokens: Tensor, always: str, share: float, prompt: int, steps: int, dtype: torch.dtype
) -> None:
    model = model_of(description, dtype=dtype, always=always)
    memory = filled(model, tokens, prompt, steps)
    expected = sum(
        layer.mixer.state_bytes(prompt + steps, dtype.itemsize, share)
        for layer in model.architecture.layers
        if isinstance(layer.mixer, TokenRoute)
    )
    assert memory.bytes() == 3 * expected
    if always == "softmax":
        assert expected == cost.state_bytes(model.architecture, prompt + steps, dtype.itemsize)


def filled(model: LanguageModel, tokens: Tensor, prompt: int, steps: int) -> MemoryGroup:
    with torch.no_grad():
        memory = model.prefill(tokens[:, :prompt])[1] if prompt else model.empty_memory(len(tokens))
        follow(model, tokens[:, prompt : prompt + steps], memory) if steps else None
    return memory


def test_memory_of_mixed_routing_is_its_pages(description: TokenRoute, tokens: Tensor) -> None:
    """One sequence: exact at its real share, below a full cache, and only kept chunks have storage."""
    model = model_of(description, layers=1, dtype=torch.float32)
    memory = filled(model, tokens[:1], 30, 31)
    (part,) = memory.parts
    assert isinstance(part, RoutedMemory)
    with torch.no_grad():
        model(tokens[:1])
    share = softmax_share(model)
    assert share is not None
    assert 0 < share < 1
    assert part.pages.count == round(share * 7 * description.linear.heads)
    assert memory.bytes() == description.state_bytes(61, 4, share)
    assert description.state_bytes(61, 4, 0.0) < memory.bytes() < description.state_bytes(61, 4)
    stored = sum(page.untyped_storage().nbytes() for page in part.pages.held)
    kept = part.pages.count * CHUNK * 4 * (description.linear.head_dim + description.linear.value_size)
    assert kept <= stored <= kept * 1.2


def test_pages_keep_what_was_appended_while_they_grow() -> None:
    pages = Pages.empty((1, 2, 3, 4), like=torch.empty(0))
    for count in (1, 5, 0, 7):
        start = pages.count
        numbers = torch.arange(start, start + count, dtype=torch.float32)
        pages.append(
            numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 3),
            -numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 4),
            numbers.long(),
        )
    keys, values = pages.held
    assert torch.equal(keys[:, 0, 1, 2], torch.arange(13.0))
    assert torch.equal(values[:, 0, 0, 3], -torch.arange(13.0))
    assert torch.equal(pages.rows, torch.arange(13))


def test_decode_flops_follow_the_share(description: TokenRoute, tokens: Tensor, decode_flops: Any) -> None:
    model = model_of(description, layers=1, dtype=torch.float32)
    memory = filled(model, tokens[:1], 44, 0)
    share = softmax_share(model)
    expected = description.flops_per_token(WIDTH, 44, share)
    assert decode_flops(model, tokens[:1, 44], memory) == expected
    assert description.flops_per_token(WIDTH, 44, 0.0) < expected < description.flops_per_token(WIDTH, 44)


@pytest.fixture
def decode_flops() -> Callable[[LanguageModel, Tensor, MemoryGroup], int]:
    def count(model: LanguageModel, tokens: Tensor, memory: MemoryGroup) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.step(tokens, memory)
        return int(counter.get_total_flops())

    return count


def test_softmax_share_is_a_mean_over_layers() -> None:
    fixed = BARE.model_copy(update={"routing": "periodic", "share": 0.5})
    layers = (fixed, fixed.model_copy(update={"share": 1.0}), GatedDelta(heads=1, head_dim=8))
    architecture = Architecture(width=WIDTH, layers=tuple(Layer(mixer=mixer, feed_forward=0) for mixer in layers))
    model = build(architecture, VOCABULARY)
    assert softmax_share(model) is None
    model(torch.zeros(1, CHUNK - 1, dtype=torch.long))
    assert softmax_share(model) is None  # no chunk was complete
    model(torch.zeros(1, 4 * CHUNK, dtype=torch.long))
    assert softmax_share(model) == 0.75


def test_autocast_trains_and_decodes(description: TokenRoute, tokens: Tensor) -> None:
    model = model_of(description, dtype=torch.float32)
    expected = model(tokens[:, :20]).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(tokens[:, :20])
        found.square().mean().backward()
        memory = filled(model, tokens, 10, 0)
        with torch.no_grad():
            stepped = follow(model, tokens[:, 10:20], memory)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert (found - expected).norm() < 0.2 * expected.norm()
    assert (stepped - expected[:, 10:]).norm() < 0.2 * expected[:, 10:].norm()


def test_one_decision_for_a_layer_serves_every_head(tokens: Tensor) -> None:
    description = BARE.model_copy(update={"scope": "layer"})
    model = model_of(description, layers=1)
    memory = filled(model, tokens, 61, 0)
    (part,) = memory.parts
    assert isinstance(part, RoutedMemory)
    owners = part.pages.rows.view(-1, 2)
    assert torch.equal(owners[:, 0] + 1, owners[:, 1])


def test_a_branch_that_is_told_apart_matters(tokens: Tensor) -> None:
    """Turning the learned weight to one branch leaves that branch's output alone: the mix is convex."""
    description = BARE.model_copy(update={"mix": "scalar"})
    model = model_of(description, layers=1)
    module = next(module for module in model.modules() if isinstance(module, Module))
    softmax_out, linear_out = (torch.randn(2, 4, 6, dtype=torch.float64) for _ in range(2))
    assert module.mix.logits is not None
    assert module.mix.norms is not None
    with torch.no_grad():
        module.mix.logits.copy_(torch.tensor([[100.0], [-100.0]]).expand(2, 4))
        found = module.mix(softmax_out, linear_out, torch.empty(0), None)
        torch.testing.assert_close(found, module.mix.norms[0](softmax_out).flatten(-2))

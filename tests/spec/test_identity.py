"""The identity of an architecture may never drift: one frozen hash for every kind of mixer."""

import pytest

from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.canonical import canonical_json, content_hash, parse
from hybridsearch.spec.combinators import HeadSplit, Mixer, TokenRoute
from hybridsearch.spec.hgrn import Hgrn
from hybridsearch.spec.kimi_delta import KimiDelta
from hybridsearch.spec.mixers import Delta, FullAttention, GatedDelta, GatedLinear, SlidingWindow

GOLDEN: dict[str, tuple[Mixer, str]] = {
    "full": (
        FullAttention(heads=4, kv_heads=2, head_dim=16),
        "8a46d7888667d9817af9b316f2f0613e9a10301afbe405d617bbfadc719e2d0c",
    ),
    "sliding": (
        SlidingWindow(heads=4, head_dim=16, window=64, sinks=4),
        "ea651c69d66410cec966353866976885298dd3169f1ff2a7088ff2bf80dab15e",
    ),
    "gated_delta": (
        GatedDelta(heads=2, value_heads=4, head_dim=16),
        "2ea4f7942c9b96b869ac71150138aded3bbed2510242e3a49444ca0ec8c839bb",
    ),
    "delta": (
        Delta(heads=2, head_dim=16, negative_eigenvalues=True),
        "9b6e8d3d601b562591c44c86a3b337a7ac3c40a03c56204f0d388623eb53ae72",
    ),
    "gated_linear": (
        GatedLinear(heads=2, head_dim=16, decay="scalar"),
        "a68d7d8aadcd6539a6034d18a9a5aa1cf936191a51f6f0d47a905f314a0ec809",
    ),
    "kimi_delta": (
        KimiDelta(heads=2, head_dim=16, value_head_dim=32),
        "d0ecd7352f64c86eef70393bd94c1037b8535b0d955d2ca020a28c1725aa7a85",
    ),
    "hgrn": (
        Hgrn(heads=2, head_dim=16, least_forget=0.5),
        "5e80cf5ab190219e216d3ccef0ac8689bbfe352466a57e7f4b6915efb6e78f8b",
    ),
    "token_route": (
        TokenRoute(
            softmax=FullAttention(heads=4, head_dim=16),
            linear=GatedDelta(heads=2, head_dim=32),
            chunk=16,
            routing="periodic",
            share=0.25,
        ),
        "42a58e6f094e30ae9e3067cfd7fe5d4996b4c81ef72e500296d7b8e4da85d15e",
    ),
    "head_split": (
        HeadSplit(branches=(FullAttention(heads=2, head_dim=16), GatedDelta(heads=2, head_dim=16))),
        "965c4d72418b12581c208d607d17ebc6821615f6d300f59f0a2d2756776653bc",
    ),
}


def one_layer(mixer: Mixer) -> Architecture:
    return Architecture(width=64, layers=(Layer(mixer=mixer, feed_forward=128),))


@pytest.mark.parametrize(("mixer", "frozen"), GOLDEN.values(), ids=GOLDEN.keys())
def test_hashes_are_frozen(mixer: Mixer, frozen: str) -> None:
    assert content_hash(one_layer(mixer)) == frozen


@pytest.mark.parametrize("mixer", [mixer for mixer, _ in GOLDEN.values()], ids=GOLDEN.keys())
def test_json_reads_back_the_same(mixer: Mixer) -> None:
    architecture = one_layer(mixer)
    again = parse(canonical_json(architecture))
    assert again == architecture
    assert content_hash(again) == content_hash(architecture)


@pytest.mark.parametrize("mixer", [mixer for mixer, _ in GOLDEN.values()], ids=GOLDEN.keys())
def test_every_field_is_part_of_the_identity(mixer: Mixer) -> None:
    """Writing a default out changes nothing; every other value does."""
    written_out = type(mixer).model_validate(mixer.model_dump())
    assert content_hash(one_layer(written_out)) == content_hash(one_layer(mixer))
    hashes = {content_hash(one_layer(mixer))}
    for name, value in mixer.model_dump().items():
        if isinstance(value, int | float):
            other = not value if isinstance(value, bool) else 2 * value or 2
            hashes.add(content_hash(one_layer(mixer.model_copy(update={name: other}))))
    assert len(hashes) == 1 + sum(isinstance(value, int | float) for value in mixer.model_dump().values())

"""What counts as the same architecture."""

import pytest

from hybridsearch.spec.architecture import Architecture, Layer
from hybridsearch.spec.canonical import content_hash
from hybridsearch.spec.combinators import Mixer
from hybridsearch.spec.mixers import FullAttention, GatedDelta


def hash_of(mixer: Mixer) -> str:
    return content_hash(Architecture(width=32, layers=(Layer(mixer=mixer, feed_forward=0),)))


@pytest.mark.parametrize(
    ("short", "written_out", "other"),
    [
        (
            FullAttention(heads=4, head_dim=8),
            FullAttention(heads=4, kv_heads=4, head_dim=8, value_head_dim=8),
            FullAttention(heads=4, kv_heads=2, head_dim=8),
        ),
        (
            GatedDelta(heads=4, head_dim=8),
            GatedDelta(heads=4, value_heads=4, head_dim=8, value_head_dim=8),
            GatedDelta(heads=4, head_dim=8, value_head_dim=16),
        ),
    ],
)
def test_a_size_written_out_or_left_out_is_the_same(short: Mixer, written_out: Mixer, other: Mixer) -> None:
    assert hash_of(short) == hash_of(written_out)
    assert hash_of(short) != hash_of(other)

"""What an architecture costs: the sums of what its mixers count of themselves (conventions in `mixers`).

A vocabulary belongs to the task, so embedding and head count only where one is given.
"""

from hybridsearch.spec.architecture import Architecture
from hybridsearch.spec.combinators import HeadSplit, Mixer, TokenRoute
from hybridsearch.spec.mixers import FullAttention


def parameters(architecture: Architecture, vocabulary: int | None = None) -> int:
    """Trainable weights; with a vocabulary, the embedding and an untied head count too."""
    width = architecture.width
    blocks = sum(
        layer.mixer.parameters(width) + width + (3 * layer.feed_forward + 1) * width * (layer.feed_forward > 0)
        for layer in architecture.layers
    )
    matrices = 0 if vocabulary is None else vocabulary * width * (1 if architecture.tied_embeddings else 2)
    return blocks + width + matrices


def state_bytes(architecture: Architecture, context: int, element_bytes: int = 2) -> int:
    """Decode memory of one sequence after `context` tokens, in bytes; token routing at its worst case, all softmax."""
    return sum(layer.mixer.state_bytes(context, element_bytes) for layer in architecture.layers)


def flops_per_token(architecture: Architecture, context: int, vocabulary: int | None = None) -> int:
    """One decode step with `context` tokens in memory; with a vocabulary, the output head counts too."""
    width = architecture.width
    blocks = sum(
        layer.mixer.flops_per_token(width, context) + 6 * width * layer.feed_forward for layer in architecture.layers
    )
    return blocks + (0 if vocabulary is None else 2 * width * vocabulary)


def full_layers(architecture: Architecture) -> int:
    """Layers that hold softmax attention without a bound on its memory: full attention or token routing anywhere."""
    return sum(_unbounded(layer.mixer) for layer in architecture.layers)


def _unbounded(mixer: Mixer) -> bool:
    if isinstance(mixer, HeadSplit):
        return any(_unbounded(branch) for branch in mixer.branches)
    return isinstance(mixer, FullAttention | TokenRoute)

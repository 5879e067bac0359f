"""An architecture becomes a model: built without storage, then filled from one generator."""

import torch

from hybridsearch.models.initialise import initialise
from hybridsearch.models.language_model import LanguageModel
from hybridsearch.spec.architecture import Architecture


def build(
    architecture: Architecture,
    vocabulary: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """A model with its first weights, drawn on the CPU in float32, so that one seed gives the same on every device.

    Args:
        architecture: what to build.
        vocabulary: number of tokens; the rows of the embedding.
        generator: a CPU generator for the weights; none stands for one with seed 0, for weights that will be replaced.
        device: where the weights go; `meta` gives shapes without storage.
        dtype: of the weights and activations; recurrent states stay in float32 (float64 in a float64 model).
    """
    with torch.device("meta"):
        model = LanguageModel(architecture, vocabulary)
    if torch.device(device).type == "meta":
        return model.to(dtype)
    model.to_empty(device="cpu")
    initialise(model, torch.Generator().manual_seed(0) if generator is None else generator)
    return model.to(device=device, dtype=dtype)

"""What a benchmark of a kernel is made of: shapes, one operation at one shape, floors, and the row it becomes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

BYTES_PER_SECOND, FLOPS_PER_SECOND = 4.3e12, 790e12
"""One H200: a large copy, read and written, and a bfloat16 matrix product of 8192, as measured."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one run."""

    batch: int
    tokens: int
    heads: int
    size: int

    def __str__(self) -> str:
        return f"B{self.batch} T{self.tokens} H{self.heads} D{self.size}"

    @property
    def rows(self) -> int:
        """Tokens of all sequences times heads."""
        return self.batch * self.tokens * self.heads

    def small(self) -> "Shape":
        """At most 2 sequences of 600 tokens, no multiple of a chunk: where errors against float64 are found."""
        return Shape(min(self.batch, 2), min(self.tokens, 600), self.heads, self.size)


SHAPES = (
    Shape(32, 512, 4, 64),
    Shape(8, 2048, 8, 64),
    Shape(8, 4096, 8, 128),
    Shape(2, 16384, 8, 128),
    Shape(1, 65536, 8, 128),
)
STEPS = tuple(Shape(batch, 1, heads, size) for heads, size in ((4, 64), (8, 128)) for batch in (1, 16, 128))
"""One token of decoding."""

Run = Callable[..., Tensor]


@dataclass
class Operation:
    """One operation at one shape."""

    inputs: list[Tensor]
    """Leaves; those that want gradients are trained."""
    implementations: dict[str, Run]
    """From the inputs to the output; the first is ours."""
    exact: Run | None
    """The same in float64; none if no form of it fits."""
    floor_us: dict[str, float]
    """Of "forward" and "both" (forward and backward)."""
    peers_only: frozenset[str] = frozenset()
    """Implementations of something else that is timed for comparison: their errors are not looked at."""

    @property
    def trained(self) -> bool:
        """Whether the backward pass is timed too."""
        return any(x.requires_grad for x in self.inputs)


def floor(
    forward_bytes: float, forward_flops: float = 0.0, backward_bytes: float = 0.0, backward_flops: float = 0.0
) -> dict[str, float]:
    """Microseconds that no implementation can undercut: the larger of bytes and matrix products."""

    def least(moved: float, flops: float) -> float:
        return 1e6 * max(moved / BYTES_PER_SECOND, flops / FLOPS_PER_SECOND)

    return {
        "forward": least(forward_bytes, forward_flops),
        "both": least(forward_bytes + backward_bytes, forward_flops + backward_flops),
    }


@dataclass
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


@dataclass
class Row:
    """What one implementation took, in microseconds."""

    operation: str
    shape: str
    implementation: str
    errors: dict[str, float] = field(default_factory=dict)
    """Relative to float64."""
    forward_us: Spread | None = None
    both_us: Spread | None = None
    eager_forward_us: Spread | None = None
    eager_both_us: Spread | None = None
    eager_caller_us: Spread | None = None
    """Forwards and backwards, the backward pass not in torch's own thread but in the caller's."""
    floor_forward_us: float | None = None
    floor_both_us: float | None = None
    failure: str = ""

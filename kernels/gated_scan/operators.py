# mypy: ignore-errors
# (What torch registers and what Triton launches is not typed.)
"""The operators of the gated scan: one launch forwards, one backwards, one more each where T is split.

`hybridsearch::gated_scan` and `hybridsearch::gated_scan_backward` are opaque to torch.compile (no graph break) and can
stand in a CUDA graph: no host waits for the device, no size depends on data.
"""

import torch
from torch import Tensor

from hybridsearch.kernels.gated_scan.tiles import MOST_SEGMENTS, PIECE, Tile, tile
from hybridsearch.kernels.gated_scan.triton_scan import backward_kernel, forward_kernel, step_kernel
from hybridsearch.kernels.registration import define, differentiate, multiprocessors, on

STEP_BLOCK = 1024


def _segments(x: Tensor, chosen: Tile) -> int:
    """Segments that give each multiprocessor of the device eight programs, four times what it works on at once.

    1 if T is short, and where every multiprocessor has a program anyway: to read all but one segment twice costs more.
    """
    if x.device.type != "cuda":
        return 1
    programs = x.shape[0] * -(-x.shape[2] // chosen.columns)
    processors = multiprocessors(x.device)
    if 10 * programs >= 9 * processors:
        return 1
    return max(1, min(8 * processors // programs, x.shape[1] // (4 * chosen.tokens), MOST_SEGMENTS))


def _launch(x: Tensor, segments: int, kernel: str) -> tuple[tuple[int, int], dict]:
    """Segments and tokens of each, whole tiles; and the options of a launch."""
    chosen = tile(kernel, x.dtype)
    segments = min(segments or _segments(x, chosen), MOST_SEGMENTS)
    tiles = -(-x.shape[1] // chosen.tokens)
    span = -(-tiles // segments)
    segments = -(-tiles // span)
    options = {"BD": chosen.columns, "LANES": chosen.lanes, "RUN": chosen.run, "num_warps": chosen.warps}
    return (segments, span * chosen.tokens), options | {"MOST": 1 if segments == 1 else MOST_SEGMENTS}


def _gated_scan(x: Tensor, g: Tensor, initial_state: Tensor | None, segments: int) -> tuple[Tensor, Tensor]:
    """Output [B, T, D] and the final state [B, D]; D is a multiple of 8."""
    x, g = x.contiguous(), g.contiguous()
    batch, tokens, channels = x.shape
    output, last = x.new_empty(x.shape), x.new_empty((batch, channels), dtype=torch.float32)
    (segments, span), options = _launch(x, segments, "forward")
    maps = last.new_empty((2, batch, segments if segments > 1 else 0, channels))
    initial = None if initial_state is None else initial_state.contiguous()
    arguments = (x, g, initial, *maps, output, last, tokens, channels // PIECE, segments, span)
    programs = batch * -(-channels // options["BD"])
    options["STARTED"] = initial is not None
    with on(x):
        if segments > 1:
            forward_kernel[(programs * (segments - 1),)](*arguments, **options, SUMMARY=True)
        forward_kernel[(programs * segments,)](*arguments, **options, SUMMARY=False)
    return output, last


def _fake_gated_scan(x: Tensor, g: Tensor, initial_state: Tensor | None, segments: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0], x.shape[2]), dtype=torch.float32)


def _gated_scan_backward(
    d_output: Tensor, d_last: Tensor | None, g: Tensor, output: Tensor, initial_state: Tensor | None, segments: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, g and the initial state."""
    d_output, g = d_output.contiguous(), g.contiguous()
    batch, tokens, channels = output.shape
    d_x, d_g, d_initial = output.new_empty(g.shape), g.new_empty(g.shape), _state(output)
    (segments, span), options = _launch(output, segments, "backward")
    maps = d_initial.new_empty((2, batch, segments if segments > 1 else 0, channels))
    initial = None if initial_state is None else initial_state.contiguous()
    d_end = None if d_last is None else d_last.contiguous()
    results = (d_x, d_g, d_initial, tokens, channels // PIECE, segments, span)
    arguments = (d_output, g, output, initial, d_end, *maps, *results)
    programs = batch * -(-channels // options["BD"])
    options |= {"STARTED": initial is not None, "ENDED": d_end is not None}
    with on(output):
        if segments > 1:
            backward_kernel[(programs * (segments - 1),)](*arguments, **options, SUMMARY=True)
        backward_kernel[(programs * segments,)](*arguments, **options, SUMMARY=False)
    return d_x, d_g, d_initial


def _fake_gated_scan_backward(
    d_output: Tensor, d_last: Tensor | None, g: Tensor, output: Tensor, initial_state: Tensor | None, segments: int
) -> tuple[Tensor, Tensor, Tensor]:
    return output.new_empty(g.shape), g.new_empty(g.shape), _state(output)


def _state(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[2]), dtype=torch.float32)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, g, initial_state, segments = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(g, output[0], initial_state)
    ctx.segments = segments


def _backward(ctx: torch.autograd.function.FunctionCtx, d_output: Tensor | None, d_last: Tensor | None) -> tuple:
    g, output, initial_state = ctx.saved_tensors
    d_output = torch.zeros_like(output) if d_output is None else d_output
    d_x, d_g, d_initial = gated_scan_backward(d_output, d_last, g, output, initial_state, ctx.segments)
    return d_x, d_g, None if initial_state is None else d_initial, None


def _gated_scan_step(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, D] and the new state."""
    x, g, state = x.contiguous(), g.contiguous(), state.contiguous()
    output, after = torch.empty_like(x), torch.empty_like(state)
    with on(x):
        step_kernel[(-(-x.numel() // STEP_BLOCK),)](
            x, g, state, output, after, x.numel(), BLOCK=STEP_BLOCK, num_warps=4
        )
    return output, after


def _fake_gated_scan_step(x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), state.new_empty(state.shape)


gated_scan = define(
    "gated_scan",
    "(Tensor x, Tensor g, Tensor? initial_state, int segments) -> (Tensor, Tensor)",
    _gated_scan,
    _fake_gated_scan,
)
gated_scan_backward = define(
    "gated_scan_backward",
    "(Tensor d_output, Tensor? d_last, Tensor g, Tensor output, Tensor? initial_state, int segments)"
    " -> (Tensor, Tensor, Tensor)",
    _gated_scan_backward,
    _fake_gated_scan_backward,
)
gated_scan_step = define(
    "gated_scan_step", "(Tensor x, Tensor g, Tensor state) -> (Tensor, Tensor)", _gated_scan_step, _fake_gated_scan_step
)
differentiate("gated_scan", _keep, _backward)

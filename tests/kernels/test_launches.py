"""The launcher without Triton: what is compiled once, and what it refuses. (Kernels' own tests launch through it.)"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hybridsearch.kernels import launches


class Compiled:
    """A compiled kernel that notes its launches."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: self.launches.append((grid, arguments))


class Kernel:
    """A kernel of a pointer, a number, and two constants."""

    def __init__(self, *, specialised: bool = False) -> None:
        self.compilations: list[dict[str, Any]] = []
        self.params = [SimpleNamespace(name=name, do_not_specialize=not specialised) for name in ("x", "n", "C", "V")]
        self.fn = SimpleNamespace(__name__="some_kernel")
        self.compiled = Compiled()

    def __getitem__(self, grid: tuple[int]) -> Callable[..., Compiled]:
        return lambda *arguments, **constants: self.compilations.append(constants) or self.compiled  # type: ignore[func-returns-value]


@pytest.fixture(autouse=True)
def _fake_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "CompiledKernel", Compiled)


def test_a_kernel_is_looked_up_once_for_a_kind_of_inputs() -> None:
    kernel, launch = Kernel(), launches.Launcher()
    for programs in (3, 4, 5):
        launch(kernel, programs, "pointer", programs, C=64, V=32)
    assert kernel.compilations == [{"C": 64, "V": 32}]
    assert kernel.compiled.launches == [((programs, 1, 1), ("pointer", programs, None, None)) for programs in (4, 5)]


def test_kinds_do_not_share_what_they_compiled() -> None:
    assert launches.launcher("rule", "bfloat16", 64) is launches.launcher("rule", "bfloat16", 64)
    assert launches.launcher("rule", "bfloat16", 64) is not launches.launcher("rule", "float32", 64)
    assert launches.launcher("rule", "bfloat16", 64) is not launches.launcher("rule_backward", "bfloat16", 64)


def test_a_number_that_triton_would_specialise_is_refused() -> None:
    with pytest.raises(TypeError, match=r"some_kernel is specialised on n: name it in do_not_specialize"):
        launches.Launcher()(Kernel(specialised=True), 3, "pointer", 16, C=64, V=32)

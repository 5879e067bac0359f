"""Launches of Triton kernels that do not look at every argument again.

Triton finds the compiled kernel of a launch from the type, value and alignment of each of its 20 to 30 arguments, which
takes as long as the launch itself (on an H200's host 19 to 36 us a launch, 10 to 20 without). An operator knows what
its inputs have in common: it asks once for each kind of inputs, and then launches what was found.
"""

from functools import cache
from typing import Any

from triton.compiler import CompiledKernel


class Launcher:
    """Launches kernels, each compiled once, for inputs of one kind."""

    def __init__(self) -> None:
        self.compiled: dict[int, tuple[CompiledKernel, tuple[None, ...]]] = {}

    def __call__(self, kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
        """Launch `programs` programs of the kernel; its compile-time constants count by the first launch."""
        found = self.compiled.get(id(kernel))
        if found is None:
            self._first(kernel, programs, arguments, constants)
        else:
            compiled, constant = found
            compiled[programs, 1, 1](*arguments, *constant)

    def _first(self, kernel: Any, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        compiled = kernel[(programs,)](*arguments, **constants)
        if not isinstance(compiled, CompiledKernel):  # Triton's interpreter compiles nothing
            return
        for parameter, argument in zip(kernel.params, arguments, strict=False):
            if type(argument) is int and not parameter.do_not_specialize:
                name = kernel.fn.__name__
                raise TypeError(f"{name} is specialised on {parameter.name}: name it in do_not_specialize")
        # A compiled kernel takes a value for each parameter, and skips those of its constants.
        self.compiled[id(kernel)] = compiled, (None,) * (len(kernel.params) - len(arguments))


@cache
def launcher(operator: str, *kind: Any) -> Launcher:
    """The launcher of an operator for one kind of inputs: for everything that could change what Triton compiles.

    That is the device, dtypes, sizes that are constants of the kernels, and which arguments are none. Tensors have to
    lie at multiples of 16 bytes (`registration.aligned`), and integers to be below 2**31.
    """
    return Launcher()

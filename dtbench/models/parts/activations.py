"""The activations of the MLPs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.models.parts.dropout import is_side_by_side


class TanhGelu(nn.GELU):
    """GPT-2's GELU, 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), looked up for bfloat16 on a CPU.

    There are 65,536 numbers in bfloat16. A table of them gives the same values as PyTorch's function, which takes more
    than twice as long: its two passes were a sixth of a training step. The gradient is rounded once more.
    """

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, input: Tensor) -> Tensor:
        is_plain = not (torch.compiler.is_compiling() or is_side_by_side())
        if input.dtype == torch.bfloat16 and input.device.type == "cpu" and is_plain:
            found: Tensor = _LookedUp.apply(input)
            return found
        return super().forward(input)


class _LookedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _look_up(_tables()[0], x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _look_up(_tables()[1], x) * grad


def _look_up(table: Tensor, x: Tensor) -> Tensor:
    return table.index_select(0, x.view(torch.uint16).to(torch.int32).flatten()).view(x.shape)


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """Return the function's value and its derivative at each number of bfloat16, by its bits: (65536,) bfloat16."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        x = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
        exact = x.float().requires_grad_()
        (derivative,) = torch.autograd.grad(functional.gelu(exact, approximate="tanh").sum(), exact)
        return functional.gelu(x, approximate="tanh"), derivative.to(torch.bfloat16)


#: By the names of GPT-2's option `activation_function`.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),  # the map before it does not need its output
    "gelu": nn.GELU,
    "gelu_new": TanhGelu,  # GPT-2's own name for the tanh approximation
}

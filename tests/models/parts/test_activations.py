"""The looked-up GELU against PyTorch's, at every number of bfloat16."""

from __future__ import annotations

import torch
from torch.nn import functional

from dtbench.models.parts.activations import TanhGelu


def every_number() -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).view(256, 256)


def test_values_are_pytorchs():
    x = every_number()
    expected = functional.gelu(x, approximate="tanh")
    assert torch.equal(TanhGelu()(x).nan_to_num(7.0), expected.nan_to_num(7.0))


def test_strides_do_not_matter():
    x = torch.randn(6, 4, 10, generator=torch.Generator().manual_seed(0)).bfloat16().permute(2, 0, 1)[::2]
    assert torch.equal(TanhGelu()(x), functional.gelu(x, approximate="tanh"))


def test_gradients_are_pytorchs_up_to_one_rounding():
    x = every_number()
    x = x[x.abs() < 1e6].clone()  # the cube of larger ones overflows, and PyTorch's gradient is NaN, too
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    found, exact = x.clone().requires_grad_(), x.float().requires_grad_()
    TanhGelu()(found).backward(grad)
    functional.gelu(exact, approximate="tanh").backward(grad.float())
    error = (found.grad.float() - exact.grad).abs()
    assert (error <= exact.grad.abs() * 2**-7 + 1e-30).all()
    assert (error > 0).any()


def test_float32_is_untouched():
    x = torch.linspace(-5, 5, 1001)
    assert torch.equal(TanhGelu()(x), functional.gelu(x, approximate="tanh"))

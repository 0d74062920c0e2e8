"""What is checked before the first run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dtbench.config import HardwareConfig
from dtbench.runs import preflight


@pytest.mark.parametrize(("accelerator", "expected"), [("auto", 80), ("cuda", 80), ("cpu", 16)])
def test_memory_is_that_of_the_device_that_trains(monkeypatch, accelerator, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80))
    monkeypatch.setattr(preflight, "total_memory", lambda: 16)
    assert preflight.training_memory(HardwareConfig(accelerator=accelerator)) == expected


def test_without_a_gpu_it_is_the_machines(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert preflight.training_memory(HardwareConfig(accelerator="auto")) == preflight.total_memory()

"""The precision `auto`, autocast as Lightning's, and memory that a process keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dtbench.hardware import autocast, fast_precision, keep_freed_memory


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ((False, False), "32-true"),
        ((True, False), "bf16-mixed"),
        ((False, True), "bf16-mixed"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_units_for_it(monkeypatch, units, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units[0], raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units[1], raising=False)
    assert fast_precision(gpu=False) == expected


def test_the_processor_is_judged_as_the_system_does():
    """Against the processor's own flags, where Linux shows them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), None)
    except OSError:
        flags = None
    if flags is None:
        pytest.skip("the system does not list the processor's flags")
    has_units = "avx512_bf16" in flags or "amx_tile" in flags
    assert fast_precision(gpu=False) == ("bf16-mixed" if has_units else "32-true")


def test_auto_on_a_gpu_asks_the_gpu(monkeypatch):
    for answer, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=answer: answer)
        assert fast_precision(gpu=True) == expected


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_autocast_computes_in_the_precision_of_the_training(precision, kind):
    layer = torch.nn.Linear(4, 4)
    with autocast(torch.device("cpu"), precision):
        assert layer(torch.zeros(2, 4)).dtype == kind


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc gives large blocks back at once")
def test_freed_memory_stays_with_the_process():
    """Page faults of 50 times 64 MB, allocated, written and freed, in a process with and without it.

    The heap grows to its size in the first few rounds; they are not counted.
    """
    program = """
import resource, sys, torch
from dtbench.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        what: int(subprocess.run([sys.executable, "-c", program, what], capture_output=True, check=True).stdout)
        for what in ("keep", "give")
    }
    assert faults["keep"] < faults["give"] / 10


def test_keeping_memory_twice_does_no_harm():
    keep_freed_memory()
    keep_freed_memory()

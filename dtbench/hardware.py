"""What the machine can do: a GPU, bfloat16 units, and the memory that a process keeps for its next step."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dtbench.config import HardwareConfig

#: Lightning's names of the two precisions that `auto` chooses from.
FLOAT32, BFLOAT16 = "32-true", "bf16-mixed"
#: glibc's names of what `mallopt` sets (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def on_gpu(hardware: HardwareConfig) -> bool:
    """Say whether runs train on a CUDA GPU."""
    import torch

    return hardware.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def is_first_rank(hardware: HardwareConfig) -> bool:
    """Say whether this process is the first of those that train one run: it alone writes records and talks.

    The ranks are numbered by Lightning (`NODE_RANK`, `LOCAL_RANK`), by torchrun (`RANK`), or by srun (`SLURM_PROCID`).
    """
    if hardware.devices * hardware.num_nodes == 1:
        return True
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    if started_by_srun():
        return int(os.environ["SLURM_PROCID"]) == 0
    return all(int(os.environ.get(name, 0)) == 0 for name in ("NODE_RANK", "LOCAL_RANK"))


def started_by_torchrun() -> bool:
    """Say whether torchrun started this process, alone or as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_by_srun() -> bool:
    """Say whether this process is one of several that one srun of Slurm started.

    A batch script has Slurm's variables too, but is a single process.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def fast_precision(*, gpu: bool) -> str:
    """Return what `precision: auto` stands for: bfloat16 autocast where the device has units for it, else float32.

    Args:
        gpu: whether the runs train on a CUDA GPU.
    """
    import torch

    has_units = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else _cpu_has_bfloat16()
    return BFLOAT16 if has_units else FLOAT32


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the block in which a forward pass is computed as Lightning computes it with a precision `…-mixed`."""
    import torch

    kinds = {BFLOAT16: torch.bfloat16, "16-mixed": torch.float16}
    return torch.autocast(device.type, kinds[precision]) if precision in kinds else nullcontext()


def _cpu_has_bfloat16() -> bool:
    """Say whether the processor has AVX512-BF16 or AMX: without them bfloat16 is slower than float32.

    PyTorch tells it by two functions without a public name.
    """
    from torch import cpu

    return any(getattr(cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, instead of asking the system for it again in every training step.

    glibc gives blocks of more than 128 KiB back at once, and the system clears each page when it is asked for again,
    which took 14 to 30 % of a step of pretraining. Call it in processes that train; it does nothing where the C library
    is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

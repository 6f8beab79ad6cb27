"""Mixed precision: the number format of a network's convolutions and products, chosen by setting or by the device."""

from __future__ import annotations

import logging
import re
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

logger = logging.getLogger(__name__)

Amp = Literal["off", "auto", "float16", "bfloat16"]

_DTYPES = {"off": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Of a CPU, as torch.cpu.get_capabilities calls them: AVX-512 and AMX of x86, and bf16 of ARM.
_CPU_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")


def chosen_dtype(amp: Amp, device: torch.device) -> torch.dtype:
    """The type that a setting ``amp`` stands for on a device; float32: no mixed precision."""
    return _chosen(device)[0] if amp == "auto" else _DTYPES[amp]


@cache
def log_choice(key: str, amp: Amp, device: torch.device) -> None:
    """Log what ``auto`` chose and why, in one line, once; other values say it themselves."""
    if amp == "auto":
        dtype, reason = _chosen(device)
        logger.info("%s auto: %s, as %s", key, str(dtype).removeprefix("torch."), reason)


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """A ``with`` block whose convolutions and products are computed in ``dtype``; float32 leaves all as it is."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _chosen(device: torch.device) -> tuple[torch.dtype, str]:
    """bfloat16 where the device computes it by itself, else float32; and the reason."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(device)
        return (torch.bfloat16, f"{name} computes it") if native else (torch.float32, f"{name} has no bfloat16")
    if device.type == "cpu":
        found = cpu_bfloat16()
        return (torch.bfloat16, f"the CPU has {found}") if found else (torch.float32, no_cpu_bfloat16())
    return torch.float32, f"it is not known of {device.type} whether bfloat16 is faster"


def cpu_bfloat16() -> str | None:
    """The feature by which this machine's CPU computes bfloat16; ``None``: it emulates it, which is slow."""
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return next((name for name in _CPU_FEATURES if capabilities.get(name)), None)
    # Earlier versions of torch do not say it; Linux does.
    info = Path("/proc/cpuinfo")
    words = set(re.findall(r"\w+", info.read_text(encoding="utf-8"))) if info.is_file() else set()
    return next((name for name in _CPU_FEATURES if name in words), None)


def no_cpu_bfloat16() -> str:
    """Why a CPU is said not to compute bfloat16."""
    return f"the CPU has none of {', '.join(_CPU_FEATURES)}"

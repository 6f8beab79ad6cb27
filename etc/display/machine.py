"""What speed was measured on, in words."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def machine(device: torch.device) -> str:
    """The GPU, or the processor and how many of its threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux
    model = re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.is_file() else None
    return model[1] if model else platform.processor() or platform.machine()

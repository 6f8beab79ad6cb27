"""Processes started by torchrun: rank, device, barrier and sums over all of them; without torchrun there is one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etc.errors import UserError
from utils.locks import FolderInUse, exclusive

logger = logging.getLogger(__name__)


def rank() -> int:
    """Rank of this process; the one with rank 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the process group if torchrun started this process; yields the device of this process.

    Args:
        device: what the settings ask for; with CUDA every process takes the GPU of its local rank.

    Raises:
        UserError: a part of torchrun's environment alone; with CUDA, no GPU of the local rank.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else what names no GPU, as the thread that pins memory, opens GPU 0 too
        yield device
        return
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"RANK is set, {', '.join(missing)} not: start with torchrun, which sets all, or unset RANK")
    if device.type == "cuda":
        device = torch.device("cuda", _local_gpu())
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    yield device
    # Not after an error: NCCL would wait for the processes that sit in a collective, and the error would not be shown.
    _patient_groups.clear()
    dist.destroy_process_group()


def _local_gpu() -> int:
    """The GPU of this process.

    Raises:
        UserError: ``LOCAL_RANK`` is missing, or larger than this machine has GPUs.
    """
    given, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not given.isdecimal() or int(given) >= gpus:
        raise UserError(
            f"LOCAL_RANK is {given or 'not set'}, this machine has {gpus} GPUs: start one process for each, "
            f"torchrun --nproc_per_node {gpus}"
        )
    return int(given)


_patient_groups: dict[dist.ProcessGroup | None, dist.ProcessGroup] = {}


def _patient_group() -> dist.ProcessGroup:
    """All processes, for waiting and counting: the default group gives up after minutes, and NCCL's needs the GPU.

    Rank 0 may render a world, or one process may score the longest clip, for longer than that.
    """
    default = dist.group.WORLD
    if default not in _patient_groups:
        group = dist.new_group(backend="gloo", timeout=timedelta(days=30))
        assert isinstance(group, dist.ProcessGroup), "every process is a member"
        _patient_groups[default] = group
    return _patient_groups[default]


def sum_counts(counts: Tensor) -> Tensor:
    """Integer counts summed over all processes; with one process they come back as they are."""
    if world_size() == 1:
        return counts
    total = counts.to("cpu", copy=True)
    dist.all_reduce(total, group=_patient_group())
    return total.to(counts.device)


def gathered(value: Any) -> list[Any]:
    """A value of every process, something small that pickle takes, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_patient_group())
    return values


def share_buffers(module: nn.Module) -> None:
    """Copy the buffers of rank 0 to all processes: batch norm statistics differ after a training step."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def barrier() -> None:
    """Wait for all processes."""
    # gloo's own barrier would allocate a tensor on the GPU of this process.
    sum_counts(torch.zeros(1, dtype=torch.int64, device="cpu"))


def warn_of_idle_processes(parts: int, what: str) -> None:
    """Log where there are fewer parts of the work than processes."""
    if 0 < parts < world_size() and rank() == 0:
        logger.warning(
            "%d processes share %d %s: %d have nothing to do", world_size(), parts, what, world_size() - parts
        )


@contextmanager
def exclusive_output(folder: str | Path, name: str = "") -> Iterator[None]:
    """Keep other runs from writing into a folder, for the length of a ``with`` block.

    The processes that torchrun started are one run: rank 0 holds the lock until all of them have left the block.

    Args:
        folder: the folder; it is made where it is missing.
        name: which result, where a folder holds several that different scripts write.

    Raises:
        UserError: another run is writing there.
    """
    refusal: list[str | None] = [None]
    group = _patient_group() if dist.is_initialized() else None
    with ExitStack() as stack:
        if rank() == 0:
            try:
                stack.enter_context(exclusive(folder, name))
            except FolderInUse as error:
                refusal = [str(error)]
        if group is not None:
            dist.broadcast_object_list(refusal, src=0, group=group)
        if refusal[0] is not None:
            raise UserError(refusal[0])
        yield
        barrier()


def device_of(name: str) -> torch.device:
    """The device that ``TEST.device`` names; ``auto`` takes CUDA where there is one.

    Among processes that torchrun started it is the GPU of this process, whichever GPU is named.

    Raises:
        UserError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"TEST.device {name!r} is no device: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("TEST.device mps: this machine has no Apple GPU that torch can use")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"TEST.device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "cuda" and dist.is_initialized():
        return torch.device("cuda", torch.cuda.current_device())
    return device

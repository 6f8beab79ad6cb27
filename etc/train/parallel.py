"""The student in several processes: batch norm over all of them, and DDP, which must know what gets a gradient."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from etc import distributed
from etc.errors import UserError
from etc.precision import autocast
from model.external import UnclearOutput

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def share_batch_norm(student: nn.Module) -> None:
    """Put batch norms into a network, in place, that normalise over all processes; they train on CUDA alone.

    Those that the network keeps in evaluation mode while it trains stay as they are. torch makes plain ones even of
    those that do more, like timm's, which contain the activation; timm keeps its own.

    Raises:
        UserError: a kind of batch norm that neither torch nor timm converts.
    """
    training = student.training
    student.train()
    frozen = {n: m for n, m in student.named_modules() if n and isinstance(m, _BatchNorm) and not m.training}
    _convert_batch_norm(student)
    for name, norm in frozen.items():
        student.set_submodule(name, norm)
    student.train(training)


def _convert_batch_norm(student: nn.Module) -> None:
    derived = {type(m) for m in student.modules() if isinstance(m, _BatchNorm) and type(m) not in _BATCH_NORMS}
    if not derived:
        nn.SyncBatchNorm.convert_sync_batchnorm(student)
        return
    if all(kind.__module__.startswith("timm.") for kind in derived):
        from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm

        if derived <= {BatchNormAct2d, SyncBatchNormAct}:
            convert_sync_batchnorm(student)
            return
    names = ", ".join(sorted(kind.__name__ for kind in derived))
    raise UserError(
        f"DISTRIBUTED.sync_bn: {names} does more than batch norm, which would be lost where it is synchronised: "
        "set DISTRIBUTED.sync_bn to false"
    )


def data_parallel(
    student: nn.Module,
    segmentation_loss: nn.Module,
    device: torch.device,
    crop: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The student, wrapped in DDP where several processes train.

    Args:
        student: the network, on ``device``.
        segmentation_loss: called as ``(outputs, label)``.
        device: where it trains.
        crop: height and width of the images that it trains on.
        dtype: type that its convolutions and products are computed in (:func:`etc.precision.autocast`).

    Raises:
        UserError: the network returns no clear logits.
    """
    if distributed.world_size() == 1:
        return student
    ids = [device.index] if device.type == "cuda" else None
    with autocast(dtype, device):  # in float32 two crops may not fit where the training's do
        idle = parameters_without_gradient(student, segmentation_loss, device, crop)
    # DDP waits for the gradient of every parameter, and finds those that get none only if it is told to look.
    return DistributedDataParallel(student, device_ids=ids, find_unused_parameters=bool(idle))


def parameters_without_gradient(
    student: nn.Module, segmentation_loss: nn.Module, device: torch.device, crop: tuple[int, int]
) -> list[str]:
    """Names of the trained parameters that the segmentation loss gives no gradient, found by one backward pass.

    An auxiliary head that the loss does not read is one reason, a branch whose result the network throws away another.
    The other losses do not count: a batch without neighbours has none of them. A copy of the student is tried, and
    random numbers are drawn from a copy of their state: the training that follows is the same as without.

    Raises:
        UserError: the network returns no clear logits.
    """
    probe = copy.deepcopy(student).train()
    # Two images, as batch norm after a global pooling cannot normalise a single one.
    images = torch.zeros(2, 3, *crop, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.zeros(2, *crop, dtype=torch.int64, device=device)
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), torch.compiler.set_stance("force_eager"):
        try:
            outputs = probe(images)
        except UnclearOutput as error:
            raise UserError(f"TRAIN.arch, in training: {error}") from error
        segmentation_loss.to(device)(outputs, label).backward()
    return [name for name, p in probe.named_parameters() if p.requires_grad and p.grad is None]

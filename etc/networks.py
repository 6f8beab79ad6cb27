"""Building and loading the segmentation network that the settings name; errors name the setting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from etc.config import find_file
from etc.config.schema import Settings
from etc.distributed import device_of
from etc.errors import UserError
from model import SegmentationNetwork, build_model, load_weights, read_weights
from model.ensemble import together
from model.external import UnclearOutput
from model.own_source import is_own_code

logger = logging.getLogger(__name__)

FROZEN = "all parameters are frozen (requires_grad), none is left to train"
PROBABILITIES = "returns probabilities, expected logits: leave out its last softmax or sigmoid"


def new_network(settings: Settings) -> SegmentationNetwork:
    """The network of the settings with its initial weights (ImageNet, ``TRAIN.weight``, or random).

    Raises:
        UserError: an unknown arch, or weights that are missing or do not fit.
    """
    train = settings.TRAIN
    if train.weight is not None:
        # A checkpoint to start from replaces the ImageNet weights: they need not be downloaded.
        return _load(_built(settings), train.weight, "TRAIN.weight", train.network, strict=train.weight_strict)
    key = f"TRAIN.arch {train.network}"
    if train.backbone_weights is not None:
        key += f" with TRAIN.backbone_weights {train.backbone_weights}"
    elif train.pretrained:
        key += " with TRAIN.pretrained and no TRAIN.backbone_weights"
    with _named(key):
        return build_model(
            train.network,
            classes=settings.DATA.classes,
            pretrained=train.pretrained,
            weights=train.backbone_weights,
            pad_to=settings.TEST.pad_to,
        )


def teacher_network(settings: Settings) -> SegmentationNetwork:
    """The trained network of ``DISTILL``, or the mean of several.

    Raises:
        UserError: an unknown arch, no checkpoint, or one that does not fit.
    """
    distill = settings.DISTILL
    if not distill.teacher_weights:
        raise UserError("DISTILL.teacher_weight is empty: distillation needs the checkpoint of a trained teacher")
    members = []
    for path in distill.teacher_weights:
        with _named(f"DISTILL.teacher_arch {distill.teacher_arch}"):
            network = build_model(
                distill.teacher_arch,
                classes=settings.DATA.classes,
                # The multiple is of one network: another one may need another.
                pad_to=settings.TEST.pad_to if distill.teacher_arch == settings.TRAIN.network else None,
            )
        members.append(_load(network, path, "DISTILL.teacher_weight", distill.teacher_arch))
    return together(members)


def learns(network: nn.Module) -> bool:
    """Whether some parameter of a network is not frozen."""
    return any(parameter.requires_grad for parameter in network.parameters())


def are_probabilities(logits: Tensor) -> bool:
    """Whether the outputs of a network on random images are all in [0, 1], as those of a last softmax or sigmoid."""
    return bool(logits.min() >= 0 and 0 < logits.max() <= 1)


@torch.no_grad()
def check_logits(network: SegmentationNetwork, key: str) -> None:
    """Refuse a network of somebody's own that returns probabilities, which losses would take for logits.

    Args:
        network: the network; its mode stays.
        key: the setting that names it, and its value.

    Raises:
        UserError: its outputs look like probabilities, or its logits cannot be found in what it returns.
    """
    images, was_training = random_images(network), network.training
    try:
        logits = network.eval().outputs(images)["logits"]
    except UnclearOutput as error:
        raise UserError(f"{key}: {error}") from error
    except Exception:  # its own code may refuse images of this size: the training has others
        return
    finally:
        network.train(was_training)
    if are_probabilities(logits):
        raise UserError(f"{key} {PROBABILITIES}")


def random_images(network: nn.Module) -> Tensor:
    """Two images for a look at what a network returns, float ``[2, 3, 256, 256]``, always the same."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    return torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)


def trained_network(settings: Settings, path: str | Path | None = None) -> SegmentationNetwork:
    """The network of the settings with the weights of ``path`` (default ``TEST.ckpt_path``, the mean of the networks
    where these are several), in eval mode.

    Raises:
        UserError: a missing checkpoint, one of another network, or a file that is no checkpoint.
    """
    network = together(
        [
            _load(_built(settings), one, "TEST.ckpt_path", settings.TRAIN.network)
            for one in ([path] if path else settings.TEST.checkpoints)
        ]
    )
    network = network.eval().requires_grad_(False).to(device_of(settings.TEST.device))
    return network.to(memory_format=torch.channels_last)


def network_for_cost(settings: Settings) -> SegmentationNetwork:
    """The network of the settings, or several, as prediction runs it: without auxiliary head, in eval mode; with random
    weights.

    Raises:
        UserError: as :func:`trained_network`.
    """
    network = (
        together([_built(settings, aux=False) for _ in settings.TEST.checkpoints])
        .eval()
        .requires_grad_(False)
        .to(device_of(settings.TEST.device))
    )
    return network.to(memory_format=torch.channels_last)


def _built(settings: Settings, *, aux: bool = True) -> SegmentationNetwork:
    with _named(f"TRAIN.arch {settings.TRAIN.network}"):
        return build_model(
            settings.TRAIN.network,
            classes=settings.DATA.classes,
            pretrained=False,
            aux=aux,
            pad_to=settings.TEST.pad_to,
        )


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors of building a network become a ``UserError`` that names the setting ``key``."""
    try:
        yield
    except (ValueError, OSError) as error:
        where = ""
        if isinstance(error.__cause__, ModuleNotFoundError):
            where = "; modules are looked for on PYTHONPATH, then in the current folder"
        raise UserError(f"{key}: {error}{where}") from error


def compile_in_place(network: nn.Module, device: torch.device, key: str) -> None:
    """``torch.compile`` a network without changing the module or the names of its weights.

    Args:
        network: compiled at its first call.
        device: where it runs.
        key: the setting that asks for it, for errors.

    Raises:
        UserError: as :func:`check_compiler`.
    """
    check_compiler(device, key)
    network.compile()


def check_compiler(device: torch.device, key: str) -> None:
    """Raise UserError where nothing can be compiled on this machine; torch itself would fail in the first step."""
    try:
        torch.compile(torch.square)(torch.ones(8, device=device))
    except Exception as error:  # each compiler raises its own kinds
        reason = next(line for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
        raise UserError(f"{key}: torch.compile does not work here: {reason}") from error


def _load(
    network: SegmentationNetwork, path: str | Path, key: str, arch: str, *, strict: bool = True
) -> SegmentationNetwork:
    """The network with the weights of a checkpoint; ``weights_sha256`` says of which bytes.

    Weights may fit a network that they were not trained as: one of another output stride has the same tensors. That is
    a warning for weights to train from, and for code of the user's own, and an error else.
    """
    path = find_file(path)
    if not path.is_file():
        raise UserError(f"{key} {path} does not exist")
    other = cure = ""
    try:
        weights = read_weights(path)
        if key == "TRAIN.weight" and strict:
            cure = " (TRAIN.weight_strict false trains what does not fit anew)"
        if weights.arch not in (None, arch):
            other = f"it was trained as {weights.arch}, and {arch} is to load it"
        report = load_weights(network, weights, allow_missing=not strict, allow_unexpected=not strict)
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{key}: {error}{other and f'; {other}'}{cure}") from error
    if other and key != "TRAIN.weight" and not (is_own_code(arch) or is_own_code(str(weights.arch))):
        raise UserError(f"{key} {path}: {other}: its weights fit, but mean something else there")
    if other:
        logger.warning("%s %s: %s", key, path, other)
    if report.missing:
        logger.info("%s %s: %d tensors start anew: %s", key, path, len(report.missing), ", ".join(report.missing))
    if report.unexpected:
        logger.info("%s %s: left out: %s", key, path, ", ".join(report.unexpected))
    network.weights_sha256 = weights.sha256
    return network

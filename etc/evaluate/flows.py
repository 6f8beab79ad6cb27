"""The flows that clips are scored with: every entry of ``FLOW.evaluate_with`` at every stride, and for which pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from etc.config.schema import Settings
from etc.data.lists import Clip
from etc.flow.build import FlowSource, flow_source
from etc.flow.cache import CachedFlow, FramePair
from etc.flow.precompute import announce, scored_pairs
from etc.weights import weight_files
from flownet import VARIANTS


class FlowSetting(NamedTuple):
    """A flow, and a distance of the frames of a pair (stride), that clips are scored with."""

    name: str
    stride: int
    source: FlowSource


def flow_settings(settings: Settings, device: torch.device) -> list[FlowSetting]:
    """Every flow of ``FLOW.evaluate_with`` with every stride, the headline first.

    Raises:
        UserError: as :func:`evaluation_flow`.
    """
    flows = {name: evaluation_flow(settings, name, device) for name in evaluation_flow_names(settings)}
    return [FlowSetting(name, stride, flow) for name, flow in flows.items() for stride in settings.TEST.strides]


def evaluation_flow_names(settings: Settings) -> list[str]:
    """The flows that clips are scored with: ``FLOW.evaluate_with``, or ``FLOW.name`` where it is empty."""
    return settings.FLOW.evaluate_with or [settings.FLOW.name]


def evaluation_flow(settings: Settings, name: str, device: torch.device) -> FlowSource:
    """The flow that an entry of ``FLOW.evaluate_with`` names, computed on ``device``.

    Raises:
        UserError: an unknown estimator or preset, or weights that are missing.
    """
    return flow_source(evaluation_settings(settings, name), device)


def evaluation_settings(settings: Settings, name: str) -> Settings:
    """The settings with the estimator that an entry of ``FLOW.evaluate_with`` names as ``FLOW.name``.

    Args:
        settings: ``dis@PRESET`` sets the preset and ``NAME@WEIGHTS`` the weights; otherwise ``FLOW.preset`` applies,
            and ``FLOW.weights`` to the estimator of ``FLOW.name``.
        name: the entry.
    """
    estimator, _, choice = name.partition("@")
    weights = settings.FLOW.weights if estimator == settings.FLOW.name else None
    change: dict[str, Any] = {"name": estimator, "weights": weights}
    if choice:
        change["preset" if estimator == "dis" else "weights"] = choice
    elif weights is None and estimator in VARIANTS and weight_files()[estimator].path.is_file():
        change["weights"] = str(weight_files()[estimator].path)
    # Not validated again: the estimator checks its preset and weights itself.
    return settings.model_copy(update={"FLOW": settings.FLOW.model_copy(update=change)})


def announce_flow(
    settings: Settings, flows: list[FlowSetting], clips: list[Clip], files: Sequence[Sequence]
) -> list[str]:
    """Say of each estimator how much flow is to be computed, see :func:`etc.flow.precompute.announce`.

    Args:
        settings: the settings.
        flows: what clips are scored with.
        clips: the frames.
        files: the prediction of each of them; ``None``: a gap, whose pairs are not scored.

    Returns:
        The names of those that have flow to compute.

    Raises:
        UserError: as :func:`etc.flow.precompute.announce`.
    """
    computing = []
    for name in dict.fromkeys(flow.name for flow in flows):
        own = [flow for flow in flows if flow.name == name]
        if isinstance(own[0].source, CachedFlow):
            strides = [flow.stride for flow in own]
            if announce(own[0].source, pairs_to_score(settings, strides, clips, files)):
                computing.append(name)
    return computing


def pairs_to_score(
    settings: Settings, strides: Sequence[int], clips: list[Clip], files: Sequence[Sequence]
) -> list[FramePair]:
    """The pairs t, k whose flow t -> k a scoring reads, each once, in the order in which they come."""
    root = Path(settings.DATA.data_root)
    paths = [
        [None if file is None else root / frame.image for frame, file in zip(clip, own, strict=True)]
        for clip, own in zip(clips, files, strict=True)
    ]
    return scored_pairs(settings, strides, paths)

"""The flows that clips are scored with: every entry of ``FLOW.evaluate_with`` at every stride."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from etc.config.schema import Settings
from etc.flow.build import FlowSource, flow_source
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
    """The flow that an entry of ``FLOW.evaluate_with`` names.

    Args:
        settings: ``dis@PRESET`` sets the preset and ``NAME@WEIGHTS`` the weights; otherwise ``FLOW.preset`` applies,
            and ``FLOW.weights`` to the estimator of ``FLOW.name``.
        name: the entry.
        device: where flow is computed.

    Raises:
        UserError: an unknown estimator or preset, or weights that are missing.
    """
    estimator, _, choice = name.partition("@")
    weights = settings.FLOW.weights if estimator == settings.FLOW.name else None
    change: dict[str, Any] = {"name": estimator, "weights": weights}
    if choice:
        change["preset" if estimator == "dis" else "weights"] = choice
    elif weights is None and estimator in VARIANTS and weight_files()[estimator].path.is_file():
        change["weights"] = str(weight_files()[estimator].path)
    # Not validated again: the estimator checks its preset and weights itself.
    return flow_source(settings.model_copy(update={"FLOW": settings.FLOW.model_copy(update=change)}), device)

"""Flow estimators of the settings."""

from __future__ import annotations

import torch

from etc.config.schema import Settings
from etc.flow.cache import FlowOfPairs
from etc.flow.estimators import FlowEstimator, build_flow


def flow_estimator(settings: Settings, device: str | torch.device = "cpu") -> FlowEstimator:
    """The flow estimator of the settings.

    Raises:
        UserError: as :func:`etc.flow.estimators.build_flow`.
    """
    flow = settings.FLOW
    return build_flow(
        flow.name,
        weights=flow.weights,
        preset=flow.preset,
        device=device,
        normalized=flow.input == "normalized",
        scale=flow.scale,
    )


def flow_of_pairs(settings: Settings, device: str | torch.device = "cpu") -> FlowOfPairs:
    """Flow between listed frames, with the estimator and the store of the settings.

    Raises:
        UserError: as :func:`etc.flow.estimators.build_flow`.
    """
    return FlowOfPairs(flow_estimator(settings, device), settings.FLOW.store)

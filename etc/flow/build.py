"""From settings to flow: the estimator that they name, and the flow between listed frames."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from etc.config.schema import Settings
from etc.errors import UserError
from etc.flow.cache import CachedFlow
from etc.flow.dataset import DatasetFlow
from etc.flow.estimators import FlowEstimator, build_flow
from etc.flow.pair_flow import PairFlow


class FlowSource(Protocol):
    """Gives the flow between two frames by their files: :class:`CachedFlow` or :class:`DatasetFlow`.

    Attributes:
        key: what the flow was made with; equal keys mean equal flow.
    """

    key: str

    def __call__(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> np.ndarray:
        """Flow t -> k, float32 ``[2, H, W]``; ``shape`` is the frames' height and width."""

    def with_validity(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The flow, and where it is known to be valid, bool ``[H, W]``; ``None``: not known."""

    def checked(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> PairFlow:
        """The flow, and which pixels are visible in both frames."""

    def second_step(self, path_b: Path, path_c: Path, first: PairFlow, second: PairFlow) -> np.ndarray:
        """Which pixels of frame a pass the check on their way from b to c, as ``CachedFlow`` says: bool ``[H, W]``."""

    def available(self, path_t: Path, path_k: Path) -> bool:
        """Whether the flow of a pair is available."""


def flow_estimator(settings: Settings, device: str | torch.device = "cpu", *, check: bool = True) -> FlowEstimator:
    """The flow estimator of the settings; ``check``: whether it looks at the values of images, see :func:`build_flow`.

    Raises:
        UserError: ``FLOW.name dataset``, which estimates nothing, and as :func:`etc.flow.build_flow`.
    """
    flow = settings.FLOW
    if flow.name == "dataset":
        raise UserError("FLOW.name dataset reads the data set's own flow files: name an estimator, dis for instance")
    return build_flow(
        flow.name,
        weights=flow.weights,
        preset=flow.preset,
        device=device,
        normalized=flow.input == "normalized",
        scale=flow.scale,
        check=check,
    )


def cached_flow(settings: Settings, device: str | torch.device = "cpu") -> CachedFlow:
    """Flow of the settings' estimator, computed once per pair into ``FLOW.cache``.

    Raises:
        UserError: as :func:`flow_estimator`.
    """
    return CachedFlow(flow_estimator(settings, device), settings.FLOW.cache)


def flow_source(settings: Settings, device: str | torch.device = "cpu") -> FlowSource:
    """Flow between listed frames: the data set's own, or an estimator's cached in ``FLOW.cache``.

    Raises:
        UserError: as :func:`etc.flow.build_flow`; ``FLOW.scale`` with the data set's own flow.
    """
    if settings.FLOW.name != "dataset":
        return cached_flow(settings, device)
    if settings.FLOW.scale != 1:
        raise UserError(f"FLOW.scale {settings.FLOW.scale} is for estimators: FLOW.name dataset reads flow as it is")
    return DatasetFlow()

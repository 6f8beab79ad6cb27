"""The flow files that belong to a data set, found by the names of its frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etc.errors import UserError
from etc.flow.files import data_set_flow, read_flow, unknown_flow
from etc.flow.pair_flow import PairFlow
from etc.metrics.warping import second_step_visible, visible_pixels

_OUT_OF_THE_FRAME = 1e7  # pixels: so far that a crop, which interpolates between vectors, makes none that lead back


class DatasetFlow:
    """Flow files beside the frames, as :func:`etc.flow.files.data_set_flow` finds them.

    Attributes:
        key: ``"dataset"``.
    """

    key = "dataset"

    def __call__(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> np.ndarray:
        """Flow t -> k, float32 ``[2, H, W]``, for those who use all of it; ``shape`` is the frames' height and width.

        Pixels whose flow the file does not know lead far out of the frame, where nothing is compared. Those that it
        marks as not valid and gives a flow all the same, as the rendered street does of occluded ones, keep it.

        Raises:
            UserError: as :meth:`with_validity`.
        """
        flow, valid = self.with_validity(path_t, path_k, shape)
        if valid is not None:
            flow[:, unknown_flow(flow, valid)] = _OUT_OF_THE_FRAME
        return flow

    def with_validity(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The flow, and where the file says that it is valid, bool ``[H, W]``; ``None``: it does not say.

        Raises:
            UserError: no flow file, or one that is damaged, not finite, or of another size than the frames.
        """
        path = data_set_flow(path_t, path_k)
        if path is None:
            raise UserError(f"FLOW.name dataset: no flow file beside {path_t} for {path_k.name}")
        flow, valid = read_flow(path)
        if flow.shape[1:] != tuple(shape):
            raise UserError(f"{path}: flow is {flow.shape[2]}x{flow.shape[1]}, its frames are {shape[1]}x{shape[0]}")
        if not np.isfinite(flow).all():
            raise UserError(f"{path}: the flow is not finite")
        # A .flo marks what is unknown, not what is occluded: when it marks nothing, it says nothing.
        return flow, None if path.suffix == ".flo" and valid.all() else valid

    def checked(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> PairFlow:
        """The flow, and the visible pixels: as the flow k -> t finds, where there is one; or else as the file says.

        A file says so itself where pixels are not valid though it gives their flow, as the rendered street does of
        occluded ones. KITTI's files and .flo are not valid where the flow is unknown.

        Raises:
            UserError: as :meth:`with_validity`.
        """
        forward, valid = self.with_validity(path_t, path_k, shape)
        if not self.available(path_k, path_t) or (valid is not None and _marks_occlusion(forward, valid)):
            return PairFlow(forward, valid, valid)
        backward = self.with_validity(path_k, path_t, shape)[0]
        visible = visible_pixels(forward, backward).numpy()
        return PairFlow(forward, valid, visible if valid is None else visible & valid)

    def second_step(self, path_b: Path, path_c: Path, first: PairFlow, second: PairFlow) -> np.ndarray:
        """As :meth:`etc.flow.cache.CachedFlow.second_step`.

        Raises:
            UserError: as :meth:`with_validity`.
        """
        height, width = first.forward.shape[1:]
        backward = self.with_validity(path_c, path_b, (height, width))[0]
        return second_step_visible(first.forward, second.forward, backward).numpy()

    def available(self, path_t: Path, path_k: Path) -> bool:
        """Whether the data set has the flow of a pair."""
        return data_set_flow(path_t, path_k) is not None


def _marks_occlusion(flow: np.ndarray, valid: np.ndarray) -> bool:
    """Whether a file gives the flow of pixels that it marks as not valid."""
    return bool((~valid & ~unknown_flow(flow, valid)).any())

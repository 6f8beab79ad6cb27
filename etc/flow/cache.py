"""Flow between two frames given by their files, computed once per pair and cached on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from etc.data.frame_names import folder_key, pair_name
from etc.data.images import read_image
from etc.data.origin import Origin, read_origin
from etc.errors import UserError, is_lack_of_memory
from etc.flow.estimators import FlowEstimator
from etc.flow.files import read_flow, write_kitti


class CachedFlow:
    """Flow of an estimator, one KITTI PNG per pair of frames under ``<folder>/<estimator key>/<width>x<height>/``.

    Each records the frames that it was computed from; one that is damaged or of other frames is computed again.

    Args:
        estimator: from :func:`etc.flow.build_flow`.
        folder: where computed flow is written.

    Attributes:
        key: what the flow was made with; equal keys mean equal flow.
    """

    def __init__(self, estimator: FlowEstimator, folder: str | Path) -> None:
        self.estimator = estimator
        self.folder = Path(folder)
        self.key = estimator.key

    def __call__(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> np.ndarray:
        """Flow t -> k, float32 ``[2, H, W]``; ``shape`` is the frames' height and width."""
        return self.with_validity(path_t, path_k, shape)[0]

    def with_validity(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
        """The flow, and ``None``: an estimator does not say where its flow is valid.

        Raises:
            UserError: frames that cannot be read, have another size than ``shape``, or are too small for the
                estimator.
        """
        path = self.path(path_t, path_k, shape)
        kept = self.kept(path_t, path_k, shape)
        if kept is None:
            origin = self.origin(path_t, path_k)
            pair = [read_image(p) for p in (path_t, path_k)]
            for frame, image in zip((path_t, path_k), pair, strict=True):
                if image.shape[:2] != tuple(shape):
                    height, width = image.shape[:2]
                    raise UserError(f"{frame} is {width}x{height}, its flow is wanted at {shape[1]}x{shape[0]}")
            self.write(path, self.compute(path_t, path_k, *pair), origin)
            # Read back, so that the first use and every later one give the same numbers.
            kept = read_flow(path)[0]
        return kept, None

    def available(self, path_t: Path, path_k: Path) -> bool:
        """Whether the flow of a pair is available: an estimator can compute any."""
        return True

    def path(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> Path:
        """The cache file of a pair."""
        return (
            self.folder / self.key / f"{shape[1]}x{shape[0]}" / folder_key(path_t) / f"{pair_name(path_t, path_k)}.png"
        )

    def kept(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> np.ndarray | None:
        """The flow of a pair from the cache; ``None`` where it must be computed."""
        path = self.path(path_t, path_k, shape)
        origin = read_origin(path)
        if origin is None or not origin.is_of((path_t, path_k), self.key):
            return None
        try:
            flow, _ = read_flow(path)
        except UserError:
            return None
        return flow if flow.shape[1:] == tuple(shape) else None

    def has(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> bool:
        """Whether the cache has the flow of a pair, by what its file says of itself: damage shows when it is read."""
        origin = read_origin(self.path(path_t, path_k, shape))
        return origin is not None and origin.is_of((path_t, path_k), self.key)

    def write(self, path: Path, flow: np.ndarray, origin: Origin) -> None:
        """Write the flow of a pair, float32 ``[2, H, W]``, into its cache file."""
        write_kitti(path, flow, origin=origin.text)

    def origin(self, path_t: Path, path_k: Path) -> Origin:
        """What the cache file of a pair records. To be called before the frames are read.

        Raises:
            UserError: a frame cannot be read.
        """
        try:
            return Origin.of((path_t, path_k), self.key)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    def compute(self, path_t: Path, path_k: Path, image_t: np.ndarray, image_k: np.ndarray) -> np.ndarray:
        """The flow of a pair whose images are read already, RGB uint8 ``[H, W, 3]``; it is not written.

        Raises:
            UserError: frames of different sizes or too small, a flow of another size or that is not finite, or not
                enough memory.
        """
        name, shape = self.estimator.name, image_t.shape[:2]
        pair = [torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (image_t, image_k)]
        try:
            flow = self.estimator.estimate(*pair)
        except ValueError as error:
            raise UserError(f"FLOW.name {name}, {path_t} to {path_k.name}: {error}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_lack_of_memory(error):
                raise
            raise UserError(
                f"FLOW.name {name} needs more memory than there is for frames of {shape[1]}x{shape[0]}: set FLOW.scale "
                "(0.5 needs a quarter), or fill FLOW.cache before with tool/precompute_flow.py, where nothing else is "
                f"in memory ({(str(error).splitlines() or ['MemoryError'])[0]})"
            ) from error
        if flow.shape != (1, 2, *shape):
            raise UserError(f"FLOW.name {name} gave a flow {tuple(flow.shape)} for frames of {shape}")
        if not flow.isfinite().all():
            raise UserError(f"FLOW.name {name} gave a flow that is not finite for {path_t} to {path_k.name}")
        return flow[0].float().cpu().numpy()

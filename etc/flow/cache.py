"""Flow between two frames given by their files, computed once per pair and cached on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from etc.data.frame_names import folder_key, pair_name
from etc.data.images import read_image
from etc.data.origin import Origin, read_origin
from etc.errors import UserError, is_lack_of_memory
from etc.flow.cache_files import (
    FLOW_SUFFIX,
    MASK_SUFFIX,
    read_flow_facts,
    read_flow_file,
    read_mask_file,
    write_flow_file,
    write_mask_file,
)
from etc.flow.estimators import FlowEstimator
from etc.flow.files import read_flow
from etc.flow.pair_flow import PairFlow
from etc.metrics.warping import second_step_visible, visible_pixels
from utils.identity import identity_of

logger = logging.getLogger(__name__)

FramePair = tuple[Path, Path]
Shape = tuple[int, int]

# What made a mask; another name for every change of the check that changes a pixel.
_CHECK, _SECOND_STEP = "forward-backward 2", "forward-backward of the second step 2"


class Kept(NamedTuple):
    """Flow from the cache, float32 ``[2, H, W]``, and a hash of what is in its file."""

    flow: np.ndarray
    sha256: str


class CachedFlow:
    """Flow of an estimator, one file per pair of frames under ``<folder>/<estimator key>/<width>x<height>/``.

    Each records the frames that it was computed from; one that is damaged or of other frames is computed again. The
    KITTI PNGs that versions up to 1.1 wrote are read as well. Beside the flow lies which pixels the forward-backward
    check finds visible, so that the flow backward is read only once.

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
        self._keeps_masks = True

    def __call__(self, path_t: Path, path_k: Path, shape: Shape) -> np.ndarray:
        """Flow t -> k, float32 ``[2, H, W]``; ``shape`` is the frames' height and width."""
        return self._flow((path_t, path_k), shape).flow

    def with_validity(self, path_t: Path, path_k: Path, shape: Shape) -> tuple[np.ndarray, np.ndarray | None]:
        """The flow, and ``None``: an estimator does not say where its flow is valid.

        Raises:
            UserError: frames that cannot be read, have another size than ``shape``, or are too small for the
                estimator.
        """
        return self(path_t, path_k, shape), None

    def checked(self, path_t: Path, path_k: Path, shape: Shape) -> PairFlow:
        """The flow, and the pixels that the flow backward finds visible; that flow is read only the first time.

        Raises:
            UserError: as :meth:`with_validity`.
        """
        pair, back = (path_t, path_k), (path_k, path_t)
        forward = self._flow(pair, shape)
        path = self._beside(self.path(*pair, shape), MASK_SUFFIX)
        backward_sha256 = self._sha256(back, shape)
        if backward_sha256 is not None:
            made_from = (forward.sha256, backward_sha256)
            visible = read_mask_file(path, shape, [_CHECK, *made_from])
            if visible is not None:
                return PairFlow(forward.flow, visible=visible, made_from=made_from)
        backward = self._flow(back, shape)
        made_from = (forward.sha256, backward.sha256)
        visible = visible_pixels(forward.flow, backward.flow).numpy()
        self._keep(path, visible, [_CHECK, *made_from])
        return PairFlow(forward.flow, visible=visible, made_from=made_from)

    def second_step(self, path_b: Path, path_c: Path, first: PairFlow, second: PairFlow) -> np.ndarray:
        """Which pixels of frame a pass the check on their way from frame b to frame c.

        Args:
            path_b, path_c: the frames.
            first: from a to b, of :meth:`checked`.
            second: from b to c, of :meth:`checked`.

        Returns:
            bool ``[H, W]``, as :func:`etc.metrics.warping.second_step_visible`.

        Raises:
            UserError: as :meth:`with_validity`.
        """
        height, width = first.forward.shape[1:]
        made_from = [_SECOND_STEP, *first.made_from, *second.made_from]
        # The name tells the triples of a clip apart, at any stride; whose mask it is, the hashes decide.
        path = self._beside(self.path(path_b, path_c, (height, width)), f"-path{MASK_SUFFIX}")
        visible = read_mask_file(path, (height, width), made_from)
        if visible is None:
            backward = self._flow((path_c, path_b), (height, width))
            visible = second_step_visible(first.forward, second.forward, backward.flow).numpy()
            if backward.sha256 == second.made_from[1]:  # else another process has replaced it meanwhile
                self._keep(path, visible, made_from)
        return visible

    def available(self, path_t: Path, path_k: Path) -> bool:
        """Whether the flow of a pair is available: an estimator can compute any."""
        return True

    def path(self, path_t: Path, path_k: Path, shape: Shape) -> Path:
        """The cache file of a pair."""
        folder = self.folder / self.key / f"{shape[1]}x{shape[0]}" / folder_key(path_t)
        return folder / f"{pair_name(path_t, path_k)}{FLOW_SUFFIX}"

    def kept(self, path_t: Path, path_k: Path, shape: Shape) -> np.ndarray | None:
        """The flow of a pair from the cache; ``None`` where it must be computed."""
        kept = self._kept((path_t, path_k), shape)
        return None if kept is None else kept.flow

    def has(self, path_t: Path, path_k: Path, shape: Shape) -> bool:
        """Whether the cache has the flow of a pair, by what its file says of itself: damage shows when it is read."""
        return self._sha256((path_t, path_k), shape) is not None

    def write(self, path: Path, flow: np.ndarray, origin: Origin) -> None:
        """Write the flow of a pair, float32 ``[2, H, W]``, into its cache file."""
        write_flow_file(path, flow, origin=origin.text)

    def _flow(self, pair: FramePair, shape: Shape) -> Kept:
        """The flow of a pair from the cache, computed and written where it is not there."""
        kept = self._kept(pair, shape)
        if kept is not None:
            return kept
        origin = self.origin(*pair)
        images = [read_image(path) for path in pair]
        for frame, image in zip(pair, images, strict=True):
            if image.shape[:2] != tuple(shape):
                height, width = image.shape[:2]
                raise UserError(f"{frame} is {width}x{height}, its flow is wanted at {shape[1]}x{shape[0]}")
        path = self.path(*pair, shape)
        self.write(path, self.compute(*pair, *images), origin)
        # Read back, so that the first use and every later one give the same numbers.
        flow, _, facts = read_flow_file(path)
        return Kept(flow, facts.sha256)

    def _kept(self, pair: FramePair, shape: Shape) -> Kept | None:
        for path, sha256 in self._files(pair, shape):
            try:
                if path.suffix == FLOW_SUFFIX:
                    flow, _, facts = read_flow_file(path)
                    kept = Kept(flow, facts.sha256)
                else:
                    kept = Kept(read_flow(path)[0], sha256)
            except UserError:
                continue
            if kept.flow.shape[1:] == tuple(shape):
                return kept
        return None

    def _sha256(self, pair: FramePair, shape: Shape) -> str | None:
        """The hash of a flow that is in the cache, without reading the flow; ``None``: it is not there."""
        return next((sha256 for _, sha256 in self._files(pair, shape)), None)

    def _files(self, pair: FramePair, shape: Shape) -> Iterator[tuple[Path, str]]:
        """The files of the flow of a pair by what they record, and hashes of what they hold; it may be damaged."""
        path = self.path(*pair, shape)
        try:
            facts = read_flow_facts(path)
        except UserError:
            facts = None
        if facts is not None and facts.shape == tuple(shape) and self._is_of(Origin.of_text(facts.origin), pair):
            yield path, facts.sha256
        png = path.with_suffix(".png")
        sha256 = self._sha256_of_png(png, pair)
        if sha256 is not None:
            yield png, sha256

    def _sha256_of_png(self, path: Path, pair: FramePair) -> str | None:
        """The hash of a file of version 1.1; ``None`` where there is none of these frames."""
        if not self._is_of(read_origin(path), pair):
            return None
        try:
            return identity_of(path).sha256
        except OSError:
            return None

    def _is_of(self, origin: Origin | None, pair: FramePair) -> bool:
        return origin is not None and origin.is_of(pair, self.key)

    def _beside(self, path: Path, suffix: str) -> Path:
        return path.with_name(path.name.removesuffix(FLOW_SUFFIX) + suffix)

    def _keep(self, path: Path, mask: np.ndarray, made_from: list[str]) -> None:
        """Write a mask. A cache that cannot be written to serves its flow nevertheless, as it did without masks."""
        if not self._keeps_masks:
            return
        try:
            write_mask_file(path, mask, made_from)
        except OSError as error:
            self._keeps_masks = False
            logger.warning("visible pixels are not kept, only computed: cannot write %s: %s", path, error.strerror)

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

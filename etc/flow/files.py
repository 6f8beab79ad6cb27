"""Optical flow on disk: Middlebury ``.flo``, KITTI 16-bit PNG, and where the flow files of a data set are found.

The flow cache has files of its own (:mod:`etc.flow.cache_files`), which are read here, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etc.data.cityscapes import FRAME_TAIL, flow_folder, frame_folder, frame_id
from etc.data.frame_names import SUFFIXES_ON_DISK
from etc.data.images import read_png16, write_png
from etc.errors import UserError
from etc.flow.cache_files import FLOW_SUFFIX, read_flow_file
from etc.flow.codec import STEPS_PER_PIXEL, to_steps
from utils.files import regular_file, write_bytes

_FLO_MAGIC = np.float32(202021.25)
_ZERO = 2**15  # how KITTI writes no motion


def read_flow(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ``.flo``, KITTI ``.png``, or a file of the flow cache.

    Returns:
        Flow, float32 ``[2, H, W]`` in pixels (x right, y down), and where it is valid, bool ``[H, W]``.

    Raises:
        UserError: the file is missing, truncated or of another kind.
    """
    path = Path(path)
    if path.suffix.lower() == ".flo":
        flow = _read_flo(path)
        # Middlebury marks unknown flow by values above 1e9.
        return flow, (np.abs(flow) < 1e9).all(axis=0)
    if path.suffix.lower() == ".png":
        encoded = read_png16(path)
        flow = (encoded[:, :, :2].astype(np.float32) - _ZERO) / STEPS_PER_PIXEL
        return np.ascontiguousarray(flow.transpose(2, 0, 1)), encoded[:, :, 2] > 0
    if path.suffix == FLOW_SUFFIX:
        return read_flow_file(path)[:2]
    raise UserError(f"{path}: flow files are .flo or KITTI .png")


def unknown_flow(flow: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Where a file of :func:`read_flow` holds no flow at all, bool ``[H, W]``: zeros in KITTI files, 1e9 in .flo."""
    nothing = (flow == -_ZERO / STEPS_PER_PIXEL).all(axis=0) | (np.abs(flow) >= 1e9).any(axis=0)
    return ~valid & nothing


def write_flo(path: str | Path, flow: np.ndarray) -> None:
    """Write float32 ``[2, H, W]`` as ``.flo``, atomically."""
    height, width = flow.shape[1:]
    head = _FLO_MAGIC.tobytes() + np.array([width, height], "<i4").tobytes()
    write_bytes(path, head + flow.transpose(1, 2, 0).astype("<f4").tobytes())


def write_kitti(
    path: str | Path, flow: np.ndarray, valid: np.ndarray | None = None, *, origin: str | None = None
) -> None:
    """Write float32 ``[2, H, W]`` as KITTI PNG (steps of 1/64 px), atomically; vectors that do not fit are invalid.

    ``origin`` as :func:`etc.data.images.write_png`.
    """
    # Rounded before the offset is added: float32 has no room for both the offset and the half step.
    steps, known = to_steps(flow, valid)
    encoded = np.empty((*known.shape, 3), np.uint16)
    encoded[:, :, :2] = steps.transpose(1, 2, 0).astype(np.int32) + _ZERO
    encoded[:, :, 2] = known
    write_png(path, encoded, origin=origin)


def data_set_flow(image_t: Path, image_k: Path) -> Path | None:
    """The data set's own flow file of a frame pair, or ``None``.

    It lies beside the frames: in the parallel folder ``flow`` of ``leftImg8bit`` (Cityscapes layout) or in
    the folder ``flow`` inside the frames' own, named ``{frame t}_to_{number of frame k}_flow`` with ``.png``
    (KITTI) or ``.flo``.
    """
    stem_t, stem_k = frame_id(image_t), frame_id(image_k)
    folder = flow_folder(image_t.parent) or image_t.parent / "flow"
    for suffix in (".png", ".flo"):
        path = folder / f"{stem_t}_to_{stem_k.rpartition('_')[2]}_flow{suffix}"
        if path.is_file():
            return path
    return None


def frames_of_flow(path: Path) -> tuple[Path, Path] | None:
    """The frames t and k whose flow a file holds, by the naming of :func:`data_set_flow`; ``None`` without frames."""
    stem_t, _, rest = path.stem.rpartition("_to_")
    head, underscore, _ = stem_t.rpartition("_")
    stem_k = head + underscore + rest.removesuffix("_flow")
    folder, tail = frame_folder(path.parent), FRAME_TAIL
    if not stem_t or folder is None:
        return None
    if not folder.is_dir():
        folder, tail = path.parent.parent, ""
    for suffix in SUFFIXES_ON_DISK:
        frames = folder / f"{stem_t}{tail}{suffix}", folder / f"{stem_k}{tail}{suffix}"
        if all(frame.is_file() for frame in frames):
            return frames
    return None


def _read_flo(path: Path) -> np.ndarray:
    try:
        data = regular_file(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < 12 or np.frombuffer(data[:4], "<f4")[0] != _FLO_MAGIC:
        raise UserError(f"{path} is not a .flo file")
    width, height = (int(n) for n in np.frombuffer(data[4:12], "<i4"))
    if width < 1 or height < 1 or len(data) != 12 + 8 * width * height:
        raise UserError(f"{path} is truncated: {len(data)} bytes for a flow of {width}x{height}")
    vectors = np.frombuffer(data[12:], "<f4").reshape(height, width, 2)
    return np.ascontiguousarray(vectors.transpose(2, 0, 1), dtype=np.float32)

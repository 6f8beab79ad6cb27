"""A cache of a teacher's logits for whole frames: computed once per frame, so that training never runs the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from etc import distributed
from etc.data.frame_names import folder_key
from etc.data.images import image_size, read_image
from etc.data.origin import Origin
from etc.data.transform import normalise
from etc.errors import UserError
from model import SegmentationNetwork
from model.checkpoint import damaged_part
from model.own_source import is_own_code, source_hash
from utils.files import regular_file, replacing, sha256_of


class TeacherLogits:
    """Logits of frame files, float16 at the teacher's own resolution, one ``.npz`` per frame.

    They lie under ``<cache>/<arch>-<hash of each file of weights>/``, for a network of the user's own with the hash of
    its source too, so teachers never read each other's logits. Each file records its frame; one that is damaged, of
    another shape than the teacher's logits, or of another frame, is computed again.

    Args:
        arch: the teacher's architecture.
        weights: its checkpoint, or those of all networks whose mean logits teach.
        cache: folder of all teachers' logits.
    """

    def __init__(self, arch: str, weights: Sequence[str | Path], cache: str | Path) -> None:
        hashes = [sha256_of(path) for path in weights]
        self.weights, self._sha256 = weights, "+".join(hashes)
        name = "".join(letter if letter.isalnum() else "_" for letter in arch)
        code = f"-{source_hash(arch)}" if is_own_code(arch) else ""
        self.folder = Path(cache) / f"{name}-{'+'.join(each[:12] for each in hashes)}{code}"
        self._shapes: dict[tuple[int, int], tuple[int, ...]] = {}  # size of a frame -> shape of its logits

    def __call__(self, frame: Path) -> np.ndarray:
        """Logits of a frame, float16 ``[K, h, w]``.

        Raises:
            UserError: the cache has none, or a damaged file: :meth:`fill` was not called with this frame.
        """
        logits = self._cached(frame)
        if logits is None:
            raise UserError(
                f"{self.path(frame)}: the teacher's logits of {frame} are missing or damaged; start the training again "
                "to compute them"
            )
        return logits

    def fill(self, teacher: SegmentationNetwork, frames: Iterable[Path], device: torch.device) -> int:
        """Compute the logits that the cache lacks; the processes that torchrun started share the frames.

        Args:
            teacher: the network, in evaluation mode and on ``device``.
            frames: their files; repeated ones count once.
            device: where to compute.

        Returns:
            How many were computed by this process.

        Raises:
            UserError: a frame that cannot be read, or a checkpoint that was replaced after the teacher was read.
        """
        if teacher.weights_sha256 not in (None, self._sha256):
            raise UserError(f"{', '.join(map(str, self.weights))} was replaced while it was read: start again")
        own = list(dict.fromkeys(frames))[distributed.rank() :: distributed.world_size()]
        for frame in own:
            size = image_size(frame)
            if size not in self._shapes and self._cached(frame) is not None:
                self._shapes[size] = _logits_shape(teacher, size, device)
        missing = [frame for frame in own if self._cached(frame) is None]
        for frame in tqdm(missing, desc="teacher", unit="frame", disable=distributed.rank() > 0 or not missing):
            origin = Origin.of([frame], self.folder.name)
            image = torch.from_numpy(normalise(read_image(frame)))[None].to(device)
            with torch.no_grad():
                logits = teacher.outputs(image.contiguous(memory_format=torch.channels_last))["logits"]
            self._shapes[image_size(frame)] = tuple(logits.shape[1:])
            with replacing(self.path(frame)) as temporary:
                np.savez(temporary, logits=logits[0].half().cpu().contiguous().numpy(), origin=origin.text)
        distributed.barrier()
        return len(missing)

    def path(self, frame: Path) -> Path:
        """File of the logits of a frame."""
        return self.folder / folder_key(frame) / f"{frame.stem}.npz"

    def _cached(self, frame: Path) -> np.ndarray | None:
        try:
            data = regular_file(self.path(frame)).read_bytes()
        except OSError:
            return None
        # A zip archive. NumPy reads the head of an array before its checksum is compared, and may fail in any way.
        if damaged_part(data) is not None:
            return None
        try:
            with np.load(BytesIO(data)) as kept:
                origin, logits = Origin.of_text(str(kept["origin"])), kept["logits"]
        except (ValueError, KeyError, AttributeError, TypeError):
            return None  # something else
        if origin is None or not origin.is_of([frame], self.folder.name):
            return None
        if logits.dtype != np.float16 or logits.ndim != 3:
            return None
        # Logits of another number of classes or another size would teach something else without an error.
        return logits if self._shapes.get(image_size(frame), logits.shape) == logits.shape else None


@torch.no_grad()
def _logits_shape(teacher: SegmentationNetwork, size: tuple[int, int], device: torch.device) -> tuple[int, ...]:
    """Shape ``(K, h, w)`` of a teacher's logits for frames of a width and height: networks differ in their stride."""
    width, height = size
    image = torch.zeros(1, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)
    return tuple(teacher.outputs(image)["logits"].shape[1:])

"""Flow estimators of one's own, ``package.module:factory``: imported, named, and what they return made one tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etc.errors import UserError
from model.own_source import source_hash
from model.repository import Repository, made, running

_EXPECTED = "expected flow [N, 2, H, W]"


class OwnEstimator:
    """An object with ``estimate(rgb_t, rgb_k)``, as an estimator; see :class:`etc.flow.FlowEstimator`.

    Args:
        estimator: the object. One without ``name`` is named after ``imported_as``. One without ``key`` gets its name,
            ``imported_as``, its source and, where it is an ``nn.Module``, its weights as the key.
        home: the repository that its code comes from, whose modules it may import late; ``None``: none.
        imported_as: the value of ``FLOW.name``.
        device: where an ``nn.Module`` runs; it moves there at its first flow. Another object gets images as they are.
    """

    def __init__(
        self, estimator: Any, home: Repository | None, imported_as: str, device: str | torch.device = "cpu"
    ) -> None:
        self.estimator, self.home, self.imported_as = estimator, home, imported_as
        self.device = torch.device(device) if isinstance(estimator, nn.Module) else None
        self.name: str = getattr(estimator, "name", imported_as.rpartition("/")[2].replace(":", "."))
        self.key: str = estimator.key if hasattr(estimator, "key") else f"{self.name}-{self._hash()}"

    def _hash(self) -> str:
        """Of all that the flow depends on, as far as it can be seen: two factories of one file give other flow."""
        digest = hashlib.sha256(f"{self.imported_as} {source_hash(self.imported_as)}".encode())
        if isinstance(self.estimator, nn.Module):
            for name, value in self.estimator.state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    def __reduce__(self) -> tuple[Any, ...]:
        # What a factory made may have no name that another process could look up: a loading worker imports it anew.
        return imported_estimator, (self.imported_as,)

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`etc.flow.FlowEstimator`; what can be returned: :func:`one_flow`."""
        given = rgb_t
        if self.device is not None:
            self.estimator.to(self.device)
            rgb_t, rgb_k = rgb_t.to(self.device), rgb_k.to(self.device)
        # Half precision has no room for displacements, and the cache holds flow of the same name in full precision.
        exact = torch.autocast(rgb_t.device.type, enabled=False)
        with running(self.home, f"FLOW.name {self.imported_as}"), exact, torch.no_grad():
            returned = self.estimator.estimate(rgb_t, rgb_k)
        return one_flow(returned, given)


def imported_estimator(name: str, device: str | torch.device = "cpu") -> OwnEstimator:
    """The estimator that ``package.module:factory`` or ``path/to/repository:package.module:factory`` makes.

    Raises:
        UserError: nothing to import there, a factory that needs arguments, or what it makes has no ``estimate``.
    """
    try:
        home, estimator = made(name)
    except ValueError as error:
        raise UserError(f"FLOW.name {name}: {error}") from error.__cause__ or error
    if not callable(getattr(estimator, "estimate", None)):
        raise UserError(f"FLOW.name {name}: {type(estimator).__name__} has no method estimate(rgb_t, rgb_k)")
    return OwnEstimator(estimator, home, name, device)


def one_flow(returned: Any, image: Tensor) -> Tensor:
    """What an estimator returned, as float32 ``[N, 2, H, W]`` on the device of ``image``.

    Args:
        returned: a tensor or a NumPy array, ``[N, 2, H, W]`` or ``[N, H, W, 2]``, without N for one image; a list of
            ever better flows, of which the last counts; a tuple of things of which one has the size of the image; or a
            mapping with one of these as ``flow`` or ``flows``, ptlflow's ``[N, 1, 2, H, W]`` too.
        image: ``[N, 3, H, W]``, that the flow belongs to.

    Raises:
        ValueError: none of these.
    """
    if isinstance(returned, Mapping):
        found = [returned[name] for name in ("flow", "flows") if name in returned]
        if len(found) != 1:
            raise ValueError(f"returned a mapping with {', '.join(map(str, returned))}, expected flow or flows in it")
        return one_flow(found[0], image)
    if isinstance(returned, tuple | list):
        flows = [flow for flow in (_as_flow(x, image) for x in returned) if flow is not None]
        if not flows or (isinstance(returned, tuple) and len(flows) > 1):
            raise ValueError(
                f"returned a {type(returned).__name__} with {len(flows)} flows of the size of the image, {_EXPECTED}: "
                "a list of ever better flows, or a tuple with one flow"
            )
        return flows[-1]
    flow = _as_flow(returned, image)
    if flow is None:
        what = f" {tuple(returned.shape)}" if hasattr(returned, "shape") else ""
        raise ValueError(f"returned {type(returned).__name__}{what} for images {tuple(image.shape)}, {_EXPECTED}")
    return flow


def _as_flow(x: Any, image: Tensor) -> Tensor | None:
    """A tensor or an array as flow of ``image``; ``None`` where its shape or type says that it is none."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
        x = torch.from_numpy(np.ascontiguousarray(x))
    if not isinstance(x, Tensor):
        return None
    x = x.detach()  # nobody learns from flow
    count, _, height, width = image.shape
    if tuple(x.shape) == (count, 1, 2, height, width):
        x = x[:, 0]
    if count == 1 and x.dim() == 3:
        x = x[None]
    if tuple(x.shape) == (count, height, width, 2):
        x = x.permute(0, 3, 1, 2).contiguous()
    return x.to(image.device, torch.float32) if tuple(x.shape) == (count, 2, height, width) else None

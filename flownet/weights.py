"""Published FlowNet2 weights."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flownet.networks import (
    FlowNet2,
    FlowNet2C,
    FlowNet2CS,
    FlowNet2CSS,
    FlowNet2S,
    FlowNet2SD,
    ResizeMode,
)

VARIANTS: dict[str, type[nn.Module]] = {
    "flownet2": FlowNet2,
    "flownet2-c": FlowNet2C,
    "flownet2-s": FlowNet2S,
    "flownet2-sd": FlowNet2SD,
    "flownet2-cs": FlowNet2CS,
    "flownet2-css": FlowNet2CSS,
}


class _Ignored:
    """Stands in for the NumPy scalar (the best validation error) that lies beside the published weights.

    Nobody needs its value, so neither NumPy nor the right to build NumPy objects is needed to read the file.
    """

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# under the names that a file of any age refers to
_NUMPY_SCALAR: list[Any] = [
    type(name, (_Ignored,), {"__module__": module})
    for module, name in (
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "dtype"),
    )
]


def load_flownet2(
    path: str | os.PathLike[str],
    *,
    data: bytes | None = None,
    variant: str = "flownet2",
    rgb_max: float = 255.0,
    resize_mode: ResizeMode = "scaled",
) -> nn.Module:
    """Build a network of the family from a checkpoint as published.

    Args:
        path: ``.pth.tar`` or ``.pth`` with the weights under ``state_dict``, or the bare state dict.
        data: the content of the file, where the caller has read it already (and checked it for damage).
        variant: ``"flownet2"``, ``"flownet2-c"``, ``-s``, ``-sd``, ``-cs`` or ``-css``.
        rgb_max: see :class:`flownet.FlowNet2`.
        resize_mode: see :class:`flownet.FlowNet2`.

    Returns:
        the network on the CPU, in float32 and evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown variant, not a checkpoint, or a key or shape that is not the variant's.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown FlowNet2 variant {variant!r}, expected one of {', '.join(VARIANTS)}")
    state = _read_state_dict(Path(path), data)
    with torch.device("meta"):  # the parameters are replaced, so they need neither memory nor initial values
        network = VARIANTS[variant](rgb_max=rgb_max, resize_mode=resize_mode)
    problems = _differences(state, network.state_dict())
    if problems:
        raise ValueError(f"{path} does not hold the weights of {variant}: {problems}")
    network.load_state_dict(state, assign=True)
    return network.float().eval()


def _read_state_dict(path: Path, data: bytes | None) -> dict[str, Tensor]:
    if data is None and not path.is_file():
        raise FileNotFoundError(f"no FlowNet2 weights at {path}")
    with path.open("rb") if data is None else BytesIO(data) as file, torch.serialization.safe_globals(_NUMPY_SCALAR):
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # on a damaged or foreign file the unpickler may raise anything
            raise ValueError(f"{path} is damaged, or holds something other than weights") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state_dict of tensors")
    return state


def _differences(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """What is wrong with a state dict, in one line; empty if nothing is."""
    common = [key for key in expected if key in state]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in common
        if state[key].shape != expected[key].shape
    ]
    groups = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": reshaped,
    }
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in groups.items()
        if keys
    )

"""A trained network as an ONNX file for images of any size; its outputs are compared with torch's before it is kept."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from etc.config.schema import Settings
from etc.data.labels import class_names
from etc.data.transform import MEAN, STD
from etc.distributed import exclusive_output
from etc.errors import UserError
from etc.networks import trained_network
from utils.files import replacing

OPSET = 18  # the oldest that torch writes without converting: read by most runtimes
SIZES = ((128, 256), (97, 161))  # the second is not divisible by any output stride
TOLERANCE = 1e-3  # largest difference of a logit
AGREEMENT = 0.999  # share of the pixels whose class is the same
INPUT = "RGB, float32 [batch, 3, height, width], (value in 0..255 - mean) / std per channel"
OUTPUTS = {
    "logits": "float32 [batch, classes, height, width], at the size of the input",
    "labels": "class of each pixel, uint8 [batch, height, width], at the size of the input",
}
WHERE = "ETC_DEBUG=1 shows the line of code"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Check(NamedTuple):
    """One comparison of the file with torch.

    Attributes:
        size: height and width of the images.
        difference: largest absolute difference of the logits; ``None`` where the file gives labels.
        agreement: share of the pixels that have the same class.
    """

    size: tuple[int, int]
    difference: float | None
    agreement: float


class Exportable(nn.Module):
    """A network whose output is what the file will give: logits, or their argmax."""

    def __init__(self, network: nn.Module, *, labels: bool) -> None:
        super().__init__()
        self.network = network
        self.labels = labels

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        return logits.argmax(1).to(torch.uint8) if self.labels else logits


def export_onnx(
    settings: Settings,
    out: str | Path | None = None,
    *,
    opset: int = OPSET,
    labels: bool = False,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> tuple[Path, list[Check]]:
    """Write the network of ``TEST.ckpt_path`` as ONNX; batch, height and width are free.

    Args:
        settings: the settings.
        out: the file, ``*.onnx``; ``None`` is the checkpoint's name with that suffix.
        opset: version of the operator set.
        labels: the output is the class of each pixel instead of the logits.
        sizes: heights and widths at which the file must agree with torch; the network is traced at the first.

    Returns:
        The file, and one check per size.

    Raises:
        UserError: a package is missing, ``out`` does not end in .onnx, or is missing for several checkpoints, the
            checkpoint cannot be used, the network cannot be exported, or the file does not compute what torch does (it
            is removed).
    """
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(f"the export needs {', '.join(lacking)}: pip install {' '.join(lacking)}")
    if out is None and len(settings.TEST.checkpoints) > 1:
        raise UserError("several checkpoints become one file: name it with --out FILE.onnx")
    path = Path(settings.TEST.checkpoints[0]).with_suffix(".onnx") if out is None else Path(out)
    if path.suffix != ".onnx" or path.is_dir():
        raise UserError(f"{path}: expected a file name that ends in .onnx")
    with exclusive_output(path.parent, path.name):
        return path, _export(settings, path, opset, labels, sizes)


def _export(settings: Settings, path: Path, opset: int, labels: bool, sizes: Sequence[tuple[int, int]]) -> list[Check]:
    trained = trained_network(settings).to("cpu").to(memory_format=torch.contiguous_format)
    network = Exportable(trained, labels=labels).eval()
    samples = [_images(1 + index % 2, size) for index, size in enumerate(sizes)]
    expected = [_run_torch(network, image) for image in samples]
    # Where the trace pads nothing, "nothing to cut off" would become part of the graph.
    more = 1 if getattr(trained, "pad_to", 1) > 1 else 0
    program = _exported(network, (sizes[0][0] + more, sizes[0][1] + more), opset)
    program.model.metadata_props.update(_metadata(settings, labels, trained.weights_sha256))
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        found = _run_onnx(temporary, samples)
        checks = [_check(one, other) for one, other in zip(found, expected, strict=True)]
    return checks


def _exported(network: Exportable, size: tuple[int, int], opset: int) -> torch.onnx.ONNXProgram:
    for noisy in ("onnx_ir", "onnxscript"):  # every rewritten node at level INFO, which the scripts show
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    free = torch.export.Dim.DYNAMIC
    name = "labels" if network.labels else "logits"
    try:
        # Two images: a dimension of one is taken for a constant.
        program = torch.export.export(network, (_images(2, size),), dynamic_shapes=({0: free, 2: free, 3: free},))
        program = program.run_decompositions({torch.ops.aten.adaptive_avg_pool2d.default: grid_means})
        result = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["image"],
            output_names=[name],
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
            verbose=False,
        )
        if result is None:
            raise RuntimeError("torch.onnx.export returned no program")
    except Exception as error:  # whatever the code of somebody's network provokes in torch's tracing
        lines = str(error).strip().splitlines() or [""]
        raise UserError(f"the network cannot be exported: {type(error).__name__}: {lines[0]} ({WHERE})") from error
    found = result.model.opset_imports[""]
    if found != opset:
        raise UserError(f"opset {opset}: torch wrote {found} and could not convert it, {OPSET} needs no conversion")
    return result


def grid_means(x: Tensor, output_size: Sequence[int | None]) -> Tensor:
    """``adaptive_avg_pool2d`` in operators that take images of any size when exported.

    torch's own decomposition keeps the cells of the size that it was traced at: at other sizes its ONNX gives
    other values, or fails. Here the cells' borders are computed from the size, and the means are two matrix products.

    Args:
        x: float ``[N, C, H, W]`` or ``[C, H, W]``.
        output_size: rows and columns of the grid; ``None`` keeps the size of ``x``.

    Returns:
        float ``[..., rows, columns]``.
    """
    rows, columns = (size if wanted is None else wanted for wanted, size in zip(output_size, x.shape[-2:], strict=True))
    if rows == columns == 1:
        return x.mean((-2, -1), keepdim=True)  # an operator of its own in every runtime
    return _cell_weights(rows, x.shape[-2], x) @ x @ _cell_weights(columns, x.shape[-1], x).mT


def _cell_weights(cells: int, size: int, like: Tensor) -> Tensor:
    """Rows that average over the cells of an axis, ``[cells, size]``: cell i is floor(i s/n) .. ceil((i+1) s/n)."""
    index = torch.arange(cells, device=like.device)
    start, end = index * size // cells, ((index + 1) * size + cells - 1) // cells
    position = torch.arange(size, device=like.device)
    inside = (position >= start[:, None]) & (position < end[:, None])
    return inside.to(like.dtype) / (end - start)[:, None].to(like.dtype)


def _metadata(settings: Settings, labels: bool, weights_sha256: str | None) -> dict[str, str]:
    """What a program that runs the file must know."""
    return {
        "arch": settings.TRAIN.network,
        "classes": str(settings.DATA.classes),
        "names": json.dumps(class_names(settings), ensure_ascii=False),
        "mean": json.dumps([round(value, 3) for value in MEAN.tolist()]),
        "std": json.dumps([round(value, 3) for value in STD.tolist()]),
        "input": INPUT,
        "output": OUTPUTS["labels" if labels else "logits"],
        "checkpoint_sha256": weights_sha256 or "",
    }


def _images(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def _run_torch(network: nn.Module, images: Tensor) -> Tensor:
    try:
        with torch.inference_mode():
            return network(images)
    except Exception as error:  # networks from elsewhere assert their sizes, too
        size = "x".join(map(str, images.shape[-2:]))
        refused = f"the network itself refuses images of {size} (--check gives other sizes): {error}"
        raise UserError(f"{refused} ({WHERE})") from error


def _run_onnx(path: Path, samples: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(session.run(None, {"image": image.numpy()})[0]) for image in samples]
    except Exception as error:  # onnxruntime's errors have no common class of their own
        line = str(error).strip().splitlines()[0]
        raise UserError(f"onnxruntime cannot run what was exported, it is removed: {line}") from error


def _check(found: Tensor, expected: Tensor) -> Check:
    """Compare the output of the file with torch's.

    Raises:
        UserError: they differ by more than ``TOLERANCE``, or in the class of more pixels than ``AGREEMENT`` allows.
    """
    height, width = expected.shape[-2:]
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise UserError(
            f"the exported file gives {found.dtype} {list(found.shape)}, torch {expected.dtype} "
            f"{list(expected.shape)}: it is removed"
        )
    if expected.dim() == 3:
        check = Check((height, width), None, (found == expected).float().mean().item())
    else:
        agreement = (found.argmax(1) == expected.argmax(1)).float().mean().item()
        check = Check((height, width), (found - expected).abs().max().item(), agreement)
    # "not <=" also refuses what is not a number
    if check.agreement < AGREEMENT or (check.difference is not None and not check.difference <= TOLERANCE):
        raise UserError(f"the exported file does not compute what torch does, it is removed: {described(check)}")
    return check


def described(check: Check) -> str:
    """One line for people."""
    height, width = check.size
    logits = "" if check.difference is None else f"logits differ by {check.difference:.1e} at most, "
    return f"{height}x{width}: {logits}{100 * check.agreement:.3f}% of the pixels have the same class"

"""Catalogue of weight files: where each comes from, its hash, its licence and the setting that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from etc.errors import UserError
from utils.files import sha256_of

FOLDER = Path("pretrained_model")  # where files without a direct link are looked for
FLOWNET2_PAGE = "https://github.com/NVIDIA/flownet2-pytorch"
SEMSEG_PAGE = "https://github.com/hszhao/semseg"

_IMAGENET_TERMS = "torchvision is BSD-3-Clause; ImageNet, which they were trained on, has its own terms"
_RAFT_TERMS = "torchvision is BSD-3-Clause; the data sets they were trained on ({}) have their own terms"
_FLOWNET2_TERMS = "the code is Apache-2.0, the weights are under the licence agreements that the page links to"
_SEMSEG_TERMS = "semseg is MIT; ImageNet, which they were trained on, has its own terms"


class WeightFile(NamedTuple):
    """One weight file.

    Attributes:
        name: its name in the scripts.
        file: its file name.
        use: the setting that makes the toolkit read it.
        source: a direct link, or a page that leads to the file.
        sha256: the first digits that its authors publish; empty where they publish none.
        licence: a summary of its terms; read them before use.
    """

    name: str
    file: str
    use: str
    source: str
    sha256: str
    licence: str

    @property
    def direct(self) -> bool:
        """Whether it can be downloaded: only with a hash, so that a wrong file cannot slip in."""
        return bool(self.sha256)

    @property
    def path(self) -> Path:
        """Where the toolkit looks for it: torchvision's files always, others when a setting names them."""
        return (Path(torch.hub.get_dir()) / "checkpoints" if self.direct else FOLDER) / self.file

    def facts(self) -> dict[str, str]:
        """What to know before downloading it: label -> text."""
        link = (
            f"{self.source} (direct link)"
            if self.direct
            else f"{self.source} (its README leads to Google Drive; no direct link)"
        )
        sha256 = f"begins with {self.sha256}" if self.direct else "not published by its authors"
        return {"for": self.use, "from": link, "sha256": sha256, "licence": self.licence}


def weight_files() -> dict[str, WeightFile]:
    """All files by name; torchvision's links and hashes are torchvision's own."""
    from torchvision import models
    from torchvision.models import optical_flow

    raft = {
        "raft_small": (optical_flow.Raft_Small_Weights.DEFAULT, "FlyingChairs, FlyingThings3D"),
        "raft_large": (optical_flow.Raft_Large_Weights.DEFAULT, "FlyingChairs, FlyingThings3D, Sintel, KITTI, HD1K"),
    }
    imagenet = {
        "resnet18": (models.ResNet18_Weights, "layers 18"),
        "resnet50": (models.ResNet50_Weights, "arch deeplabv3_resnet50"),
        "resnet101": (models.ResNet101_Weights, "arch deeplabv3_resnet101"),
        "mobilenet_v2": (models.MobileNet_V2_Weights, "arch mobile"),
        "mobilenet_v3_large": (models.MobileNet_V3_Large_Weights, "arch lraspp or deeplabv3_mobilenet_v3_large"),
    }
    files = [_of_torchvision(n, w, f"FLOW.name {n}", _RAFT_TERMS.format(data)) for n, (w, data) in raft.items()]
    for variant in ("", "-c", "-s", "-sd", "-cs", "-css"):
        name, file = f"flownet2{variant}", f"FlowNet2{variant.upper()}_checkpoint.pth.tar"
        use = f"FLOW.name {name} FLOW.weights {FOLDER / file}"
        files.append(WeightFile(name, file, use, FLOWNET2_PAGE, "", _FLOWNET2_TERMS))
    for name, (weights, arch) in imagenet.items():
        use = f"TRAIN.pretrained true with TRAIN.{arch}"
        files.append(_of_torchvision(name, weights.IMAGENET1K_V1, use, _IMAGENET_TERMS))
    for depth in (50, 101, 152):
        name = f"resnet{depth}_v2"
        use = f"TRAIN.backbone_weights {FOLDER / name}.pth with TRAIN.arch psp TRAIN.layers {depth}"
        files.append(WeightFile(name, f"{name}.pth", use, SEMSEG_PAGE, "", _SEMSEG_TERMS))
    return {file.name: file for file in files}


def how_to_get(name: str) -> str:
    """One line for the error about a missing file: where to get it."""
    file = weight_files()[name]
    return f"{file.file}: " + "; ".join(f"{label} {text}" for label, text in file.facts().items())


def description(file: WeightFile, path: Path | None = None) -> str:
    """Everything about a file, and whether it is at ``path`` (default: where the toolkit looks), with its hash."""
    path = path or file.path
    if not path.is_file():
        here = f"no, looked for {path}"
    else:
        found = sha256_of(path)
        state = "" if found.startswith(file.sha256) else f" WRONG: it must begin with {file.sha256}"
        here = f"{path} sha256 {found}{state}"
    lines = {"file": file.file} | file.facts() | {"here": here}
    return "\n".join([file.name, *(f"  {label:<8} {text}" for label, text in lines.items())])


def download(file: WeightFile, path: Path | None = None) -> Path:
    """Download a file to ``path`` (default: where the toolkit looks), unless it is there with the right hash.

    Raises:
        UserError: there is no direct link, the download failed, or the file has another hash (it is deleted).
    """
    path = path or file.path
    if not file.direct:
        raise UserError(
            f"{file.name} has no direct link: download it by hand. {how_to_get(file.name)}; put it at {path}"
        )
    if path.is_file() and sha256_of(path).startswith(file.sha256):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(file.source, str(path), hash_prefix=file.sha256)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise UserError(f"{file.source} could not be downloaded to {path}: {error}") from error
    return path


def _of_torchvision(name: str, weights, use: str, licence: str) -> WeightFile:
    """torchvision's file names end in the first eight digits of their hash."""
    file = weights.url.rpartition("/")[2]
    return WeightFile(name, file, use, weights.url, Path(file).stem.rpartition("-")[2], licence)

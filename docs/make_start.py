"""Makes pretrained_model/street_pspnet18.pth, the network that the quickstart starts from.

    python docs/make_start.py

Renders three worlds of 96 snippets (36 cities, none of which the quickstart shows), trains PSPNet-18 on all of them
without motion loss with configs/synthetic/pspnet18_start.yaml (two to three hours on two cores), and writes the weights
in float16, and docs/pictures/start.png, the curve of the training. Started again, it continues.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from matplotlib import pyplot

from etc.config import TOOLKIT, load_settings
from etc.data.synthetic import prepare
from etc.display.curves import draw_curve, read_log
from utils.files import replacing, write_text

CONFIG = TOOLKIT / "configs/synthetic/pspnet18_start.yaml"
SEEDS = (1, 2, 3)  # the quickstart's world is 0
CLIPS = 12  # of each world, of validation cities
OUT = TOOLKIT / "pretrained_model/street_pspnet18.pth"
CURVE = TOOLKIT / "docs/pictures/start.png"


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    settings = load_settings(CONFIG)
    root = Path(settings.DATA.data_root)
    for seed in SEEDS:
        world = f"{root}/world{seed}"
        words = ["DATA.synthetic_train=96", f"DATA.synthetic_val={CLIPS}", f"DATA.synthetic_seed={seed}"]
        prepare(load_settings(None, [f"DATA.data_root={world}", *words]))
    for name in ("train", "val", "val_clips"):
        write_text(root / f"{name}.lst", joined_lists(root, name))
    command = [sys.executable, str(TOOLKIT / "tool/train_with_flow.py"), "--config", str(CONFIG)]
    subprocess.run(command, check=True)
    folder = Path(settings.TRAIN.save_path)
    student = torch.load(folder / "last.pth", weights_only=True, map_location="cpu")["student"]
    halved = {name: value.half() if value.is_floating_point() else value for name, value in student.items()}
    with replacing(OUT) as temporary:
        torch.save({"student": halved}, temporary)
    draw(folder)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.1f} MB")
    return 0


def joined_lists(root: Path, name: str) -> str:
    """The lists of all worlds as one, its paths relative to ``root``; clips stay apart by their blank lines."""
    parts = []
    for seed in SEEDS:
        lines = (root / f"world{seed}/list/{name}.lst").read_text(encoding="utf-8").splitlines()
        parts.append("\n".join(" ".join(f"world{seed}/{path}" for path in line.split()) for line in lines).strip())
    return ("\n\n" if name == "val_clips" else "\n").join(parts) + "\n"


def draw(folder: Path) -> None:
    """The loss of the training, and the mIoU of its validations."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    log = read_log(folder)
    for axis, name, label in zip(axes, ("loss/segmentation", "validation/mIoU"), ("loss", "mIoU, %"), strict=True):
        draw_curve(axis, log, name, label)
        axis.set_xlabel("step")
        axis.set_ylabel(label)
    figure.savefig(CURVE, dpi=100)


if __name__ == "__main__":
    raise SystemExit(main())

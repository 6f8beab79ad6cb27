"""Measures how far the scene moves between the two frames of a training pair, for docs/results/studies.md.

    python docs/make_motion.py configs/study/street_psp18_student.yaml
    python docs/make_motion.py configs/study/camvid_student.yaml --stride 8 FLOW.name dis

Looks at the crops of 100 samples as training draws them, and prints the median length of the flow: of all pixels, and
of those that the motion loss counts, whose source lies inside the neighbour's crop.
"""

import argparse

import torch
from torch.utils.data import default_collate

from etc import cli
from etc.config import load_settings
from etc.errors import UserError
from etc.motion import usable_pixels
from etc.train.data import training_set


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file of a training")
    parser.add_argument("--stride", type=int, default=8, help="pixels between two positions of the network's output")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key VALUE", help="settings")
    args = parser.parse_intermixed_args()
    settings = load_settings(args.config, ["TRAIN.st_weight=1", *args.overrides, "FLOW.source=cached"])
    data = training_set(settings)
    torch.manual_seed(settings.TRAIN.manual_seed)
    chosen = torch.randperm(len(data))[:100].tolist()
    lengths, counted = [], []
    for sample in (default_collate([data[0, index]]) for index in chosen):
        if sample["has_neighbour"].all():
            lengths.append(sample["flow"].norm(dim=1).flatten())
            counted.append(usable_pixels(sample["image"], sample["neighbour"], sample["flow"]).flatten() > 0)
    if not lengths:
        raise UserError(f"{args.config}: none of {len(chosen)} frames of the training list has a neighbour")
    length, counts = torch.cat(lengths), torch.cat(counted)
    for what, pixels in (("all pixels", length), ("pixels that count", length[counts])):
        median = pixels.median().item()
        print(f"{what}: median {median:.1f} pixels, {median / args.stride:.2f} positions of the output")
    print(f"{100 * counts.float().mean().item():.0f}% of the pixels count, in {len(lengths)} of {len(chosen)} samples")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

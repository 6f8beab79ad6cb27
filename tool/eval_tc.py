"""Score the temporal consistency of predictions: those of tool/gen_video.py, or anybody's.

    python tool/eval_tc.py                                                       # the quickstart world
    python tool/eval_tc.py TEST.save_folder exp/quickstart/baseline/result       # the baseline's predictions
    python tool/eval_tc.py --frames my_video.mp4 --predictions my_masks          # no config, no list files
    python tool/eval_tc.py --frames frames --predictions masks DATA.classes 5 DATA.names_path names.txt
    python tool/eval_tc.py --cityscapes sampled --predictions their_results DATA.data_root /data/cityscapes
    python tool/eval_tc.py --config FILE "FLOW.evaluate_with=[dis, raft_small]" "TEST.strides=[1, 2, 5]"

Predictions are PNGs of train ids, Cityscapes label ids or class colours, 8 or 16 bits, with or without palette; which
of them is told by their values, or by TEST.prediction_ids. They belong to the frames of the same name. The first run
computes the optical flow and keeps it in FLOW.cache; later runs read it. Writes tc.json and tc.csv into
TEST.save_folder. torchrun shares the clips between processes. docs/scoring.md says what the figures mean.
"""

import argparse
from pathlib import Path

from etc import cli, distributed
from etc.config import TOOLKIT, load_settings
from etc.data.cityscapes import PUBLISHED_CLIPS
from etc.distributed import device_of
from etc.evaluate.clips import score_clips
from etc.evaluate.tables import clip_table


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, ("DATA", "FLOW", "TEST"))
    add_options(parser)
    settings = load_settings(*overrides_of(parser.parse_intermixed_args(argv)))
    with distributed.process_group(device_of(settings.TEST.device)) as device:
        result = score_clips(settings, device)
        if distributed.rank() == 0:
            result.save(settings.TEST.save_folder)
            print(f"{clip_table(result)}\n\nwritten to {settings.TEST.save_folder}")
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Short options for the settings that say what to score."""
    parser.add_argument("--frames", metavar="FOLDER|VIDEO", help="frames to score, without list files (TEST.frames)")
    parser.add_argument("--predictions", metavar="FOLDER", help="PNGs of anybody's method (TEST.predictions)")
    parser.add_argument("--allow-gaps", action="store_true", help="frames may lack a prediction (TEST.allow_gaps)")
    parser.add_argument(
        "--cityscapes",
        choices=PUBLISHED_CLIPS,
        help="the clips of the published protocol: 108 sampled ones or all 500 (TEST.cityscapes)",
    )


def overrides_of(args: argparse.Namespace) -> tuple[str | None, list[str]]:
    """Settings file and overrides that the options stand for; what the user sets by name comes after them."""
    config, overrides = args.config, []
    if config is None and args.cityscapes:
        config = str(TOOLKIT / "configs/cityscapes/pspnet18_flow.yaml")
    elif config is None and args.frames:
        # The embedded default is the synthetic world, which keeps flow of its own.
        overrides += ["DATA.synthetic=false", "FLOW.name=dis"]
    if config is None or args.cityscapes:
        place = Path(args.predictions).resolve() if args.predictions else None
        if place is not None:
            overrides.append(f"TEST.save_folder=exp/eval_tc/{place.parent.name}_{place.name}")
    for key in ("frames", "predictions", "cityscapes"):
        if getattr(args, key):
            overrides.append(f"TEST.{key}={getattr(args, key)}")
    if args.allow_gaps:
        overrides.append("TEST.allow_gaps=true")
    return config, [*overrides, *args.overrides]


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

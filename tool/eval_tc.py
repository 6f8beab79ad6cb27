"""Score the temporal consistency of predictions, of tool/gen_video.py or of any other method.

    python tool/eval_tc.py                                           # the quickstart world
    python tool/eval_tc.py TEST.save_folder exp/base/result          # other predictions of gen_video.py
    python tool/eval_tc.py --frames my_video.mp4 --predictions my_masks    # without list files
    python tool/eval_tc.py --frames my/videos --predictions my_masks     # several videos
    python tool/eval_tc.py --frames my_video.mp4 --predictions my_masks --labels my_labels
    python tool/eval_tc.py --frames frames --predictions masks DATA.classes 5 DATA.names_path names.txt
    python tool/eval_tc.py --cityscapes sampled --predictions masks DATA.data_root /data/cityscapes
    python tool/eval_tc.py --config FILE --vspw                      # the figures of VSPW's scripts
    python tool/eval_tc.py --config FILE "FLOW.evaluate_with=[dis, raft_small]" "TEST.strides=[1, 2]"

Predictions are PNG files of 8 or 16 bits, with or without palette, that hold train ids, Cityscapes
label ids or class colours (detected, or set by TEST.prediction_ids). Each belongs to the frame of
the same name, and so does each label (--labels, read by DATA.label_map). The first run unpacks videos
and computes optical flow, says what that will take, and keeps both in FLOW.cache; later runs read it.
Writes tc.json and tc.csv into TEST.save_folder. All cores share the clips (--workers), and torchrun
shares them between machines and GPUs; the figures do not depend on either.
docs/scoring.md explains the scores.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import argparse
import hashlib
import os
from pathlib import Path

from etc import distributed
from etc.config import TOOLKIT, is_given
from etc.data.cityscapes import PUBLISHED_CLIPS
from etc.data.label_folder import labels_as_given
from etc.data.sources import OWN_FRAMES, check_one_source
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.tables import clip_table

KEYS = f"{cli.CLIPS} {cli.ESTIMATOR} {cli.SCORING} TEST.predictions TEST.save_folder"


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument(
        "--frames", metavar="PATH", help="frames, a video, or a folder or list of videos; sets TEST.frames"
    )
    parser.add_argument("--predictions", metavar="FOLDER", help="predictions to score; sets TEST.predictions")
    parser.add_argument("--labels", metavar="FOLDER", help="label PNGs named like the frames; sets TEST.labels")
    parser.add_argument(
        "--cityscapes", choices=PUBLISHED_CLIPS, help="clips of the published protocol; sets TEST.cityscapes"
    )
    parser.add_argument(
        "--vspw", action="store_true", help="TC, mIoU, weighted IoU, VC8, VC16 of VSPW; sets TEST.protocols, keeps cuts"
    )
    parser.add_argument("--allow-gaps", action="store_true", help="frames may lack a prediction; sets TEST.allow_gaps")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that score (default: all cores; fewer where there is little to score)",
    )
    args = parser.parse_intermixed_args(argv)
    args.config, args.overrides = config_and_overrides(args)
    settings = cli.settings_from(args)
    check_frames_given(args)
    check_one_source(settings, args.overrides)
    if args.config is None:
        settings = labels_as_given(settings, args.overrides)
    with distributed.process_group(device_of(settings.TEST.device)) as device:
        with distributed.exclusive_output(settings.TEST.save_folder, "tc"):
            result = score_clips(settings, device, workers=args.workers)
            if distributed.rank() == 0:
                result.save(settings.TEST.save_folder)
        if distributed.rank() == 0:
            print(f"{clip_table(result)}\n\nwritten to {settings.TEST.save_folder}")
    return 0


def check_frames_given(args: argparse.Namespace) -> None:
    """Refuse predictions without a word about their frames: the default ones are those of the quickstart."""
    sources = ("TEST.frames", "TEST.cityscapes", "DATA.clip_list", "DATA.data_root", "DATA.synthetic")
    given = is_given("TEST.predictions", args.overrides)
    if given and args.config is None and not any(is_given(key, args.overrides) for key in sources):
        raise UserError("predictions of which frames? Give --frames PATH, --cityscapes SET or --config FILE")


def config_and_overrides(args: argparse.Namespace) -> tuple[str | Path | None, list[str]]:
    """The settings file and the overrides that the options stand for; the user's own overrides come last and win."""
    config, overrides = args.config, []
    if config is None and args.cityscapes:
        config = TOOLKIT / "configs/cityscapes/pspnet18_flow.yaml"
    elif config is None and args.frames:
        overrides += OWN_FRAMES
    if args.predictions and (args.config is None or args.cityscapes):
        folder = Path(args.predictions).resolve()
        # Other predictions, or other frames, may have the same names.
        scored = f"{folder} {args.frames and Path(args.frames).resolve()} {args.cityscapes}"
        name = f"{folder.parent.name}_{folder.name}-{hashlib.sha256(os.fsencode(scored)).hexdigest()[:8]}"
        overrides.append(f"TEST.save_folder=exp/eval_tc/{name}")
    if args.vspw:
        overrides += ["TEST.protocols=[vspw]", "DATA.cuts=keep", "DATA.gaps=keep"]  # its scripts know no breaks
    for key in ("frames", "predictions", "labels", "cityscapes", "allow_gaps"):
        if getattr(args, key):
            overrides.append(f"TEST.{key}={getattr(args, key)}")
    return config, [*overrides, *args.overrides]


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

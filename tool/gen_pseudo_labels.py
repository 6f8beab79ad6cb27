"""Label unlabelled video with a trained network: confident pixels are labelled, others ignored.

    python tool/gen_pseudo_labels.py                                 # the quickstart world
    python tool/gen_pseudo_labels.py TEST.flip true TEST.scales [0.75,1.0,1.25]
    python tool/gen_pseudo_labels.py --keep-share 0.5                # the most confident half per class
    python tool/gen_pseudo_labels.py --temporal FLOW.name dis        # what neighbouring frames confirm
    python tool/gen_pseudo_labels.py --config configs/cityscapes/pspnet18_flow.yaml \\
        TRAIN.layers 101 TEST.ckpt_path teacher.pth --frames clips.lst --out exp/pseudo

The labelling network (teacher) is TEST.ckpt_path. Writes into --out:
  labels/<frame>.png   encoded as DATA.label_map says; 255 where no label is kept
  train.lst            for DATA.train_list; without --frames, labelled frames keep their own label
  pseudo_labels.json   share of pixels kept per class and, for frames that have a label of their own,
                       how much of it is right (higher on frames that the teacher was trained on)
  examples.png         a few frames with their pseudo-labels
  teacher/             predictions, reused if the run is continued or other options are chosen;
                       delete it when done
torchrun shares the frames between processes.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from pathlib import Path

from etc import distributed
from etc.distributed import device_of
from etc.errors import UserError
from etc.pseudo_labels.generate import make_pseudo_labels, video_frames
from etc.pseudo_labels.report import pseudo_table, save
from etc.pseudo_labels.selection import Choice

KEYS = (
    f"{cli.WORLD} {cli.NETWORK} {cli.PREDICTOR} {cli.ESTIMATOR} DATA.layout DATA.train_list DATA.frame_step "
    "DATA.gaps DATA.cuts "
    "DATA.label_map DATA.names_path DATA.colors_path FLOW.cache FLOW.occlusion TRAIN.ignore_label"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument(
        "--frames", metavar="LIST", help="list file or folder of frames (default: video around DATA.train_list)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="keep pixels of at least this confidence, 0..1 (default: 0.9)"
    )
    parser.add_argument(
        "--keep-share",
        type=float,
        metavar="S",
        help="instead, keep this share of each class, 0..1: its most confident pixels",
    )
    parser.add_argument(
        "--temporal",
        action="store_true",
        help="keep only pixels whose class a neighbouring frame confirms along the flow",
    )
    parser.add_argument(
        "--out", default="exp/pseudo_labels", metavar="FOLDER", help="folder to write into (default: exp/pseudo_labels)"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete predictions of a different teacher in --out")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    threshold = 0.9 if args.threshold is None and args.keep_share is None else args.threshold
    choice, out = Choice(threshold, args.keep_share, args.temporal), Path(args.out)
    choice.check()
    with distributed.process_group(device_of(settings.TEST.device)):
        frames = video_frames(settings, args.frames)
        with distributed.exclusive_output(out):
            made = make_pseudo_labels(settings, choice, frames, out, overwrite=args.overwrite)
            if distributed.rank() == 0:
                training_list = save(made, settings, choice, out, keep_listed=args.frames is None)
        if distributed.rank() == 0:
            print(pseudo_table(made, settings))
            if not made.filled.any():
                raise UserError("no pixel of any frame was kept: lower --threshold, or give --keep-share")
            print(f"\nto train on them: DATA.train_list {training_list}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

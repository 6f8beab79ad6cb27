"""Labels for unlabelled video from a trained network: sure pixels are labelled, all others ignored.

    python tool/gen_pseudo_labels.py                                           # the video of the quickstart world
    python tool/gen_pseudo_labels.py TEST.flip true TEST.scales [0.75,1.0,1.25]   # test-time augmentation
    python tool/gen_pseudo_labels.py --keep-share 0.5                          # the surest half of each class
    python tool/gen_pseudo_labels.py --temporal FLOW.name dis                  # what the frames beside it confirm
    python tool/gen_pseudo_labels.py --config configs/cityscapes/pspnet18_flow.yaml TRAIN.layers 101 \\
        TEST.ckpt_path teacher.pth --frames clips.lst --out exp/pseudo

The teacher is TEST.ckpt_path. Without --frames it labels the video around the frames of DATA.train_list, as far as it
is on disk. Writes into --out:
  labels/<frame>.png   encoded as DATA.label_map says, 255 where nothing is kept
  train.lst            for DATA.train_list; without --frames, frames that have a label there keep that one
  pseudo_labels.json   what was kept of each class and, where frames have labels of their own, how much of it is right:
                       on frames that the teacher was trained on, more than elsewhere
  examples.png         worth a look
  teacher/             its predictions: a run that was cut off goes on, and another choice of labels predicts nothing
                       anew; delete it when done
torchrun shares the frames between processes.
"""

from pathlib import Path

from etc import cli, distributed
from etc.distributed import device_of
from etc.pseudo_labels.generate import make_pseudo_labels, video_frames
from etc.pseudo_labels.report import pseudo_table, save
from etc.pseudo_labels.selection import Choice


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, sections=("DATA", "FLOW", "TRAIN", "TEST"))
    parser.add_argument("--frames", metavar="LIST", help="list file or folder of frames to label")
    parser.add_argument("--threshold", type=float, metavar="T", help="least confidence that is kept (default: 0.9)")
    parser.add_argument("--keep-share", type=float, metavar="S", help="share of each class to keep, the surest pixels")
    parser.add_argument("--temporal", action="store_true", help="keep only what a neighbour confirms along the flow")
    parser.add_argument("--out", default="exp/pseudo_labels", metavar="FOLDER", help="default: exp/pseudo_labels")
    parser.add_argument("--overwrite", action="store_true", help="throw away another teacher's predictions in --out")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    threshold = 0.9 if args.threshold is None and args.keep_share is None else args.threshold
    choice, out = Choice(threshold, args.keep_share, args.temporal), Path(args.out)
    with distributed.process_group(device_of(settings.TEST.device)):
        frames = video_frames(settings, args.frames)
        made = make_pseudo_labels(settings, choice, frames, out, overwrite=args.overwrite)
        if distributed.rank() == 0:
            training_list = save(made, settings, choice, out, keep_listed=args.frames is None)
            print(pseudo_table(made, settings))
            print(f"\nto train on them: DATA.train_list {training_list}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Measure the mIoU of a checkpoint on labelled frames, or predict for the Cityscapes test server.

    python tool/test.py                                              # the quickstart world
    python tool/test.py TEST.ckpt_path exp/base/best.pth TEST.save_folder exp/base/result
    python tool/test.py TEST.flip true TEST.scales [0.75,1.0,1.25] TEST.save_folder exp/tta
    python tool/test.py --config configs/cityscapes/pspnet18_flow.yaml TEST.mode slide
    python tool/test.py --config configs/cityscapes/pspnet18_flow.yaml TEST.mode slide \\
        TEST.flip true TEST.test_list data/lists/cityscapes/test.lst --export exp/upload

Writes miou.json, miou.csv and confusion.png into TEST.save_folder. --export also writes every
prediction as label ids, under the file name that the test server expects; then frames may lack a
label. torchrun shares the frames between processes.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from contextlib import ExitStack
from pathlib import Path

from etc import distributed
from etc.config import is_given
from etc.data.labels import class_names
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.frames import score_frames
from etc.evaluate.tables import frame_table
from etc.report.confusion_matrix import write_confusion

KEYS = (
    f"{cli.WORLD} {cli.NETWORK} {cli.PREDICTOR} DATA.val_list DATA.label_map DATA.names_path "
    "DATA.colors_path TRAIN.ignore_label TEST.test_list TEST.save_folder"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument("--export", metavar="FOLDER", help="folder of predictions for the Cityscapes test server")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    for key in ("TEST.frames", "TEST.labels"):
        if is_given(key, args.overrides):
            raise UserError(f"{key} is for tool/eval_tc.py: give a list of frames and labels, TEST.test_list")
    names = class_names(settings)
    folder = Path(settings.TEST.save_folder)
    with ExitStack() as stack:
        stack.enter_context(distributed.process_group(device_of(settings.TEST.device)))
        stack.enter_context(distributed.exclusive_output(folder, "miou"))
        if args.export is not None:
            stack.enter_context(distributed.exclusive_output(args.export))
        result = score_frames(settings, args.export)
        if distributed.rank() > 0:
            return 0
        if args.export is not None:
            print(f"{args.export}: predictions of all frames, as Cityscapes label ids")
        if not result.frames:
            print("no frame of the list has a label: there is no mIoU")
            return 0
        result.save(folder)
        write_confusion(result.counts, names, folder / "confusion.png")
        print(frame_table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

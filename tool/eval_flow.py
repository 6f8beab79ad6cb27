"""Score an optical flow estimator on frame pairs with ground truth: end-point error and Fl-all.

    python tool/eval_flow.py                                         # DIS on the quickstart world
    python tool/eval_flow.py --pairs data/FlyingChairs FLOW.name raft_small
    python tool/eval_flow.py --pairs data/kitti/training FLOW.name dis --pictures exp/flow_pictures
    python tool/eval_flow.py --max-pairs 10 FLOW.name dis FLOW.preset fast FLOW.scale 0.5

--pairs is searched with its sub-folders for FlyingChairs (00001_img1.ppm, 00001_img2.ppm,
00001_flow.flo), frame1.png frame2.png flow_gt.png, KITTI 2015 (image_2, flow_occ) and the Cityscapes
layout (leftImg8bit, flow). Where FLOW.name is dataset, the ground truth itself, DIS is scored.
Only pixels with valid ground truth count. Writes <folder>_<estimator>.json and its settings into
--out, and with --pictures one picture per pair: frame, true flow, estimate and error.

values of FLOW.name:
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from pathlib import Path

from etc.config import with_changes
from etc.config.schema import FLOW_ESTIMATORS
from etc.data.synthetic import prepare
from etc.distributed import device_of
from etc.errors import UserError
from etc.flow.accuracy import accuracy_table, check_not_of_others, find_pairs, save_accuracy, score_flow
from etc.flow.build import flow_estimator

KEYS = f"{cli.WORLD} {cli.ESTIMATOR} TEST.device"


def main(argv: list[str] | None = None) -> int:
    estimators = "\n".join(f"  {name}: {what}" for name, what in FLOW_ESTIMATORS.items())
    parser = cli.argument_parser(__doc__ + estimators, KEYS)
    parser.add_argument(
        "--pairs", metavar="FOLDER", help="frame pairs with true flow (default: DATA.data_root/flow/val)"
    )
    parser.add_argument("--max-pairs", type=int, metavar="N", help="score only the first N pairs (default: all)")
    parser.add_argument("--pictures", metavar="FOLDER", help="folder for one picture per pair (default: none)")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        default="exp/flow_accuracy",
        help="folder of the JSON file (default: exp/flow_accuracy)",
    )
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    if args.max_pairs is not None and args.max_pairs < 1:
        raise UserError(f"--max-pairs {args.max_pairs}: expected 1 or more")
    if settings.FLOW.name == "dataset":
        settings = with_changes(settings, FLOW={"name": "dis"})
    estimator = flow_estimator(settings, device_of(settings.TEST.device))
    folder = Path(args.pairs or Path(settings.DATA.data_root) / "flow/val")
    path = Path(args.out) / f"{folder.resolve().name}_{estimator.key}.json"
    check_not_of_others(path, folder)
    if args.pairs is None:
        prepare(settings)
    pairs = find_pairs(folder)[: args.max_pairs]
    result = score_flow(estimator, pairs, pictures=args.pictures)
    save_accuracy(result, path, folder=folder, settings=settings)
    print(f"{accuracy_table(result)}\n\n{path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

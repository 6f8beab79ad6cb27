"""Compare runs side by side: table, CSV, JSON, HTML report, video and picture of the flicker.

    python tool/compare.py                                           # the two runs of the quickstart
    python tool/compare.py --runs base=exp/base/result etc=exp/etc/result --out exp/comparison
    python tool/compare.py --runs base=exp/base/best.pth etc=exp/etc/best.pth --out exp/comparison
    python tool/compare.py --frames my_video.mp4 --predictions a=masks_a b=masks_b DATA.classes 5
    python tool/compare.py --curves base=exp/base etc=exp/etc --out exp/comparison

A run is the result folder of tool/eval_tc.py (and tool/test.py, for mIoU), or a checkpoint, which
is first predicted, scored and tested into a folder below --out. Predictions of any method on one
video (--frames, --predictions) are scored there too; its frames are unpacked, and their flow is
computed, once for all of them. Without --config the settings of --runs are those that the first run
was scored or trained with. A network or flow estimator of your own (module:function) is imported
only if you name it too: give TRAIN.arch or FLOW.name. The figures are over the classes and pixels
that all runs have in common; where they differ, the predictions are scored again, and the classes
that a run lacks are named. Writes comparison.csv, comparison.json, report.html (one file with
everything), side_by_side.mp4 (as fast as the video that the frames are of) and flicker.png into
--out, and prints the main figures (--full: all). With --curves it draws what trainings logged, one
over the other, instead.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import argparse
from pathlib import Path

from etc.config.own_code import code_of_user
from etc.config.schema import Settings
from etc.data.labels import read_colors
from etc.display.curves import draw_curves, drawable_log
from etc.distributed import device_of, exclusive_output
from etc.errors import UserError
from etc.report.clip_views import ClipViewer, write_pictures
from etc.report.common_classes import common_classes, on_common_classes
from etc.report.comparison import compare, comparison_table, save_comparison
from etc.report.first_look import write_first_look
from etc.report.folders import check_apart, score_folders, settings_of_folders
from etc.report.html import CLIPS, write_report
from etc.report.runs import PREDICTIONS, check_comparable, measure_costs, named_runs, runs_of, settings_to_compare

OUT, OUT_OF_FOLDERS = "exp/quickstart/comparison", "exp/comparison"
QUICKSTART = ["baseline=exp/quickstart/baseline/result", "etc=exp/quickstart/etc/result"]

KEYS = (
    f"{cli.CLIPS} {cli.ESTIMATOR} {cli.SCORING} {cli.PREDICTOR} DATA.val_list TRAIN.arch TRAIN.layers "
    "TEST.test_list TEST.pad_to TEST.batch_size_gen TEST.fps"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS, brief=cli.PREDICTOR)
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="NAME=PATH",
        help=f"result folders or checkpoints (default: {' '.join(QUICKSTART)})",
    )
    parser.add_argument("--predictions", nargs="+", metavar="NAME=FOLDER", help="predictions to score and compare")
    parser.add_argument("--frames", metavar="PATH", help="of --predictions: frames or videos; sets TEST.frames")
    parser.add_argument("--labels", metavar="FOLDER", help="of --predictions: label PNGs; sets TEST.labels")
    parser.add_argument("--out", metavar="FOLDER", help=f"folder to write into (default: {OUT}, or {OUT_OF_FOLDERS})")
    parser.add_argument("--full", action="store_true", help="print all figures, as comparison.csv and report.html have")
    parser.add_argument("--no-speed", action="store_true", help="do not measure latency")
    parser.add_argument(
        "--clips", type=int, default=CLIPS, metavar="N", help=f"clips shown in report.html (default: {CLIPS})"
    )
    parser.add_argument(
        "--curves",
        nargs="+",
        metavar="NAME=FOLDER",
        help="only draw the losses and validations of trainings (their TRAIN.save_path) into --out/curves.png",
    )
    args = parser.parse_intermixed_args(argv)
    args.out = args.out or (OUT_OF_FOLDERS if args.predictions else OUT)
    if args.curves:
        trainings, overrides = named_runs(args.curves, "--curves")
        read = [args.runs, args.predictions, args.frames, args.labels, args.config, args.full, args.no_speed, overrides]
        if any(read) or args.overrides or args.clips != CLIPS:
            raise UserError("--curves reads logs alone: leave out all other options but --out, and the settings")
        path = Path(args.out) / "curves.png"
        draw_curves({name: drawable_log(folder) for name, folder in trainings}, path)
        print(f"curves: {path}")
        return 0
    if args.clips < 1:
        raise UserError(f"--clips {args.clips}: expected 1 or more")
    out = Path(args.out)
    named, settings, allowed = runs_and_settings(args, out)
    cli.check_before_work(settings, args.keys)
    read_colors(settings.DATA.colors_path, settings.DATA.classes)  # of the report, which comes last
    with exclusive_output(out):
        make_runs = score_folders if args.predictions else runs_of
        runs = make_runs(named, settings, out / "runs", allowed)
        check_comparable(runs)
        viewer = on_common_classes(ClipViewer(runs, settings), common_classes(runs))
        cost = measure_costs(runs, settings, speed=not args.no_speed)
        rows = compare(viewer.runs, cost, device_of(settings.TEST.device), own=runs)
        save_comparison(rows, out)
        video, picture = write_pictures(viewer, out)
        look = write_first_look(viewer, out)
        report = write_report(viewer, rows, out, look, clips=args.clips)
    print(comparison_table(rows, whole=args.full))
    print(f"\nreport:  {report} ({report.stat().st_size / 1e6:.1f} MB)\nvideo:   {video}\npicture: {picture}")
    print(f"loop:    {look.loop}\nprofile: {look.profile}")
    return 0


def runs_and_settings(args: argparse.Namespace, out: Path) -> tuple[list[tuple[str, str]], Settings, frozenset[str]]:
    """Names and places of the runs, the settings, and the user's own code that they may import."""
    if not args.predictions:
        for option in ("frames", "labels"):
            if getattr(args, option):
                raise UserError(
                    f"--{option} goes with --predictions NAME=FOLDER ...; runs have been scored with their own"
                )
        named, overrides = named_runs(args.runs or QUICKSTART)
        return named, *settings_to_compare(named, args.config, [*overrides, *args.overrides])
    if args.runs:
        raise UserError("--runs and --predictions exclude each other: score the predictions with tool/eval_tc.py")
    named, overrides = named_runs(args.predictions, PREDICTIONS)
    overrides = [*overrides, *args.overrides]
    settings = settings_of_folders(args.frames, args.labels, out, args.config, overrides)
    check_apart(named, settings, out)
    return named, settings, code_of_user(args.config, overrides)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Compare runs side by side: table, CSV, JSON, HTML report, video and picture of the flicker.

    python tool/compare.py                                           # the two runs of the quickstart
    python tool/compare.py --runs base=exp/base/result etc=exp/etc/result --out exp/comparison
    python tool/compare.py --runs base=exp/base/best.pth etc=exp/etc/best.pth --out exp/comparison
    python tool/compare.py --curves base=exp/base etc=exp/etc --out exp/comparison

A run is the result folder of tool/eval_tc.py (and tool/test.py, for mIoU), or a checkpoint, which
is first predicted, scored and tested into a folder below --out. Without --config the settings are
those that the first run was scored or trained with. A network or flow estimator of your own
(module:function) is imported only if you name it too: give TRAIN.arch or FLOW.name. The figures are
over the classes and pixels that all runs have in common; where they differ, the predictions are
scored again, and the classes that a run lacks are named. Writes
comparison.csv, comparison.json, report.html (one file with everything), side_by_side.mp4 and
flicker.png into --out. With --curves it draws what trainings logged, one over the other, instead.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from pathlib import Path

from etc.data.labels import read_colors
from etc.display.curves import draw_curves, read_log
from etc.distributed import device_of, exclusive_output
from etc.errors import UserError
from etc.report.clip_views import ClipViewer, write_pictures
from etc.report.common_classes import common_classes, on_common_classes
from etc.report.comparison import compare, comparison_table, save_comparison
from etc.report.first_look import write_first_look
from etc.report.html import CLIPS, write_report
from etc.report.runs import check_comparable, measure_costs, named_runs, runs_of, settings_to_compare

QUICKSTART = ["baseline=exp/quickstart/baseline/result", "etc=exp/quickstart/etc/result"]

KEYS = (
    f"{cli.CLIPS} {cli.ESTIMATOR} {cli.SCORING} {cli.PREDICTOR} DATA.val_list TRAIN.arch TRAIN.layers "
    "TEST.test_list TEST.pad_to TEST.batch_size_gen TEST.fps"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument(
        "--runs",
        nargs="+",
        default=QUICKSTART,
        metavar="NAME=PATH",
        help=f"result folders or checkpoints (default: {' '.join(QUICKSTART)})",
    )
    parser.add_argument(
        "--out",
        default="exp/quickstart/comparison",
        metavar="FOLDER",
        help="folder to write into (default: exp/quickstart/comparison)",
    )
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
    if args.curves:
        path = Path(args.out) / "curves.png"
        draw_curves({name: read_log(folder) for name, folder in named_runs(args.curves, "--curves")[0]}, path)
        print(f"curves: {path}")
        return 0
    named, overrides = named_runs(args.runs)
    if args.clips < 1:
        raise UserError(f"--clips {args.clips}: expected 1 or more")
    out = Path(args.out)
    settings, allowed = settings_to_compare(named, args.config, [*overrides, *args.overrides])
    cli.check_before_work(settings, args.keys)
    read_colors(settings.DATA.colors_path, settings.DATA.classes)  # of the report, which comes last
    with exclusive_output(out):
        runs = runs_of(named, settings, out / "runs", allowed)
        check_comparable(runs)
        viewer = on_common_classes(ClipViewer(runs, settings), common_classes(runs))
        cost = measure_costs(runs, settings, speed=not args.no_speed)
        rows = compare(viewer.runs, cost, device_of(settings.TEST.device), own=runs)
        save_comparison(rows, out)
        video, picture = write_pictures(viewer, out)
        look = write_first_look(viewer, out)
        report = write_report(viewer, rows, out, look, clips=args.clips)
    print(comparison_table(rows))
    print(f"\nreport:  {report} ({report.stat().st_size / 1e6:.1f} MB)\nvideo:   {video}\npicture: {picture}")
    print(f"loop:    {look.loop}\nprofile: {look.profile}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

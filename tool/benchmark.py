"""Measure the toolkit against its speed budgets, on the CPU, as ratios of alternating measurements.

    python tool/benchmark.py                                         # all; 15 minutes on two cores
    python tool/benchmark.py correlation store                       # some
    python tool/benchmark.py --data data/cityscapes --out docs/benchmarks.md
    python tool/benchmark.py --quick --out exp/benchmarks.json       # tiny sizes, to test the script

A result beyond its budget is marked `over`; it is not an error. Run it on an otherwise idle machine:
ratios cancel a slow machine, but not a changing load.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import shlex
import sys
from pathlib import Path

from etc.benchmark import BENCHMARKS, run_benchmarks
from etc.benchmark.page import Origin, machine_and_versions, save, text_table


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    known = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (default: all): {known}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: the figures mean nothing")
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="folder in the Cityscapes layout with a labelled snippet of consecutive frames (default: rendered frames)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="also write the results: a Markdown page, or JSON (.json) with every round"
    )
    args = parser.parse_args(argv)
    measured = run_benchmarks(args.names, quick=args.quick, data=args.data)
    arguments = sys.argv[1:] if argv is None else argv
    frames = "Frames are rendered." if args.data is None else "Frames are real (`--data`)."
    if args.quick:
        frames += " Tiny sizes (`--quick`): the figures mean nothing."
    origin = Origin(f"python tool/benchmark.py {shlex.join(arguments)}".strip(), machine_and_versions(), frames)
    print(f"{text_table(measured)}\n\n{origin.machine}. {frames}")
    if args.out:
        save(measured, origin, Path(args.out))
        print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

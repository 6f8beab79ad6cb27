"""Measure the toolkit against its budgets, on the CPU, as ratios of times that were taken in turn.

    python tool/benchmark.py                                         # everything; a quarter of an hour on two cores
    python tool/benchmark.py correlation store                       # some
    python tool/benchmark.py --data data/cityscapes --out docs/benchmarks.md
    python tool/benchmark.py --quick --out exp/benchmarks.json       # tiny sizes: that it runs, not how fast

Frames are rendered; --data takes those of a folder in the Cityscapes layout (a labelled snippet of consecutive frames).
--out writes a page of Markdown, or JSON with the value of every round. A figure beyond its budget is said to be `over`;
it is no error. Let nothing else run on the machine: ratios forgive a slow machine, and not one that changes.
"""

import argparse
import shlex
import sys
from pathlib import Path

from etc import cli
from etc.benchmark import BENCHMARKS, run_benchmarks
from etc.benchmark.page import Origin, machine_and_versions, save, text_table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure (default: all): {known}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round; the figures mean nothing")
    parser.add_argument("--data", metavar="ROOT", help="work on frames of this folder instead of rendered ones")
    parser.add_argument("--out", metavar="FILE", help="write the results there: Markdown, or JSON (.json)")
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

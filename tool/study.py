"""Train, predict and score the variants of a study with several seeds, and write down what is true.

    python tool/study.py --config configs/study/street.yaml
    python tool/study.py --config configs/study/street.yaml --jobs 2     # two runs at a time
    python tool/study.py --config configs/study/street.yaml --variants baseline mse0.5   # these alone
    python tool/study.py --config configs/study/street.yaml --only-pages # from the runs that are done

The file names the settings of all runs, the variants with what each changes, and the seeds. All
variants of a seed start from the same weights and see the same data in the same order. Trainings
and predictions lie in exp/study/<name>. The results go to --results: <name>_runs.jsonl with one line
per finished run, summary.json (the rows of this study replace its earlier ones) and the page
<name>.md with its pictures. Stopped at any moment, the script goes on where it stopped; with the
lines of --results it does so on another machine too.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import signal
import sys
from pathlib import Path

from etc.distributed import exclusive_output
from etc.errors import UserError
from etc.study.page import write_page
from etc.study.plan import read_study
from etc.study.runs import read_runs, run_all, runs_file
from etc.study.summary import rows_of, table, write_summary


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file of the study")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument(
        "--results", default="docs/results/study", metavar="FOLDER", help="for the pages (default: docs/results/study)"
    )
    parser.add_argument(
        "--variants", nargs="+", default=[], metavar="NAME", help="run these alone, the baseline with the controls"
    )
    parser.add_argument("--only-pages", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected 1 or more")
    if args.only_pages and args.variants:
        raise UserError("--only-pages runs nothing: leave out --variants")
    study = read_study(args.config)
    results = Path(args.results)
    with exclusive_output(study.folder):
        if not args.only_pages:
            run_all(study, args.config, results, jobs=args.jobs, only=args.variants)
        runs = read_runs(study, results)
        if not runs:
            raise UserError(f"{runs_file(study, results)} holds no finished run: leave --only-pages out")
        rows = rows_of(study, runs)
        write_summary(rows, study.name, results)
        page = write_page(study, args.config, runs, rows, results)
    print(f"{table(rows)}\n\nwritten to {page}")
    return 0


if __name__ == "__main__":
    # By default SIGTERM would end this script alone; an exception also ends the scripts that it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise SystemExit(cli.run(main))

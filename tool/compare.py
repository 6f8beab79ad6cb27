"""Put several scored runs side by side: table, CSV, JSON, a video and a picture of the flicker.

    python tool/compare.py                                                       # the quickstart's two runs
    python tool/compare.py --runs base=exp/base/result etc=exp/etc/result --out exp/comparison

A run is a result folder that tool/gen_video.py, tool/eval_tc.py and tool/test.py have written.
"""

from pathlib import Path

from etc import cli
from etc.compare import comparison_table, read_run, save_comparison, write_pictures
from etc.config import UserError

QUICKSTART = ["baseline=exp/quickstart/baseline/result", "etc=exp/quickstart/etc/result"]


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, sections=("DATA", "FLOW", "TEST"))
    parser.add_argument("--runs", nargs="+", default=QUICKSTART, metavar="NAME=FOLDER", help="result folders")
    parser.add_argument("--out", default="exp/quickstart/comparison", help="folder of the comparison")
    words = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(words)
    if not all("=" in run for run in words.runs):
        raise UserError(f"--runs takes NAME=FOLDER, got {' '.join(words.runs)}")
    runs = [read_run(*run.split("=", 1)) for run in words.runs]
    out = Path(words.out)
    save_comparison(runs, out)
    video, picture = write_pictures(runs, settings, out)
    print(comparison_table(runs))
    print(f"\nvideo: {video}\npicture: {picture}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

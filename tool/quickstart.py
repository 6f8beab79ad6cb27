"""The whole path on a laptop: render, train without and with motion loss, predict, score, compare.

    python tool/quickstart.py            # or: make quickstart

Runs the same scripts that real data uses, one after the other, on configs/quickstart.yaml. It stops at the first
one that fails. Interrupted, it goes on where it stopped.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

from etc import cli

TOOLS = Path(__file__).resolve().parent
RUNS = {"baseline": ["TRAIN.st_weight", "0"], "etc": []}


def main(argv: list[str] | None = None) -> int:
    overrides = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    start = time.time()
    for name, own in RUNS.items():
        folder = f"exp/quickstart/{name}"
        test = ["TEST.ckpt_path", f"{folder}/best.pth", "TEST.save_folder", f"{folder}/result", *overrides]
        run("train_with_flow", "TRAIN.save_path", folder, *own, *overrides)
        for tool in ("gen_video", "eval_tc", "test"):
            run(tool, *test)
    run("compare", *overrides)
    print(f"\nquickstart: {(time.time() - start) / 60:.1f} minutes")
    return 0


def run(tool: str, *words: str) -> None:
    """Run one script; its failure ends this one with the same exit code."""
    print(f"\n$ python tool/{tool}.py {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, str(TOOLS / f"{tool}.py"), *words], check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

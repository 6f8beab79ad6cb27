"""Run everything on a laptop: render, train without and with motion loss, predict, score, compare.

    python tool/quickstart.py                            # or: make quickstart
    python tool/quickstart.py DATA.synthetic_train 12    # settings for every step

Runs the scripts that real data uses one after the other with configs/quickstart.yaml, and stops at
the first one that fails; started again, it continues where it stopped. From one network, which was
trained on other streets for hours and comes with the toolkit, the baseline and ETC are trained on
with the same seed, data and number of steps. ETC adds the motion loss, and distillation from the
network as it was. In both, rare classes weigh more: else the motion loss makes the network forget
them (docs/results/quickstart.md).
Everything is written into exp/quickstart; open exp/quickstart/comparison/report.html at the end.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import signal
import sys
import time

from etc.config import TOOLKIT
from etc.distributed import exclusive_output

START = TOOLKIT / "pretrained_model/street_pspnet18.pth"
FOLDER = "exp/quickstart"
# The network is trained already: at the rate of configs/quickstart.yaml it gets worse before it gets better.
TRAINING = ["TRAIN.base_lr=0.003", "TRAIN.class_weight=data/palettes/street_class_weights.txt", "TRAIN.amp=auto"]
RUNS = {
    "baseline": ["TRAIN.st_weight=0"],
    # what did best in the study (docs/results/studies.md)
    "etc": [
        "TRAIN.st_weight=2",
        "TRAIN.visibility=forward_backward",
        "DISTILL.teacher_arch=psp18",
        f"DISTILL.teacher_weight={START}",
        "DISTILL.kd_weight=1",
        "DISTILL.consistent_teacher=true",
    ],
}


def main(argv: list[str] | None = None) -> int:
    overrides = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    start = time.time()
    with exclusive_output(FOLDER):
        train_and_compare(overrides)
    print(f"\nquickstart: {(time.time() - start) / 60:.1f} minutes")
    return 0


def train_and_compare(overrides: list[str]) -> None:
    """Run every script in its turn."""
    for name, own in RUNS.items():
        folder = f"{FOLDER}/{name}"
        test = ["TEST.ckpt_path", f"{folder}/best.pth", "TEST.save_folder", f"{folder}/result", *overrides]
        training = ["TRAIN.save_path", folder, "TRAIN.weight", str(START), *TRAINING, *own, *overrides]
        cli.run_script("train_with_flow", *training)
        for tool in ("gen_video", "eval_tc", "test"):
            cli.run_script(tool, *test)
    cli.run_script("compare", *overrides)


if __name__ == "__main__":
    # By default SIGTERM would end this script alone; an exception also ends the script that it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise SystemExit(cli.run(main))

"""Make a finished network steadier on video without labels, in one command, and see what it cost.

    python tool/steady.py --network mynet:make --weights my.pth --classes 5 --video a.mp4 --out exp/a
    python tool/steady.py --network mynet:make --weights my.pth --classes 5 --video b.mp4 c.mp4 \\
        --out exp/b DATA.names_path names.txt TRAIN.st_weight 2

The network is a function of the number of classes, module:function or repository:module:function, or
what TRAIN.arch takes else. It is trained on the frames with the motion loss, and with itself as
the teacher, so that it forgets little (docs/your-own-model.md says what else can be done). Whole
frames are the training crops, without scaling, rotation or blur. Then the frames are predicted with
the network before and after, scored and compared: report.html and the rest of tool/compare.py are in
OUT/comparison, the new network is OUT/after/last.pth. The settings of all steps are in
OUT/steady.yaml, and each step is a script that is shown as it is called. Stopped at any moment, the
same call goes on where it stopped.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from itertools import takewhile
from pathlib import Path

from etc.config import load_settings, with_changes
from etc.config.schema import SECTIONS
from etc.display.tables import percent
from etc.distributed import exclusive_output
from etc.errors import UserError
from etc.evaluate.results import read_clip_scores
from etc.steady import STEPS, agreement, check_folders, check_network, keep_settings, prepare


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--network", required=True, metavar="NAME", help="module:function that makes the network")
    parser.add_argument("--weights", required=True, metavar="FILE", help="its weights")
    parser.add_argument("--classes", default=19, type=int, metavar="K", help="number of classes (default: 19)")
    parser.add_argument(
        "--video", required=True, nargs="+", metavar="PATH", help="videos, folders of frames or of videos"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder for everything")
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        metavar="N",
        help=f"training steps, rounded up to whole passes over the frames (default: {STEPS})",
    )
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key VALUE", help="settings to change")
    args = parser.parse_intermixed_args(argv)
    out = Path(args.out)
    if args.steps < 1:
        raise UserError(f"--steps {args.steps}: expected 1 or more")
    if not Path(args.weights).is_file():
        raise UserError(f"--weights {args.weights} does not exist")
    # Settings may stand behind the videos, too.
    videos = list(takewhile(lambda word: Path(word).exists() or word.partition(".")[0] not in SECTIONS, args.video))
    args.overrides = [*args.video[len(videos) :], *args.overrides]
    for video in videos:
        if not Path(video).exists():
            raise UserError(f"--video {video} does not exist")
    check_folders(videos, out)
    check_network(args.network, args.weights, args.classes, args.overrides)
    with exclusive_output(out):
        overrides = prepare(
            network=args.network,
            weights=args.weights,
            videos=videos,
            classes=args.classes,
            out=out,
            steps=args.steps,
            overrides=args.overrides,
        )
        settings = load_settings(None, overrides)
        config = keep_settings(settings, out)
        common = ["--config", str(config)]
        before, after = out / "before/result", out / "after/result"
        cli.run_script("train_with_flow", *common, "TRAIN.save_path", str(out / "after"))
        for checkpoint, folder in ((args.weights, before), (out / "after/last.pth", after)):
            test = ["TEST.ckpt_path", str(checkpoint), "TEST.save_folder", str(folder)]
            cli.run_script("gen_video", *common, *test)
            cli.run_script("eval_tc", *common, *test)
        runs = [f"before={before}", f"after={after}"]
        cli.run_script("compare", *common, "--out", str(out / "comparison"), "--runs", *runs)
        one, other = (with_changes(settings, TEST={"save_folder": str(folder)}) for folder in (before, after))
        kept, shares = agreement(one, other)
    print(f"\nof all pixels {percent(kept)}% keep the class that the network gave them before; of those of")
    for name, share in shares.items():
        print(f"  {name:<20} {percent(share):>6}%")
    say_whether_steadier(before, after, out / "after/last.pth")
    return 0


def say_whether_steadier(before: Path, after: Path, network: Path) -> None:
    """Print the changed pixels of both results, and whether the network is worth keeping."""
    old, new = (1 - read_clip_scores(folder).first.results["pixel_consistency"] for folder in (before, after))
    print(f"\npixels that change their class: {percent(old)}% before, {percent(new)}% after")
    if new < old:
        print(f"the steadier network: {network}")
    else:
        print(f"it did not become steadier: {network} is of no use (docs/your-own-model.md says what else can be done)")


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

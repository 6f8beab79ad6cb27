"""Write the list files of a data set from its official folder.

python tool/make_lists.py cityscapes data/cityscapes         # into data/lists/cityscapes
python tool/make_lists.py vspw data/VSPW_480p                # camvid, kitti_step, davis likewise
python tool/make_lists.py folder my/videos --out my/lists    # one clip per folder of frames
python tool/make_lists.py parallel my/data --out my/lists --splits my/data/train.txt my/data/val.txt \\
    --frames "{clip}/origin/{frame}.jpg" --labels "{clip}/mask/{frame}.png"

Lists are made from names alone. Gaps in the frame numbers are counted here, cuts of a video are found
when its clips are scored; a new clip begins there then (DATA.gaps, DATA.cuts).
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import argparse
import textwrap
from pathlib import Path

from etc.data.frame_names import starts_after_gaps
from etc.data.layouts import LAYOUTS
from etc.data.lists import Lists
from etc.data.make_lists import write_lists
from etc.data.parallel import DESCRIPTION, clip_names_in, parallel_lists
from etc.distributed import exclusive_output
from etc.errors import UserError

PARALLEL = "parallel"


def main(argv: list[str] | None = None) -> int:
    descriptions = {layout.name: layout.description for layout in LAYOUTS.values()} | {PARALLEL: DESCRIPTION}
    described = "\n".join(f"  {name}\n{wrapped(description)}" for name, description in descriptions.items())
    parser = cli.Parser(__doc__, epilog=f"layouts:\n{described}")
    parser.add_argument("layout", choices=descriptions, help="how the data set names its files and folders, see below")
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the lists (default: data/lists/<layout>)")
    parser.add_argument("--frames", metavar="PATTERN", help=f"with {PARALLEL}: where frames lie below the folder")
    parser.add_argument("--labels", metavar="PATTERN", help=f"with {PARALLEL}: where labels lie (default: no labels)")
    parser.add_argument("--splits", metavar="FILE", nargs="+", help=f"with {PARALLEL}: text files, a clip per line")
    args = parser.parse_args(argv)
    if not Path(args.root).is_dir():
        raise UserError(f"{args.root} is not a folder")
    lists = lists_of(args)
    out = Path(args.out or f"data/lists/{args.layout}")
    with exclusive_output(out, "lists"):
        earlier = {path.name for pattern in ("*.lst", "names.txt") for path in out.glob(pattern)}
        write_lists(lists, out)
    for name, text in lists.items():
        lines = text.splitlines()
        if not name.endswith(".lst"):
            print(f"{out / name}: {len(lines)} class names")
            continue
        clips = f" in {lines.count('') + 1} clips{gaps_in(text)}" if "clips" in name else ""
        print(f"{out / name}: {len(lines) - lines.count('')} frames{clips}")
    if left := sorted(earlier - set(lists)):
        print(f"not of this call, left as they were: {' '.join(left)}")
    return 0


def lists_of(args: argparse.Namespace) -> Lists:
    """The lists that the command line asks for."""
    if args.layout != PARALLEL:
        if args.frames or args.labels or args.splits:
            raise UserError(f"--frames, --labels and --splits belong to the layout {PARALLEL}, not to {args.layout}")
        return LAYOUTS[args.layout].make_lists(Path(args.root))
    if not args.frames:
        raise UserError(f"{PARALLEL} needs --frames, the pattern of the frames, such as '{{clip}}/{{frame}}.jpg'")
    splits = {Path(file).stem: clip_names_in(Path(file)) for file in args.splits} if args.splits else None
    if splits and len(splits) < len(args.splits):
        raise UserError(f"--splits {' '.join(args.splits)}: lists are called after these files, and two have one name")
    return parallel_lists(Path(args.root), args.frames, args.labels, splits)


def gaps_in(text: str) -> str:
    """How many gaps the frame numbers of the clips of a list have, in words; nothing if there are none."""
    clips = [[line.split()[0] for line in clip.splitlines()] for clip in text.split("\n\n")]
    count = sum(len(starts_after_gaps(clip)) for clip in clips)
    return f"; gaps in the frame numbers: {count}, a new clip begins at each unless DATA.gaps is keep" if count else ""


def wrapped(description: str) -> str:
    """A layout's description, indented for ``--help``; a new line after each semicolon."""
    parts = " ".join(description.split()).replace("; ", ";\n").splitlines()
    return "\n".join(textwrap.fill(part, 100, initial_indent="    ", subsequent_indent="      ") for part in parts)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

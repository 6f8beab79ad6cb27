"""Write the list files of a data set from its official folder.

python tool/make_lists.py cityscapes data/cityscapes         # into data/lists/cityscapes
python tool/make_lists.py camvid data/camvid
python tool/make_lists.py folder my/videos --out my/lists    # one clip per folder of frames

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
from etc.data.make_lists import write_lists
from etc.distributed import exclusive_output
from etc.errors import UserError


def main(argv: list[str] | None = None) -> int:
    described = "\n".join(f"  {layout.name}\n{wrapped(layout.description)}" for layout in LAYOUTS.values())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"layouts:\n{described}", formatter_class=cli.HelpFormatter
    )
    parser.add_argument("layout", choices=LAYOUTS, help="how the data set names its files and folders, see below")
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the lists (default: data/lists/<layout>)")
    args = parser.parse_args(argv)
    if not Path(args.root).is_dir():
        raise UserError(f"{args.root} is not a folder")
    lists = LAYOUTS[args.layout].make_lists(Path(args.root))
    out = Path(args.out or f"data/lists/{args.layout}")
    with exclusive_output(out, "lists"):
        write_lists(lists, out)
    for name, text in lists.items():
        lines = text.splitlines()
        clips = f" in {lines.count('') + 1} clips{gaps_in(text)}" if "clips" in name else ""
        print(f"{out / name}: {len(lines) - lines.count('')} frames{clips}")
    return 0


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

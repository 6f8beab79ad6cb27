"""Predict any pictures: colours, colours over the frame, and a video of these.

    python tool/demo.py                                             # the first clip to be scored
    python tool/demo.py TEST.demo_dir holiday.mp4                   # a video
    python tool/demo.py TEST.demo_dir my/folder --max-frames 50     # a folder of images
    python tool/demo.py TEST.demo_dir street.jpg TEST.demo_folder exp/street
    python tool/demo.py TEST.demo_dir 0                             # a camera; Ctrl-C ends it

TEST.demo_dir may also be a list file (.lst, .txt), relative to DATA.data_root. Writes <name>_color.png and
<name>_overlay.png, and overlay.mp4 when there is more than one frame, into TEST.demo_folder.
"""

import argparse

from etc import cli
from etc.predict.demo import demonstrate


def frame_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of frames, expected 1 or more")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, sections=("DATA", "TRAIN", "TEST"))
    parser.add_argument("--max-frames", type=frame_count, metavar="N", help="stop after N frames")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    print(f"{settings.TEST.demo_folder}: {demonstrate(settings, max_frames=args.max_frames)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

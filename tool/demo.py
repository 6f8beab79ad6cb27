"""Predict images, a video or a camera, and write coloured predictions.

    python tool/demo.py                                              # the first clip of DATA.clip_list
    python tool/demo.py TEST.demo_dir holiday.mp4                    # a video
    python tool/demo.py TEST.demo_dir my/folder --max-frames 50      # a folder of images
    python tool/demo.py TEST.demo_dir street.jpg TEST.demo_folder exp/street
    python tool/demo.py TEST.demo_dir my/videos --ids                # several videos, class ids too
    python tool/demo.py TEST.demo_dir 0                              # a camera; Ctrl-C stops it

TEST.demo_dir may also be a list file (.lst, .txt) of images, relative to DATA.data_root, or of
videos and folders, one per line, relative to the list. Writes <name>_color.png (class colours) and
<name>_overlay.png (colours over the frame) into TEST.demo_folder, and overlay.mp4 of several frames
of one size; each of several videos has a folder of its own there.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import argparse

from etc.data.sources import check_one_source
from etc.predict.demo import demonstrate

KEYS = f"{cli.CLIPS} {cli.NETWORK} {cli.PREDICTOR} DATA.colors_path TEST.demo_dir TEST.demo_folder TEST.fps"


def frame_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of frames: expected an integer of 1 or more")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument("--max-frames", type=frame_count, metavar="N", help="frames of each video (default: all)")
    parser.add_argument("--ids", action="store_true", help="write <name>_ids.png too: the class id of each pixel")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    if settings.TEST.demo_dir is None:
        check_one_source(settings, args.overrides)
    else:
        check_one_source(settings, args.overrides, keys=["demo_dir"])
    done = demonstrate(settings, max_frames=args.max_frames, ids=args.ids)
    print(f"{settings.TEST.demo_folder}: {done}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

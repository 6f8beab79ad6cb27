"""List every file of weights the toolkit can use, and download those that have a direct link.

    python tool/get_weights.py                                # the list: source, hash, licence, and what is here
    python tool/get_weights.py raft_small resnet18            # download, hash checked, to where the toolkit looks
    python tool/get_weights.py all --folder to/carry          # everything with a direct link, for another machine

Nothing in the quickstart needs any of them. Files that are here are shown with their SHA-256, so that those whose
authors publish none can be compared with each other.
"""

import argparse
from pathlib import Path

from etc import cli
from etc.errors import UserError
from etc.weights import description, download, weight_files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files to download, or all")
    parser.add_argument("--folder", help="look and download there instead")
    args = parser.parse_args(argv)
    files = weight_files()
    unknown = [name for name in args.names if name not in (*files, "all")]
    if unknown:
        raise UserError(f"unknown weights {' '.join(unknown)}: all, {', '.join(files)}")
    wanted = args.names
    if "all" in wanted:
        wanted = [name for name, file in files.items() if file.direct]
    for name in wanted or files:
        path = Path(args.folder) / files[name].file if args.folder else None
        if wanted:
            download(files[name], path)
        print(description(files[name], path))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

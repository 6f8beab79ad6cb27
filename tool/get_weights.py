"""List every weight file that the toolkit can use, and download those that have a direct link.

    python tool/get_weights.py                               # list: source, hash, licence, found or not
    python tool/get_weights.py raft_small resnet18           # download to where the toolkit looks
    python tool/get_weights.py all --folder to/carry         # download all, for another machine

The hash of a download is checked. The quickstart needs none of these files. Files that are present
are listed with their SHA-256, so that copies of files without a published hash can be compared.
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
from pathlib import Path

from etc.errors import UserError
from etc.weights import description, download, weight_files


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="weight files to download, or all (default: list only)"
    )
    parser.add_argument(
        "--folder", metavar="FOLDER", help="folder to look in and to download to (default: where the toolkit looks)"
    )
    args = parser.parse_args(argv)
    files = weight_files()
    unknown = [name for name in args.names if name not in (*files, "all")]
    if unknown:
        raise UserError(f"unknown weights {' '.join(unknown)}: expected all, {', '.join(files)}")
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

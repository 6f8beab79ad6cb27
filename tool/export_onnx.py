"""Export a checkpoint as ONNX and compare the file, run by onnxruntime, with PyTorch.

    python tool/export_onnx.py                                       # the quickstart's network
    python tool/export_onnx.py --config configs/cityscapes/pspnet18_flow.yaml --out pspnet18.onnx
    python tool/export_onnx.py --labels --opset 20                   # class per pixel, another opset
    python tool/export_onnx.py --check 512x1024 --check 360x480      # compare at other sizes

Input "image": RGB, float32 [batch, 3, height, width], normalised as (value in 0..255 - mean) / std;
batch, height and width are free. Output "logits": float32 [batch, classes, height, width]; with
--labels the output is "labels", uint8 [batch, height, width]. Mean, std and the class names are in
the file's metadata. The file is deleted if its logits differ from PyTorch's by more than 1e-3, or
its classes on more than 0.1% of the pixels. Needs onnx, onnxscript and onnxruntime:
pip install -e '.[onnx]'
"""

from etc import cli  # first: from here on, Ctrl-C ends the script with one line

# isort: split
import re

from etc.errors import UserError
from etc.predict.onnx_export import OPSET, SIZES, described, export_onnx

KEYS = f"{cli.NETWORK} DATA.names_path"


def main(argv: list[str] | None = None) -> int:
    default_sizes = " and ".join(f"{height}x{width}" for height, width in SIZES)
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument("--out", metavar="FILE.onnx", help="file to write (default: beside the checkpoint)")
    parser.add_argument("--opset", type=int, default=OPSET, help=f"ONNX operator set version (default: {OPSET})")
    parser.add_argument("--labels", action="store_true", help="output the class per pixel instead of logits")
    parser.add_argument(
        "--check",
        action="append",
        metavar="HxW",
        help=f"frame size to compare at; repeatable (default: {default_sizes})",
    )
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    sizes = [_size(word) for word in args.check] if args.check else SIZES
    path, checks = export_onnx(settings, args.out, opset=args.opset, labels=args.labels, sizes=sizes)
    print(f"{path}: opset {args.opset}, compared with torch:")
    for check in checks:
        print(f"  {described(check)}")
    return 0


def _size(word: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", word):
        raise UserError(f"--check {word}: expected HEIGHTxWIDTH, as in 512x1024")
    height, width = word.split("x")
    return int(height), int(width)


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

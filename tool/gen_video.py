"""Predict the clips to be scored: label maps, colour images and one H.264 video per clip.

    python tool/gen_video.py                                         # the quickstart world
    python tool/gen_video.py TEST.ckpt_path exp/base/best.pth TEST.save_folder exp/base/result
    python tool/gen_video.py --config configs/cityscapes/pspnet18_flow.yaml --overwrite
    python tool/gen_video.py TEST.frames my/videos                # a video, or several
    torchrun --nproc_per_node 4 tool/gen_video.py --config configs/cityscapes/pspnet18_flow.yaml

Writes gray/<frame>.png (train ids), color/<frame>.png and mp4/<first frame>.mp4 into
TEST.save_folder/video. A second run predicts only what is missing, so an interrupted run can be
continued; predictions of a different checkpoint or settings are refused unless --overwrite is
given. torchrun shares the clips between processes. tool/eval_tc.py scores the predictions.
"""

from etc import cli, distributed
from etc.data.sources import check_one_source
from etc.distributed import device_of
from etc.predict.clips import generate

KEYS = (
    f"{cli.CLIPS} {cli.NETWORK} {cli.PREDICTOR} DATA.colors_path TEST.save_folder TEST.predictions "
    "TEST.batch_size_gen TEST.fps"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument("--overwrite", action="store_true", help="delete existing predictions first")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    check_one_source(settings, args.overrides)
    with distributed.process_group(device_of(settings.TEST.device)):
        done = generate(settings, overwrite=args.overwrite)
        process = f" (process {distributed.rank() + 1})" if distributed.world_size() > 1 else ""
        print(f"{settings.TEST.save_folder}/video{process}: {done}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

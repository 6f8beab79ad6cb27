"""Predict the clips to be scored: label maps, colour pictures and an H.264 video a clip.

    python tool/gen_video.py                                                     # the quickstart world
    python tool/gen_video.py TEST.ckpt_path exp/quickstart/baseline/best.pth TEST.save_folder exp/baseline
    python tool/gen_video.py --config configs/cityscapes/pspnet18_flow.yaml TEST.batch_size_gen 4 --overwrite
    torchrun --nproc_per_node 4 tool/gen_video.py --config configs/cityscapes/pspnet18_flow.yaml

Writes gray/<frame>.png (train ids), color/<frame>.png and mp4/<first frame>.mp4 into TEST.save_folder/video. A run that
was cut off goes on where it stopped; predictions of another checkpoint are not mixed in. torchrun shares the clips
between processes.
"""

from etc import cli, distributed
from etc.distributed import device_of
from etc.predict.clips import generate


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, sections=("DATA", "TRAIN", "TEST"))
    parser.add_argument("--overwrite", action="store_true", help="remove the predictions that are there first")
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    with distributed.process_group(device_of(settings.TEST.device)):
        done = generate(settings, overwrite=args.overwrite)
        process = f" (process {distributed.rank() + 1})" if distributed.world_size() > 1 else ""
        print(f"{settings.TEST.save_folder}/video{process}: {done}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

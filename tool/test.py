"""mIoU of a checkpoint on labelled frames.

    python tool/test.py                                                          # the quickstart world
    python tool/test.py TEST.ckpt_path exp/quickstart/baseline/best.pth TEST.save_folder exp/baseline
    python tool/test.py TEST.flip true TEST.scales [0.75,1.0,1.25] TEST.save_folder exp/tta  # test-time augmentation
    python tool/test.py --config configs/cityscapes/pspnet18_flow.yaml TEST.mode slide

Writes miou.json and miou.csv into TEST.save_folder.
"""

from etc import cli, distributed
from etc.evaluate import score_frames
from etc.networks import device_of
from etc.report import frame_table


def main(argv: list[str] | None = None) -> int:
    settings = cli.parse(argv, description=__doc__, sections=("DATA", "TRAIN", "TEST"))
    with distributed.process_group(device_of(settings)):
        result = score_frames(settings)
        if distributed.rank() == 0:
            result.save(settings.TEST.save_folder)
            print(frame_table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

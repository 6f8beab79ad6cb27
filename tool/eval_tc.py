"""Score the temporal consistency of the predictions that tool/gen_video.py wrote.

    python tool/eval_tc.py                                                       # the quickstart world
    python tool/eval_tc.py TEST.save_folder exp/quickstart/baseline/result       # the baseline's predictions
    python tool/eval_tc.py --config configs/cityscapes/pspnet18_flow.yaml FLOW.name raft_large

The first run computes the optical flow and keeps it in FLOW.store; later runs read it. Writes tc.json and tc.csv
into TEST.save_folder. torchrun shares the clips between processes.
"""

from etc import cli, distributed
from etc.evaluate import score_clips
from etc.networks import device_of
from etc.report import clip_table


def main(argv: list[str] | None = None) -> int:
    settings = cli.parse(argv, description=__doc__, sections=("DATA", "FLOW", "TEST"))
    with distributed.process_group(device_of(settings)) as device:
        result = score_clips(settings, device)
        if distributed.rank() == 0:
            result.save(settings.TEST.save_folder)
            print(clip_table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

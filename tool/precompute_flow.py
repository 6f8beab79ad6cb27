"""Compute optical flow ahead of time and keep it in FLOW.cache.

    python tool/precompute_flow.py FLOW.name dis                     # the quickstart world
    python tool/precompute_flow.py --config configs/cityscapes/pspnet18_flow.yaml --for train
    torchrun --nproc_per_node 4 tool/precompute_flow.py --for clips FLOW.name raft_large \\
        --config configs/cityscapes/pspnet18_flow.yaml

--for train: every pair of frames that training may draw, backward too where it checks which pixels
are visible. --for clips: the pairs of frames that are scored, forward and backward, with each
estimator of FLOW.evaluate_with. Flow that is already in the cache is checked and kept, so an
interrupted run can be continued. torchrun shares the pairs between processes and GPUs. Use
FLOW.scale 0.5 where whole frames do not fit into memory.
"""

from etc import cli, distributed
from etc.data.sources import check_one_source
from etc.distributed import device_of
from etc.evaluate.flows import evaluation_flow_names, evaluation_settings
from etc.flow.precompute import precompute

KEYS = (
    f"{cli.CLIPS} {cli.ESTIMATOR} DATA.train_list DATA.allow_missing_neighbours FLOW.source "
    "DATA.gaps DATA.cuts FLOW.cache FLOW.evaluate_with FLOW.occlusion TEST.strides TEST.protocols "
    "TRAIN.frame_gap TRAIN.random_frame "
    "TRAIN.st_weight DISTILL.pf_weight DISTILL.mf_weight DISTILL.kd_weight DISTILL.consistent_teacher TRAIN.visibility "
    "TEST.device"
)


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, KEYS)
    parser.add_argument(
        "--for", dest="purpose", choices=("train", "clips"), help="what the flow is for (default: both)"
    )
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    check_one_source(settings, args.overrides)
    training = [] if args.purpose == "clips" else [(settings, "train")]
    names = [] if args.purpose == "train" else evaluation_flow_names(settings)
    every = [*training, *((evaluation_settings(settings, name), "clips") for name in names)]
    jobs = [(own, purpose) for own, purpose in every if own.FLOW.name != "dataset"]
    if not jobs:
        print("FLOW.name dataset: flow is read from the data set's own files, there is nothing to compute")
        return 0
    with distributed.process_group(device_of(settings.TEST.device)) as device:
        counts = [precompute(own, [purpose], device) for own, purpose in jobs]
        computed, kept = (sum(each) for each in zip(*counts, strict=True))
        if distributed.rank() == 0:
            print(f"{settings.FLOW.cache}: flow of {computed} pairs computed, of {kept} pairs found in the cache")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

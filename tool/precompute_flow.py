"""Compute optical flow ahead of time and keep it in FLOW.cache.

    python tool/precompute_flow.py FLOW.name dis                                # the quickstart world
    python tool/precompute_flow.py --config configs/cityscapes/pspnet18_flow.yaml --for train
    torchrun --nproc_per_node 4 tool/precompute_flow.py --config configs/cityscapes/pspnet18_flow.yaml --for clips \\
        FLOW.name raft_large

--for train: every pair that the training may draw; --for clips: consecutive frames of the clips to be scored, forward
and backward; without it both. What is in the store is checked and kept, so that a run that was cut off goes on where
it stopped. torchrun shares the pairs between processes and GPUs. FLOW.scale 0.5 is for frames too large for the memory.
"""

from etc import cli, distributed
from etc.distributed import device_of
from etc.flow.precompute import precompute


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, sections=("DATA", "FLOW", "TRAIN", "TEST"))
    parser.add_argument(
        "--for", dest="purpose", choices=("train", "clips"), help="what the flow is for (default: both)"
    )
    args = parser.parse_intermixed_args(argv)
    settings = cli.settings_from(args)
    if settings.FLOW.name == "dataset":
        print("FLOW.name dataset is read from the data set's own files: there is nothing to compute")
        return 0
    purposes = [args.purpose] if args.purpose else ["train", "clips"]
    with distributed.process_group(device_of(settings.TEST.device)) as device:
        computed, kept = precompute(settings, purposes, device)
        if distributed.rank() == 0:
            print(f"{settings.FLOW.cache}: flow of {computed} pairs computed, of {kept} was there already")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

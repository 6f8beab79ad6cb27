"""Score the temporal consistency of predictions: those of tool/gen_video.py, or anybody's.

    python tool/eval_tc.py                                                       # the quickstart world
    python tool/eval_tc.py TEST.save_folder exp/quickstart/baseline/result       # the baseline's predictions
    python tool/eval_tc.py --frames my_video.mp4 --predictions my_masks          # no config, no list files
    python tool/eval_tc.py --frames frames --predictions masks DATA.classes 5 DATA.names_path names.txt
    python tool/eval_tc.py --cityscapes sampled --predictions their_results DATA.data_root /data/cityscapes
    python tool/eval_tc.py --config FILE "FLOW.judges=[dis, raft_small]" "TEST.strides=[1, 2, 5]"

Predictions are PNGs of train ids, Cityscapes label ids or class colours, 8 or 16 bits, with or without palette; which
of them is told by their values, or by TEST.prediction_ids. They belong to the frames of the same name. The first run
computes the optical flow and keeps it in FLOW.store; later runs read it. Writes tc.json and tc.csv into
TEST.save_folder. torchrun shares the clips between processes. docs/scoring.md says what the figures mean.
"""

from etc import cli, distributed
from etc.config import load_settings
from etc.data.sources import add_options, overrides_of
from etc.evaluate.clips import score_clips
from etc.evaluate.tables import clip_table
from etc.networks import device_of


def main(argv: list[str] | None = None) -> int:
    parser = cli.argument_parser(__doc__, ("DATA", "FLOW", "TEST"))
    add_options(parser)
    settings = load_settings(*overrides_of(parser.parse_intermixed_args(argv)))
    with distributed.process_group(device_of(settings)) as device:
        result = score_clips(settings, device)
        if distributed.rank() == 0:
            result.save(settings.TEST.save_folder)
            print(f"{clip_table(result)}\n\nwritten to {settings.TEST.save_folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

"""Train a segmentation network, with motion loss and distillation as the settings say.

    python tool/train_with_flow.py                                   # the quickstart world, on the CPU
    python tool/train_with_flow.py TRAIN.st_weight 0 TRAIN.save_path exp/base    # the baseline
    python tool/train_with_flow.py --config configs/camvid/pspnet18_flow.yaml TRAIN.resume auto
    torchrun --nproc_per_node 4 tool/train_with_flow.py --config configs/cityscapes/pspnet18_flow.yaml

Writes last.pth (after every epoch), best.pth (highest mIoU; without labels, TC), settings.yaml and
TensorBoard logs into TRAIN.save_path.
"""

from etc import cli, distributed
from etc.distributed import device_of
from etc.train.trainer import Trainer

KEYS = (
    f"{cli.CLIPS} {cli.PREDICTOR} {cli.ESTIMATOR} DATA.train_list DATA.val_list DATA.classes DATA.label_map "
    "DATA.allow_missing_neighbours DATA.gaps DATA.cuts DATA.colors_path FLOW.source FLOW.cache TRAIN DISTILL "
    "TEST.pad_to TEST.device DISTRIBUTED"
)
# Of the default data, of flow estimators and of the validation; and what few trainings change.
BRIEF = (
    f"DATA.synthetic_* FLOW.weights FLOW.preset FLOW.input FLOW.scale {cli.PREDICTOR} TEST.frames TEST.labels "
    "TEST.cityscapes TEST.pad_to TRAIN.motion_mask TRAIN.motion_gradient TRAIN.motion_ramp TRAIN.motion_flow "
    "TRAIN.jitter_frames TRAIN.noise DISTILL.kd_on DISTILL.pf_on DISTILL.mf_on DISTILL.temperature "
    "DISTILL.kd_reduction DISTILL.mf_pool"
)


def main(argv: list[str] | None = None) -> int:
    settings = cli.parse(argv, description=__doc__, keys=KEYS, brief=BRIEF)
    with (
        distributed.process_group(device_of(settings.TEST.device)) as device,
        distributed.exclusive_output(settings.TRAIN.save_path),
    ):
        Trainer(settings, device).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))

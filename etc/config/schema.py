"""The sections and keys of the settings: types, ranges, defaults and a one-line description each.

The defaults are those of the published training on Cityscapes; ``configs/quickstart.yaml`` sets what differs.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Name -> what it is. Each has its constructor in etc/flow/estimators.py.
FLOW_ESTIMATORS = {
    "dis": "OpenCV's DIS, fast, on the CPU, no weights",
    "raft_small": "torchvision's small RAFT, weights are downloaded",
    "raft_large": "torchvision's large RAFT, weights are downloaded",
    "flownet2": "FlowNet2, needs the published weights, as do its parts and smaller stacks",
    "flownet2-c": "FlowNetC",
    "flownet2-s": "FlowNetS",
    "flownet2-sd": "FlowNetSD, for small displacements",
    "flownet2-cs": "FlowNetC refined by one FlowNetS",
    "flownet2-css": "FlowNetC refined by two FlowNetS",
    "package.module:factory": "a function without arguments that returns an object with estimate(rgb_t, rgb_k)",
}

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(_Section):
    """Where the frames are and how they are named."""

    data_root: str = Field("data/cityscapes", description="folder that the list files are relative to")
    # Names of etc/data/layouts.py, which checks them: the list there knows how each data set is read.
    layout: str = Field(
        "cityscapes",
        description="how frame numbers are read from file names; tool/make_lists.py --help lists the layouts",
    )
    train_list: str = Field("data/lists/cityscapes/train.lst", description="one 'image label' or 'image' per line")
    val_list: str = Field("data/lists/cityscapes/val.lst", description="labelled frames for mIoU")
    clip_list: str = Field(
        "data/lists/cityscapes/val_clips_sampled.lst",
        description="all frames of the clips to score, one 'image [label]' per line, a blank line between clips",
    )
    classes: int = Field(19, description="number of classes", ge=1, le=254)
    label_map: str = Field(
        "cityscapes", description="cityscapes: labelIds -> 19 train ids; none: labels are train ids already"
    )
    frame_step: Positive = Field(1, description="difference between the frame numbers of consecutive frames")
    allow_missing_neighbours: bool = Field(
        False, description="train frames that have no neighbour on disk with the segmentation loss alone"
    )
    names_path: str = Field("data/palettes/cityscapes_names.txt", description="class names, one per line")
    colors_path: str = Field("data/palettes/cityscapes_colors.txt", description="one 'R G B' line per class")
    synthetic: bool = Field(False, description="render the synthetic world into data_root on first use")
    synthetic_height: int = Field(256, description="frame height of the synthetic world, pixels", ge=64)
    synthetic_width: int = Field(512, description="frame width of the synthetic world, pixels", ge=64)
    synthetic_train: Positive = Field(12, description="training snippets of 30 frames in the synthetic world")
    synthetic_val: Positive = Field(4, description="validation snippets of 30 frames in the synthetic world")
    synthetic_seed: int = Field(0, description="seed of the synthetic world", ge=0)


class Flow(_Section):
    """Which optical flow warps the neighbour."""

    name: str = Field(
        "dis",
        description="; ".join(f"{name}: {what}" for name, what in FLOW_ESTIMATORS.items())
        + "; dataset: the data set's own flow files, no estimator",
    )
    source: Literal["cached", "online"] = Field(
        "cached",
        description="training flow; cached: computed once per pair of whole frames; online: estimated from the crops "
        "in every step",
    )
    weights: str | None = Field(None, description="weight file of the estimator, where it needs one")
    preset: Literal["ultrafast", "fast", "medium"] = Field("medium", description="preset of dis")
    cache: str = Field("data/flow_cache", description="folder of computed flow")
    input: Literal["rgb255", "normalized"] = Field(
        "rgb255",
        description="input of the estimator; normalized reproduces the published mistakes (contrast; for FlowNet2 also "
        "the resizing)",
    )
    scale: float = Field(
        1.0, description="factor on the image size before the estimation: less memory, coarser flow", gt=0, le=1
    )
    evaluate_with: list[str] = Field(
        [],
        description="estimators for scoring, where they should differ from name; several give a table, the first is "
        "the headline; dis@fast sets the preset, flownet2@FILE the weights, otherwise the FLOW settings apply",
    )
    occlusion: bool = Field(True, description="scoring, strict: ignore occluded pixels (needs backward flow)")


class Train(_Section):
    """The network and its training."""

    arch: str = Field("psp", description="psp, mobile, lraspp, deeplabv3_*, timm:<name>, package.module:factory")
    layers: Literal[18, 50, 101, 152] = Field(18, description="depth of the psp backbone")
    pretrained: bool = Field(True, description="start from ImageNet weights (downloaded on first use)")
    backbone_weights: str | None = Field(
        None, description="file of ImageNet weights for a psp backbone; psp 50, 101, 152 have no others"
    )
    weight: str | None = Field(None, description="checkpoint to start from (fine-tuning); replaces ImageNet weights")
    train_h: Positive = Field(769, description="height of the training crop")
    train_w: Positive = Field(769, description="width of the training crop")
    scale_min: float = Field(0.5, description="smallest random scale", gt=0)
    scale_max: float = Field(2.0, description="largest random scale", gt=0)
    rotate_min: float = Field(-10.0, description="smallest random rotation, degrees", ge=-180)
    rotate_max: float = Field(10.0, description="largest random rotation, degrees", le=180)
    blur: Fraction = Field(0.5, description="probability of a 5x5 Gaussian blur")
    zoom_factor: Literal[8] = Field(8, description="output stride of the network (published key; 8 only)")
    ignore_label: int = Field(255, description="label value that is ignored in the files", ge=0, le=255)
    loss: Literal["dsn", "ohem_dsn", "ohem_dsn_single", "cross_entropy"] = Field(
        "dsn", description="segmentation loss: cross entropy of both heads, OHEM ones, or of one head"
    )
    class_weight: Literal["none", "cityscapes"] = Field("none", description="class weights of the loss")
    aux_weight: float = Field(0.4, description="weight of the auxiliary head's loss", ge=0)
    st_weight: float = Field(0.1, description="weight of the motion loss; 0 is the baseline", ge=0)
    self_training: Fraction | None = Field(
        None,
        description="pseudo-label unlabelled frames with the frozen initial network (weight) where its confidence "
        "exceeds this; empty: no segmentation loss there",
    )
    frame_gap: Positive = Field(3, description="largest distance of the neighbour, frames")
    random_frame: bool = Field(
        True, description="distance of the neighbour drawn from -frame_gap..frame_gap; false: always +frame_gap"
    )
    visibility: Literal["published", "l1"] = Field("l1", description="visibility mask of the motion loss")
    mask_padding: bool = Field(True, description="motion loss ignores padding and out-of-frame sources")
    batch_size: Positive = Field(8, description="clips per training step, over all processes")
    workers: int = Field(4, description="DataLoader workers per training process", ge=0)
    base_lr: float = Field(0.01, description="learning rate of the backbone; new layers learn 10x faster", gt=0)
    epochs: Positive = Field(200, description="passes over the training list")
    power: float = Field(0.9, description="power of the polynomial learning rate decay", ge=0)
    momentum: Fraction = Field(0.9, description="momentum of SGD")
    weight_decay: float = Field(1e-4, description="weight decay of SGD", ge=0)
    amp: Literal["off", "float16", "bfloat16"] = Field("off", description="automatic mixed precision")
    compile: bool = Field(False, description="torch.compile the network in training (needs a C++ compiler)")
    manual_seed: int = Field(0, description="seed of weights, order, crops and neighbours", ge=0)
    print_freq: Positive = Field(10, description="steps between two log entries")
    val_freq: Positive = Field(10, description="epochs between two validations (the last is always validated)")
    val_clips: Positive | None = Field(None, description="clips whose TC a validation measures; empty: all")
    save_path: str = Field("exp/cityscapes/pspnet18_flow", description="folder of checkpoints and logs")
    resume: str | None = Field(
        None, description="auto: continue the run in save_path, or start it; or a checkpoint to continue"
    )

    @model_validator(mode="after")
    def _ranges(self) -> Train:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} exceeds scale_max {self.scale_max}")
        if self.rotate_min > self.rotate_max:
            raise ValueError(f"rotate_min {self.rotate_min} exceeds rotate_max {self.rotate_max}")
        return self

    @property
    def network(self) -> str:
        """The name that ``model.build_model`` takes: published files say ``psp`` and ``layers``."""
        return f"psp{self.layers}" if self.arch == "psp" else self.arch


class Distill(_Section):
    """What the student learns from a trained, frozen network, the teacher; a weight of 0 leaves a loss out."""

    teacher_arch: str = Field("psp101", description="arch of the teacher: psp101, or what TRAIN.arch takes")
    teacher_weight: str | None = Field(None, description="checkpoint of the teacher")
    kd_weight: float = Field(0.0, description="weight of the pixel-wise loss: the teacher's class probabilities", ge=0)
    pf_weight: float = Field(0.0, description="weight of the pair-wise-frames loss: how two frames correspond", ge=0)
    mf_weight: float = Field(0.0, description="weight of the multi-frame loss: how three frames evolve", ge=0)
    kd_on: Literal["logits", "fea"] = Field("logits", description="output that kd compares")
    pf_on: Literal["logits", "fea"] = Field("fea", description="output that pf compares")
    mf_on: Literal["logits", "fea"] = Field("fea", description="output that mf compares")
    temperature: float = Field(1.0, description="temperature of kd", gt=0)
    kd_reduction: Literal["pixel", "mean"] = Field(
        "pixel", description="kd: mean over pixels, times the squared temperature; mean: over every element (published)"
    )
    source: Literal["online", "cached"] = Field(
        "online",
        description="online: the teacher runs on the crops of every step; cached: its logits of the whole frames are "
        "computed once, and training never runs the teacher (logits only)",
    )
    cache: str = Field("data/teacher_cache", description="folder of the teacher's computed logits")
    mf_pool: Positive = Field(16, description="mf: side of the average pooling before the self-similarity")

    @property
    def used(self) -> bool:
        """Whether there is anything to learn from the teacher."""
        return max(self.kd_weight, self.pf_weight, self.mf_weight) > 0

    @model_validator(mode="after")
    def _cached_logits(self) -> Distill:
        losses = {"kd": self.kd_weight, "pf": self.pf_weight, "mf": self.mf_weight}
        for name, weight in losses.items():
            if self.source == "cached" and weight > 0 and getattr(self, f"{name}_on") != "logits":
                raise ValueError(
                    f"DISTILL.source cached keeps only logits: set {name}_on to logits, or DISTILL.source to online"
                )
        return self


class Test(_Section):
    """Prediction and scoring."""

    ckpt_path: str = Field("exp/cityscapes/pspnet18_flow/best.pth", description="checkpoint to evaluate")
    save_folder: str = Field("exp/cityscapes/pspnet18_flow/result", description="folder of all results")
    test_list: str | None = Field(None, description="frames for tool/test.py; empty: DATA.val_list")
    predictions: str | None = Field(
        None, description="tool/eval_tc.py: folder of predictions, PNG; empty: those in save_folder/video/gray"
    )
    prediction_ids: Literal["auto", "train", "label", "color"] = Field(
        "auto",
        description="what the predictions hold: train ids, Cityscapes label ids or colours of DATA.colors_path; auto: "
        "recognised by their values",
    )
    allow_gaps: bool = Field(False, description="score the pairs that have predictions where some frames have none")
    frames: str | None = Field(
        None, description="frames to score, a folder or a video file; empty: the clips of DATA.clip_list"
    )
    cityscapes: Literal["sampled", "full"] | None = Field(
        None, description="score the published protocol's clips below data_root: 108 sampled ones or all 500"
    )
    strides: list[Positive] = Field(
        [1], description="scoring: distances between the frames of a pair; the first is the headline", min_length=1
    )
    base_size: int = Field(0, description="long side that frames are resized to; 0: as they are", ge=0)
    test_h: Positive = Field(769, description="height of the sliding window")
    test_w: Positive = Field(769, description="width of the sliding window")
    mode: Literal["whole", "slide"] = Field("whole", description="whole image or sliding window")
    overlap: float = Field(1 / 3, description="overlap of neighbouring windows, as a share of the window", ge=0, lt=1)
    scales: list[float] = Field([1.0], description="scales whose probabilities are averaged", min_length=1)
    flip: bool = Field(False, description="average with the mirrored image")
    demo_dir: str | int | None = Field(
        None, description="tool/demo.py: list, folder, image, video file or camera index; empty: the clips"
    )
    demo_folder: str = Field("exp/demo", description="where tool/demo.py writes")
    batch_size_gen: Positive = Field(1, description="frames per forward pass of tool/gen_video.py")
    fps: float = Field(17.0, description="frame rate of written videos", gt=0)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; also used by the training")

    @model_validator(mode="after")
    def _scales(self) -> Test:
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"scales {self.scales} must be positive")
        if self.frames and self.cityscapes:
            raise ValueError(f"frames {self.frames} and cityscapes {self.cityscapes} exclude each other")
        return self


class Distributed(_Section):
    """Training on several GPUs: start it with torchrun."""

    sync_bn: bool = Field(True, description="batch norm over all processes (CUDA only)")


SECTIONS: dict[str, type[_Section]] = {
    "DATA": Data,
    "FLOW": Flow,
    "TRAIN": Train,
    "DISTILL": Distill,
    "TEST": Test,
    "DISTRIBUTED": Distributed,
}


class Settings(_Section):
    """All sections."""

    DATA: Data = Field(default_factory=Data)
    FLOW: Flow = Field(default_factory=Flow)
    TRAIN: Train = Field(default_factory=Train)
    DISTILL: Distill = Field(default_factory=Distill)
    TEST: Test = Field(default_factory=Test)
    DISTRIBUTED: Distributed = Field(default_factory=Distributed)

    @property
    def frames_per_clip(self) -> int:
        """Frames that the losses of a training step need: 3 for mf, 2 for motion and pf, else 1."""
        if self.DISTILL.mf_weight > 0:
            return 3
        return 2 if self.TRAIN.st_weight > 0 or self.DISTILL.pf_weight > 0 else 1


def known_keys() -> dict[str, list[str]]:
    """Key -> the sections that have it."""
    known: dict[str, list[str]] = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            known.setdefault(key, []).append(section)
    return known


def nearest_key(section: str, key: str) -> str:
    """``"; did you mean SECTION.key?"``, or nothing where no known key comes near."""
    known = known_keys()
    near = difflib.get_close_matches(key.lower(), known, n=1)
    if not near:
        return ""
    homes = known[near[0]]
    return f"; did you mean {section if section in homes else homes[0]}.{near[0]}?"

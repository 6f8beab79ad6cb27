"""The sections TRAIN and DISTILL of the settings; :mod:`etc.config.schema` has the others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from etc.config.fields import (
    LARGEST,
    LARGEST_SEED,
    PROCESSES,
    Fraction,
    LabelValue,
    NotNegative,
    Positive,
    Section,
    Side,
)

SEGMENTATION_LOSSES = ("dsn", "ohem_dsn", "ohem_dsn_single", "cross_entropy")


class Train(Section):
    """The network and its training."""

    arch: str = Field(
        "psp",
        title="psp | mobile | lraspp | deeplabv3_* | timm:NAME | transformers:NAME | smp:NAME | module:factory",
        description="network",
    )
    layers: Literal[18, 50, 101, 152] = Field(18, description="depth of the ResNet of arch psp")
    pretrained: bool = Field(True, description="start from ImageNet weights (downloaded on first use)")
    backbone_weights: str | None = Field(None, title="path", description="ImageNet weights for arch psp or timm:NAME")
    weight: str | None = Field(None, title="path", description="checkpoint to start from, instead of ImageNet weights")
    weight_strict: bool = Field(True, description="false: what does not fit weight starts anew")
    train_h: Side = Field(769, description="height and width of the training crop, pixels")
    train_w: Side = Field(769, description="height and width of the training crop, pixels")
    scale_min: float = Field(0.5, description="range of the random scale", ge=0.01, le=100)
    scale_max: float = Field(2.0, description="range of the random scale", ge=0.01, le=100)
    rotate_min: float = Field(
        -10.0, title="float -180..180", description="range of the random rotation, degrees", ge=-180
    )
    rotate_max: float = Field(
        10.0, title="float -180..180", description="range of the random rotation, degrees", le=180
    )
    blur: Fraction = Field(0.5, description="probability of a 5x5 Gaussian blur")
    zoom_factor: Literal[8] = Field(8, description="output stride of the network (published key; only 8)")
    ignore_label: LabelValue | list[LabelValue] = Field(
        255,
        title="int 0..255 | list",
        description="values to ignore, with label_map none",
    )
    loss: str = Field(
        "dsn",
        title="dsn | ohem_dsn[_single] | cross_entropy | module:factory",
        description="ohem: hard pixels",
    )
    class_weight: str | list[NotNegative] = Field(
        "none",
        title="none | cityscapes | path | list of float >= 0",
        description="class weights",
    )
    aux_weight: float = Field(0.4, description="weight of the auxiliary head's loss", ge=0)
    st_weight: float = Field(0.1, description="weight of the motion loss; 0: baseline without it", ge=0)
    self_training: Fraction | None = Field(
        None,
        description="least confidence of pseudo-labels; empty: make none",
    )
    frame_gap: int = Field(
        3, description="largest distance between a frame and its neighbour, in frames", ge=1, le=1000
    )
    random_frame: bool = Field(True, description="any neighbour within frame_gap; false: always +frame_gap")
    visibility: Literal["published", "l1", "forward_backward"] = Field(
        "l1",
        description="mask of the motion loss",
    )
    motion_distance: Literal["mse", "kl", "js"] = Field(
        "mse", description="error of logits, divergence of probabilities"
    )
    motion_mask: Literal["squared", "once"] = Field("squared", description="mask inside or outside of the square")
    motion_gradient: Literal["both", "frame"] = Field(
        "both", description="motion loss teaches both frames, or frame t alone"
    )
    motion_confidence: Fraction = Field(0.0, description="motion counts where k is this sure, or agrees")
    motion_ramp: Fraction = Field(0.0, description="share of the training in which st_weight grows")
    motion_flow: Literal["estimated", "zero", "shuffled"] = Field("estimated", description="controls of a study")
    jitter: Fraction = Field(0.0, description="probability of random colours, gray and blur")
    jitter_frames: Literal["clip", "frame"] = Field("clip", description="jitter a clip alike, or frame t alone")
    noise: float = Field(0.0, description="standard deviation of Gaussian noise", ge=0, le=255)
    mask_padding: bool = Field(True, description="leave out padding and motion from outside the frame")
    batch_size: Positive = Field(8, description="clips per step, over all processes")
    workers: int = Field(4, description="DataLoader workers per training process", ge=0, le=PROCESSES)
    base_lr: float = Field(0.01, description="learning rate of the backbone; new layers: 10x", gt=0)
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="adamw: norms and biases do not decay")
    warmup: int = Field(0, description="updates in which the learning rate grows from 0", ge=0, le=LARGEST)
    accumulate: Positive = Field(1, description="batches whose gradients make one update")
    clip_grad: float | None = Field(None, description="largest norm of a gradient; empty: any", gt=0)
    ema: float = Field(0.0, description="decay of averaged weights, which are kept; 0: none", ge=0, lt=1)
    epochs: Positive = Field(200, description="passes over the training list")
    power: float = Field(0.9, description="exponent of the polynomial learning rate decay", ge=0)
    momentum: Fraction = Field(0.9, description="SGD momentum")
    weight_decay: float = Field(1e-4, description="weight decay", ge=0)
    amp: Literal["off", "auto", "float16", "bfloat16"] = Field(
        "off", description="mixed precision; auto: bfloat16 where the device computes it"
    )
    compile: bool = Field(False, description="use torch.compile (needs a C++ compiler)")
    manual_seed: int = Field(
        0, description="random seed of weights, order, crops and neighbours", ge=0, le=LARGEST_SEED
    )
    print_freq: Positive = Field(10, description="steps between log entries")
    val_freq: int = Field(10, description="epochs between validations, and after the last; 0: none", ge=0, le=LARGEST)
    val_clips: Positive | None = Field(None, description="clips whose TC a validation measures; empty: all")
    patience: int = Field(0, description="validations without gain that end it; 0: none", ge=0, le=LARGEST)
    save_path: str = Field("exp/cityscapes/pspnet18_flow", title="path", description="folder for checkpoints and logs")
    resume: str | None = Field(
        None,
        title="auto | path",
        description="auto: continue the run in save_path, if any",
    )

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: str) -> str:
        if value not in SEGMENTATION_LOSSES and ":" not in value:
            raise ValueError(f"is none of {', '.join(SEGMENTATION_LOSSES)}, and no module:factory of your own")
        return value

    @model_validator(mode="after")
    def _ranges(self) -> Train:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} exceeds scale_max {self.scale_max}")
        if (
            self.jitter
            and self.jitter_frames == "frame"
            and self.st_weight > 0
            and self.visibility != "forward_backward"
        ):
            raise ValueError("jitter_frames frame changes the colours that visibility compares: set forward_backward")
        if self.rotate_min > self.rotate_max:
            raise ValueError(f"rotate_min {self.rotate_min} exceeds rotate_max {self.rotate_max}")
        return self

    @property
    def network(self) -> str:
        """The name that ``model.build_model`` takes: published files say ``psp`` and ``layers``."""
        return f"psp{self.layers}" if self.arch == "psp" else self.arch


# Name of each distillation loss -> how many frames of a clip it compares. The losses themselves are in
# etc/train/distillation.py; the settings <name>_weight and <name>_on belong to each.
DISTILLATION_FRAMES = {"kd": 1, "pf": 2, "mf": 3}


class Distill(Section):
    """Distillation from a trained, frozen network, the teacher; a weight of 0 switches a loss off."""

    teacher_arch: str = Field(
        "psp101",
        title="name",
        description="psp18, psp50, psp101, psp152 or a TRAIN.arch other than psp",
    )
    teacher_weight: str | list[str] | None = Field(
        None, title="path or list", description="checkpoint of the teacher; [A, B]: mean of several"
    )
    kd_weight: float = Field(0.0, description="weight of kd, the loss on class probabilities per pixel", ge=0)
    pf_weight: float = Field(0.0, description="weight of pf, the loss on similarities between two frames", ge=0)
    mf_weight: float = Field(0.0, description="weight of mf, the loss on similarities over three frames", ge=0)
    consistent_teacher: bool = Field(False, description="average teacher along the flow")
    kd_on: Literal["logits", "fea"] = Field("logits", description="compare logits or features")
    pf_on: Literal["logits", "fea"] = Field("fea", description="compare logits or features")
    mf_on: Literal["logits", "fea"] = Field("fea", description="compare logits or features")
    temperature: float = Field(1.0, description="softmax temperature of kd", gt=0)
    kd_reduction: Literal["pixel", "mean"] = Field(
        "pixel", description="mean over pixels (times temperature^2) or elements"
    )
    source: Literal["online", "cached"] = Field(
        "online",
        description="run the teacher each step, or keep its logits",
    )
    cache: str = Field("data/teacher_cache", title="path", description="folder that keeps the teacher's logits")
    mf_pool: Positive = Field(16, description="size of the average pooling before the similarities of mf")

    @property
    def teacher_weights(self) -> list[str]:
        """The checkpoints of ``teacher_weight``."""
        return [self.teacher_weight] if isinstance(self.teacher_weight, str) else self.teacher_weight or []

    @property
    def used(self) -> bool:
        """Whether there is anything to learn from the teacher."""
        return any(self.weight(name) > 0 for name in DISTILLATION_FRAMES)

    def weight(self, name: str) -> float:
        """The weight of a loss in :data:`DISTILLATION_FRAMES`."""
        return getattr(self, f"{name}_weight")

    @model_validator(mode="after")
    def _cached_logits(self) -> Distill:
        for name in DISTILLATION_FRAMES:
            if self.source == "cached" and self.weight(name) > 0 and getattr(self, f"{name}_on") != "logits":
                raise ValueError(
                    f"DISTILL.source cached keeps only logits: set {name}_on to logits, or DISTILL.source to online"
                )
        return self

"""What a study compares: a YAML file -> a checked plan."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from etc.cli import PREDICTOR
from etc.config import load_settings
from etc.config.schema import Settings
from etc.config.yaml_reader import YamlError, parse, read_text
from etc.errors import ConfigError
from etc.study.controls import Filter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
START = "{folder}/start/"  # of the first trainings, in the settings of a variant
OWN_START = START + "seed{seed}/"
_OWN = ("TRAIN.save_path", "TRAIN.weight", "TRAIN.manual_seed", "TRAIN.resume", "TEST.ckpt_path", "TEST.save_folder")
_OF_CONTROLS = ("TEST.ckpt_path", *PREDICTOR.split())
Overrides = dict[str, Any]  # "SECTION.key" -> value


class Study(BaseModel):
    """The content of a study's YAML file.

    Attributes:
        name: names the folder ``exp/study/<name>`` and the page.
        config: the settings file of every run.
        seeds: each variant is trained once with each of them.
        start: settings of a first training, one per seed, from whose weights every variant of that seed starts;
            ``None``: variants start as the settings say.
        baseline: the variant that the others are compared with, and whose predictions the controls filter.
        against: name of a variant -> the variant that it is compared with in place of the baseline.
        variants: name -> its settings, ``{"SECTION.key": value}``; the two words ``{seed}`` and ``{folder}`` in a text
            stand for the seed and for the study's folder.
        note: what a reader of the page must know.
        controls: name -> what is scored like a variant without being trained: a filter of the baseline's predictions
            (:data:`etc.study.controls.Filter`), or settings of another prediction, as those of a variant; with
            ``TEST.ckpt_path`` it is one by other networks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    config: str
    seeds: list[int] = Field(min_length=1)
    start: Overrides | None = None
    baseline: str
    against: dict[str, str] = {}
    variants: dict[str, Overrides] = Field(min_length=1)
    controls: dict[str, Filter | Overrides] = {}
    note: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Study:
        for name in (self.name, *self.variants, *self.controls):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name a folder: use letters, digits and . _ + -")
        if "start" in (*self.variants, *self.controls):
            raise ValueError("no variant may be called start: that folder holds the first trainings")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice")
        for overrides in (self.start or {}, *self.variants.values()):
            for key in overrides:
                if key in _OWN:
                    raise ValueError(f"{key} is set by the study itself: leave it out")
        return self

    @model_validator(mode="after")
    def _controls_fit(self) -> Study:
        for name, control in self.controls.items():
            if name in self.variants:
                raise ValueError(f"{name} is a variant and a control: call one by another name")
            if isinstance(control, tuple) and any(side < 1 or side % 2 == 0 for side in control):
                raise ValueError(f"control {name}: the sides of a window {list(control)} must be odd")
            if control == {}:
                raise ValueError(f"control {name} sets nothing: it would be the baseline")
            for key, value in control.items() if isinstance(control, dict) else ():
                if key not in _OF_CONTROLS:
                    raise ValueError(f"control {name}: {key} is no setting of the predictor: leave it out")
                if "{folder}" in str(value).replace(START, ""):
                    raise ValueError(f"control {name}: {key} may read {START}... alone: the rest is not trained yet")
        return self

    @model_validator(mode="after")
    def _compares_variants(self) -> Study:
        if self.baseline not in self.variants:
            raise ValueError(f"baseline {self.baseline} is not among the variants {', '.join(self.variants)}")
        for name, other in self.against.items():
            unknown = next((each for each in (name, other) if each not in self.variants), None)
            if unknown is not None or name in (other, self.baseline):
                raise ValueError(f"against: {unknown or name}: expected VARIANT: the variant that it is compared with")
        return self

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all that is scored: the variants, then the controls."""
        return (*self.variants, *self.controls)

    def reference(self, row: str) -> str | None:
        """The variant that a row is compared with; ``None`` for the baseline."""
        return None if row == self.baseline else self.against.get(row, self.baseline)

    @property
    def folder(self) -> Path:
        """Where the runs lie."""
        return Path("exp/study") / self.name

    def start_folder(self, seed: int) -> Path:
        """Folder of the first training of a seed."""
        return self.folder / "start" / f"seed{seed}"

    def run_folder(self, variant: str, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / variant / f"seed{seed}"

    def start_overrides(self, seed: int) -> list[str]:
        """Settings of the first training of a seed, as the scripts take them."""
        own = {"TRAIN.manual_seed": seed, "TRAIN.save_path": str(self.start_folder(seed))}
        return self._words((self.start or {}) | own, seed)

    def run_overrides(self, variant: str, seed: int) -> list[str]:
        """Settings of one run, as the scripts take them."""
        folder = self.run_folder(variant, seed)
        own: Overrides = {"TRAIN.manual_seed": seed, "TRAIN.save_path": str(folder)}
        if self.start is not None:
            own["TRAIN.weight"] = str(self.start_folder(seed) / "last.pth")
        own |= {"TEST.ckpt_path": str(folder / "last.pth"), "TEST.save_folder": str(folder / "result")}
        return self._words(self.variants[variant] | own, seed)

    def control_overrides(self, control: str, seed: int) -> list[str]:
        """Settings of the prediction and scores of one control, as the scripts take them."""
        result = self.run_folder(control, seed) / "result"
        own: Overrides = {"TEST.save_folder": str(result)}
        how = self.controls[control]
        own |= how if isinstance(how, dict) else {"TEST.predictions": str(result / "video/gray")}
        return [*self.run_overrides(self.baseline, seed), *self._words(own, seed)]

    def settings(self, row: str, seed: int) -> Settings:
        """The effective settings of one variant or control."""
        overrides = self.control_overrides if row in self.controls else self.run_overrides
        return load_settings(self.config, overrides(row, seed))

    def fingerprint(self, variant: str, seed: int) -> str:
        """Hash of all that the figures of a variant or control depend on, as far as the plan says it."""
        if variant in self.controls:
            content = [self.fingerprint(self.baseline, seed), self.controls[variant]]
            return hashlib.sha256(json.dumps(content).encode()).hexdigest()
        settings = [self.settings(variant, seed)]
        if self.start is not None:
            settings.append(load_settings(self.config, self.start_overrides(seed)))
        # A setting that a later version adds, with a default that changes nothing, leaves the runs as they are.
        dumped = [each.model_dump(exclude_defaults=True) for each in settings]
        return hashlib.sha256(json.dumps(dumped, sort_keys=True).encode()).hexdigest()

    def _words(self, overrides: Overrides, seed: int) -> list[str]:
        words = []
        for key, value in overrides.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words.append(f"{key}={text.replace('{seed}', str(seed)).replace('{folder}', str(self.folder))}")
        return words


def read_study(path: str | Path) -> Study:
    """Read and check the file of a study, with the settings of all its runs.

    Raises:
        ConfigError: a file that is missing or no study, an unknown key or a setting that does not exist.
    """
    try:
        tree = parse(read_text(Path(path)))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror}") from error
    except (YamlError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected the keys {', '.join(Study.model_fields)}")
    try:
        study = Study(**tree)
    except (ValidationError, TypeError) as error:
        raise ConfigError(f"{path}: {_first_fault(error)}") from error
    for seed in study.seeds:
        for row in study.rows:
            study.fingerprint(row, seed)
            study.settings(row, seed)
    return study


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    faults = error.errors()
    unknown = [str(fault["loc"][0]) for fault in faults if fault["type"] == "extra_forbidden"]
    if unknown:
        return f"unknown key {unknown[0]}; the keys are {', '.join(Study.model_fields)}"
    fault = faults[0]
    if fault["loc"][:1] == ("controls",) and len(fault["loc"]) > 2:  # one fault for each type that it may have
        return f"controls.{fault['loc'][1]}: expected constant, [frames, rows, columns] or settings of the predictor"
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"].removeprefix("Value error, ")

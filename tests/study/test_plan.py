"""The plan of a study: what it accepts, and which settings it gives each run."""

import pytest

from etc.config import TOOLKIT
from etc.errors import ConfigError
from etc.study.plan import read_study

PLAN = """
name: tiny
config: {config}
seeds: [3, 4]
start: {{TRAIN.epochs: 2}}
baseline: base
variants:
  base: {{TRAIN.st_weight: 0}}
  js: {{TRAIN.st_weight: 2, TRAIN.motion_distance: js, DISTILL.teacher_weight: "{{folder}}/t{{seed}}.pth"}}
controls:
  time3: [3, 1, 1]
  flat: constant
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes a study file, with some text replaced, and reads it."""
    monkeypatch.chdir(tmp_path)

    def read(old: str = "", new: str = ""):
        text = PLAN.format(config=TOOLKIT / "configs/quickstart.yaml")
        assert old in text
        (tmp_path / "s.yaml").write_text(text.replace(old, new) if old else text)
        return read_study("s.yaml")

    return read


def test_every_run_has_its_seed_its_folder_and_the_start_of_its_seed(plan):
    study = plan()
    train = study.settings("js", 4).TRAIN
    assert (train.manual_seed, train.motion_distance, train.st_weight) == (4, "js", 2)
    assert train.save_path == "exp/study/tiny/js/seed4"
    assert train.weight == "exp/study/tiny/start/seed4/last.pth"
    assert study.settings("js", 4).DISTILL.teacher_weight == "exp/study/tiny/t4.pth"
    assert study.settings("base", 3).TEST.ckpt_path == "exp/study/tiny/base/seed3/last.pth"


def test_a_control_scores_filtered_predictions_or_predicts_with_settings_of_its_own(plan):
    study = plan(
        "flat: constant", 'flat: {TEST.ckpt_path: ["{folder}/start/a.pth", "{folder}/start/b.pth"], TEST.flip: true}'
    )
    filtered, predicted = study.settings("time3", 3), study.settings("flat", 3)
    assert filtered.TEST.predictions == f"{filtered.TEST.save_folder}/video/gray"
    assert filtered.TEST.save_folder == "exp/study/tiny/time3/seed3/result"
    assert predicted.TEST.checkpoints == ["exp/study/tiny/start/a.pth", "exp/study/tiny/start/b.pth"]
    assert predicted.TEST.flip and predicted.TEST.predictions is None
    assert predicted.TEST.save_folder == "exp/study/tiny/flat/seed3/result"
    assert plan().fingerprint("flat", 3) != study.fingerprint("flat", 3)


def test_the_fingerprint_of_a_run_changes_with_its_settings_and_with_those_of_its_start(plan):
    before = plan().fingerprint("js", 3)
    assert plan("st_weight: 2", "st_weight: 4").fingerprint("js", 3) != before
    assert plan("epochs: 2", "epochs: 3").fingerprint("js", 3) != before
    assert plan("st_weight: 0", "st_weight: 1").fingerprint("js", 3) == before  # of another variant


def test_the_fingerprint_of_a_control_changes_with_the_baseline_and_with_the_filter(plan):
    before = plan().fingerprint("time3", 3)
    assert plan("st_weight: 0", "st_weight: 1").fingerprint("time3", 3) != before
    assert plan("[3, 1, 1]", "[5, 1, 1]").fingerprint("time3", 3) != before
    assert plan("st_weight: 2", "st_weight: 4").fingerprint("time3", 3) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline: base", "baseline: bass", "baseline bass is not among the variants base, js"),
        ("seeds: [3, 4]", "seeds: [3, 4]\nagainst: {js: bass}", "against: bass: expected VARIANT: the variant"),
        ("seeds: [3, 4]", "seeds: [3, 4]\nagainst: {flat: base}", "against: flat: expected VARIANT: the variant"),
        ("seeds: [3, 4]", "seeds: [3, 4]\nagainst: {base: js}", "against: base: expected VARIANT: the variant"),
        ("seeds: [3, 4]", "seeds: [3, 3]", "a seed is given twice"),
        ("seeds: [3, 4]", "seeds: []", "seeds: "),
        ("st_weight: 2", "st_wait: 2", "st_wait"),
        ("TRAIN.st_weight: 2", "TRAIN.save_path: x", "TRAIN.save_path is set by the study itself"),
        ("  js:", "  ../js:", "cannot name a folder"),
        ("  js:", "  start:", "no variant may be called start"),
        ("name: tiny", "nome: tiny", "nome"),
        ("[3, 1, 1]", "[4, 1, 1]", "control time3: the sides of a window [4, 1, 1] must be odd"),
        ("[3, 1, 1]", "[3, 1]", "controls.time3: expected constant, [frames, rows"),
        ("flat: constant", "flat: blurred", "controls.flat: expected constant, [frames, rows"),
        ("flat: constant", "flat: {TRAIN.epochs: 2}", "control flat: TRAIN.epochs is no setting of the predictor"),
        ("flat: constant", "flat: {TEST.strides: [8]}", "control flat: TEST.strides is no setting of the predictor"),
        ("flat: constant", "flat: {TEST.flip: maybe}", "TEST.flip: expected true or false"),
        ("flat: constant", "flat: {}", "control flat sets nothing"),
        ("flat: constant", 'flat: {TEST.ckpt_path: "{folder}/js/seed3/last.pth"}', "control flat: TEST.ckpt_path may"),
        ("time3: [", "js: [", "js is a variant and a control"),
        ("time3: [", "start: [", "no variant may be called start"),
        ("quickstart.yaml", "nothing.yaml", "nothing.yaml"),
        ("name: tiny", "name: [", "is not a YAML file"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_in_one_line(plan, old, new, message):
    with pytest.raises(ConfigError) as error:
        plan(old, new)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted((TOOLKIT / "configs/study").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_studies_of_the_repository_can_be_run(path, monkeypatch):
    monkeypatch.chdir(TOOLKIT)
    if "\nvariants:" in path.read_text():
        study = read_study(path)
        assert study.baseline in study.variants and len(study.seeds) >= 2

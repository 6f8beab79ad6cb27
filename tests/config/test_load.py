"""Settings: published files, overrides, types, ranges, messages."""

import ast
import logging
import re
from pathlib import Path

import pytest
import yaml

from etc.config import DEFAULT_CONFIG, dump_settings, load_settings, with_changes
from etc.config.names import _MEANT, known_keys
from etc.config.schema import SECTIONS, Settings
from etc.errors import ConfigError, UserError
from etc.study.plan import read_study
from etc.train.distillation import LOSSES

REPOSITORY = Path(__file__).resolve().parents[2]

PUBLISHED = """
DATA:
  data_root: data/cityscapes
  train_list: data/list/cityscapes/fine_train.lst
  val_list: data/list/cityscapes/fine_val.lst
  classes: 19

TRAIN:
  arch: psp
  layers: 18
  sync_bn: True  # adopt sync_bn or not
  train_h: 713
  train_w: 713
  scale_min: 0.5
  scale_max: 2.0
  rotate_min: -10
  rotate_max: 10
  zoom_factor: 8
  ignore_label: 255
  aux_weight: 0.4
  train_gpu: [0, 1, 2, 3]
  workers: 16
  batch_size: 8
  batch_size_val: 4
  base_lr: 1e-2
  epochs: 200
  start_epoch: 0
  power: 0.9
  momentum: 0.9
  weight_decay: 1e-4
  manual_seed:
  print_freq: 10
  save_freq: 1
  save_path: exp/cityscapes/pspnet18/model
  weight:
  resume:
  evaluate: True
  st_weight: 0.1
  frame_gap: 3
  random_frame: True

Distributed:
  dist_url: tcp://127.0.0.1:6789
  dist_backend: 'nccl'
  multiprocessing_distributed: True
  world_size: 1
  rank: 0
  use_apex: True
  opt_level: 'O1'
  keep_batchnorm_fp32:
  loss_scale:

TEST:
  test_list: data/list/cityscapes/fine_val.lst
  split: val
  base_size: 2048
  test_h: 713
  test_w: 713
  scales: [1.0]
  has_prediction: False
  index_start: 0
  index_step: 0
  test_gpu: [0]
  model_path: exp/cityscapes/pspnet18/model/train_epoch_200.pth
  save_folder: exp/cityscapes/pspnet18/result
  colors_path: data/cityscapes/cityscapes_colors.txt
  names_path: data/cityscapes/cityscapes_names.txt
"""
MOVED = {"train_list", "val_list", "test_list", "sync_bn", "colors_path", "names_path", "opt_level", "model_path"}
GONE = {
    "batch_size_val",
    "train_gpu", "test_gpu", "start_epoch", "save_freq", "evaluate", "dist_url", "dist_backend",
    "multiprocessing_distributed", "world_size", "rank", "use_apex", "keep_batchnorm_fp32", "loss_scale", "split",
    "has_prediction", "index_start", "index_step",
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(*overrides: str, config: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(config, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_published_file_loads_with_every_value_in_its_place(write):
    settings = load_settings(write(PUBLISHED))
    assert settings.TRAIN.network == "psp18"
    assert (settings.TRAIN.base_lr, settings.TRAIN.weight_decay) == (0.01, 0.0001)
    assert (settings.TRAIN.rotate_min, settings.TRAIN.rotate_max) == (-10.0, 10.0)
    assert settings.DISTRIBUTED.sync_bn is True
    assert settings.TEST.ckpt_path == "exp/cityscapes/pspnet18/model/train_epoch_200.pth"
    assert settings.DATA.names_path == "data/palettes/cityscapes_names.txt"
    assert settings.DATA.colors_path == "data/palettes/cityscapes_colors.txt"
    assert settings.DATA.train_list == "data/lists/cityscapes/train.lst"
    assert settings.TEST.test_list == "data/lists/cityscapes/val.lst"
    assert settings.TRAIN.amp == "float16"


def test_an_empty_value_of_a_published_file_means_the_default(write):
    settings = load_settings(write(PUBLISHED))
    assert (settings.TRAIN.manual_seed, settings.TRAIN.weight, settings.TRAIN.resume) == (0, None, None)


def test_every_mapping_of_a_published_file_is_logged_once(write, caplog):
    with caplog.at_level(logging.INFO, logger="etc.config"):
        load_settings(write(PUBLISHED))
    lines = [record.getMessage() for record in caplog.records]
    keys = [line.split(": ")[1].split()[0].split(".")[1] for line in lines]
    assert sorted(keys) == sorted(MOVED | GONE)
    assert any("Distributed.opt_level is now TRAIN.amp: float16" in line for line in lines)
    assert any("TEST.model_path is now TEST.ckpt_path" in line for line in lines)


@pytest.mark.parametrize(
    ("apex", "level", "amp"),
    [("True", "O0", "off"), ("True", "O1", "float16"), ("True", "'O2'", "float16"), ("False", "O1", "off")],
)
def test_opt_level_becomes_mixed_precision_where_apex_was_used(write, apex, level, amp):
    path = write(f"Distributed:\n  opt_level: {level}\n  use_apex: {apex}\n")
    assert load_settings(path).TRAIN.amp == amp


def test_an_unknown_opt_level_is_refused(write):
    assert "opt_level 'O3' is none of O0, O1, O2" in refused(config=write("Distributed:\n  opt_level: O3\n"))


def test_two_different_values_for_one_key_are_refused(write):
    message = refused(config=write("DATA:\n  names_path: a.txt\nTEST:\n  names_path: b.txt\n"))
    assert "DATA.names_path is given twice, as 'a.txt' and 'b.txt'" in message


def test_the_same_value_in_two_sections_is_no_conflict(write):
    same = write("DATA:\n  names_path: a.txt\nTEST:\n  names_path: a.txt\n")
    assert load_settings(same).DATA.names_path == "a.txt"


STUDIES = [path for path in (REPOSITORY / "configs/study").glob("*.yaml") if "\nvariants:" in path.read_text()]
SETTINGS = sorted({*(REPOSITORY / "configs").rglob("*.yaml")} - {*STUDIES})


@pytest.mark.parametrize("path", SETTINGS, ids=lambda p: p.stem)
def test_every_settings_file_of_the_repository_loads_without_translation(path, caplog):
    with caplog.at_level(logging.INFO, logger="etc.config"):
        load_settings(path)
    assert not caplog.records


def test_without_a_file_the_quickstart_is_loaded():
    assert load_settings() == load_settings(DEFAULT_CONFIG)
    assert load_settings().DATA.synthetic


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["TRAIN.base_lr", "1e-4"], 1e-4),
        (["TRAIN.base_lr=1e-4"], 1e-4),
        (["train.base_lr", "5"], 5.0),
        (["TRAIN.base_lr=.5"], 0.5),
        (["TRAIN.base_lr", "1", "TRAIN.base_lr=2"], 2.0),
    ],
)
def test_overrides_take_both_forms_and_the_last_one_counts(words, value):
    assert load_settings(None, words).TRAIN.base_lr == value


def test_overrides_take_negative_numbers_lists_and_nothing():
    settings = load_settings(None, ["TRAIN.rotate_min", "-20", "TEST.scales=[0.5, 1]", "TRAIN.resume", "null"])
    assert settings.TRAIN.rotate_min == -20.0
    assert settings.TEST.scales == [0.5, 1.0]
    assert settings.TRAIN.resume is None
    assert load_settings().TRAIN.resume == "auto"  # so that null had something to change


@pytest.mark.parametrize("text", ["0", "2024-01-01", "1e5", "a=b", "true"])
def test_where_a_string_is_wanted_the_command_line_gives_one(text):
    assert load_settings(None, ["TEST.save_folder", text]).TEST.save_folder == text


@pytest.mark.parametrize("text", ["exp/run #3", "~", "null", "[a", "a: b", "'quoted'", "!!int x", "*a", " lead", "- x"])
def test_text_on_the_command_line_is_taken_as_it_stands(text):
    settings = load_settings(None, [f"TEST.save_folder={text}", "TEST.model_path", text, f"FLOW.store={text}"])
    assert (settings.TEST.save_folder, settings.TEST.ckpt_path, settings.FLOW.cache) == (text, text, text)
    assert load_settings(None, [f"TEST.demo_dir={text}"]).TEST.demo_dir == (None if text == "null" else text)


@pytest.mark.parametrize("text", ["", "null", "none", "None"])
def test_a_setting_that_may_be_empty_is_emptied_by_three_words(text):
    words = [
        "TRAIN.weight",
        "TRAIN.resume",
        "TEST.cityscapes",
        "TEST.demo_dir",
        "TRAIN.val_clips",
        "DISTILL.teacher_weight",
    ]
    filled = [
        "TRAIN.weight=a",
        "TEST.cityscapes=full",
        "TEST.demo_dir=0",
        "TRAIN.val_clips=3",
        "DISTILL.teacher_weight=b",
    ]
    before, after = load_settings(None, filled), load_settings(None, [*filled, *(f"{word}={text}" for word in words)])
    for word in words:
        section, key = word.split(".")
        assert getattr(getattr(before, section), key) is not None and getattr(getattr(after, section), key) is None
    assert load_settings(None, ["TRAIN.weight=~"]).TRAIN.weight == "~"
    if text:
        assert load_settings(None, [f"DATA.label_map={text}"]).DATA.label_map == text  # "none" is a label map
    else:
        assert "must not be an empty text" in refused("TEST.save_folder=")


@pytest.mark.parametrize(
    "word",
    [
        "TEST.fps=1e-9", "TEST.fps=1e9", f"TRAIN.manual_seed={2**70}", f"DATA.synthetic_seed={2**64}",
        "TEST.device=meta",
        "TEST.device=cuda:256", "TEST.device=gpu", "TRAIN.workers=100000", "TRAIN.train_h=10000000",
        "TEST.scales=[1e-9]",
        "TRAIN.scale_max=1e9", f"TRAIN.epochs={10**12}", "TRAIN.frame_gap=1000000", "TRAIN.epochs=" + "9" * 5000,
        "TEST.scales=" + "[" * 5000,
    ],
)  # fmt: skip
def test_values_that_no_run_can_use_are_refused_at_once(word):
    message = refused(word)
    assert word.partition("=")[0] in message or "TEST: scales" in message
    assert len(message) < 250


def test_a_camera_is_given_by_its_number(write):
    assert load_settings(None, ["TEST.demo_dir", "0"]).TEST.demo_dir == 0
    assert load_settings(write("TEST:\n  demo_dir: 0\n")).TEST.demo_dir == 0


@pytest.mark.parametrize("word", ["off", "float16", "bfloat16"])
def test_the_word_off_is_not_the_value_false(write, word):
    assert load_settings(None, ["TRAIN.amp", word]).TRAIN.amp == word
    assert load_settings(write(f"TRAIN:\n  amp: {word}\n")).TRAIN.amp == word


def test_published_keys_are_translated_on_the_command_line_too():
    settings = load_settings(None, ["DISTRIBUTED.opt_level", "O1", "TEST.model_path=a.pth", "TRAIN.sync_bn", "false"])
    assert settings.TRAIN.amp == "float16"
    assert settings.TEST.ckpt_path == "a.pth"
    assert settings.DISTRIBUTED.sync_bn is False


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["TRAIN.bse_lr", "1"], "unknown key TRAIN.bse_lr; did you mean TRAIN.base_lr?"),
        (["TRAIN.batch_siz", "1"], "did you mean TRAIN.batch_size?"),
        (["TEST.batch_size_ge", "1"], "did you mean TEST.batch_size_gen?"),
        (["TRAIN.framestep", "1"], "did you mean DATA.frame_step?"),
        (["TRIAN.base_lr", "1"], "unknown section TRIAN; did you mean TRAIN?"),
        (["MODEL.base_lr", "1"], "sections are DATA, FLOW, TRAIN"),
        (["TRAIN.learning_rate", "1"], "did you mean TRAIN.base_lr?"),
        (["TRAIN.min_scale", "1"], "did you mean TRAIN.scale_min?"),
        (["DATA.num_classes", "1"], "did you mean DATA.classes?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(words, named):
    assert named in refused(*words)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("TRAIN.weights=x", "TRAIN.weights; did you mean TRAIN.weight? (FLOW.weights is something else)"),
        ("TEST.weight=x", "TEST.weight; there is TRAIN.weight"),
        ("TRAIN.name=x", "TRAIN.name; there is FLOW.name"),
        ("TEST.save_path=x", "TEST.save_path; did you mean TEST.save_folder? (TRAIN.save_path is something else)"),
        ("DATA.store=x", "DATA.store; --help lists"),
        ("TEST.train_gpu=0", "TEST.train_gpu; --help lists"),
        ("TRAIN.opt_level=O1", "TRAIN.opt_level; --help lists"),
    ],
)
def test_a_key_in_the_wrong_section_is_refused_and_not_moved(write, word, named):
    section, key, value = re.split("[.=]", word)
    for words, config in ([word], None), ([], write(f"{section}:\n  {key}: {value}\n")):
        assert f"unknown key {named}" in refused(*words, config=config)


def test_weights_in_the_obsolete_tune_weight_are_not_dropped(write):
    expected = "TRAIN.tune_weight is obsolete: to start from a.pth, set TRAIN.weight"
    assert expected in refused("TRAIN.tune_weight", "a.pth")
    assert expected in refused(config=write("TRAIN:\n  tune_weight: a.pth\n"))
    for nothing in ("", "False", "null", "none"):
        assert load_settings(write(f"TRAIN:\n  tune_weight: {nothing}\n")).TRAIN.weight is None
        assert load_settings(None, [f"TRAIN.tune_weight={nothing}"]).TRAIN.weight is None


@pytest.mark.parametrize(
    "name",
    ["tuned_weight", "sd_modes", "loss_scale_window", "gan_weight", "lstm_mode", "flow_dir"],
)
def test_a_name_that_only_shares_letters_with_a_setting_gets_no_hint(name):
    assert refused(f"TRAIN.{name}=1").endswith(
        f"unknown key TRAIN.{name}; --help lists the settings that a script reads"
    )


def test_every_word_of_other_toolkits_leads_to_a_setting():
    assert set(_MEANT.values()) <= set(known_keys())


def test_an_unknown_key_without_value_is_an_error_too(write):
    assert "unknown key TRAIN.wieght; did you mean TRAIN.weight?" in refused(config=write("TRAIN:\n  wieght:\n"))


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("TRAIN.batch_size=2.0", "TRAIN.batch_size"),
        ("TRAIN.batch_size=many", "got 'many'"),
        ("TRAIN.workers=true", "got True"),
        ("TEST.flip=1", "got 1"),
        ("TRAIN.layers=34", "18, 50, 101 or 152"),
        ("TEST.scales=1.0", "TEST.scales: expected list of float > 0, got 1.0"),
        ("TRAIN.base_lr=null", "got None"),
        ("TRAIN.arch=[psp]", None),
    ],
)
def test_types_are_strict(word, named):
    if named is None:
        # the command line gives a string where one is wanted; the network's name is checked when it is built
        assert load_settings(None, [word]).TRAIN.arch == "[psp]"
    else:
        assert named in refused(word)


@pytest.mark.parametrize(
    "word",
    [
        "DATA.classes=0", "DATA.classes=255", "DATA.synthetic_height=63", "TRAIN.base_lr=0", "TRAIN.base_lr=.inf",
        "TRAIN.power=.nan", "TRAIN.momentum=1.1", "TRAIN.rotate_min=-181", "TRAIN.blur=-0.1", "TRAIN.epochs=0",
        "TRAIN.ignore_label=256", "TRAIN.zoom_factor=4", "TEST.overlap=1", "TEST.scales=[]", "TEST.scales=[0]",
        "TEST.fps=0", "TRAIN.workers=-1", "TRAIN.st_weight=-1", "TRAIN.frame_gap=0",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(word):
    assert word.partition("=")[0].split(".")[0] in refused(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("TRAIN.epochs=0", "TRAIN.epochs: expected int 1..2147483647, got 0"),
        ("TRAIN.workers=9999", "TRAIN.workers: expected int 0..1024, got 9999"),
        ("TRAIN.base_lr=fast", "TRAIN.base_lr: expected float > 0, got 'fast'"),
        ("TRAIN.blur=2", "TRAIN.blur: expected float 0..1, got 2"),
        ("TRAIN.self_training=2", "TRAIN.self_training: expected float 0..1, or null for none, got 2"),
        ("TRAIN.amp=fp16", "TRAIN.amp: expected off, auto, float16 or bfloat16, got 'fp16'"),
        ("TRAIN.compile=1", "TRAIN.compile: expected true or false, got 1"),
        ("TRAIN.power=.nan", "TRAIN.power: expected float >= 0, got nan"),
        ("FLOW.scale=2", "FLOW.scale: expected float > 0, <= 1, got 2"),
        ("TEST.strides=[1, 0]", "TEST.strides: expected list of int 1..2147483647, got [1, 0]"),
        ("TEST.strides=[]", "TEST.strides: expected list of int 1..2147483647 with at least one value, got []"),
        (
            "TEST.device=gpu",
            "TEST.device: is no device: expected auto, cpu, cuda or cuda:N with N from 0 to 127 (got 'gpu')",
        ),
        ("TRAIN.save_path=", "TRAIN.save_path: must not be an empty text (got '')"),
    ],
)
def test_a_refused_value_is_told_in_the_words_of_help(word, message):
    assert refused(word) == message


def test_no_wording_of_pydantic_reaches_anybody():
    """Every setting refuses a value that no type takes, in words of ours."""
    wording = re.compile("input|valid|should|string|integer|boolean|literal|dictionary|type=", re.IGNORECASE)
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            with pytest.raises(ConfigError) as caught:
                with_changes(Settings(), **{section: {key: {"a": 1}}})
            message = str(caught.value)
            assert message.startswith(f"{section}.{key}: expected "), message
            assert not wording.search(message.partition("expected")[2].replace(f"{section}.{key}", "")), message
    with pytest.raises(ConfigError, match=r"TRAIN.epochz: unknown key"):
        with_changes(Settings(), TRAIN={"epochz": 1})


@pytest.mark.parametrize(
    "words",
    [["TRAIN.scale_min=2", "TRAIN.scale_max=1"], ["TRAIN.rotate_min=5", "TRAIN.rotate_max=-5"]],
)
def test_a_smallest_value_above_the_largest_is_refused(words):
    assert "exceeds" in refused(*words)


@pytest.mark.parametrize(
    ("words", "named"), [(["TRAIN.epochs"], "has no value"), (["epochs", "3"], "'epochs'"), (["1.0]"], "'1.0]'")]
)
def test_words_that_are_no_setting_are_refused(words, named):
    assert named in refused(*words)


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "expected sections"), ("TRAIN: 3", "expected sections"), ("a: b: c", "not a YAML file"), ("- 1", "sections")],
)
def test_a_file_of_another_kind_is_named(write, text, named):
    path = write(text)
    message = refused(config=path)
    assert named in message and str(path) in message


def test_a_missing_file_and_a_binary_one_are_named(tmp_path):
    assert "missing.yaml: No such file" in refused(config=tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert "binary.yaml" in refused(config=tmp_path / "binary.yaml")


def test_errors_of_settings_are_user_errors():
    assert issubclass(ConfigError, UserError)


@pytest.mark.parametrize("words", [[], ["TRAIN.amp", "off", "TEST.save_folder=1e5", "TRAIN.weight_decay=1e-7"]])
def test_the_effective_settings_load_again_as_they_were(write, words):
    settings = load_settings(None, words)
    text = dump_settings(settings)
    assert load_settings(write(text)) == settings
    # and other programs, with YAML 1.1 rules, read the same words
    assert yaml.safe_load(text)["TRAIN"]["amp"] == "off"


def test_every_key_is_read_by_the_toolkit():
    rooms = [REPOSITORY / "etc", REPOSITORY / "tool"]
    files = [p for room in rooms for p in room.rglob("*.py") if p.parent.name != "config"]
    read = {
        node.attr for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))) if hasattr(node, "attr")
    }
    # Read by names made of others: arch and layers by Train.network, teacher_weight by Distill.teacher_weights,
    # ckpt_path by Test.checkpoints, the world's own keys by their prefix, the weights of the distillation losses by the
    # loss. zoom_factor has one value, which its check reads.
    read |= {"arch", "layers", "zoom_factor", "teacher_weight", "ckpt_path"} | {f"{loss}_weight" for loss in LOSSES}
    read |= {key for key in SECTIONS["DATA"].model_fields if key.startswith("synthetic_")}
    unread = [f"{s}.{key}" for s, model in SECTIONS.items() for key in model.model_fields if key not in read]
    assert not unread, f"settings that nothing reads: {unread}"


def test_a_folder_named_by_a_date_is_a_name():
    assert load_settings(None, ["TEST.save_folder", "2024-99-99"]).TEST.save_folder == "2024-99-99"
    assert load_settings(None, ["TEST.save_folder=2024-01-02"]).TEST.save_folder == "2024-01-02"


@pytest.mark.parametrize(
    "folder", ["cityscapes", "camvid", "cityscapes_mini", "synthetic", "vspw", "kitti_step", "davis"]
)
def test_the_three_rows_of_a_data_set_differ_only_in_what_they_are_named_for(folder):
    rows = {
        name: load_settings(REPOSITORY / f"configs/{folder}/pspnet18_{name}.yaml").model_dump()
        for name in ("baseline", "flow", "etc")
    }
    for name, row in rows.items():
        paths = [row["TRAIN"].pop("save_path"), *(row["TEST"].pop(key) for key in ("ckpt_path", "save_folder"))]
        paths.append(row["TEST"].pop("demo_folder"))
        assert all(path.startswith(f"exp/{folder}/pspnet18_{name}") for path in paths)
    weights = {name: row["TRAIN"].pop("st_weight") for name, row in rows.items()}
    teachers = {name: row.pop("DISTILL") for name, row in rows.items()}
    assert rows["baseline"] == rows["flow"] == rows["etc"]
    assert weights["baseline"] == 0 < weights["flow"] == weights["etc"]
    assert teachers["baseline"] == teachers["flow"] == Settings().DISTILL.model_dump()
    # The studies that some follow have kd alone.
    losses = ("kd",) if folder in ("synthetic", "camvid", "cityscapes_mini") else ("kd", "pf", "mf")
    assert min(teachers["etc"][f"{loss}_weight"] for loss in losses) > 0


def test_the_rows_of_the_rendered_street_are_runs_of_the_study():
    study = read_study(REPOSITORY / "configs/study/street_psp18.yaml")
    for name, variant in {"baseline": "baseline", "flow": "motion2-fb", "etc": "motion2-fb-kd"}.items():
        own = load_settings(REPOSITORY / f"configs/synthetic/pspnet18_{name}.yaml")
        run = study.settings(variant, 0)
        for section in ("DATA", "TRAIN", "DISTILL"):
            mine, its = (getattr(settings, section).model_dump() for settings in (own, run))
            left_out = {"save_path", "resume", "manual_seed"} | ({"visibility"} if name == "baseline" else set())
            assert {k: v for k, v in mine.items() if k not in left_out} == {
                k: v for k, v in its.items() if k not in left_out
            }


@pytest.mark.parametrize("folder", ["camvid", "cityscapes_mini"])
def test_the_losses_of_real_video_are_those_of_its_study(folder):
    study = read_study(REPOSITORY / f"configs/study/{folder}.yaml")
    for name, variant in {"flow": "motion2-fb", "etc": "motion2-fb-kd"}.items():
        own, run = load_settings(REPOSITORY / f"configs/{folder}/pspnet18_{name}.yaml"), study.settings(variant, 0)
        assert (own.TRAIN.st_weight, own.TRAIN.visibility) == (run.TRAIN.st_weight, run.TRAIN.visibility)
        mine, its = own.DISTILL.model_dump(), run.DISTILL.model_dump()
        differing = {key for key in mine if mine[key] != its[key]}
        assert differing == ({"teacher_arch", "teacher_weight"} if name == "etc" else set())


def test_the_two_rows_of_segformer_differ_only_in_the_motion_loss():
    rows = {
        name: load_settings(REPOSITORY / f"configs/cityscapes/segformer_b0_{name}.yaml").model_dump()
        for name in ("baseline", "flow")
    }
    for name, row in rows.items():
        paths = [row["TRAIN"].pop("save_path")]
        paths += [row["TEST"].pop(key) for key in ("ckpt_path", "save_folder", "demo_folder")]
        assert all(path.startswith(f"exp/cityscapes/segformer_b0_{name}") for path in paths)
    assert [row["TRAIN"].pop("st_weight") for row in rows.values()] == [0.0, 0.1]
    assert rows["baseline"] == rows["flow"]


def test_one_estimator_is_taken_as_a_list_of_one_under_its_old_name_too():
    assert load_settings(None, ["FLOW.judges", "dis"]).FLOW.evaluate_with == ["dis"]
    assert load_settings(None, ["FLOW.evaluate_with=dis"]).FLOW.evaluate_with == ["dis"]


def test_a_number_is_a_folder_name_under_the_old_name_too():
    assert load_settings(None, ["FLOW.store", "2024"]).FLOW.cache == "2024"

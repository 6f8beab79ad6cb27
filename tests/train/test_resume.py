"""What a training may be continued from: the checkpoint of the same training, undamaged."""

import hashlib
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from etc import distributed
from etc.config import load_settings
from etc.errors import UserError
from etc.train import resume as resume_module
from etc.train import trainer as trainer_module
from etc.train.trainer import Trainer
from tests.conftest import tiny_overrides
from tests.scripts import run
from tests.version1 import network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tiny_world, tmp_path_factory):
    """A finished training of two epochs, and its overrides: last.pth is of epoch 2, best.pth of epoch 1."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "train.lst").write_text((tiny_world / "list/train.lst").read_text())
    overrides = [
        *tiny_overrides(tiny_world),
        f"DATA.train_list={folder}/train.lst",
        "TRAIN.arch=tests.version1.network:make",
        f"TRAIN.save_path={folder}/run",
        *["TRAIN.pretrained=false", "TRAIN.resume=auto", "TRAIN.epochs=2", "TRAIN.val_freq=1", "TRAIN.workers=0"],
        *["TRAIN.loss=cross_entropy", "TRAIN.train_h=33", "TRAIN.train_w=33", "TRAIN.batch_size=2", "TEST.device=cpu"],
        *["TRAIN.frame_gap=2", "TRAIN.st_weight=0.1", "FLOW.name=dataset", "FLOW.source=cached"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": 0.5, "TC": 0.5})
        Trainer(load_settings(None, overrides), CPU).run()
    return folder, overrides


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the run, so that a test may change it: its folder, its overrides, and a way to edit last.pth."""
    folder, overrides = trained
    for name in ("run/last.pth", "run/best.pth", "train.lst"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((folder / name).read_bytes())
    return tmp_path, [word.replace(f"TRAIN.save_path={folder}", f"TRAIN.save_path={tmp_path}") for word in overrides]


def edit(path: Path, change) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def resumed(overrides: list[str]) -> Trainer:
    return Trainer(load_settings(None, overrides), CPU)


def refused(overrides: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        resumed(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_checkpoint_of_the_same_training_is_continued_and_says_what_it_was_made_with(checkpoint):
    folder, overrides = checkpoint
    trainer = resumed(overrides)
    assert trainer.epoch == 2
    made = torch.load(folder / "run/last.pth", weights_only=True)["made_with"]
    lines = (folder / "train.lst").read_text().splitlines()
    assert made == trainer.made_with
    assert made["frames"] == len(lines) and made["world_size"] == 1 and made["torch"] == torch.__version__


def test_more_epochs_after_the_end_say_how(checkpoint, caplog):
    folder, overrides = checkpoint
    how = f"to train on, start from its weights with TRAIN.weight {folder}/run/last.pth and another TRAIN.save_path"
    assert how in refused([*overrides, "TRAIN.epochs=4"])
    caplog.set_level(logging.INFO)
    resumed(overrides).run()
    assert f"all 2 epochs are trained already; {how}" in caplog.text
    on = [*overrides, "TRAIN.epochs=1", f"TRAIN.weight={folder}/run/last.pth", f"TRAIN.save_path={folder}/on"]
    started = resumed(on).student.state_dict()
    before = torch.load(folder / "run/last.pth", weights_only=True)["student"]
    assert all(torch.equal(value, before[name]) for name, value in started.items())


def test_another_training_list_is_refused_with_both_values(checkpoint, trained):
    folder, overrides = checkpoint
    lines = (folder / "train.lst").read_text().splitlines()
    source = trained[0] / "train.lst"
    original = source.read_text()
    try:
        source.write_text("\n".join(lines[1:]))
        message = refused(overrides)
        assert f"was trained on {len(lines)} frames (sha256 " in message
        assert (
            f"now it lists {len(lines) - 1} frames (sha256 " in message and "choose another TRAIN.save_path" in message
        )
        # the same frames in another order are other batches
        source.write_text("\n".join(lines[::-1]))
        assert message.count("sha256") == refused(overrides).count("sha256") == 2
        # comments and blank lines are no samples
        source.write_text("# mine\n\n" + "\n".join(lines))
        assert resumed(overrides).epoch == 2
    finally:
        source.write_text(original)


def test_other_content_under_the_same_name_is_refused(trained, tmp_path, tiny_world, monkeypatch):
    _, overrides = trained
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": 0.5, "TC": 0.5})
    (tmp_path / "weights.txt").write_text("\n".join(["1"] * 19))
    torch.save(network.make(classes=19).state_dict(), tmp_path / "start.pth")
    words = [*overrides, f"TRAIN.save_path={tmp_path}/run", "TRAIN.epochs=1", f"TRAIN.weight={tmp_path}/start.pth"]
    words.append(f"TRAIN.class_weight={tmp_path}/weights.txt")
    resumed(words).run()
    assert resumed(words).epoch == 1
    for file in ("start.pth", "weights.txt"):
        before = (tmp_path / file).read_bytes()
        if file == "start.pth":
            torch.save({k: v + 1 for k, v in network.make(classes=19).state_dict().items()}, tmp_path / file)
        else:
            (tmp_path / file).write_text("\n".join(["2"] * 19))
        named = {"start.pth": "TRAIN.weight", "weights.txt": "TRAIN.class_weight"}[file]
        assert f"last.pth: {named} had another content when it was trained (sha256 " in refused(words)
        (tmp_path / file).write_bytes(before)
    monkeypatch.setattr(resume_module, "source_hash", lambda name: "0" * 12)
    assert "the source of TRAIN.arch had another content" in refused(words)


def test_all_files_and_all_code_that_shape_the_weights_are_told_apart_by_content(tmp_path, monkeypatch):
    (tmp_path / "parts_of_mine.py").write_text("made = None\n")
    (tmp_path / "raft.pth").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    own = [f"{key}=parts_of_mine:made" for key in ("TRAIN.arch", "TRAIN.loss", "DISTILL.teacher_arch")]
    own += ["DISTILL.kd_weight=1", f"DISTILL.teacher_weight={tmp_path}/raft.pth"]
    data = SimpleNamespace(frames=[])
    found = resume_module.inputs_of(load_settings(None, [*own, f"FLOW.weights={tmp_path}/raft.pth"]), data)
    assert found.keys() == {
        *("the source of TRAIN.arch", "the source of TRAIN.loss", "the source of DISTILL.teacher_arch"),
        *("FLOW.weights", "DISTILL.teacher_weight", "frames and labels"),
    }
    without_flow = load_settings(None, [*own, f"FLOW.weights={tmp_path}/raft.pth", "TRAIN.st_weight=0"])
    assert "FLOW.weights" not in resume_module.inputs_of(without_flow, data)


def test_a_replaced_label_is_refused(trained, tmp_path, tiny_world):
    folder, overrides = trained
    edit_of = resumed(overrides).made_with
    label = next(f.label for f in resumed(overrides).data.frames)
    data = resumed(overrides).data
    grown = tmp_path / "grown"
    shutil.copytree(tiny_world, grown, symlinks=True)
    with open(grown / label, "ab") as stream:
        stream.write(b"more")
    data.data_root = grown
    settings = load_settings(None, overrides)
    now = edit_of | {"inputs": resume_module.inputs_of(settings, data)}
    with pytest.raises(UserError, match=r"sizes of the files of DATA\.train_list .* had another content"):
        resume_module.check_same_training({"made_with": edit_of}, folder / "run/last.pth", now, settings)


def test_other_neighbours_on_disk_are_refused(checkpoint):
    folder, overrides = checkpoint
    edit(folder / "run/last.pth", lambda c: c["made_with"].update(neighbours_sha256="0" * 64))
    assert "had other neighbours on disk (sha256 000000000000) than now (" in refused(overrides)


def test_another_number_of_processes_is_refused_with_both_numbers(checkpoint, monkeypatch):
    _, overrides = checkpoint
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gathered", lambda value: [value, value])
    message = refused(overrides)
    assert "was trained by 1 processes, now there are 2" in message and "torchrun --nproc_per_node 1" in message


def resumes_alone(rank: int, folder: str) -> None:
    """One of two machines without a shared disk: only the first has the checkpoint."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    settings, path = load_settings(None, [f"TRAIN.save_path={folder}"]), Path(folder) / "last.pth"
    resume_module.check_same_start((path, {"epoch": 1, "step": 7}), settings)  # both have it
    resume_module.check_same_start(None, settings)  # none has it
    found = []
    for start in ((path, {"epoch": 1, "step": 7}) if rank == 0 else None, (path, {"epoch": 1 + rank, "step": 7})):
        try:
            resume_module.check_same_start(start, settings)
        except UserError as error:
            found.append(str(error))
    (Path(folder) / f"{rank}.txt").write_text("\n".join(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_would_go_on_from_different_states_are_refused_with_what_must_be_shared(tmp_path):
    (tmp_path / "last.pth").write_bytes(b"state")
    torch.multiprocessing.spawn(resumes_alone, (str(tmp_path),), nprocs=2)
    lacking, other = (tmp_path / "0.txt").read_text().splitlines()
    assert (tmp_path / "1.txt").read_text().splitlines() == [lacking, other]
    digest = hashlib.sha256(b"state").hexdigest()[:12]
    assert f"epoch 1, step 7 of {tmp_path}/last.pth (sha256 {digest}), process 1 from the first weights" in lacking
    assert f"TRAIN.save_path {tmp_path} must be one folder that all machines share" in lacking
    assert "process 0 would train on from epoch 1" in other and "process 1 from epoch 2" in other


def test_processes_with_other_settings_are_refused_but_for_what_is_of_a_machine(monkeypatch):
    def check(*words: str) -> None:
        other = load_settings(None, list(words))
        dumped = {f"{section}.{key}": v for section, keys in other.model_dump().items() for key, v in keys.items()}
        monkeypatch.setattr(distributed, "gathered", lambda value: [value, value, dumped])
        resume_module.check_same_settings(load_settings(None, []))

    check()
    check("FLOW.cache=/scratch/flow", "TRAIN.workers=3", "DATA.data_root=/local/data")
    with pytest.raises(
        UserError, match=r"TRAIN\.base_lr is 0\.\d+ in process 0 and 0\.5 in process 2: give all of them"
    ):
        check("TRAIN.base_lr=0.5")


def test_going_on_in_another_number_format_is_logged(checkpoint, caplog):
    folder, overrides = checkpoint
    edit(folder / "run/last.pth", lambda c: c["made_with"].update(number_format="bfloat16"))
    resumed(overrides)
    assert "last.pth was trained in bfloat16, and TRAIN.amp auto goes on in float32" in caplog.text


def test_processes_with_other_data_or_versions_are_refused(monkeypatch):
    def refused_beside(other: dict) -> str:
        monkeypatch.setattr(distributed, "gathered", lambda value: [value, value, other])
        with pytest.raises(UserError) as error:
            resume_module.check_same_inputs(own)
        return str(error.value)

    own = {"frames": 9, "torch": "2.9", "inputs": {"frames and labels": "a" * 64}}
    resume_module.check_same_inputs(own)
    assert refused_beside(own | {"frames": 8}).startswith("frames is 9 in process 0 and 8 in process 2: their machines")
    assert "frames and labels is aaaaaaaaaaaa in" in refused_beside(own | {"inputs": {"frames and labels": "b" * 64}})
    assert "process 0 and None in process 2" in refused_beside(own | {"inputs": {}})


def test_an_edited_network_is_refused_with_what_differs(checkpoint, monkeypatch):
    folder, overrides = checkpoint

    def edited(layer: nn.Module, *, first: nn.Module | None = None) -> None:
        first = first or nn.Conv2d(3, 8, 3, 4, 1)
        monkeypatch.setattr(
            network, "make", lambda classes: nn.Sequential(first, nn.BatchNorm2d(8), layer, nn.Conv2d(8, classes, 1))
        )

    edited(nn.ReLU(), first=nn.Conv2d(3, 8, 5, 4, 2))
    message = refused(overrides)
    assert "tests.version1.network:make of another structure (sha256 of names and shapes of its parameters" in message
    assert "choose another TRAIN.save_path" in message
    # Buffers are no parameters; a checkpoint of version 1.0 lacks the hash: the tensors tell.
    edited(nn.BatchNorm2d(8, affine=False))
    assert "2.running_mean was absent, now it is 8" in refused(overrides)
    edit(folder / "run/last.pth", lambda c: c.pop("made_with"))
    edited(nn.ReLU(), first=nn.Conv2d(3, 8, 5, 4, 2))
    assert "0.weight was 8x3x3x3, now it is 8x3x5x5" in refused(overrides)
    # What has no parameters cannot be told.
    edited(nn.ReLU6())
    assert resumed(overrides).epoch == 2


def test_another_version_is_only_logged(checkpoint, caplog):
    folder, overrides = checkpoint
    edit(folder / "run/last.pth", lambda c: c["made_with"].update(torch="1.0", toolkit="0.5"))
    with caplog.at_level(logging.WARNING, logger=resume_module.__name__):
        assert resumed(overrides).epoch == 2
    assert "was written by version 0.5 with torch 1.0, now it is version" in caplog.text


def test_a_checkpoint_from_elsewhere_does_not_replace_another_run(checkpoint, trained):
    folder, overrides = checkpoint
    edit(folder / "run/last.pth", lambda c: c["config"]["TRAIN"].update(base_lr=0.5))
    elsewhere = f"TRAIN.resume={trained[0]}/run/last.pth"
    assert "run/last.pth was trained with TRAIN.base_lr 0.5, now it is" in refused([*overrides, elsewhere])
    assert resumed([*overrides, elsewhere, f"TRAIN.save_path={folder}/new"]).epoch == 2


DAMAGE = {
    "step is -5": lambda c: c.update(step=-5),
    "epoch is -1": lambda c: c.update(epoch=-1),
    "epoch is True": lambda c: c.update(epoch=True),
    "it holds epoch 99, TRAIN.epochs is 2": lambda c: c.update(epoch=99),
    "it holds step 3 after epoch 2 of": lambda c: c.update(step=3),
    "step is str": lambda c: c.update(step="4"),
    "config is list": lambda c: c.update(config=[]),
    "expected sections": lambda c: c.update(config={"TRAIN": 3}),
    "metrics is NoneType": lambda c: c.pop("metrics"),
    "scaler is NoneType": lambda c: c.pop("scaler"),
    "made_with is int": lambda c: c.update(made_with=3),
    "best_mIoU is no tensor or number": lambda c: c["metrics"].update(best_mIoU="high"),
    "version is Tensor": lambda c: c.update(version=torch.ones(2)),
    "entry 'param_groups' is missing": lambda c: c["optimizer"].pop("param_groups"),
    "the optimizer's lr is nan": lambda c: c["optimizer"]["param_groups"][0].update(lr=float("nan")),
    "the optimizer's momentum is missing": lambda c: c["optimizer"].update(state={}),
    "the optimizer's momentum of shape 7": lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.ones(7)),
    "different number of parameter groups": lambda c: c["optimizer"]["param_groups"].pop(),
    "entry '_last_lr' is missing": lambda c: c["scheduler"].pop("_last_lr"),
    "schedule is at step -5": lambda c: c["scheduler"].update(last_epoch=-5),
    "entry 'cpu' is missing": lambda c: c.update(rng={}),
    "RNG state": lambda c: c["rng"].update(cpu=torch.zeros(3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("named", DAMAGE)
def test_structural_damage_is_one_line_that_names_best(checkpoint, named):
    folder, overrides = checkpoint
    last, best = folder / "run/last.pth", folder / "run/best.pth"
    edit(last, DAMAGE[named])
    message = refused(overrides)
    assert named in message and str(last) in message
    if named != "expected sections":
        assert f"{best}, of epoch 1, can be read" in message and f"TRAIN.weight {best}" in message


def test_a_corrupt_checkpoint_is_exit_code_2_and_best_can_be_continued(checkpoint, capsys):
    folder, overrides = checkpoint
    last, best = folder / "run/last.pth", folder / "run/best.pth"
    last.write_bytes(last.read_bytes()[:-2000])
    assert run("train_with_flow", *overrides) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(last) in errors[0] and f"TRAIN.resume {best}, or start another run" in errors[0]
    assert resumed([*overrides, f"TRAIN.resume={best}"]).epoch == 1
    best.write_bytes(b"")
    assert f"{best} cannot be used either" in refused(overrides)

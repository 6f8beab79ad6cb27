"""What all scripts share: help, errors, exit codes."""

import ast
import errno
import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from etc import cli
from etc.config import schema
from etc.config.schema import SECTIONS
from etc.errors import ConfigError, UserError
from tests.scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = sorted((REPOSITORY / "tool").glob("*.py"))


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


class Broken:
    """A data set whose every item fails in the loading process."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        raise self.error


def test_parse_gives_settings_from_a_file_and_overrides(tmp_path):
    (tmp_path / "s.yaml").write_text("TRAIN:\n  epochs: 7\n")
    argv = ["TRAIN.base_lr", "2", "--config", str(tmp_path / "s.yaml"), "TRAIN.rotate_min", "-3", "TRAIN.rotate_max=-2"]
    train = cli.parse(argv, description="x").TRAIN
    assert (train.epochs, train.base_lr, train.rotate_min, train.rotate_max) == (7, 2.0, -3.0, -2.0)


def test_parse_reads_the_command_line_by_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "TRAIN.epochs=9"])
    assert cli.parse(None, description="x").TRAIN.epochs == 9


def shown(script: str, *words: str, capsys) -> str:
    """What a script prints for --help."""
    try:
        code = load_script(script).main(["--help", *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    return capsys.readouterr().out


def entries(text: str) -> dict[str, str]:
    """The settings in a help text: "SECTION.key", or several keys that share an entry, -> the rest of the entry."""
    listed = text.partition("settings that this script reads")[2].partition("\n")[2]
    listed = listed.partition("  described in")[0]
    joined = re.sub(r"\n {4,}", " ", listed)
    return dict(re.match(r"  ([A-Z]+\.\w+(?:, \w+)*) +(.*)", line).groups() for line in joined.splitlines() if line)


def listed_keys(text: str) -> set[str]:
    """Every setting of a help text, as "SECTION.key"."""
    full = (re.split(r"[.,] ?", names) for names in entries(text))
    brief = re.findall(r"[A-Z]+\.\w+(?= \[)", text.partition("  described in")[2])
    return {f"{section}.{key}" for section, *keys in full for key in keys} | set(brief)


def test_help_shows_every_setting_with_type_value_and_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--help"], description="What it does.\n\n    how to run it")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "What it does.\n\n    how to run it" in text
    assert listed_keys(text) == set(cli.matching_keys(cli.ALL))
    shown = " ".join(entries(text).values())
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            assert field.description in shown or (section, name) == ("TRAIN", "zoom_factor")


@pytest.mark.parametrize(
    ("names", "start"),
    [
        ("TRAIN.layers", "18 | 50 | 101 | 152 [18] "),
        ("TRAIN.resume", "auto | path [auto] "),
        ("TRAIN.self_training", "float 0..1 [empty] "),
        ("TRAIN.train_h, train_w", "int >= 1 [97, 193] "),
        ("TRAIN.rotate_min, rotate_max", "float -180..180 [-5, 5] "),
        ("FLOW.scale", "float > 0, <= 1 [1] "),
        ("FLOW.evaluate_with", "list of estimators [[]] "),
        ("TEST.scales", "list of float > 0 [[1]] "),
        ("TEST.strides", "list of int >= 1 [[1]] "),
        ("TEST.flip", "true | false [false] "),
        ("TEST.cityscapes", "sampled | full [empty] "),
        ("TEST.demo_dir", "path | int [empty] "),
        ("DATA.synthetic_seed", "int >= 0 [0] "),
    ],
)
def test_help_writes_types_and_ranges_as_words(names, start):
    assert entries(cli.settings_help(cli.matching_keys(cli.ALL)))[names].startswith(start)


def test_help_shows_the_values_of_the_file_and_of_the_overrides(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("TRAIN:\n  epochs: 7\n  train_h: 65\n")
    text = shown("train_with_flow", "--config", str(tmp_path / "s.yaml"), "TRAIN.base_lr", "2", capsys=capsys)
    own = entries(text)
    assert f"[value in {tmp_path / 's.yaml'} and the command line]" in text
    assert own["TRAIN.epochs"].startswith("int >= 1 [7] ") and own["TRAIN.base_lr"].startswith("float > 0 [2] ")
    assert own["TRAIN.train_h, train_w"].startswith("int >= 1 [65, 769] ")


def test_help_is_shown_despite_a_wrong_file_or_override_and_says_what_is_wrong(capsys):
    text = shown("train_with_flow", "--config", "nowhere.yaml", capsys=capsys)
    assert "TRAIN.epochs            int >= 1 [3] " in text and "[value in configs/quickstart.yaml]" in text
    assert "values not used: " in text and "nowhere.yaml" in text
    assert "TRAIN.epochz" in shown("train_with_flow", "TRAIN.epochz", "1", capsys=capsys)


def test_help_lists_the_keys_of_a_script_and_no_others(capsys):
    text = shown("demo", capsys=capsys)
    assert listed_keys(text) == set(cli.matching_keys(load_script("demo").KEYS))
    assert "TEST.demo_dir" in text and "base_lr" not in text


def test_keys_listed_briefly_are_described_where_help_says(capsys):
    train = load_script("train_with_flow")
    assert listed_keys(shown("train_with_flow", capsys=capsys)) == set(cli.matching_keys(train.KEYS))
    page = (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in page for key in cli.matching_keys(train.BRIEF))


def test_every_setting_is_listed_by_a_script_and_read_somewhere():
    """The read is a static check: some code gets an attribute of the setting's name."""
    listed = {key for path in TOOLS for key in cli.matching_keys(getattr(load_script(path.stem), "KEYS", ""))}
    every = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}
    assert every - listed == {"TRAIN.zoom_factor"}
    files = [path for path in (*(REPOSITORY / "etc").rglob("*.py"), *TOOLS) if path != Path(schema.__file__)]
    trees = (ast.parse(path.read_text("utf-8")) for path in files)
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    # by Train.network, Distill.weight and Test.checkpoints
    read |= {"arch", "layers", "teacher_weight", "ckpt_path"} | {
        f"{loss}_weight" for loss in schema.DISTILLATION_FRAMES
    }
    # the settings of the synthetic world are read by their common prefix
    unread = {key for key in listed if key.partition(".")[2] not in read and not key.startswith("DATA.synthetic_")}
    assert not unread


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.stem)
def test_the_help_of_every_script_explains_it_and_fits_two_screens(path, capsys):
    text = shown(path.stem, capsys=capsys)
    assert f"python tool/{path.name}" in text
    lines = text.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 104
    assert not re.search("Optional|Annotated|Literal|NoneType|None", text)
    assert ("settings that this script reads" in text) == hasattr(load_script(path.stem), "KEYS")


@pytest.mark.parametrize("error", [UserError("bad  file\n x.png"), ConfigError("bad file x.png")])
def test_a_user_error_is_one_line_on_stderr_and_exit_code_2(error, capsys):
    assert cli.run(raising(error)) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: bad file x.png\n")


def test_etc_debug_prints_the_traceback_before_the_line(monkeypatch, capsys):
    monkeypatch.setenv("ETC_DEBUG", "1")
    assert cli.run(raising(UserError("bad file x.png"))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Traceback (most recent call last):\n") and "in main" in err
    assert err.endswith("\nerror: bad file x.png\n")


def test_a_full_disk_is_one_line_that_names_the_file(capsys):
    assert cli.run(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "exp/last.pth"))) == 2
    assert capsys.readouterr().err == "error: exp/last.pth: No space left on device\n"


def test_a_full_disk_without_file_name_is_one_line_too(capsys):
    assert cli.run(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_ctrl_c_is_130(capsys):
    assert cli.run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError("x"), RuntimeError("x")])
def test_a_defect_of_ours_stays_loud(error):
    with pytest.raises(type(error)):
        cli.run(raising(error))


def test_success_keeps_the_exit_code_of_the_script():
    assert cli.run(lambda: 0) == 0
    assert cli.run(lambda: 5) == 5


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.png is truncated"), "error: a.png is truncated\n"),
        (OSError(errno.ENOSPC, "No space left", "a b.png"), "error: [Errno 28] No space left: 'a b.png'\n"),
    ],
)
def test_an_error_in_a_data_loading_process_is_one_line(error, line, capsys):
    loader = DataLoader(Broken(error), num_workers=1)
    assert cli.run(lambda: len(list(loader))) == 2
    assert capsys.readouterr().err == line


def test_a_defect_in_a_data_loading_process_stays_loud():
    loader = DataLoader(Broken(KeyError("x")), num_workers=1)
    with pytest.raises(KeyError):
        cli.run(lambda: len(list(loader)))


def test_a_script_started_by_the_shell_ends_with_one_line_and_code_2(tmp_path):
    words = [sys.executable, REPOSITORY / "tool" / "make_lists.py", "folder", tmp_path / "nowhere"]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'nowhere'} is not a folder\n"
    assert done.stdout == ""


INTERRUPT = """
import atexit, os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

def at_exit():
    if os.environ["INTERRUPT_AT"] == "exit":
        os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
for name in [os.environ["INTERRUPT_AT"]]:
    sys.modules.pop(name, None)
atexit.register(at_exit)
"""


def interrupted_at(moment: str, script: str, tmp_path: Path, *args: str) -> subprocess.CompletedProcess:
    """Run a script that gets SIGINT, as from Ctrl-C, when it imports a module, or at its exit."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "INTERRUPT_AT": moment}
    words = [sys.executable, REPOSITORY / "tool" / f"{script}.py", *args]
    # A shell starts background jobs with SIGINT ignored, and their children inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=environment, preexec_fn=listen, timeout=120
    )


@pytest.mark.parametrize("script", [path.stem for path in TOOLS])
def test_ctrl_c_at_the_first_import_of_a_script_is_one_line(script, tmp_path):
    done = interrupted_at("argparse", script, tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")


@pytest.mark.parametrize("moment", ["pydantic", "numpy.linalg", "torch._C", "exit"])
def test_ctrl_c_while_modules_are_imported_or_at_the_end_is_one_line(moment, tmp_path):
    script, args = ("make_lists", ["folder", str(tmp_path)]) if moment == "exit" else ("train_with_flow", [])
    done = interrupted_at(moment, script, tmp_path, *args)
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "interrupted" and "Traceback" not in done.stderr


def test_every_script_imports_the_module_that_answers_ctrl_c_first():
    for path in [*TOOLS, Path(cli.__file__)]:
        imports = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.Import | ast.ImportFrom)]
        first = next(node for node in imports if ast.unparse(node) != "from __future__ import annotations")
        assert isinstance(first, ast.ImportFrom) and first.module == "etc"
        assert first.names[0].name == ("interrupts" if path == Path(cli.__file__) else "cli")


def test_ctrl_c_stays_an_exception_in_other_programs():
    before = signal.getsignal(signal.SIGINT)
    assert before in (signal.default_int_handler, signal.SIG_IGN)
    assert cli.run(lambda: 0) == 0
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    ("script", "words", "named"),
    [
        ("gen_video", ["TEST.ckpt_path=no.pth"], "TEST.ckpt_path no.pth does not exist"),
        ("test", ["TEST.ckpt_path=no.pth"], "TEST.ckpt_path no.pth does not exist"),
        ("demo", ["TEST.ckpt_path=no.pth"], "TEST.ckpt_path no.pth does not exist"),
        ("gen_pseudo_labels", ["TEST.ckpt_path=no.pth"], "TEST.ckpt_path no.pth does not exist"),
        ("export_onnx", ["TEST.ckpt_path=no.pth"], "TEST.ckpt_path no.pth does not exist"),
        ("train_with_flow", ["TRAIN.weight=no.pth"], "TRAIN.weight no.pth does not exist"),
        (
            "train_with_flow",
            ["DISTILL.kd_weight=1", "DISTILL.teacher_weight=no.pth"],
            "DISTILL.teacher_weight no.pth does not exist",
        ),
        (
            "train_with_flow",
            ["DISTILL.kd_weight=1", "DISTILL.teacher_weight=[no.pth, nor.pth]"],
            "DISTILL.teacher_weight no.pth does not exist",
        ),
        (
            "train_with_flow",
            ["DISTILL.kd_weight=1", "DISTILL.teacher_weight=exp/camvid/pspnet101_teacher/best.pth"],
            "train the teacher first, python tool/train_with_flow.py --config configs/camvid/pspnet101_teacher.yaml",
        ),
        ("compare", ["--runs", "a=no.pth"], "--runs: checkpoint no.pth does not exist"),
        ("compare", ["--runs", "a=here.pth", "b=no.pth"], "--runs: checkpoint no.pth does not exist"),
        ("eval_tc", ["TEST.device=cuda:99"], "TEST.device cuda:99: this machine has"),
        ("train_with_flow", ["TEST.device=cuda:127"], "TEST.device cuda:127: this machine has"),
        ("train_with_flow", ["TEST.device=mps"], "TEST.device mps: this machine has no Apple GPU"),
    ],
)
def test_a_missing_checkpoint_or_device_is_said_before_anything_is_rendered(
    script, words, named, tmp_path, monkeypatch, capsys
):
    if "mps" in words[0] and sys.platform == "darwin":
        pytest.skip("this machine may have one")
    monkeypatch.chdir(tmp_path)
    Path("here.pth").write_bytes(b"")
    assert cli.run(lambda: load_script(script).main(words)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and named in line
    assert [path.name for path in tmp_path.iterdir()] == ["here.pth"]


class Killed:
    """A data set whose loading process ends by a signal."""

    def __init__(self, by: signal.Signals = signal.SIGKILL) -> None:
        self.by = by

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        faulthandler.disable()  # pytest's would print the stacks of a crash
        os.kill(os.getpid(), self.by)


def load_with_a_killed_worker() -> int:
    return len(list(DataLoader(Killed(), num_workers=1)))


def compute_with_a_killed_worker() -> int:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(os._exit, 9).result()


@pytest.mark.parametrize("main", [load_with_a_killed_worker, compute_with_a_killed_worker])
def test_a_killed_worker_is_one_line_that_says_what_to_do(main, capsys):
    assert cli.run(main) == 2
    error = capsys.readouterr().err
    assert re.match("error: a worker process was killed, often by lack of memory: .* lower TRAIN.workers .*\n$", error)


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_of_a_worker_is_no_lack_of_memory_and_keeps_its_traceback(crash):
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        cli.run(lambda: len(list(DataLoader(Killed(crash), num_workers=1))))


def test_a_worker_without_shared_memory_is_one_line_that_says_so(capsys):
    assert cli.run(lambda: len(list(DataLoader(Killed(signal.SIGBUS), num_workers=1)))) == 2
    assert "shared memory" in capsys.readouterr().err


def test_any_other_runtime_error_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(raising(RuntimeError("a bug of a DataLoader worker")))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_the_end_of_memory_is_one_line_with_the_settings_that_help(error, capsys):
    def fail():
        raise error

    assert cli.run(fail) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("error: not enough memory: lower TRAIN.batch_size")


NEEDED = {
    "make_lists": ["davis", "data/davis"],
    "steady": ["--network", "psp", "--weights", "w.pth", "--video", "a.mp4", "--out", "exp/a"],
    "study": ["--config", "configs/study/street.yaml"],
}


@pytest.mark.parametrize("name", [path.stem for path in TOOLS])
def test_an_unknown_option_is_one_line(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: load_script(name).main([*NEEDED.get(name, []), "--tset"]))
    assert ended.value.code == 2
    line = capfd.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and "--tset" in line


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_of_torch_sleep_while_they_wait_unless_the_user_wants_otherwise(given):
    """OpenMP reads the variable when torch is loaded, so a script must set it before."""
    code = (
        "import os, sys; from etc import interrupts; assert 'torch' not in sys.modules; "
        "import etc.cli; print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (given or "PASSIVE")

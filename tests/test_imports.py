"""Rules that hold for every file: the import layers of pyproject.toml, file length, weights, and caught errors."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("etc", "flownet", "model", "tool", "utils")

FILE_LINES = 400
LONGER_FILES = {"utils/crit.py": 520}  # one file on purpose: a researcher copies it as it is

SOURCES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def nodes_of(kind: type) -> list[tuple[str, ast.AST]]:
    """File name and node of every syntax node of a kind."""
    return [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def imported_packages(source: str) -> set[str]:
    """Top-level packages that a file imports, at any depth."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add("." if node.level else (node.module or "").split(".")[0])
    return packages


def lint_imports(folder: Path) -> tuple[int, str]:
    """Exit code and output of import-linter on the packages in a folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_import_layers_hold():
    code, output = lint_imports(REPOSITORY)
    assert code == 0, output


def test_an_import_against_the_layers_is_found(tmp_path):
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    offences = {
        "etc/metrics/offence.py": "import etc.errors",
        "etc/data/offence.py": "import etc.train.trainer",
        "utils/offence.py": "import flownet",
        "model/offence.py": "import etc.errors",
        "tool/offence.py": "from utils import files",
    }
    for name, source in offences.items():
        (tmp_path / name).write_text(source + "\n", encoding="utf-8")
    code, output = lint_imports(tmp_path)
    assert code == 1
    for name in offences:
        assert name.removesuffix(".py").replace("/", ".") in output, output


def test_the_criteria_import_torch_alone():
    assert imported_packages(SOURCES["utils/crit.py"]) - {"__future__", "collections", "math", "typing"} == {"torch"}


def test_no_file_is_too_long():
    lengths = {name: source.count("\n") for name, source in SOURCES.items()}
    assert len(lengths) > 100
    assert not {name: n for name, n in lengths.items() if n > LONGER_FILES.get(name, FILE_LINES)}


def test_no_file_of_weights_can_run_code():
    calls = [
        (name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for name, node in nodes_of(ast.Call)
        if ast.unparse(node.func).split(".")[-2:] in (["torch", "load"], ["hub", "load"])
    ]
    assert calls
    assert not [name for name, keywords in calls if keywords.get("weights_only") != "True"]


def test_no_error_is_caught_without_a_type_or_without_an_answer():
    handlers = nodes_of(ast.ExceptHandler)
    assert handlers
    silent = [(name, node.lineno) for name, node in handlers if [ast.unparse(line) for line in node.body] == ["pass"]]
    assert not silent and all(node.type is not None for _, node in handlers)


def test_scripts_that_need_no_network_do_not_load_torchvision():
    """It takes seconds and 170 MB, in every process that scores."""
    scripts = ("eval_tc", "compare", "precompute_flow", "make_lists", "demo")
    code = f"import sys; sys.path.insert(0, 'tool'); import {', '.join(scripts)}; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

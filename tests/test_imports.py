"""The rules of the house: who imports whom, and how long things get."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LEAVES = {"model", "flownet", "utils"}
FOLDERS = {"tool", "etc", *LEAVES}

FILE_LINES, FUNCTION_LINES = 400, 60
LONGER_FILES = {"utils/crit.py": 520}  # one file on purpose: a researcher copies it as it is


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


TREES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for folder in sorted(FOLDERS)
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """Dotted names of everything that a file imports, at any depth, relative imports made absolute."""
    names = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split("/")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # "from etc import cli" imports etc.cli
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def roots(name: str) -> set[str]:
    return {imported.split(".")[0] for imported in imports(name)}


def of_etc(name: str) -> set[str]:
    """Modules of etc that a file imports."""
    parts = {imported.split(".")[1] for imported in imports(name) if imported.startswith("etc.")}
    return {part for part in parts if (REPOSITORY / "etc" / part).is_dir() or f"etc/{part}.py" in TREES}


def files(folder: str) -> list[str]:
    return [name for name in TREES if name.startswith(f"{folder}/")]


def offending(found: dict[str, set]) -> dict[str, set]:
    return {name: names for name, names in found.items() if names}


def test_the_files_are_found_and_their_imports_are_understood():
    assert len(TREES) > 40
    assert of_etc("etc/cli.py") == {"config"}
    assert {"etc", "argparse", "types"} <= roots("etc/cli.py")


def test_nothing_imports_the_scripts():
    assert not offending({name: roots(name) & {"tool"} for name in TREES})


def test_a_script_reaches_the_leaves_through_the_hall():
    assert not offending({name: roots(name) & LEAVES for name in files("tool")})


def test_a_leaf_imports_no_other_leaf_and_nothing_of_the_hall():
    assert not offending({name: roots(name) & (FOLDERS - {leaf}) for leaf in LEAVES for name in files(leaf)})


def test_the_criteria_import_torch_alone():
    assert roots("utils/crit.py") - {"__future__", "collections", "math", "typing"} == {"torch"}


def test_no_file_is_too_long():
    lengths = {name: (REPOSITORY / name).read_text(encoding="utf-8").count("\n") for name in TREES}
    assert not {name: n for name, n in lengths.items() if n > LONGER_FILES.get(name, FILE_LINES)}


def test_no_function_is_too_long():
    functions = [
        (name, node.name, node.end_lineno - node.lineno + 1)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 200
    assert not [function for function in functions if function[2] > FUNCTION_LINES]


def test_no_file_of_weights_can_run_code():
    calls = [
        (name, {word.arg: ast.unparse(word.value) for word in node.keywords})
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-2:] in (["torch", "load"], ["hub", "load"])
    ]
    assert calls
    assert not [name for name, words in calls if words.get("weights_only") != "True"]


def test_no_error_is_caught_without_a_kind_or_without_an_answer():
    handlers = [
        (name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)
    ]
    assert handlers
    silent = [(name, node.lineno) for name, node in handlers if [ast.unparse(line) for line in node.body] == ["pass"]]
    assert not silent and all(node.type is not None for _, node in handlers)

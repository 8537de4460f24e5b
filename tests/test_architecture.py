"""The rules of the tree: who may import whom, who is listed where, and how long things may get."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import sparsekit

ROOT = Path(sparsekit.__file__).parent
TESTS = Path(__file__).parent

FLOORS = {
    "batches": 0,
    "errors": 0,
    "mask": 0,
    "patterns": 0,
    "formats": 1,
    "pruning": 1,
    "shrinking": 2,
    "training": 2,
    "kernels": 2,
    "ops": 3,
    "nn": 4,
    "planning": 5,
    "checkpoint": 5,
    "interop": 5,
    "bench": 6,
    "cli": 6,
    "demo": 6,
    "report": 6,
}
FAMILIES = {
    "sparsekit.patterns": ("PATTERNS", "base.Pattern"),
    "sparsekit.pruning.criteria": ("CRITERIA", "base.Criterion"),
    "sparsekit.pruning.solvers": ("SOLVERS", "base.Solver"),
    "sparsekit.pruning.searches": ("SEARCHES", "base.Search"),
    "sparsekit.pruning.allocations": ("ALLOCATIONS", "base.Allocation"),
    "sparsekit.training": ("TRAINING_METHODS", "base.TrainingMethod"),
    "sparsekit.formats": ("FORMATS", "base.Format"),
}
SOURCES = sorted(ROOT.rglob("*.py"))
PRODUCT = [path for path in SOURCES if path != ROOT / "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def family_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """Modules of sparsekit that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {module for module in found if module.startswith("sparsekit.")}


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_imports_go_down_or_stay_in_the_family(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in FLOORS, f"{own} stands on no floor"
    for module in imports_of(path):
        other = family_of(module)
        if other == "_C":
            assert own == "kernels", f"{name_of(path)} imports {module}: only kernels call the extension"
        elif FLOORS[own] == 0:
            assert FLOORS[other] == 0, f"{name_of(path)} imports {module}"
        elif FLOORS[own] == 6:
            assert other in FLOORS, f"{name_of(path)} imports {module}"
        else:
            assert other == own or FLOORS[other] < FLOORS[own], f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", sorted(PRODUCT), ids=name_of)
def test_no_file_imports_the_public_names(path):
    """``import sparsekit`` inside the package would tie every floor to the top."""
    if path.relative_to(ROOT).parts[0].removesuffix(".py") in {"cli", "demo", "bench", "report"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert "sparsekit" not in {alias.name for alias in node.names}, name_of(path)
        elif isinstance(node, ast.ImportFrom):
            assert node.module != "sparsekit" or {alias.name for alias in node.names} == {"_C"}, name_of(path)


@pytest.mark.parametrize("package", FAMILIES)
def test_every_part_is_listed(package):
    """A concrete class that is written and not listed would be a part that no contract test sees."""
    tuple_name, base_name = FAMILIES[package]
    family = importlib.import_module(package)
    listed = set(getattr(family, tuple_name)) | set(getattr(family, f"QUANTIZED_{tuple_name}", ()))
    module, base_class = base_name.split(".")
    base = getattr(importlib.import_module(f"{package}.{module}"), base_class)
    written = set()
    for info in pkgutil.walk_packages(family.__path__, f"{package}."):
        part = importlib.import_module(info.name)
        written |= {
            value
            for value in vars(part).values()
            if inspect.isclass(value)
            and issubclass(value, base)
            and not inspect.isabstract(value)
            and value.__module__ == info.name
        }
    assert listed == written - {base}


def parts() -> list[type]:
    return [part for package, (name, _) in FAMILIES.items() for part in getattr(importlib.import_module(package), name)]


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.__name__)
def test_every_part_is_named_in_a_test(part):
    own = Path(__file__)
    assert any(part.__name__ in path.read_text() for path in TESTS.rglob("test_*.py") if path != own)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300, f"{name_of(path)} has more than 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            start = node.body[0].end_lineno if documented else node.lineno
            assert node.end_lineno - start <= 40, f"{name_of(path)}: {node.name} has more than 40 lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_say_something(path):
    empty = {"utils", "util", "helper", "helpers", "common", "misc", "manager"}
    assert empty.isdisjoint(part.removesuffix(".py") for part in path.relative_to(ROOT).parts), name_of(path)

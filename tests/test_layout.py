"""The floors of the house: what may import what."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "symjax_gn"
FLOORS = {"data": 0, "physics": 1, "networks": 2, "laws": 2, "discovery": 3, "report": 4}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Modules of the package that a file imports, as tuples of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("symjax_gn"):
            yield tuple(node.module.split(".")[1:])
        if isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if "symjax_gn" in a.name)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_import_goes_up(path):
    folder = path.relative_to(PACKAGE).parts[0]
    for other in imported(path):
        if folder in FLOORS and other and other[0] != folder:
            assert FLOORS[other[0]] < FLOORS[folder], f"{path.name} imports {'.'.join(other)}"


def test_every_folder_has_its_floor():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == {*FLOORS}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_has_the_name_of_a_public_function(path):
    names = {module.stem for module in MODULES}
    functions = {
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    assert not functions & names


def test_public_names_are_there_and_few():
    import symjax_gn

    assert len(symjax_gn.__all__) < 50
    for name in symjax_gn.__all__:
        assert getattr(symjax_gn, name) is not None

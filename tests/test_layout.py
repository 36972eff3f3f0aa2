"""The floors of the house: what may import what."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "symjax_gn"
FLOORS = dict(data=0, physics=1, model=2, networks=3, laws=3, discovery=4, report=5)
FLOORS |= dict(compiling=0, console=0, settings=6, results=7, learning=7, reading=8)
FLOORS |= dict(pipeline=9, survey=10, command=10, __main__=11)
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Modules of the package that a file imports, as tuples of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("symjax_gn"):
            yield tuple(node.module.split(".")[1:])
        if isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if "symjax_gn" in a.name)


def test_no_import_goes_up():
    rising = [
        f"{path.relative_to(PACKAGE)} imports {'.'.join(other)}"
        for path in MODULES
        if (folder := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in FLOORS
        for other in imported(path)
        if other and other[0] != folder and FLOORS[other[0]] >= FLOORS[folder]
    ]
    assert not rising, "\n".join(rising)


def test_every_folder_has_its_floor():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert found - {"__pycache__", "__init__"} == {*FLOORS}


def test_no_module_has_the_name_of_a_public_function():
    names = {module.stem for module in MODULES}
    shared = [
        f"{path.relative_to(PACKAGE)} defines {node.name}"
        for path in MODULES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    assert not shared, "\n".join(shared)


def test_public_names_are_there_and_few():
    import symjax_gn

    assert len(symjax_gn.__all__) < 50
    for name in symjax_gn.__all__:
        assert getattr(symjax_gn, name) is not None

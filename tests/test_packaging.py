"""What is installed, declared and imported."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

# What takes long to import and serves one step of the path, or nothing of it at all.
HEAVY = ("matplotlib", "diffrax", "equinox", "lineax", "optimistix", "pyoperon", "pandas")
HEAVY += ("sklearn", "orbax", "tensorstore", "uvloop", "sympy.integrals.manualintegrate")
HEAVY += ("scipy.optimize", "scipy.interpolate", "scipy.stats")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names_of(requirements):
    return {canonical(re.split(r"[\[<>=!~; ]", one)[0]) for one in requirements}


def imported():
    """Distributions that the package imports, wherever in it."""
    found = set()
    for path in (ROOT / "symjax_gn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
    found -= {"symjax_gn", *sys.stdlib_module_names}
    known = importlib.metadata.packages_distributions()
    return {canonical(known.get(name, [name])[0]) for name in found}


def test_importing_the_public_face_imports_nothing_heavy():
    code = (
        "import sys; from symjax_gn import discover, command\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not result.stdout.split(), result.stdout


def test_what_is_imported_is_declared_and_the_other_way_round():
    found, needed = imported(), names_of(PROJECT["dependencies"])
    optional = names_of(
        one for name in ("cosmo", "pysr") for one in PROJECT["optional-dependencies"][name]
    )
    # Operon's estimator is one of scikit-learn, and juliapkg is PySR's: both come with them.
    assert found - {"scikit-learn", "juliapkg"} <= needed | optional
    # JAX needs jaxlib of its own release; excluded releases are excluded of both.
    assert needed - found == {"jaxlib"}


def test_the_command_has_a_name(monkeypatch, capsys):
    ((name, target),) = PROJECT["scripts"].items()
    command = importlib.metadata.EntryPoint(name, target, "console_scripts").load()
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        command()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: {name} ")


def test_types_are_for_others_too():
    assert (ROOT / "symjax_gn" / "py.typed").exists()


def test_the_least_python_is_the_first_that_is_classified():
    versions = [one.rsplit(" ", 1)[1] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert [int(one.split(".")[1]) for one in versions] == [11, 12, 13]


def test_no_link_of_the_index_page_leads_nowhere():
    text = (ROOT / "README.md").read_text()
    hook = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    before = re.findall(r"\]\(([^)]*)\)", text)
    for one in hook["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    after = re.findall(r"\]\(([^)]*)\)", text)
    assert after == [link for link in before if link.startswith(("https://", "http://"))]
    assert len(after) < len(before)
    assert "CONTRIBUTING.md" in text and "![" not in text
    assert "*Picture in the repository: The law of a spring" in text


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]

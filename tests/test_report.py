import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sympy
from matplotlib.figure import Figure

from symjax_gn.command import certificate_line
from symjax_gn.data.files import in_one_stroke, open_folder
from symjax_gn.data.quantities import ACCELERATION, VELOCITY
from symjax_gn.discovery.certificate import Certificate
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.energies import KineticLaw, PotentialLaw
from symjax_gn.discovery.refitting import Refit
from symjax_gn.discovery.verdict import Verdict
from symjax_gn.laws.export import to_latex
from symjax_gn.laws.fronts import Law, ParetoFront
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.report import records
from symjax_gn.report.markdown import report_markdown

R, DX, QI, VX = sympy.symbols("r dx q_i vx_i")


def contents(form="central", **run):
    law = Law(2.00012345 * R - 1.98, 5, 0.01, 1.5)
    front = ParetoFront((Law(R, 1, 0.8, 0.0), law), 3.0)
    components = (law.expression * DX / R,)
    force = VectorLaw(
        form, components, None if form == "components" else law.expression,
        np.eye(2) if form == "linear" else None, 0.2, (law,), (front,), 2, "|target|",
    )  # fmt: skip
    return records.make_report(
        law=force, message_r2=None, test_error=(0.1, 23.0),
        seconds={"total": 1.0}, system="mine.npz", dim=2, n=4, strategy="bottleneck",
        regressor="operon", seed=0, **dict(dict(verdict=None), **run),
    )  # fmt: skip


def a_figure():
    figure = Figure()
    figure.subplots().plot([0, 1])
    return figure


def test_files(tmp_path):
    records.write_report(tmp_path, contents(), {"pareto_1.png": ("An old one", a_figure())})
    records.write_report(tmp_path, contents(), {"one.png": ("A title", a_figure())})
    assert "A title" in (tmp_path / "report.md").read_text()
    records.write_report(tmp_path, contents(), {"one.png": ("A title", a_figure())})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.png", "report.json", "report.md",
    ]  # fmt: skip
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["recovered"] is None
    assert read["laws"][0]["latex"] == "2.0 r - 1.98"
    assert read["laws"][0]["complexity"] == 5
    assert read["test_error"]["value"] == 0.1
    assert read["test_error"]["mean_abs_target"] == 23.0
    assert read["law_error"] is None
    assert contents(law_on_test=(0.5, 23.0))["law_error"] == 0.5
    assert {"python", "jax", "numpy", "symjax_gn"} <= set(read["versions"])
    text = (tmp_path / "report.md").read_text()
    assert "**No verdict**: the true law is not known." in text
    assert "![A title](one.png)" in text
    assert "| 5 | 0.01 | 1.50 | $2.0 r - 1.98$ |" in text
    assert "multiplied by r^2" in text


@pytest.mark.parametrize(
    ("says", "form", "words"),
    [
        ("exact", "same", "**Recovered**: its forces agree with the true ones to 0.1% (median "
         "relative error 0.0002), and its form is the true one."),
        ("exact", "other", "**Not recovered**: its forces agree with the true ones to 0.1% (median "
         "relative error 0.0002), but its form is another one."),
        ("exact", "unknown", "but whether its form is the true one cannot be told"),
        ("up to a gauge", "same", "**Recovered**: its messages agree with the true forces, up to "),
        ("approximate", "same", "**Not recovered**: its forces agree with the true ones to 2% "),
        ("not recovered", "other", "**Not recovered**: its forces do not agree with the true "),
    ],
)  # fmt: skip
def test_how_near_a_law_is_and_its_form_are_said_apart(says, form, words):
    """Only both together are called recovered."""
    checks = dict(error_seen=dict(median=2e-4, median_limit=1e-3, holds=True))
    found = contents(verdict=Verdict(says, checks, None, 0.01, form))
    assert (found["verdict"], found["form_verdict"]) == (says, form)
    text = report_markdown(found, {})
    assert words in text
    assert found["recovered"] == ("**Recovered**" in text)
    assert "median relative error 0.0002 (at most 0.001) | yes |" in text


@pytest.mark.parametrize("says", ["believe", "doubt", "reject"])
def test_the_certificate_comes_first(says):
    checks = dict(explained=dict(law_error=0.1, limit=0.2, holds=says == "believe"))
    found = contents(certificate=Certificate(says, checks))
    assert found["certificate"] == dict(says=says, checks=checks)
    text = report_markdown(found, {})
    assert 0 < text.index(f"**{says.capitalize()}**") < text.index("No verdict")
    holds = "yes" if says == "believe" else "no"
    assert f"| explained | relative error of the law 0.1, limit 0.2 | {holds} |" in text
    # What is not believed is marked where it stands.
    marked = dict(believe="", doubt=" (doubted)", reject=" (rejected)")[says]
    assert f"The force towards the sender{marked}:\n" in text


def test_what_cannot_be_told_is_said():
    checks = dict(
        noise=dict(missing=None, limit=0.01, holds=None, needs="four recordings"),
        explained=dict(law_error=float("inf"), limit=float("nan"), holds=False),
    )
    text = report_markdown(contents(certificate=Certificate("doubt", checks)), {})
    assert "| noise | limit 0.01 | cannot be told: needs four recordings |" in text
    assert "relative error of the law infinite, limit not known | no |" in text
    assert certificate_line(Certificate("doubt", checks)) == (
        "certificate: doubt; does not hold: explained; cannot be told: noise "
        "(needs four recordings)"
    )
    assert "nan" not in text and "None" not in text


def test_numbers_have_their_names():
    """Constants are named in the law, with digits that tell the ends of intervals apart."""
    law = 2 * R - 1.98
    interval = (-1.98, -1.9800003, -1.9799997)
    found = Refit((law * DX / R,), (sympy.Integer(0),), law, R, law, 1e-7, 2e-7, (interval,))
    text = report_markdown(contents(refit=records.refit_record(found, 3e-6)), {})
    assert "$$ c_{1} + 2 r $$" in text
    assert "- c_1 = -1.98, between -1.9800003 and -1.9799997" in text
    assert "Exact numbers in it, which the data allow: 2." in text


@pytest.mark.parametrize(("share", "said"), [(0.02, True), (14.4795, False), (0.0, False)])
def test_a_share_of_the_whole_is_at_most_the_whole(share, said):
    """What an untrained network adds to its messages says nothing of the law."""
    nothing = VectorLaw("none", (sympy.Integer(0),), share=share)
    text = report_markdown(contents(one_body=nothing), {})
    assert "No force on a body by itself was found." in text
    assert ("What the network adds to the messages is" in text) == said
    assert "1447" not in text


def test_the_rating_of_a_law_has_only_numbers():
    found = contents()
    found["laws"][0] |= dict(mae=float("nan"), score=0.0)
    text = report_markdown(found, {})
    assert "Complexity 5." in text and "nan" not in text


@pytest.mark.parametrize(
    ("quantity", "left"), [(ACCELERATION, r"\ddot{x}_i"), (VELOCITY, r"\dot{x}_i")]
)
def test_the_equation_of_motion_is_that_of_the_quantity(quantity, left):
    """Of accelerations, or of velocities in first-order motion; with the law as it is used."""
    e, mass = sympy.symbols("e_0 m_i")
    model = SymbolicModel((3 * DX,), ((e - VX) / mass,), quantity=quantity)
    (motion,) = contents(model=model)["motion"]
    assert motion.startswith(f"{left} = ")
    assert r"\sum_{j \to i} 3 \Delta x" in motion and "v_{x,i}" in motion and "m_{i}" in motion


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("central", "The force towards the sender:"),
        ("linear", "The force along M u:"),
        ("linear", "20.0% of the force (median) is across the line of centres."),
        ("components", "One law per component; 20.0% of the force"),
    ],
)
def test_the_form_is_said(form, words):
    assert words in report_markdown(contents(form=form), {})


def test_the_number_of_components_is_said():
    for told, words in ((True, "given as the dimension"), (False, "with no dimension given")):
        text = report_markdown(contents(message_components=dict(used=2, of=100, told=told)), {})
        assert "in use: 2 of 100, " in text
        assert words in text


def test_energies_are_said():
    force = VectorLaw("central", (R,), R)
    p, mass = sympy.symbols("p m_i")
    check = dict(median=0.01, quantile_90=0.02, holds=True)
    rows = [
        dict(solver="midpoint", hamiltonian="network", own_drift=0.1, true_drift=None,
             failed=1, paths=8)
    ]  # fmt: skip
    front = ParetoFront((), 0.0)
    for potential, rollouts, words in (
        (
            R**2,
            rows,
            ["$$ r^{2} $$", "| midpoint | network | 0.1 |  | 7 of 8 |", "left is 0.03 of"],
        ),
        (None, None, ["No potential:", "No paths were followed: because."]),
    ):
        found = records.energy_record(
            PotentialLaw(force, potential, sympy.Integer(4), 0.03),
            KineticLaw(p / mass, p**2 / (2 * mass), front),
            dict(potential=check),
            rollouts,
            "because",
        )
        text = report_markdown(contents(energies=found, drag_without_dissipation=True), {})
        assert "which no Hamiltonian holds; --dissipative adds what does" in text
        for word in [
            *words,
            "momentum p:",
            "Check of the potential energy: median relative error 0.01",
        ]:
            assert word in text


def test_latex_uses_the_symbols_of_physics():
    assert to_latex(QI * DX * VX) == r"\Delta x q_{i} v_{x,i}"


def test_a_kinetic_energy_is_kept_apart_from_its_slope():
    p, mass = sympy.symbols("p m_i")
    law = KineticLaw(p / mass, p**2 / (2 * mass), ParetoFront((), 0.0))
    potential = PotentialLaw(VectorLaw("central", (R,), R), R**2, sympy.Integer(4), 0.03)
    found = records.energy_record(potential, law, {}, None, refitted=R**2 - R)
    assert found["kinetic"]["velocity"]["sympy"] == "p/m_i"
    assert found["kinetic"]["energy"]["sympy"] == "p**2/(2*m_i)"
    assert found["potential"]["sympy"] == "r**2" and found["refitted"]["sympy"] == "r**2 - r"


def test_each_check_has_its_own_answer():
    checks = dict(explained=dict(limit=0.2, holds=True), noise=dict(limit=0.3, holds=False))
    text = report_markdown(contents(certificate=Certificate("doubt", checks)), {})
    answers = {row.split(" | ")[0]: row.split(" | ")[-1] for row in text.splitlines()}
    assert answers["| explained"] == "yes |" and answers["| noise"] == "no |"


def test_a_refit_says_what_the_error_was_and_what_it_is():
    law = 2 * R - 1.98
    nothing = (sympy.Integer(0),)
    force = law * DX / R
    found = records.Refit((force,), nothing, law, R, law, error=0.0125, error_before=0.25)
    record = records.refit_record(found, 0.0625)
    assert (record["error"], record["error_before"], record["law_error"]) == (0.0125, 0.25, 0.0625)
    assert (record["components"], record["one_body"]) == ([str(force)], ["0"])
    text = report_markdown(contents(refit=record), {})
    assert "goes from 0.25 to 0.0125" in text.replace("\n", " ") and "0.0625" in text


class Unwritable(Figure):
    """A figure that fails as it is written, as on a full disk or at Ctrl-C."""

    error = None

    def savefig(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_report_leaves_the_one_before(tmp_path, error):
    figures = {name: ("A title", a_figure()) for name in ("one.png", "two.png")}
    records.write_report(tmp_path, contents(), figures)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = Unwritable()
    broken.error = error
    with pytest.raises(type(error)):
        records.write_report(
            tmp_path, contents(True), {"two.png": figures["two.png"], "three.png": ("", broken)}
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_several_may_write_one_file_at_once(tmp_path):
    path = tmp_path / "law.txt"
    texts = [str(k) * 100_000 for k in range(8)]

    def write(text):
        for _ in range(20):
            with in_one_stroke(path) as part:
                part.write_text(text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, texts))
    assert path.read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["law.txt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="Cannot write results to .*Choose another folder"):
        open_folder(file / "inside")
    assert open_folder(tmp_path / "new" / "deep").is_dir()

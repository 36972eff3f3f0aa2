"""Figures show what they are about: the law over the data and the truth, and what it leaves."""

import dataclasses

import jax
import jraph
import numpy as np
import pytest
import sympy

import symjax_gn as sgn
from symjax_gn.discovery.recording import true_pairs
from symjax_gn.discovery.refitting import Refit
from symjax_gn.laws.fronts import Law, ParetoFront
from symjax_gn.networks.training import History
from symjax_gn.physics.systems import SYSTEMS
from symjax_gn.report import plots

R, DX, DY, MI, MJ = sympy.symbols("r dx dy m_i m_j")
ZERO = sympy.Integer(0)


def refit_of(towards):
    force = tuple(towards * way / R for way in (DX, DY))
    return Refit(force, (ZERO, ZERO), towards, R, towards, 0.0, 0.0)


@pytest.fixture(scope="module")
def table(spring_parts):
    """Messages of a network that knows nothing."""
    train, validation, _ = spring_parts
    key = jax.random.key(0)
    tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    return sgn.record_messages(key, trained, train, num_edges=200, system=sgn.SYSTEMS["spring"])


def test_data_lie_on_the_true_law_and_off_a_wrong_one(spring_parts):
    """Accelerations are float32, of some 10: forces are right to 1e-5."""
    test = spring_parts[2]
    pairs = plots.pair_forces(refit_of(2 * R - 1.98), test)
    np.testing.assert_allclose(pairs.data, pairs.law, atol=1e-4)
    off = plots.pair_forces(refit_of(2 * R - 1.48), test)
    gap = np.linalg.norm(off.data - off.law, axis=1)
    # Three pairs that are off by 1/2, in whatever directions.
    assert 0.4 < np.mean(gap) < 1.5


def test_bodies_of_which_nothing_is_known_are_no_data(spring_parts):
    test = spring_parts[2]
    mask = np.ones(np.shape(test.target)[:2], bool)
    mask[:, 0] = False
    some = dataclasses.replace(test, mask=mask)
    law = refit_of(2 * R - 1.98)
    whole, part = (len(plots.pair_forces(law, one).law) for one in (test, some))
    assert part == whole * 3 // 4


def test_the_law_is_drawn_with_data_truth_and_residuals(table, spring_parts):
    true = true_pairs(jax.random.key(0), SYSTEMS["spring"], spring_parts[2])
    law = refit_of(2 * R - 1.98)
    pairs = plots.pair_forces(law, spring_parts[2])
    top, below = plots.plot_law(law, pairs, table.quantity, true).axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["data, other forces subtracted", "true force", "law"]
    data, true, drawn = (line.get_xydata() for line in top.lines)
    for shown in (data, true, drawn):
        np.testing.assert_allclose(shown[:, 1], 2 * shown[:, 0] - 1.98, atol=1e-4)
    assert np.max(np.abs(below.lines[0].get_ydata())) < 1e-4
    assert top.get_ylabel() == "force towards the sender\n(mass x length / time^2)"
    unknown = plots.plot_law(law, pairs, table.quantity).axes[0]
    assert len(unknown.lines) == 2


def test_what_two_bodies_have_is_divided_out(table, spring_parts):
    """A law of masses and a distance is one line, not a cloud."""
    law = refit_of(3 * MI * MJ / (R + 0.01))
    pairs = plots.pair_forces(law, spring_parts[2])
    top = plots.plot_law(law, pairs, table.quantity).axes[0]
    shown = top.lines[-1].get_xydata()
    np.testing.assert_allclose(shown[:, 1], 3 / (shown[:, 0] + 0.01), rtol=1e-6)
    assert "over $m_{i} m_{j}$" in top.get_ylabel()


def history(count):
    steps = np.arange(1, count + 1)
    return History(steps, 1.0 / steps, 1.0 / steps, np.ones((count, 2)))


def test_training_is_drawn_where_there_is_a_line_to_draw():
    assert plots.plot_training(history(1), 2) is None
    figure = plots.plot_training(history(3), 2)
    assert figure is not None and len(figure.axes[0].lines[0].get_xdata()) == 3


def test_the_law_that_was_chosen_is_marked_on_its_front():
    """Whether or not its score is the largest."""
    front = ParetoFront((Law(R, 1, 0.5, 0.0), Law(2 * R, 3, 0.01, 2.0)), 0.0)
    axes = plots.plot_front(front, front.laws[0]).axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[1.0, 0.5]]


def test_predictions_of_a_scalar_are_drawn_against_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 5, 1))
    graphs = [
        jraph.GraphsTuple(
            nodes=one, edges=None, senders=None, receivers=None,
            globals={"z": np.sum(one)[None]}, n_node=np.array([5]), n_edge=np.array([0]),
        )
        for one in x
    ]  # fmt: skip
    data = sgn.dataset_from_graphs(graphs, target="z")
    law = sgn.SymbolicModel(
        (sympy.Symbol("x_1"),), (sympy.Symbol("e_0"),), elements="nodes", quantity=data.quantity
    )
    top, below = plots.plot_predictions(law, data).axes
    np.testing.assert_allclose(*top.lines[0].get_data(), atol=1e-5)
    assert np.max(np.abs(below.lines[0].get_ydata())) < 1e-5


@pytest.mark.parametrize(("says", "marked"), [("believe", ""), ("reject", " (rejected)")])
def test_a_rejected_law_is_marked_on_its_figures_and_in_its_line(says, marked):
    key = jax.random.key(0)
    run = sgn.simulate(
        key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20, solver="midpoint"
    )
    quick = sgn.Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1)
    found = sgn.discover(key, run, quick, system=sgn.SYSTEMS["spring"])
    found = dataclasses.replace(found, certificate=found.certificate._replace(says=says))
    figures = found.figures()
    title, figure = figures["law.png"]
    assert title == f"The law and the data{marked}"
    assert (figure.get_suptitle() == title) == bool(marked)
    assert "rejected" not in figures["messages.png"][0]
    law = f"{marked.strip(' ()')}: 2*r - 1.98" if marked else "2*r - 1.98"
    assert repr(found) == (f"Discovery({law}; certificate: {says}; verdict: exact, form: same)")

"""Names of properties: what is accepted can be saved, read back and exported."""

import keyword

import numpy as np
import pytest
import sympy

from symjax_gn.data.building import dataset_from_graphs
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.features import parse_feature
from symjax_gn.data.graphs import GraphsTuple, complete_edges, stack_graphs
from symjax_gn.data.names import WORDS, check_property_names
from symjax_gn.data.nodes import Nodes, check_nodes
from symjax_gn.data.quantities import Quantity
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.laws import grammar
from symjax_gn.laws.export import to_latex, to_numpy_source
from symjax_gn.laws.expressions import to_jax
from symjax_gn.laws.law_files import load_law, save_law
from symjax_gn.laws.symbolic import SymbolicModel

# What SymPy, Python and NumPy use themselves, and what looks like the features of laws.
FINE = [
    "mass", "charge", "E", "I", "S", "N", "O", "Q", "C", "zoo", "oo", "nan", "inf", "beta",
    "gamma", "zeta", "test", "lambda_0", "pi_0", "expo", "e", "d", "t", "T", "rr", "x_1", "v_1",
    "i_o", "a__b", "a_", "Sin", "list", "print", "law", "log_mass", "log_T", "e1", "E5",
    "match", "case", "type", "self", "time", "mean", "a" * 60, "i", "j", "ij", "m_", "q2", "dxx",
]  # fmt: skip
NOT = [
    "lambda", "None", "True", "if", "pi", "sign", "exp", "sqrt", "abs", "Abs", "Heaviside", "Ei",
    "np", "float", "special", "größe", "mσ", "ﬁ", "x²", "a b", "a.b", "a-b", "1a", "", " a", "a\n",
    "m", "q", "r", "p", "v", "x", "dx", "vz", "e_0", "e_12", "e_n", "v_ij", "spin_i", "spin_j",
    "_a", "_c0", "__class__", "position", "velocity", "properties", "a" * 61, 3, None, ("a",),
]  # fmt: skip


def law_of(name):
    """A law of a pair, of one body and of elements, with one property."""
    i, j, own = (sympy.Symbol(one) for one in (f"{name}_i", f"{name}_j", name))
    pair = SymbolicModel((i * j / (2.5 + sympy.sqrt(j)),), (sympy.Symbol("e_0") / i,))
    return pair, of_sets(own * sympy.exp(-own / 3))


def of_sets(message):
    return SymbolicModel((message,), (sympy.Symbol("e_0"),), "nodes", Quantity("z", "graph"))


@pytest.mark.parametrize("name", FINE)
def test_accepted_names_survive_files_and_exports(tmp_path, name):
    check_property_names([name])
    check_nodes(Nodes(None, None, {name: np.ones(3)}), "a test")
    for law in law_of(name):
        save_law(tmp_path / "law.json", law)
        assert load_law(tmp_path / "law.json") == law
        expression = law.message[0]
        module = {}
        exec(to_numpy_source(expression, "force"), module)
        values = {str(symbol): 2.0 for symbol in expression.free_symbols}
        expected = float(expression.subs(values))
        assert module["force"](**values) == pytest.approx(expected, rel=1e-14)
        function, constants = to_jax(expression, list(values))
        # float32.
        assert float(function(constants, np.full(len(values), 2.0))) == pytest.approx(
            expected, 1e-6
        )
        assert to_latex(expression)
    assert parse_feature(f"{name}_j").kind == f"property:{name}"
    shape = np.full((1, 3), 2.0)
    graphs = stack_graphs(Nodes(np.zeros((1, 3, 1)), None, {name: shape}), *complete_edges(3))
    pair, _ = law_of({"mass": "m", "charge": "q"}.get(name, name))
    # Two messages of 2 x 2 / (2.5 + sqrt(2)), over a property of 2.
    np.testing.assert_allclose(pair.predict(graphs), 4 / (2.5 + np.sqrt(2)), rtol=1e-14)


@pytest.mark.parametrize("name", NOT, ids=repr)
def test_other_names_are_refused_with_advice(name):
    with pytest.raises(ValueError, match=r"cannot be called .*(rename|give)") as caught:
        check_property_names([name])
    assert "\n" not in str(caught.value)


def test_all_words_of_the_grammar_and_of_python_are_refused():
    assert {*grammar._FUNCTION_NAMES, "pi"} == WORDS
    for word in (*WORDS, *keyword.kwlist):
        with pytest.raises(ValueError, match="cannot be called"):
            check_property_names([word])


@pytest.mark.parametrize("name", ["lambda", "größe", "sign", "count"])
def test_names_are_refused_wherever_data_enter(name):
    place = np.random.default_rng(0).normal(size=(2, 12, 3, 2))
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        trajectory_from_arrays(np.arange(12.0), place, place, place, **{name: np.ones(3)})
    senders, receivers = complete_edges(3)
    one = GraphsTuple(
        {"position": place[0, 0], "acceleration": place[0, 1], name: np.ones(3)},
        None, receivers, senders, None, np.array([3]), np.array([6]),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        dataset_from_graphs([one], "acceleration")
    nodes = Nodes(place[:, 0], None, {name: np.ones((2, 3))})
    data = Dataset(stack_graphs(nodes, senders, receivers), place[:, 1], None, np.arange(2))
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        check_dataset(data, "given")


@pytest.mark.parametrize("name", ["lambda", "sign", "größe", "pi"])
def test_a_law_that_could_not_be_read_back_is_not_written(tmp_path, name):
    law = of_sets(sympy.Symbol(name))
    with pytest.raises(ValueError, match="Rename it"):
        save_law(tmp_path / "law.json", law)
    assert not list(tmp_path.iterdir())

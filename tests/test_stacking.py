"""A user's jraph graphs: padded, empty, of unequal size, with features of whole graphs."""

import jax
import jraph
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import dataset_from_graphs
from symjax_gn.data.graphs import GraphsTuple, complete_edges
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.stacking import from_jraph
from symjax_gn.data.units import measure_scales, typical_size
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import held_out_error

NO_EDGES = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def bodies(count, seed=0, edges=True, temperature=1.0):
    """Bodies of random masses, whose accelerations are T / m_i times the sum of displacements."""
    rng = np.random.default_rng([count, seed])
    place, mass = rng.normal(size=(count, 2)), rng.uniform(1, 2, count)
    senders, receivers = complete_edges(count) if edges else NO_EDGES
    pull = np.sum(place, axis=0) - count * place if edges else np.zeros((count, 2))
    return GraphsTuple(
        nodes=dict(
            position=place, mass=mass, acceleration=temperature * pull / mass[:, None]
        ),
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=dict(T=np.array([temperature])),
        n_node=np.array([count]),
        n_edge=np.array([len(senders)]),
    )  # fmt: skip


THREE = [bodies(count, seed, temperature=1.0 + seed) for seed, count in enumerate((3, 4, 3))]
EMPTY = jax.tree.map(lambda x: x[:0], THREE[0])._replace(
    n_node=np.array([0]), n_edge=np.array([0]), globals=dict(T=np.array([1.0]))
)


def joined(*graphs):
    """jraph's own batch."""
    return jraph.batch_np([jraph.GraphsTuple(*graph) for graph in graphs])


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("num_graphs", [4, 7])
@pytest.mark.parametrize("edges", [24, 29])
@pytest.mark.parametrize("nodes", [11, 14])
def test_what_jraph_pads_is_taken_off(num_graphs, edges, nodes):
    wanted = from_jraph(THREE)
    padded = jraph.pad_with_graphs(joined(*THREE), nodes, edges, num_graphs)
    assert_same(from_jraph(padded), wanted)
    twice = from_jraph(THREE + THREE)
    assert_same(from_jraph([padded, padded]), twice)
    assert_same(from_jraph(joined(padded, padded)), twice)
    again = jraph.pad_with_graphs(joined(padded, padded), 2 * nodes + 5, 2 * edges + 7, 20)
    assert_same(from_jraph(again), twice)
    data = dataset_from_graphs(padded, "acceleration", group=[0, 1, 2])
    assert np.sum(data.mask) == 3 + 4 + 3
    with pytest.raises(ValueError, match=r"each of its 3 graphs \(padding is none\), got .*\(4,\)"):
        dataset_from_graphs(padded, "acceleration", group=[0, 1, 2, 3])


def test_sets_that_jraph_pads():
    sets = [
        GraphsTuple(x, None, *NO_EDGES[::-1], dict(z=x.sum(keepdims=True)[0]), n, np.array([0]))
        for x in ([[1.0]], [[2.0], [3.0]], [[0.0]], [[4.0]])
        for x, n in [(np.array(x), np.array([len(x)]))]
    ]
    padded = jraph.pad_with_graphs(joined(*sets), 8, 0, 6)
    data = dataset_from_graphs(padded, "z")
    # The set {0} is data; what comes last and is 0 is not.
    assert data.target[:, 0].tolist() == [1.0, 5.0, 0.0, 4.0]
    assert np.ravel(data.graphs.n_node[:, 0]).tolist() == [1, 2, 1, 1]


def test_empty_graphs_are_named():
    for graphs, message in [
        ([THREE[0], EMPTY, THREE[1]], "Graph 1: the graph has no nodes"),
        ([EMPTY], "Graph 0: the graph has no nodes"),
        (joined(THREE[0], EMPTY, THREE[1]), "number 1 of a batch of 3 has no nodes"),
        (joined(THREE[0], EMPTY), "number 1 of a batch of 2 has no nodes"),
        (joined(EMPTY, THREE[0]), "number 0 of a batch of 2 has no nodes"),
    ]:
        with pytest.raises(ValueError, match=f"{message}, .*leave empty graphs out"):
            dataset_from_graphs(graphs, "acceleration")


def test_a_graph_without_edges_is_data():
    """Bodies that feel nothing do not accelerate, and a law says so."""
    graphs = [*THREE, bodies(4, 9, edges=False)]
    data = dataset_from_graphs(graphs, "acceleration")
    assert data.graphs.n_edge[:, 0].tolist() == [6, 12, 6, 0]
    assert np.sum(data.mask) == 14
    m, T, *pull = sympy.symbols("m_i T_i dx dy")
    law = SymbolicModel(tuple(pull), tuple(T * sympy.Symbol(f"e_{k}") / m for k in range(2)))
    error, size = held_out_error(law, data)
    # Rounding of float64.
    assert error < 1e-13 * size
    assert np.all(law.predict(data.graphs)[3, :4] == 0)


def test_features_of_whole_graphs_are_properties_of_nodes():
    data = dataset_from_graphs(joined(*THREE), "acceleration")
    assert sorted(data.nodes.properties) == ["T", "mass"]
    for k, graph in enumerate(THREE):
        assert np.all(data.nodes.T[k] == graph.globals["T"])
    several = [x._replace(globals=dict(field=np.array([[1.0, 2.0]]))) for x in THREE]
    assert from_jraph(several).nodes.field_2.shape == (3, 6)
    unnamed = from_jraph([x._replace(globals=np.array([[1.0]])) for x in THREE])
    assert np.all(unnamed.nodes.globals == 1)
    # The target is not among the inputs.
    data = dataset_from_graphs([x._replace(globals=dict(E=np.ones(1))) for x in THREE], "E")
    assert "E" not in data.nodes.properties and data.quantity.level == "graph"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (dict(mass=np.ones(1)), "both have a feature 'mass'; rename"),
        (dict(position=np.ones(1)), "both have a feature 'position'; rename"),
        (dict(T=np.ones(2)), r"'T' must have shape \[graph\]"),
        (dict(T=np.array(1.0)), r"'T' must have shape \[graph\]"),
        (dict(T=np.ones((1, 2, 2))), r"'T' must have shape \[graph\]"),
        (dict(T=["hot"]), "'T' must hold real numbers"),
        ({"lambda": np.ones(1)}, "cannot be called 'lambda'"),
    ],
)
def test_features_of_whole_graphs_that_cannot_be_used(features, message):
    graphs = [x._replace(globals=features) for x in THREE]
    with pytest.raises(ValueError, match=message):
        dataset_from_graphs(graphs, "acceleration")


def test_one_large_graph_among_many_small_ones_is_refused():
    small = [bodies(3, seed) for seed in range(2000)]
    with pytest.raises(ValueError, match=r"2001 graphs, .*500 nodes.* GB .* times what they hold"):
        dataset_from_graphs([*small, bodies(500)], "acceleration")


def test_units_are_of_what_is_real():
    graphs = [*(bodies(3, seed) for seed in range(30)), bodies(40)]
    scales = measure_scales(dataset_from_graphs(graphs, "acceleration"))
    nodes = {
        name: np.concatenate([graph.nodes[name] for graph in graphs])
        for name in ("position", "mass", "acceleration")
    }
    assert scales.properties["mass"] == pytest.approx(np.exp(np.mean(np.log(nodes["mass"]))))
    np.testing.assert_allclose(scales.centre, np.mean(nodes["position"], axis=0), rtol=1e-12)
    assert scales.target == typical_size(nodes["acceleration"])


def changed(**fields):
    return lambda: dataset_from_graphs([THREE[0]._replace(**fields)], "acceleration")


def with_nodes(**features):
    return changed(nodes=THREE[0].nodes | features)


def hidden(shape):
    """Ones of which the first is masked."""
    return np.ma.array(np.ones(shape), mask=np.arange(np.prod(shape)).reshape(shape) == 0)


GRAPHS = {
    "negative end": (changed(senders=-complete_edges(3)[0]), "outside 0 to 2"),
    "an end beyond": (changed(receivers=1 + complete_edges(3)[1]), "outside 0 to 2"),
    "an end of another graph": (
        lambda: from_jraph(joined(*THREE)._replace(senders=np.zeros(24, int))),
        "An edge of graph 1 names a node outside 3 to 6",
    ),
    "ends as floats": (changed(senders=1.0 * complete_edges(3)[0]), "senders must be whole"),
    "masked ends": (changed(senders=hidden(6).astype(int)), "senders must be whole .* masked"),
    "senders alone": (changed(receivers=None), "say 3 nodes and 6 edges in 1 graphs"),
    "negative count": (changed(n_node=np.array([-3])), "say -3 nodes"),
    "counts as text": (changed(n_node=["3"]), "n_node must be whole numbers"),
    "masked masses": (with_nodes(mass=hidden(3)), "'mass' has 1 masked values"),
    "masked places": (with_nodes(position=hidden((3, 2))), "'position' has 1 masked"),
    "masked rows": (with_nodes(position=[*hidden((3, 2))]), "'position' has 1 masked"),
    "a flat place": (with_nodes(position=np.ones(3)), r"'position' must have shape \[node, dim\]"),
    "four dimensions": (with_nodes(position=np.ones((3, 4))), "1 to 3 dimensions"),
    "too many masses": (with_nodes(mass=np.ones(4)), "say 3 nodes"),
    "no numbers": (with_nodes(mass=[None] * 3), "'mass' must hold real numbers"),
    "other features": (
        lambda: from_jraph([THREE[0], THREE[1]._replace(globals=None)]),
        "must have the same features",
    ),
    "text": (lambda: from_jraph("graphs"), "jraph.GraphsTuple or a list of them, got 'graphs'"),
    "a number": (lambda: from_jraph(3), "jraph.GraphsTuple or a list of them, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_are_wrong(name):
    call, message = GRAPHS[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (dict(group=[0, 1]), "group .* one number for each of its 3 graphs"),
        (dict(group=[[0, 1, 2]]), "group .* one number for each of its 3 graphs"),
        (dict(group=3), "group .* one number for each of its 3 graphs"),
        (dict(group=["a", "b", "c"]), "group .* must be whole numbers"),
        (dict(group=[0, 1, np.nan]), "group .* must be whole numbers"),
        (dict(group=np.ma.array([0, 1, 2], mask=[0, 1, 0])), "whole numbers, got masked"),
        (dict(group=[[0], [1, 2]]), "rows of unequal length"),
        (dict(time=[0.0, 1.0]), "time .* one number for each of its 3 graphs"),
        (dict(time=[0.0, 1.0, np.nan]), "time .* has 1 NaN"),
        (dict(time=["a", "b", "c"]), "time .* must hold real numbers"),
        (dict(time=np.ma.array([0.0, 1, 2], mask=[0, 1, 0])), "time .* has 1 masked"),
        (dict(mask="known"), "no feature 'known'"),
        (dict(mask="mass"), "mask 'mass' must be 0 or 1"),
    ],
)
def test_marks_of_graphs_that_are_wrong(marks, message):
    with pytest.raises(ValueError, match=message):
        dataset_from_graphs(THREE, "acceleration", **marks)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask", np.ones((3, 5), bool), r"booleans of shape \(3, 6\), got bool of shape \(3, 5\)"),
        ("mask", np.ones(3, bool), r"booleans of shape \(3, 6\)"),
        ("mask", np.full((3, 6), np.nan), "must be 0 or 1"),
        ("mask", np.full((3, 6), "a"), "must hold real numbers"),
        ("mask", np.ones((3, 6)), "booleans of shape .* got float64"),
        ("mask", np.zeros((3, 6), bool), "hides all of the acceleration"),
        ("group", np.arange(4), "one number for each of its 3 graphs"),
        ("time", np.arange(4.0), "one number for each of its 3 graphs"),
        ("target", hidden((3, 6, 2)), "acceleration .* has 1 masked values"),
        ("target", np.full((3, 6, 2), "a"), "acceleration .* must hold real numbers"),
    ],
)
def test_fields_of_a_data_set_that_are_wrong(field, value, message):
    data = dataset_from_graphs(THREE, "acceleration")
    with pytest.raises(ValueError, match=message):
        check_dataset(data.__class__(**(vars(data) | {field: value})), "given")


def test_all_components_of_a_target_are_taken():
    """And a feature of one column keeps its name."""
    wide = [x._replace(nodes=x.nodes | dict(y=np.ones((len(x.nodes["mass"]), 5)))) for x in THREE]
    data = dataset_from_graphs(wide, "y")
    assert data.target.shape == (3, 6, 5)
    assert not any(name.startswith("y") for name in data.nodes.properties)
    column = [x._replace(nodes=x.nodes | dict(mass=x.nodes["mass"][:, None])) for x in THREE]
    assert_same(from_jraph(column), from_jraph(THREE))
    flat = from_jraph([x._replace(nodes=x.nodes["mass"]) for x in THREE])
    assert sorted(flat.nodes.properties) == ["T", "x_1"]

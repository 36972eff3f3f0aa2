import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import dataset_from_graphs
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import GraphsTuple, complete_edges, flatten, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.quantities import ACCELERATION, Quantity
from symjax_gn.data.space import Space
from symjax_gn.data.stacking import from_jraph
from symjax_gn.laws.law_files import load_law, save_law
from symjax_gn.laws.symbolic import SymbolicModel
from symjax_gn.model import held_out_error, predict

R, DX, DY, M, E0, E1 = sympy.symbols("r dx dy m_i e_0 e_1")
SPRING = SymbolicModel(
    tuple((2.0 * R - 1.5) * d / R for d in (DX, DY)),
    (E0 / M, E1 / M - 0.25),
    provenance={"seed": 0},
)


def bodies(num_graphs=5, num_nodes=4):
    rng = np.random.default_rng(0)
    position = rng.normal(size=(num_graphs, num_nodes, 2))
    mass = np.exp(rng.normal(size=(num_graphs, num_nodes)))
    return stack_graphs(Nodes(position, None, {"mass": mass}), *complete_edges(num_nodes))


def spring_by_hand(graphs):
    """The same law in plain NumPy loops."""
    position, mass = graphs.nodes.position, graphs.nodes.mass
    found = np.zeros_like(position)
    for g in range(position.shape[0]):
        for i in range(position.shape[1]):
            for j in range(position.shape[1]):
                if i != j:
                    way = position[g, j] - position[g, i]
                    r = np.linalg.norm(way)
                    found[g, i] += (2 * r - 1.5) * way / r / mass[g, i]
    found[..., 1] -= 0.25
    return found


def test_a_law_predicts_what_it_says():
    graphs = bodies()
    # float64 throughout.
    np.testing.assert_allclose(SPRING.predict(graphs), spring_by_hand(graphs), rtol=1e-12)


def test_the_call_of_a_network_gives_the_same():
    graphs = bodies()
    params = SPRING.init(jax.random.key(0), graphs)
    found = predict(SPRING, params, graphs)
    expected = spring_by_hand(graphs)
    # float32, and differences of nearby bodies.
    np.testing.assert_allclose(found.value, expected, rtol=1e-4, atol=1e-5)
    assert found.messages.shape == (5, 12, 2)
    jitted = jax.jit(lambda p, g: predict(SPRING, p, g).value)(params, graphs)
    np.testing.assert_allclose(jitted, found.value, rtol=1e-5, atol=1e-6)


def test_laws_of_speeds():
    """At rest too, where the slope of a length has no direction but must be finite."""
    graphs = bodies()
    velocity = np.random.default_rng(1).normal(size=graphs.nodes.position.shape)
    velocity[0] = 0.0
    graphs = graphs._replace(nodes=graphs.nodes._replace(velocity=velocity))
    own, other, apart, parting = sympy.symbols("v_i v_j v_ij vr_ij")
    quantity = Quantity("rate")
    law = SymbolicModel((1.5 * apart * parting / R + other,), (E0 + own,), quantity=quantity)
    expected = np.linalg.norm(velocity, axis=-1)
    speed = expected.copy()
    for g in range(5):
        for i in range(4):
            for j in set(range(4)) - {i}:
                way = graphs.nodes.position[g, j] - graphs.nodes.position[g, i]
                relative, r = velocity[g, j] - velocity[g, i], np.linalg.norm(way)
                sent = 1.5 * np.linalg.norm(relative) * (relative @ way / r) / r
                expected[g, i] += sent + speed[g, j]
    np.testing.assert_allclose(law.predict(graphs)[..., 0], expected, rtol=1e-12)
    found = predict(law, law.init(), graphs).value[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def total(velocity):
        moved = graphs._replace(nodes=graphs.nodes._replace(velocity=velocity))
        return jnp.sum(predict(law, law.init(), moved).value)

    assert np.all(np.isfinite(jax.grad(total)(jnp.asarray(velocity))))


def test_vmap_over_constants_is_a_loop_and_grad_is_a_difference():
    graphs = bodies()
    params = SPRING.init()
    many = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), params)

    def total(params):
        return jnp.sum(predict(SPRING, params, graphs).value ** 2)

    both = jax.vmap(total)(many)
    alone = [total(jax.tree.map(lambda x, k=k: x[k], many)) for k in range(2)]
    np.testing.assert_allclose(both, alone, rtol=1e-5)
    slope = jax.grad(total)(params)["message"][0][1]
    step = 1e-2
    ends = []
    for sign in (1, -1):
        message = [params["message"][0].at[1].add(sign * step), params["message"][1]]
        ends.append(total(params | {"message": message}))
    # The law is quadratic in its constants: central differences err by rounding alone.
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-3)


def test_contributions_are_forces_and_what_is_there_without():
    graphs = bodies(1)
    nodes = jax.tree.map(lambda x: jnp.asarray(x[0]), graphs.nodes)
    receiver = jax.tree.map(lambda x: x[0], nodes)
    # One more sender that is padding.
    senders = jax.tree.map(lambda x: x[jnp.array([1, 2, 3, 3])], nodes)
    present = jnp.array([True, True, True, False])
    found = SPRING.apply(
        SPRING.init(), receiver, senders, present, jnp.ones(2), method="contributions"
    )
    mass = float(receiver.mass)
    np.testing.assert_allclose(found.value, spring_by_hand(graphs)[0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.alone, [0.0, -0.25 * mass], atol=1e-5 * mass)
    whole = np.sum(found.terms[:3], axis=0) + found.alone
    np.testing.assert_allclose(whole, mass * found.value, rtol=1e-4, atol=1e-5)


def test_masked_messages_say_nothing():
    graphs = bodies()
    found = predict(SPRING, SPRING.init(), graphs, mask=jnp.array([0.0, 1.0])).value
    expected = spring_by_hand(graphs)
    np.testing.assert_allclose(found[..., 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], expected[..., 1], rtol=1e-4, atol=1e-5)


def test_elements_of_sets():
    x = np.random.default_rng(1).normal(size=(6, 10, 2))
    law = SymbolicModel(
        (sympy.exp(sympy.Symbol("x_1")) - sympy.Symbol("x_2"),),
        (2.0 * E0**2,),
        elements="nodes",
        quantity=Quantity("z", "graph"),
    )
    single = [GraphsTuple(one, None, None, None, None, np.array([10]), np.array([0])) for one in x]
    graphs = from_jraph(single)
    expected = 2 * np.sum(np.exp(x[..., 0]) - x[..., 1], axis=1) ** 2
    np.testing.assert_allclose(law.predict(graphs)[:, 0], expected, rtol=1e-12)
    # float32.
    found = predict(law, law.init(), graphs).value[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_sets_of_unequal_size_are_padded_and_the_padding_counts_for_nothing():
    rng = np.random.default_rng(2)
    sets = [rng.normal(size=(size, 1)) for size in (3, 7, 5)]
    single = [
        GraphsTuple(
            nodes=x,
            edges=None,
            senders=None,
            receivers=None,
            globals={"z": np.array([np.sum(x**2)])},
            n_node=np.array([len(x)]),
            n_edge=np.array([0]),
        )
        for x in sets
    ]
    data = dataset_from_graphs(single, "z")
    x = sympy.Symbol("x_1")
    law = SymbolicModel((x**2,), (E0,), elements="nodes", quantity=data.quantity)
    error, size = held_out_error(law, data)
    assert error < 1e-12 * size
    # float32.
    found = predict(law, law.init(), data.graphs).value[:, 0]
    np.testing.assert_allclose(found, data.target[:, 0], rtol=1e-5)


def test_a_periodic_box_is_felt():
    graphs = bodies()
    boxed = SymbolicModel(SPRING.message, SPRING.update, space=Space((3.0, 3.0)))
    moved = graphs.nodes.position.copy()
    moved[:, 0] += [3.0, 0.0]
    others = graphs._replace(nodes=graphs.nodes._replace(position=moved))
    np.testing.assert_allclose(boxed.predict(others), boxed.predict(graphs), rtol=1e-9)
    assert not np.allclose(SPRING.predict(others), SPRING.predict(graphs))


def test_one_error_for_all_is_infinite_where_a_law_is_not_finite():
    graphs = bodies()
    data = Dataset(graphs, spring_by_hand(graphs), None, np.arange(5))
    error, size = held_out_error(SPRING, data)
    assert error < 1e-10 * size
    pole = SymbolicModel(SPRING.message, (E0 / (E0 - E0 + 0.0 * M), E1))
    assert held_out_error(pole, data)[0] == np.inf


def test_saved_and_loaded_is_the_same_law(tmp_path):
    path = tmp_path / "law.json"
    law = SymbolicModel(SPRING.message, SPRING.update, space=Space((4.0, 5.0)), provenance={"a": 1})
    save_law(path, law)
    assert load_law(path) == law
    read = json.loads(path.read_text())
    assert read["version"] == 1
    assert read["features"]["m_i"] == "property:mass"
    assert sorted(set(map(abs, read["constants"]))) == [0.25, 1.5, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2 of law files"),
        ({"format": "other"}, "is no law file"),
        ({"message": "dx"}, "message must be a list of expressions"),
        ({"message": ['__import__("os")']}, "column"),
        ({"update": ["e_7"]}, "there are only 2 messages"),
        ({"elements": "faces"}, "Unknown kind of elements"),
        ({"quantity": {"name": "a", "speed": 1}}, "unexpected keyword"),
        ({"box": [-1.0, 2.0]}, "must be positive"),
        ({"update": []}, "at least one message and one update"),
    ],
)
def test_a_wrong_law_file_says_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "law.json"
    save_law(path, SPRING)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_law(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"law"', "\x00\x01"])
def test_damaged_law_files(tmp_path, text):
    path = tmp_path / "law.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"law\.json is no law file"):
        load_law(path)


def test_a_law_without_a_field_says_which(tmp_path):
    path = tmp_path / "law.json"
    save_law(path, SPRING)
    contents = json.loads(path.read_text())
    del contents["update"]
    path.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="lacks update"):
        load_law(path)


def test_variables_that_the_graphs_do_not_have():
    law = SymbolicModel((sympy.Symbol("radius_j"), DX), (E0, E1))
    message = r"The law needs radius \(radius_j\) of the nodes, which have: position \(x, y\), mass"
    with pytest.raises(ValueError, match=message):
        law.predict(bodies())
    with pytest.raises(ValueError, match=message):
        predict(law, law.init(), bodies())
    with pytest.raises(ValueError, match="Unknown method of a law"):
        law.apply(law.init(), flatten(bodies()), method="energy")


def test_the_quantity_is_kept():
    assert SPRING.quantity is ACCELERATION and SPRING.level == "node"

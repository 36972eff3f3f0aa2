import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.graphs import chain_edges, complete_edges
from symjax_gn.data.nodes import Body
from symjax_gn.physics.systems import (
    SYSTEMS,
    System,
    acceleration,
    check_system,
    energy,
    get_system,
    load_system,
    pair_force,
    potential_energy,
    safe_norm,
    sample_normal,
)


def bodies(system, dim, seed=0):
    body = system.sample(jax.random.key(seed), system.num_nodes, dim)
    return jax.tree.map(lambda x: x.astype(jnp.float64), body)


CASES = [(name, dim) for name, system in SYSTEMS.items() for dim in system.dims]


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_force_is_minus_the_gradient_of_the_potential(name, dim):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        body = bodies(system, dim)
        force = acceleration(system, body) * body.mass[:, None] + system.drag * body.velocity
        step = 1e-6
        for node, axis in [(0, 0), (1, dim - 1), (system.num_nodes - 1, 0)]:
            ends = [
                potential_energy(
                    system, body._replace(position=body.position.at[node, axis].add(sign * step))
                )
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            # Central differences in float64: truncation and rounding meet near 1e-8.
            np.testing.assert_allclose(-slope, force[node, axis], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_force_is_the_sum_of_pair_forces(name, dim):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        body = bodies(system, dim)
        senders, receivers = system.edges(system.num_nodes)
        pick = lambda index: jax.tree.map(lambda x: x[index], body)  # noqa: E731
        pairs = jax.vmap(lambda i, j: pair_force(system, i, j))(pick(receivers), pick(senders))
        total = jax.ops.segment_sum(pairs, jnp.asarray(receivers), system.num_nodes)
        own = -system.drag * body.velocity
        if system.one_body_potential is not None:
            own -= jax.vmap(
                lambda b: jax.grad(lambda x: system.one_body_potential(b._replace(position=x)))(
                    b.position
                )
            )(body)
        expected = acceleration(system, body) * body.mass[:, None]
        np.testing.assert_allclose(total + own, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, s in SYSTEMS.items() if s.edges is complete_edges])
def test_symmetries(name):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        body = bodies(system, 3)
        before = acceleration(system, body)
        moved = acceleration(system, body._replace(position=body.position + 7.0))
        np.testing.assert_allclose(moved, before, rtol=1e-9, atol=1e-12)
        order = np.array([2, 0, 3, 1])
        permuted = acceleration(system, jax.tree.map(lambda x: x[order], body))
        np.testing.assert_allclose(permuted, before[order], rtol=1e-9, atol=1e-12)
        # Newton's third law: internal forces do not move the centre of mass.
        internal = before * body.mass[:, None] + system.drag * body.velocity
        np.testing.assert_allclose(jnp.sum(internal, axis=0), 0, atol=1e-9)


def test_drag_and_gravity_act_on_every_body():
    with jax.enable_x64(True):
        damped, spring = SYSTEMS["damped"], SYSTEMS["spring"]
        body = bodies(damped, 2)
        difference = acceleration(damped, body) - acceleration(spring, body)
        np.testing.assert_allclose(difference, -body.velocity / body.mass[:, None], rtol=1e-12)
        string = SYSTEMS["string"]
        body = bodies(string, 2)
        free = dataclasses.replace(string, one_body_potential=None)
        difference = acceleration(string, body) - acceleration(free, body)
        np.testing.assert_allclose(difference, np.tile([0.0, -1.0], (30, 1)), atol=1e-12)


def test_discontinuous_force_switches_on_beyond_two():
    system = SYSTEMS["discontinuous"]
    one = Body(jnp.zeros(2), jnp.zeros(2), jnp.ones(()), jnp.ones(()))
    for r, expected in [(1.9, 0.0), (2.1, 2 * (2.1 + 0.01 - 1))]:
        force = pair_force(system, one, one._replace(position=jnp.array([r, 0.0])))
        np.testing.assert_allclose(force, [expected, 0.0], rtol=1e-5, atol=1e-7)


def test_kinetic_energy_and_sampler():
    body = sample_normal(jax.random.key(3), 5, 2)
    free = System("free", lambda r, i, j: 0.0 * r)
    expected = 0.5 * np.sum(np.asarray(body.mass) * np.sum(np.square(body.velocity), axis=1))
    np.testing.assert_allclose(energy(free, body), expected, rtol=1e-6)
    assert set(np.unique(body.charge)) <= {-1.0, 1.0}
    assert np.all(np.asarray(body.mass) > 0)


def test_safe_norm_has_a_gradient_at_zero():
    assert np.array_equal(jax.grad(safe_norm)(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_allclose(safe_norm(jnp.array([3.0, 4.0])), 5.0)


def test_edges():
    senders, receivers = complete_edges(3)
    assert sorted(zip(senders.tolist(), receivers.tolist(), strict=True)) == [
        (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1),
    ]  # fmt: skip
    senders, receivers = chain_edges(3)
    assert sorted(zip(senders.tolist(), receivers.tolist(), strict=True)) == [
        (0, 1), (1, 0), (1, 2), (2, 1),
    ]  # fmt: skip


def test_unknown_system_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown system 'sprng'. Did you mean 'spring'"):
        get_system("sprng")


def spring_like(**changes):
    return dataclasses.replace(SYSTEMS["spring"], name="mine", **changes)


def negative_masses(key, num_nodes, dim):
    body = sample_normal(key, num_nodes, dim)
    return body._replace(mass=-body.mass)


def missing_node(key, num_nodes, dim):
    return sample_normal(key, num_nodes - 1, dim)


@pytest.mark.parametrize(
    ("system", "num_nodes", "dim", "message"),
    [
        (SYSTEMS["spring"], 1, 2, "at least 2 bodies, got n=1"),
        (SYSTEMS["spring"], 4, 4, "2 or 3 dimensions, got dim=4"),
        (SYSTEMS["string"], 30, 3, "defined in 2 dimensions"),
        (spring_like(pair_potential=lambda r, i, j: i.position), 4, 2, r"array of shape \(2,\)"),
        (
            spring_like(pair_potential=lambda r, i, j: jnp.log(-r)),
            4,
            2,
            "NaN or infinite for 12 of 12",
        ),
        (spring_like(pair_potential=lambda r, i, j: i.mass / r), 4, 2, "must be symmetric"),
        (spring_like(one_body_potential=lambda b: b.velocity), 4, 2, "must return one number"),
        (spring_like(sample=negative_masses), 4, 2, "must be positive"),
        (spring_like(sample=missing_node), 4, 2, "gave positions of shape"),
        (spring_like(sample=lambda key: None), 4, 2, "The sampler of system .* TypeError"),
        (spring_like(edges=lambda n: 1 / 0), 4, 2, "The edges of system .* ZeroDivisionError"),
        (spring_like(drag=float("nan")), 4, 2, "drag and softening"),
        (spring_like(dt=0.0), 4, 2, "dt must be positive"),
        (spring_like(edges=lambda n: (np.array([0]), np.array([1]))), 4, 2, "both directions"),
        (spring_like(edges=lambda n: (np.array([], int),) * 2), 4, 2, "no edges"),
        (spring_like(edges=lambda n: (np.array([0, 1]), np.array([1]))), 4, 2, "one shape"),
        (
            spring_like(edges=lambda n: (np.array([0, 1, 0]), np.array([1, 0, 1]))),
            4,
            2,
            "more than once",
        ),
        (spring_like(edges=lambda n: (np.array([0, 9]), np.array([9, 0]))), 4, 2, "outside 0 to"),
        (spring_like(edges=lambda n: (np.array([1]), np.array([1]))), 4, 2, "with itself"),
    ],
)
def test_bad_systems(system, num_nodes, dim, message):
    with pytest.raises(ValueError, match=message):
        check_system(system, num_nodes, dim)


def test_load_system(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def cubic(r, receiver, sender):\n    return r**3\n")
    system = load_system(f"{file}:cubic")
    assert system.name == "cubic"
    check_system(system, 3, 2)
    with pytest.raises(ValueError, match="no pair potential of the name 'system'"):
        load_system(str(file))
    with pytest.raises(ValueError, match="Cannot read a system"):
        load_system(str(tmp_path / "none.py"))


def branchy(r, receiver, sender):
    return r if r > 1 else 0.0


def test_a_potential_that_fails_says_so():
    with pytest.raises(ValueError, match="failed with TracerBoolConversionError.*jnp.where"):
        check_system(spring_like(pair_potential=branchy), 4, 2)


def test_a_gradient_that_is_not_finite_is_noticed_on_any_pair():
    # Both branches of the where are differentiated: sqrt has no gradient at zero.
    def hidden(r, receiver, sender):
        return jnp.where(r < 2, jnp.sqrt(jnp.maximum(2 - r, 0.0)), 0.0)

    with pytest.raises(ValueError, match=r"gradient of a potential.*both branches"):
        check_system(spring_like(pair_potential=hidden), 4, 2)


def test_a_file_that_fails_says_so(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def cubic(r, receiver, sender)\n    return r**3\n")
    with pytest.raises(ValueError, match="broken.py failed with SyntaxError"):
        load_system(str(file))


def test_dims_that_are_a_list():
    with pytest.raises(ValueError, match=r"dims must be a tuple, e.g. \(2, 3\), got \[2\]"):
        System("mine", lambda r, i, j: r, dims=[2])

"""Laws of motion: forces against potentials, symmetries, errors of users' laws."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax_gn.data.graphs import chain_edges, complete_edges
from symjax_gn.data.nodes import Nodes, take_nodes
from symjax_gn.data.space import Space, safe_norm
from symjax_gn.physics import checking, forces
from symjax_gn.physics.checking import check_system
from symjax_gn.physics.systems import (
    SYSTEMS,
    System,
    get_system,
    load_system,
    one_body_force,
    pair_energy,
    pair_force,
    sample_normal,
    sample_starts,
    true_forces,
)

# Compiled as a whole: eager operations would each be compiled.
energy, potential_energy, rate = (
    jax.jit(function, static_argnums=0)
    for function in (forces.energy, forces.potential_energy, forces.rate)
)


def bodies(system, dim, seed=0, num_nodes=None):
    nodes = system.sample(jax.random.key(seed), num_nodes or system.num_nodes, dim)
    return jax.tree.map(lambda x: x.astype(jnp.float64), nodes)


def forces_of(system, nodes):
    """Forces without drag."""
    return rate(system, nodes) * nodes.mass[:, None] + system.drag * nodes.velocity


def at(*position, **properties):
    """One body at rest."""
    return Nodes(jnp.array(position), jnp.zeros(len(position)), properties)


CASES = [(name, dim) for name, system in SYSTEMS.items() for dim in system.dims]


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_force_is_minus_the_gradient_of_the_potential(name, dim):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        nodes = bodies(system, dim)
        force = forces_of(system, nodes)
        step = 1e-6
        for node, axis in [(0, 0), (1, dim - 1), (system.num_nodes - 1, 0)]:
            shift = np.zeros(nodes.position.shape)
            shift[node, axis] = step
            ends = [
                potential_energy(system, nodes._replace(position=x))
                for x in (nodes.position + shift, nodes.position - shift)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            # Central differences in float64: truncation and rounding meet near 1e-8.
            np.testing.assert_allclose(-slope, force[node, axis], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_force_is_the_sum_of_pair_forces(name, dim):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        nodes = bodies(system, dim)
        senders, receivers = system.edges(system.num_nodes)
        pairs = true_forces(system, take_nodes(nodes, receivers), take_nodes(nodes, senders))
        total = jax.ops.segment_sum(pairs, jnp.asarray(receivers), system.num_nodes)
        own = jax.vmap(lambda one: one_body_force(system, one))(nodes)
        expected = rate(system, nodes) * nodes.mass[:, None]
        np.testing.assert_allclose(total + own, expected, rtol=1e-9, atol=1e-9)


def rotation(dim):
    """A rotation of all axes by some angles."""
    matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
    return matrix * np.linalg.det(matrix)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", [n for n, s in SYSTEMS.items() if s.edges is complete_edges])
def test_symmetries(name, dim):
    system = SYSTEMS[name]
    with jax.enable_x64(True):
        nodes = bodies(system, dim)
        of_system = functools.partial(rate, system)
        before = of_system(nodes)
        moved = of_system(nodes._replace(position=nodes.position + 7.0))
        np.testing.assert_allclose(moved, before, rtol=1e-9, atol=1e-12)
        order = np.array([2, 0, 3, 1])
        permuted = of_system(take_nodes(nodes, order))
        np.testing.assert_allclose(permuted, before[order], rtol=1e-9, atol=1e-12)
        turn = rotation(dim)
        turned = of_system(
            nodes._replace(position=nodes.position @ turn, velocity=nodes.velocity @ turn)
        )
        np.testing.assert_allclose(turned, before @ turn, rtol=1e-9, atol=1e-9)
        # Newton's third law: internal forces do not move the centre of mass.
        internal = before * nodes.mass[:, None] + system.drag * nodes.velocity
        np.testing.assert_allclose(jnp.sum(internal, axis=0), 0, atol=1e-9)


def test_drag_and_gravity_act_on_every_body():
    with jax.enable_x64(True):
        damped, spring = SYSTEMS["damped"], SYSTEMS["spring"]
        nodes = bodies(damped, 2)
        difference = rate(damped, nodes) - rate(spring, nodes)
        np.testing.assert_allclose(difference, -nodes.velocity / nodes.mass[:, None], rtol=1e-12)
        string = SYSTEMS["string"]
        nodes = bodies(string, 2)
        free = dataclasses.replace(string, one_body_potential=None)
        difference = rate(string, nodes) - rate(free, nodes)
        np.testing.assert_allclose(difference, np.tile([0.0, -1.0], (30, 1)), atol=1e-12)
        gravity = potential_energy(string, nodes) - potential_energy(free, nodes)
        np.testing.assert_allclose(gravity, jnp.sum(nodes.position[:, 1]), rtol=1e-9)


# Each at distance 2, where r is 2.01; masses 2 and 3, charges 1 and -1. Forces pull the
# receiver along +x (towards the sender) where they are positive.
KNOWN = {
    "spring": 2 * (2.01 - 1),
    "damped": 2 * (2.01 - 1),
    "r1": 6 / 2.01,
    "r2": 6 / 2.01**2,
    "charge": 1 / 2.01**2,
    "superposition": 7 / 2.01**2,
}


@pytest.mark.parametrize("name", KNOWN)
def test_forces_of_the_paper(name):
    receiver = at(0.0, 0.0, mass=2.0, charge=1.0)
    sender = at(2.0, 0.0, mass=3.0, charge=-1.0)
    force = pair_force(SYSTEMS[name], receiver, sender)
    np.testing.assert_allclose(force, [KNOWN[name], 0.0], rtol=1e-5)
    np.testing.assert_allclose(pair_force(SYSTEMS[name], sender, receiver), -force, rtol=1e-6)


def test_discontinuous_force_switches_on_beyond_two():
    system = SYSTEMS["discontinuous"]
    for r, expected in [(1.9, 0.0), (2.1, 2 * (2.1 + 0.01 - 1))]:
        force = pair_force(system, at(0.0, 0.0), at(r, 0.0))
        np.testing.assert_allclose(force, [expected, 0.0], rtol=1e-5, atol=1e-7)


def test_the_ball_pushes_out_what_is_inside():
    inside, outside = (at(5.0, y, mass=1.0) for y in (-12.0, -10.0))
    ball = SYSTEMS["string_ball"]
    # Depth 1 of a wall of 100 depth^2, against a weight of 1.
    np.testing.assert_allclose(one_body_force(ball, inside), [0.0, 199.0], rtol=1e-5)
    np.testing.assert_allclose(one_body_force(ball, outside), [0.0, -1.0], rtol=1e-6)


def test_softening_can_be_replaced():
    spring = SYSTEMS["spring"]
    assert pair_energy(spring, at(0.0), at(3.0), softening=0.0) == 4.0
    np.testing.assert_allclose(pair_energy(spring, at(0.0), at(3.0)), 2.01**2, rtol=1e-6)
    hard = true_forces(spring, *(take_nodes_of(x) for x in (0.0, 3.0)), softening=0.0)
    np.testing.assert_array_equal(hard, [[4.0]])


def take_nodes_of(x):
    return jax.tree.map(lambda leaf: leaf[None], at(x))


def test_kinetic_energy_and_sampler():
    nodes = sample_normal(jax.random.key(3), 5, 2)
    free = System("free", lambda r, i, j: 0.0 * r)
    expected = 0.5 * np.sum(np.asarray(nodes.mass) * np.sum(np.square(nodes.velocity), axis=1))
    np.testing.assert_allclose(energy(free, nodes), expected, rtol=1e-6)
    # A set without masses moves as unit masses do.
    expected = 0.5 * np.sum(np.square(nodes.velocity))
    np.testing.assert_allclose(energy(free, nodes._replace(properties={})), expected, rtol=1e-6)
    many = sample_normal(jax.random.key(3), 4000, 2)
    assert {*np.unique(many.charge)} == {-1.0, 1.0}
    # Moments of 4,000 normal numbers: errors of 1/63 and 1/90.
    for normal in (many.position, many.velocity, np.log(many.mass)):
        assert abs(np.mean(normal)) < 0.06 and abs(np.std(normal) - 1) < 0.05
    assert abs(np.mean(np.asarray(many.charge))) < 0.06
    assert not np.allclose(many.position, many.velocity)


def test_the_string_is_along_x():
    string = SYSTEMS["string"].sample(jax.random.key(0), 2000, 2)
    off = np.asarray(string.position[:, 0]) - np.arange(2000)
    # float32 near 2000 has steps of 1e-4; a deviation of 2,000 numbers errs by 1/60.
    assert abs(np.mean(off)) < 0.05 and abs(np.std(off) - 0.5) < 0.03
    assert np.all(string.mass == 1.0)


def test_starts_depend_on_their_numbers_alone():
    options = dict(system=SYSTEMS["spring"], num_nodes=3, dim=2)
    key = jax.random.key(7)
    many = sample_starts(key, np.arange(5), **options)
    alone = sample_starts(key, np.array([3]), **options)
    np.testing.assert_array_equal(many.position[3], alone.position[0])
    one = sample_normal(jax.random.fold_in(key, 3), 3, 2)
    # The same numbers, compiled otherwise.
    np.testing.assert_allclose(alone.position[0], one.position, rtol=1e-5, atol=1e-6)


def test_safe_norm_has_a_gradient_at_zero():
    assert np.array_equal(jax.grad(safe_norm)(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_allclose(safe_norm(jnp.array([3.0, 4.0])), 5.0)
    np.testing.assert_allclose(jax.grad(safe_norm)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


# Laws given by their forces: against a potential's, and beyond what potentials can.


def spring_force(displacement, receiver, sender):
    r = safe_norm(displacement)
    return 2 * (r - 1) * displacement / r


@pytest.mark.parametrize("edges", [complete_edges, chain_edges])
@pytest.mark.parametrize("cutoff", [None, 1.5])
def test_a_pair_force_is_as_good_as_its_potential(edges, cutoff):
    options = dict(softening=0.3, edges=edges, cutoff=cutoff)
    potential = System("spring", SYSTEMS["spring"].pair_potential, **options)
    force = System("spring", pair_force=spring_force, **options)
    with jax.enable_x64(True):
        nodes = bodies(potential, 3, num_nodes=5)
        np.testing.assert_allclose(rate(force, nodes), rate(potential, nodes), rtol=1e-9)


def chase(displacement, receiver, sender):
    """Receivers run after senders that are heavier and turn with their own velocity."""
    return jnp.where(sender.mass > receiver.mass, displacement, 0.0) + receiver.velocity[::-1]


@pytest.mark.parametrize("edges", [complete_edges, chain_edges])
def test_a_force_that_is_not_reciprocal(edges):
    system = System("chase", pair_force=chase, edges=edges)
    check_system(system, 4, 2)
    nodes = sample_normal(jax.random.key(0), 4, 2)
    expected = np.zeros((4, 2))
    for j, i in zip(*edges(4), strict=True):
        if nodes.mass[j] > nodes.mass[i]:
            expected[i] += nodes.position[j] - nodes.position[i]
        expected[i] += nodes.velocity[i][::-1]
    expected /= np.asarray(nodes.mass)[:, None]
    np.testing.assert_allclose(rate(system, nodes), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["potential", "force"])
def test_first_order_motion_has_no_mass(kind):
    laws = dict(
        potential=dict(pair_potential=lambda r, i, j: r**2 / 2),
        force=dict(pair_force=lambda displacement, i, j: displacement),
    )
    system = System("drift", order=1, one_body_potential=lambda one: one.position[0], **laws[kind])
    check_system(system, 4, 2)
    nodes = sample_normal(jax.random.key(0), 4, 2)
    towards = jnp.sum(nodes.position, axis=0) - 4 * nodes.position
    expected = towards - jnp.array([1.0, 0.0])
    np.testing.assert_allclose(rate(system, nodes), expected, rtol=1e-5, atol=1e-5)
    assert system.quantity.name == "velocity"
    if kind == "potential":
        np.testing.assert_allclose(energy(system, nodes), potential_energy(system, nodes))


def test_masses_divide_where_there_are_any():
    nodes = Nodes(jnp.array([[0.0], [2.99]]), jnp.zeros((2, 1)), {"mass": jnp.array([1.0, 4.0])})
    # The force is 2 (3 - 1) = 4.
    np.testing.assert_allclose(rate(SYSTEMS["spring"], nodes), [[4.0], [-1.0]], rtol=1e-5)
    np.testing.assert_allclose(
        rate(SYSTEMS["spring"], nodes._replace(properties={})), [[4.0], [-4.0]], rtol=1e-5
    )


def test_any_property_can_matter():
    system = System(
        "sizes",
        lambda r, i, j: i.radius * j.radius * r,
        sample=lambda key, n, dim: sample_normal(key, n, dim)._replace(
            properties={"radius": jnp.arange(1.0, n + 1)}
        ),
    )
    check_system(system, 3, 2)
    nodes = Nodes(jnp.array([[0.0], [1.0]]), None, {"radius": jnp.array([2.0, 3.0])})
    np.testing.assert_allclose(rate(system, nodes), [[6.0], [-6.0]])


# Periodic boxes and cutoffs.

BOX = Space((10.0, 8.0))


@pytest.mark.parametrize("kind", ["potential", "force"])
def test_forces_reach_through_the_faces_of_a_box(kind):
    laws = dict(
        potential=dict(pair_potential=SYSTEMS["spring"].pair_potential),
        force=dict(pair_force=spring_force),
    )
    system = System("box", space=BOX, **laws[kind])
    receiver, sender = at(0.5, 1.0), at(9.0, 1.0)
    # 1.5 apart through the face at x = 0: the force 2 (1.5 - 1) pulls to the left.
    np.testing.assert_allclose(pair_force(system, receiver, sender), [-1.0, 0.0], rtol=1e-5)
    nodes = Nodes(jnp.array([[0.5, 1.0], [9.0, 1.0]]), jnp.zeros((2, 2)), {})
    np.testing.assert_allclose(rate(system, nodes), [[-1.0, 0.0], [1.0, 0.0]], rtol=1e-5)
    shifted = nodes._replace(position=nodes.position + jnp.array([[20.0, -8.0], [0.0, 16.0]]))
    np.testing.assert_allclose(rate(system, shifted), rate(system, nodes), rtol=1e-4)
    if kind == "potential":
        np.testing.assert_allclose(potential_energy(system, nodes), 0.25, rtol=1e-5)


def test_beyond_the_cutoff_there_is_nothing():
    plain = System("plain", lambda r, i, j: -1 / r, softening=0.1)
    cut = dataclasses.replace(plain, cutoff=2.0)
    for r in (0.5, 1.9):
        pair = at(0.0, 0.0), at(r, 0.0)
        np.testing.assert_allclose(pair_force(cut, *pair), pair_force(plain, *pair))
        # The energy counts from its value at the cutoff: no jump there.
        expected = -1 / (r + 0.1) + 1 / 2.1
        np.testing.assert_allclose(pair_energy(cut, *pair), expected, rtol=1e-5)
    for r in (2.1, 5.0):
        assert np.array_equal(pair_force(cut, at(0.0, 0.0), at(r, 0.0)), [0.0, 0.0])
        assert pair_energy(cut, at(0.0, 0.0), at(r, 0.0)) == 0.0
    # The cutoff is of the distance, without the softening.
    assert pair_force(cut, at(0.0), at(1.95))[0] > 0
    by_force = System("cut", pair_force=lambda d, i, j: d, cutoff=2.0)
    assert pair_force(by_force, at(0.0), at(1.9))[0] > 0
    assert pair_force(by_force, at(0.0), at(2.1))[0] == 0


# Many bodies: the same sums in blocks, and by gathers.


def computed(system, nodes):
    """Rates, energy and its slope, compiled anew."""

    @jax.jit
    def compute(position):
        def potential(position):
            return forces.potential_energy(system, nodes._replace(position=position))

        here = nodes._replace(position=position)
        return forces.rate(system, here), *jax.value_and_grad(potential)(position)

    return compute(nodes.position)


def test_tables_of_pairs_and_blocks_of_receivers_change_nothing(monkeypatch):
    system = SYSTEMS["r2"]
    with jax.enable_x64(True):
        nodes = bodies(system, 2, num_nodes=7)
        listed = computed(system, nodes)
        for name, value in (("_LARGEST_PRODUCT", 0), ("PAIRS_AT_ONCE", 21)):
            monkeypatch.setattr(forces, name, value)
            for one, other in zip(listed, computed(system, nodes), strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-9)


@pytest.mark.parametrize("kind", ["potential", "force"])
def test_gathers_change_nothing(kind, monkeypatch):
    system = SYSTEMS["string"]
    if kind == "force":
        system = dataclasses.replace(system, pair_potential=None, pair_force=spring_force)
    with jax.enable_x64(True):
        nodes = bodies(system, 2)
        products = jax.jit(lambda nodes: forces.rate(system, nodes))(nodes)
        monkeypatch.setattr(forces, "_LARGEST_PRODUCT", 0)
        gathers = jax.jit(lambda nodes: forces.rate(system, nodes))(nodes)
        np.testing.assert_allclose(gathers, products, rtol=1e-12)


def test_complete_edges_by_any_name():
    own = dataclasses.replace(SYSTEMS["spring"], edges=lambda n: complete_edges(n))
    nodes = sample_normal(jax.random.key(0), 4, 2)
    assert forces.all_pairs(own, 4)
    np.testing.assert_allclose(rate(own, nodes), rate(SYSTEMS["spring"], nodes))
    np.testing.assert_allclose(
        potential_energy(own, nodes), potential_energy(SYSTEMS["spring"], nodes)
    )


def test_forces_have_gradients_though_a_body_is_no_distance_from_itself():
    nodes = sample_normal(jax.random.key(0), 4, 2)
    system = System("hard", lambda r, i, j: jnp.log(r))
    jacobian = jax.jit(jax.jacobian(lambda x: rate(system, nodes._replace(position=x))))
    jacobian = jacobian(nodes.position)
    assert np.all(np.isfinite(jacobian))
    assert np.isfinite(potential_energy(system, nodes))


# Errors.


def test_unknown_system_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown system 'sprng'. Did you mean 'spring'"):
        get_system("sprng")
    assert get_system("r1") is SYSTEMS["r1"]


def spring_like(**changes):
    return dataclasses.replace(SYSTEMS["spring"], **dict(name="mine") | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name=3), "The name of a system must be a str, got 3"),
        (dict(pair_potential=None), "either pair_potential or pair_force"),
        (dict(pair_force=spring_force), "either pair_potential or pair_force"),
        (dict(pair_potential=1.0), "pair_potential must be a function, got 1.0"),
        (dict(one_body_potential="V"), "one_body_potential must be a function"),
        (dict(edges=complete_edges(4)), "edges must be a function"),
        (dict(edges=None), "edges must be a function, got None"),
        (dict(sample=None), "sample must be a function, got None"),
        (dict(drag="1.0"), "drag must be a finite number of at least 0, got '1.0'"),
        (dict(drag=-1.0), "drag must be a finite number of at least 0, got -1.0"),
        (dict(drag=float("nan")), "drag must be a finite number"),
        (dict(drag=np.ones(3)), r"drag must be .* got an array of shape \(3,\)"),
        (dict(dt=0.0), "dt must be a finite number above 0, got 0.0"),
        (dict(dt=[0.1, 0.2]), "dt must be a finite number above 0"),
        (dict(dt=float("inf")), "dt must be a finite number"),
        (dict(softening=-0.1), "softening must be a finite number of at least 0"),
        (dict(dims=[2]), r"dims must be a tuple, e.g. \(2, 3\), got \[2\]"),
        (dict(dims=2), r"dims must be a tuple, e.g. \(2, 3\), got 2"),
        (dict(dims=()), "dims must be a tuple"),
        (dict(dims=(7,)), "each of dims must be at most 3, got 7"),
        (dict(dims=(2.0,)), "each of dims must be a whole number"),
        (dict(dims=(0,)), "each of dims must be a whole number of at least 1"),
        (dict(num_nodes=1), "num_nodes must be a whole number of at least 2, got 1"),
        (dict(num_nodes=4.0), "num_nodes must be a whole number"),
        (dict(order=3), "order must be 1 or 2, got 3"),
        (dict(order=True), "order must be 1 or 2, got True"),
        (dict(order="2"), "order must be 1 or 2, got '2'"),
        (dict(order=1, drag=1.0), "in first-order motion there is no drag, got 1.0"),
        (dict(space=(10.0, 10.0)), r"space must be a Space, got \(10.0, 10.0\). E.g. Space\(box"),
        (dict(cutoff=0.0), "cutoff must be a finite number above 0"),
        (dict(cutoff="2"), "cutoff must be a finite number"),
        (dict(space=BOX, cutoff=4.1), "cutoff 4.1 exceeds half of the smallest side of the box"),
    ],
)
def test_attributes_that_make_no_system(changes, message):
    with pytest.raises(ValueError, match=message):
        spring_like(**changes)


def test_a_law_must_be_hashable():
    @dataclasses.dataclass
    class Law:
        strength: float

        def __call__(self, r, receiver, sender):
            return self.strength * r

    with pytest.raises(ValueError, match="pair_potential must be hashable"):
        System("mine", Law(1.0))


def test_numbers_of_any_type_are_numbers():
    system = spring_like(drag=jnp.float32(0.5), dt=np.array(0.1), softening=0, cutoff=np.int64(3))
    assert (system.drag, system.dt, system.softening, system.cutoff) == (0.5, 0.1, 0.0, 3.0)
    assert isinstance(system.drag, float) and isinstance(system.softening, float)
    hash(system)


def sampler(function):
    """A sampler that changes what the usual one gives."""
    return lambda key, num_nodes, dim: function(sample_normal(key, num_nodes, dim))


def with_property(**properties):
    return sampler(lambda nodes: nodes._replace(properties=nodes.properties | properties))


def needs_numbers(key, num_nodes, dim):
    nodes = sample_normal(key, num_nodes, dim)
    return nodes if nodes.position[0, 0] > 100 else nodes._replace(properties={})


def edges_of(senders, receivers):
    return lambda n: (np.array(senders), np.array(receivers))


def branchy(r, receiver, sender):
    return r if r > 1 else 0.0


def hidden(r, receiver, sender):
    # Both branches of the where are differentiated: sqrt has no gradient at zero.
    return jnp.where(r < 2, jnp.sqrt(jnp.maximum(2 - r, 0.0)), 0.0)


@pytest.mark.parametrize(
    ("changes", "num_nodes", "dim", "message"),
    [
        ({}, 1, 2, "number of bodies must be a whole number of at least 2, got 1"),
        ({}, 4.0, 2, "number of bodies must be a whole number"),
        ({}, 4, 4, "2 or 3 dimensions, got dim=4"),
        ({}, 4, "2", "dim must be a whole number"),
        (dict(dims=(2,)), 4, 3, "defined in 2 dimensions, got dim=3"),
        (dict(space=BOX), 4, 3, r"box \(10.0, 8.0\) of system 'mine' has 2 sides, got dim=3"),
        # Potentials and forces.
        (
            dict(pair_potential=lambda r, i, j: i.position),
            4,
            2,
            r"pair potential .* must return one number per call, got an array of shape \(2,\)",
        ),
        (
            dict(pair_potential=lambda r, i, j: jnp.log(-r)),
            4,
            2,
            "The pair potential of .* is NaN or infinite for 12 of 12",
        ),
        (dict(pair_potential=lambda r, i, j: i.mass / r), 4, 2, "must be symmetric"),
        (
            dict(one_body_potential=lambda one: one.velocity),
            4,
            2,
            r"one-body potential .* must return one number .* write it for one body",
        ),
        (
            dict(one_body_potential=lambda one: one.mass / 0.0),
            4,
            2,
            "one-body potential of system 'mine' is NaN or infinite",
        ),
        (
            dict(pair_potential=None, pair_force=lambda d, i, j: d[0]),
            4,
            2,
            r"pair force .* must return a vector of shape \(2,\) per call, got .* \(\)",
        ),
        (
            dict(pair_potential=None, pair_force=lambda d, i, j: d / 0.0),
            4,
            2,
            "The force of system 'mine' is NaN or infinite for 12 of 12",
        ),
        (
            dict(pair_potential=None, pair_force=lambda d, i: d),
            4,
            2,
            r"The pair force of .* failed with TypeError.* called as fn\(displacement, receiver",
        ),
        (dict(pair_potential=branchy), 4, 2, "TracerBoolConversionError.*jnp.where"),
        (dict(pair_potential=hidden), 4, 2, "gradient of a potential.*both branches"),
        (dict(pair_potential=lambda r, i, j: i.size * r), 4, 2, "no property 'size'; they have"),
        # Samplers.
        (dict(sample=with_property(mass=-jnp.ones(4))), 4, 2, "must be positive"),
        (dict(sample=with_property(mass=jnp.full(4, jnp.nan))), 4, 2, "mass from the sampler"),
        (dict(sample=with_property(mass=jnp.ones(3))), 4, 2, r"mass .* must have shape \(4,\)"),
        (dict(sample=with_property(m=jnp.ones(4))), 4, 2, "cannot be called 'm'"),
        (
            dict(sample=lambda key, n, dim: sample_normal(key, n - 1, dim)),
            4,
            2,
            r"gave positions of shape \(3, 2\), expected \(4, 2\)",
        ),
        (
            dict(sample=sampler(lambda x: x._replace(position=None))),
            4,
            2,
            "positions of shape None",
        ),
        (dict(sample=sampler(lambda x: x._replace(velocity=None))), 4, 2, "gave no velocities"),
        (
            dict(sample=sampler(lambda x: x._replace(position=x.position * 1j))),
            4,
            2,
            "real numbers",
        ),
        (dict(sample=sampler(lambda x: x._replace(properties=x.mass))), 4, 2, "must be a dict"),
        (dict(sample=sampler(tuple)), 4, 2, "sampler of system 'mine' gives must be a Nodes"),
        (dict(sample=lambda key: None), 4, 2, "The sampler of system .* TypeError"),
        (
            dict(sample=lambda key, n, dim: sample_normal(jax.random.key(0), n, dim)),
            4,
            2,
            "gives the same bodies for every key",
        ),
        (dict(sample=needs_numbers), 4, 2, "sampler .* TracerBoolConversionError.*jax.jit"),
        # Edges.
        (dict(edges=lambda n: 1 / 0), 4, 2, "The edges of system .* ZeroDivisionError"),
        (dict(edges=lambda n: np.ones((5, 2), int)), 4, 2, r"edges .* called as fn\(num_nodes\)"),
        (dict(edges=edges_of([0], [1])), 4, 2, "edges of system 'mine' are wrong.*both directions"),
        (dict(edges=edges_of([0.0, 1.0], [1.0, 0.0])), 4, 2, "whole numbers"),
        (dict(edges=lambda n: (np.array([], int),) * 2), 4, 2, "no edges"),
        (dict(edges=edges_of([0, 1], [1])), 4, 2, "one shape"),
        (dict(edges=edges_of([0, 1, 0], [1, 0, 1])), 4, 2, "more than once"),
        (dict(edges=edges_of([0, 9], [9, 0])), 4, 2, "outside 0 to 3"),
        (dict(edges=edges_of([1], [1])), 4, 2, "with itself"),
    ],
)
def test_bad_systems(changes, num_nodes, dim, message):
    with pytest.raises(ValueError, match=message):
        check_system(spring_like(**changes), num_nodes, dim)


def test_a_potential_is_symmetric_to_float32():
    """Shares of the largest energy by which an exchange may change one: rounding, no more."""
    energy = np.array([0.01, -100.0, 3.0])
    for change, symmetric in ((1e-3, True), (-1e-3, True), (0.1, False), (-0.1, False)):
        found = dict(energy=energy, exchanged=energy + np.array([change, 0.0, 0.0]))
        with (
            contextlib.nullcontext() if symmetric else pytest.raises(ValueError, match="symmetric")
        ):
            checking._check_values(SYSTEMS["spring"], found)


def test_one_component_that_is_not_a_number_is_one_too_many():
    force = np.ones((3, 2))
    force[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite for 1 of 3 sampled pairs"):
        checking._check_values(SYSTEMS["spring"], dict(force=force))


def test_what_is_no_system():
    with pytest.raises(ValueError, match="system must be a System, got 'spring'. See get_system"):
        check_system("spring", 4, 2)
    with pytest.raises(ValueError, match="no potential energy: it is given by a pair force"):
        potential_energy(
            System("mine", pair_force=spring_force), sample_normal(jax.random.key(0), 3, 2)
        )
    with pytest.raises(ValueError, match=r"must be a Nodes, got \(1, 2\)"):
        forces.rate(SYSTEMS["spring"], (1, 2))


def test_edges_may_be_lists_and_one_way_in_first_order():
    lists = spring_like(edges=lambda n: ([0, 1], [1, 0]))
    check_system(lists, 3, 2)
    nodes = sample_normal(jax.random.key(0), 3, 2)
    assert np.all(rate(lists, nodes)[2] == 0) and np.all(rate(lists, nodes)[0] != 0)
    leader = dict(pair_potential=None, pair_force=lambda d, i, j: d, edges=edges_of([0], [1]))
    follow = spring_like(order=1, **leader)
    check_system(follow, 2, 2)
    np.testing.assert_array_equal(rate(follow, nodes)[0], 0)
    with pytest.raises(ValueError, match="both directions"):
        check_system(spring_like(**leader), 2, 2)


def test_leapfrog_needs_forces_of_positions():
    check_system(SYSTEMS["spring"], 4, 2, "symplectic")
    check_system(System("mine", pair_force=spring_force), 4, 2, "symplectic")
    check_system(System("mine", pair_force=chase), 4, 2, "adaptive")
    with pytest.raises(ValueError, match='depend on velocities.*use solver="adaptive"'):
        check_system(System("mine", pair_force=chase), 4, 2, "symplectic")
    with pytest.raises(ValueError, match="'damped' has drag"):
        check_system(SYSTEMS["damped"], 4, 2, "symplectic")
    with pytest.raises(ValueError, match="of first order"):
        check_system(spring_like(order=1), 4, 2, "symplectic")


def test_many_bodies_are_checked_on_some_pairs():
    check_system(SYSTEMS["spring"], 1000, 2)
    check_system(SYSTEMS["string"], 1000, 2)
    with pytest.raises(ValueError, match="NaN or infinite for 1024 of 1024"):
        check_system(spring_like(pair_potential=lambda r, i, j: jnp.log(-r)), 1000, 2)


def test_load_system(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def cubic(r, receiver, sender):\n    return r**3\n")
    system = load_system(f"{file}:cubic")
    assert system.name == "cubic"
    check_system(system, 3, 2)
    with pytest.raises(ValueError, match="defines no System and no pair potential .* 'system'"):
        load_system(str(file))
    with pytest.raises(ValueError, match="Cannot read a system"):
        load_system(str(tmp_path / "none.py"))
    file.write_text(
        "from symjax_gn.physics.systems import System\n"
        "system = System('cubic', lambda r, i, j: r**3, dt=0.5)\n"
    )
    assert load_system(str(file)).dt == 0.5


@pytest.mark.parametrize("path", ["mine", "mine.txt", "mine.pyc", ""])
def test_a_file_that_is_no_python(path):
    with pytest.raises(ValueError, match="given as FILE.py or FILE.py:NAME"):
        load_system(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def cubic(r, receiver, sender)\n    return r**3\n", "broken.py failed with SyntaxError"),
        ("raise SystemExit(3)", "broken.py failed with SystemExit: 3"),
        ("system = 3", "defines no System"),
    ],
)
def test_a_file_that_fails_says_so(text, message, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_system(str(file))

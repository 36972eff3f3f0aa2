import dataclasses

import jax
import numpy as np
import pytest
import sympy

from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import take
from symjax_gn.discovery.distillation import VectorLaw
from symjax_gn.discovery.energies import refitted_potential
from symjax_gn.discovery.refitting import law_accelerations, law_error, refit
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.fronts import to_front
from symjax_gn.physics.simulation import simulate
from symjax_gn.physics.systems import SYSTEMS

NAMES = "dx dy r m_i m_j vx_i vy_i"
DX, DY, R, MI, MJ, VX, VY = sympy.symbols(NAMES)
LAWS = {
    "r1": ([MI * MJ * x / (R * (R + 0.01)) for x in (DX, DY)], [sympy.Integer(0)] * 2),
    "damped": ([2 * (R - 0.99) * x / R for x in (DX, DY)], [-VX, -VY]),
    "string": ([2 * (R - 0.99) * x / R for x in (DX, DY)], [sympy.Integer(0), -MI]),
}


def simulated(system, **options):
    """Motion that does not matter, by the solver that is the quickest to compile."""
    return simulate(jax.random.key(0), system, solver="midpoint", **options)


@pytest.mark.parametrize(
    ("name", "num_nodes"), [("r1", 4), ("r1", 8), ("damped", 3), ("string", 5)]
)
def test_the_true_laws_give_the_accelerations(name, num_nodes):
    system = SYSTEMS[name]
    run = simulated(system, num_nodes=num_nodes, num_simulations=5, num_outputs=5)
    dataset = make_dataset(run, *system.edges(num_nodes))
    found = law_accelerations(*LAWS[name], dataset)
    # The simulator's accelerations are float32.
    np.testing.assert_allclose(found, dataset.target, rtol=1e-3, atol=1e-3)
    error, size = law_error(*LAWS[name], dataset)
    assert error < 1e-4 * size


def test_a_law_that_is_not_finite_has_infinite_error():
    run = simulated(SYSTEMS["spring"], num_simulations=3, num_outputs=3)
    law = [sympy.log(-R), sympy.log(-R)]
    assert law_error(law, [sympy.Integer(0)] * 2, make_dataset(run))[0] == np.inf


NOTHING = (sympy.Integer(0),) * 2


def with_position(dataset, position):
    nodes = dataset.nodes._replace(position=position)
    return dataclasses.replace(dataset, graphs=dataset.graphs._replace(nodes=nodes))


def picked(force, one_body=NOTHING, scalar=None):
    """Laws as a regression leaves them."""
    if scalar is not None:
        force = [scalar * x / R for x in (DX, DY)]
    form = "components" if scalar is None else "central"
    law = VectorLaw(form, tuple(force), scalar)
    return law, VectorLaw("none", tuple(one_body))


@pytest.fixture(scope="module")
def damped():
    run = simulated(SYSTEMS["damped"], num_simulations=20, num_outputs=20)
    return make_dataset(run)


def test_a_refit_finds_the_constants_of_all_laws(damped):
    drag = [-sympy.Float(0.9) * v for v in (VX, VY)]
    scalar = sympy.Float(1.9) * R - sympy.Float(1.7)
    for laws in (picked((), drag, scalar), picked(picked((), drag, scalar)[0].components, drag)):
        found = refit(*laws, damped)
        assert found.error < 1e-4 < found.error_before
        assert found.distance == R
        at = {DX: 3.0, DY: 0.0, R: 3.0, VX: 0.0, VY: 2.0}
        # The simulator's accelerations are float32.
        assert float(found.force[0].subs(at)) == pytest.approx(2 * 2.01, rel=1e-4)
        assert float(found.one_body[1].subs(at)) == pytest.approx(-2.0, rel=1e-4)
        assert (found.scalar is None) == (found.towards is None) == (laws[0].scalar is None)


def test_a_refit_finds_the_softening_that_close_encounters_show():
    run = simulated(SYSTEMS["r1"], num_simulations=100, num_outputs=20)
    dataset = make_dataset(run)
    found = refit(*picked((), scalar=MI * MJ / R), dataset)
    # The system adds 0.01 to the distance; its accelerations are float32.
    assert float(found.distance.subs(R, 0)) == pytest.approx(0.01, rel=1e-3)
    assert found.distance.is_Add
    assert found.scalar == MI * MJ / R
    before, _ = law_error([MI * MJ * x / R**2 for x in (DX, DY)], NOTHING, dataset)
    assert law_error(found.force, found.one_body, dataset)[0] < 1e-4 * before
    pairs = dict(r=np.linspace(0.01, 3.0, 9), m_i=np.ones(9), m_j=np.ones(9))
    potential = refitted_potential(found, pairs)
    for r in (0.02, 2.0):
        at = {R: r, MI: 1.5, MJ: 0.7}
        slope = float(sympy.diff(potential, R).subs(at))
        assert slope == pytest.approx(float(found.towards.subs(at)), rel=1e-6)
    # Plummer's softening is told from this one.
    c = 0.05
    plummer = [MI * MJ * x / (R**2 + c**2) for x in (DX, DY)]
    force = law_accelerations(plummer, NOTHING, dataset)
    found = refit(*picked((), scalar=MI * MJ / R), dataclasses.replace(dataset, target=force))
    assert float(found.distance.subs(R, 0)) == pytest.approx(c, rel=1e-3)
    assert not found.distance.is_Add
    assert sympy.simplify(found.force[0] / plummer[0]).subs({R: 2.0}) == pytest.approx(1, rel=1e-3)


def test_a_refit_leaves_alone_what_it_cannot_better(damped):
    exact = picked((), [-VX, -VY], 2 * (R - sympy.Rational(99, 100)))
    found = refit(*exact, damped)
    assert found.distance == R
    assert found.force == exact[0].components
    assert found.error == found.error_before < 1e-4
    pairs = dict(r=np.linspace(0.01, 3.0, 9))
    potential = refitted_potential(found, pairs)
    assert sympy.expand(potential) == R**2 - sympy.Rational(99, 50) * R
    # A potential that is not real where the pairs are is none.
    root = found._replace(scalar=sympy.sqrt(R - 1))
    assert refitted_potential(root, dict(r=pairs["r"] + 1)) is not None
    assert refitted_potential(root, pairs) is None
    wrong = picked((), [-VX, -VY], sympy.Float(2.0) * R + sympy.log(-R))
    assert refit(*wrong, damped).error == np.inf
    assert refitted_potential(refit(*picked([DX, DY]), take(damped, np.arange(5))), pairs) is None


def test_held_out_data_choose_among_the_laws_of_a_front(damped):
    """The score may have picked too short a law, or too long a one."""
    drag = [-sympy.Float(0.9) * v for v in (VX, VY)]
    short, right = sympy.Float(1.5) * R, sympy.Float(1.9) * R - sympy.Float(1.7)
    long = right + sympy.Float(0.01) * sympy.exp(-R)
    rows = [(complexity(one), 1.0 / 4**k, one) for k, one in enumerate((short, right, long))]
    front = to_front(rows)
    halves = [take(damped, damped.group % 2 == k) for k in range(2)]
    for picked_first in (short, long):
        law, alone = picked((), drag, picked_first)
        law = law._replace(fronts=(front,))
        found = refit(law, alone, halves[0], validation=halves[1])
        assert found.error < 1e-4
        assert float(found.scalar.subs(R, 3.0)) == pytest.approx(2 * 2.01, rel=1e-4)
        assert complexity(found.scalar) == complexity(right)
    components = picked([short * x / R for x in (DX, DY)], drag)[0]
    fronts = [to_front([(3, 1.0, short * x / R), (9, 0.1, right * x / R)]) for x in (DX, DY)]
    found = refit(components._replace(fronts=tuple(fronts)), alone, *halves[:1])
    better = refit(
        components._replace(fronts=tuple(fronts)), alone, halves[0], validation=halves[1]
    )
    assert better.error < found.error


@pytest.mark.parametrize("softening", [0.0, 5e-11])
def test_a_refit_in_any_units(softening):
    """Lengths of 1e-9 and a constant of 2e-20, of which a fixed step would see nothing."""
    run = simulated(SYSTEMS["r1"], num_simulations=100, num_outputs=5)
    dataset = make_dataset(run)
    position = 1e-9 * np.asarray(dataset.nodes.position, np.float64)
    dataset = with_position(dataset, position)
    true = sympy.Float(2e-20) * MI * MJ / (R + softening) ** 2
    force = law_accelerations([true * x / R for x in (DX, DY)], NOTHING, dataset)
    dataset = dataclasses.replace(dataset, target=force)
    found = refit(*picked((), scalar=sympy.Float(2.1e-20) * MI * MJ / R**2), dataset)
    assert float(found.scalar.subs({MI: 1, MJ: 1, R: 1})) == pytest.approx(2e-20, rel=1e-4, abs=0)
    # Data without softening must not be given one.
    assert float(found.distance.subs(R, 0)) == pytest.approx(softening, rel=1e-3, abs=1e-15)


def test_coincident_bodies_have_no_say_in_a_refit(damped):
    position = np.array(damped.nodes.position)
    position[::3, 1] = position[::3, 0]
    together = with_position(damped, position)
    drag = [-sympy.Float(0.9) * v for v in (VX, VY)]
    laws = picked((), drag, sympy.Float(1.9) * R - sympy.Float(1.7))
    assert refit(*laws, together).error < 1e-4
    position[:] = position[:, :1]
    with pytest.raises(ValueError, match="All graphs have coincident bodies"):
        refit(*laws, with_position(damped, position))


def test_bad_laws(damped):
    with pytest.raises(ValueError, match="2 dimensions need as many laws of each kind: got 1"):
        law_error([DX], NOTHING, damped)
    with pytest.raises(ValueError, match="The law needs m_k of the nodes"):
        law_error([DX, sympy.Symbol("m_k")], NOTHING, damped)
    law, alone = picked([DX, DY])
    with pytest.raises(ValueError, match='gauge="influence"'):
        refit(law._replace(gauge="messages"), alone, damped)


def test_a_refit_moves_thresholds():
    run = simulated(SYSTEMS["discontinuous"], num_simulations=200, num_outputs=20)
    dataset = make_dataset(run)
    r, c = sympy.Symbol("r"), sympy.Float(1.97)
    scalar = (sympy.Float(1.95) * r - sympy.Float(1.9)) * sympy.Heaviside(r - c)
    found = refit(*picked((), scalar=scalar), dataset)
    (step,) = found.scalar.atoms(sympy.Heaviside)
    # 20,000 pairs, the grid's steps are of 2e-3 / 20.
    assert float(sympy.solve(step.args[0], r)[0]) == pytest.approx(1.99, abs=1e-3)
    at = {R: 3.0, DX: 3.0}
    assert float(found.force[0].subs(at)) == pytest.approx(2 * 2.01, rel=1e-3)
    assert found.error < 0.01 * found.error_before


def test_constants_of_a_law_and_its_softening_do_not_merge():
    """exp(-(r + c)) (r + c + 1) is exp(-c) exp(-r) (r + 1 + c) to SymPy."""
    run = simulated(SYSTEMS["r1"], num_simulations=100, num_outputs=20)
    dataset = make_dataset(run)

    def screened(a, b, s):
        return a * MI * MJ * sympy.exp(-s) * (s + b) / s**2

    true = screened(1, 1, R + 0.05)
    force = law_accelerations([true * x / R for x in (DX, DY)], NOTHING, dataset)
    start = screened(sympy.Float(1.02), sympy.Float(0.97), R)
    found = refit(*picked((), scalar=start), dataclasses.replace(dataset, target=force))
    assert float(found.distance.subs(R, 0)) == pytest.approx(0.05, rel=1e-3)
    for r in (0.1, 1.0, 3.0):
        at = {MI: 1.3, MJ: 0.8, R: r, DX: r, DY: 0.0}
        expected = float(true.subs(at))
        assert float(found.towards.subs(at)) == pytest.approx(expected, rel=1e-4)
        assert float(found.force[0].subs(at)) == pytest.approx(expected, rel=1e-4)
        assert float(found.scalar.subs(at | {R: r + 0.05})) == pytest.approx(expected, rel=1e-3)


def test_a_constant_that_may_as_well_be_zero_is(damped):
    """A search takes the softening for r (r + 0.02); with the softening there is no 0.02."""
    run = simulated(SYSTEMS["r2"], num_simulations=100, num_outputs=20)
    dataset = make_dataset(run)
    found = refit(*picked((), scalar=MI * MJ / (R * (R + sympy.Float(0.0201)))), dataset)
    assert found.scalar == MI * MJ / R**2
    assert float(found.distance.subs(R, 0)) == pytest.approx(0.01, rel=1e-3)
    drag = [-sympy.Float(0.9) * v for v in (VX, VY)]
    scalar = sympy.Float(1.9) * R - sympy.Float(1.7) + sympy.Float(0.01) / R
    found = refit(*picked((), drag, scalar), damped)
    assert not found.scalar.has(1 / R)

import jax
import numpy as np
import pytest
import sympy

from symjax_gn.graphs import make_dataset
from symjax_gn.simulate import simulate
from symjax_gn.symbolic import law_accelerations, law_error
from symjax_gn.systems import SYSTEMS

NAMES = "dx dy r m_i m_j vx_i vy_i"
DX, DY, R, MI, MJ, VX, VY = sympy.symbols(NAMES)
LAWS = {
    "r1": ([MI * MJ * x / (R * (R + 0.01)) for x in (DX, DY)], [sympy.Integer(0)] * 2),
    "damped": ([2 * (R - 0.99) * x / R for x in (DX, DY)], [-VX, -VY]),
    "string": ([2 * (R - 0.99) * x / R for x in (DX, DY)], [sympy.Integer(0), -MI]),
}


@pytest.mark.parametrize(
    ("name", "num_nodes"), [("r1", 4), ("r1", 8), ("damped", 3), ("string", 5)]
)
def test_the_true_laws_give_the_accelerations(name, num_nodes):
    system = SYSTEMS[name]
    run = simulate(jax.random.key(0), system, num_nodes=num_nodes, num_simulations=5, num_outputs=5)
    dataset = make_dataset(run, *system.edges(num_nodes))
    found = law_accelerations(*LAWS[name], dataset)
    # The simulator's accelerations are float32.
    np.testing.assert_allclose(found, dataset.acceleration, rtol=1e-3, atol=1e-3)
    error, size = law_error(*LAWS[name], dataset)
    assert error < 1e-4 * size


def test_a_law_that_is_not_finite_has_infinite_error():
    run = simulate(jax.random.key(0), SYSTEMS["spring"], num_simulations=3, num_outputs=3)
    law = [sympy.log(-R), sympy.log(-R)]
    assert law_error(law, [sympy.Integer(0)] * 2, make_dataset(run))[0] == np.inf

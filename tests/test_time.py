"""Laws that change in time: what they need, how they move bodies, and whether they are found."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest
import sympy

import symjax_gn as sgn
from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import take, with_time
from symjax_gn.data.sampling import sample_pairs
from symjax_gn.discovery.acceptance import Known, State
from symjax_gn.discovery.exponents import factored
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.structure import QUICK, find_structure
from symjax_gn.discovery.terms import force_law, make_term, pair_vectors
from symjax_gn.laws.bound import predict
from symjax_gn.laws.law import Factor, Term
from symjax_gn.laws.samples import gather, reweighted
from symjax_gn.laws.shapes import Formula, Grid, R

TIME = sympy.Symbol("time")
DX, DY, E0, E1 = sympy.symbols("dx dy e_0 e_1")
SWINGING = sgn.SymbolicModel(
    ((R - 1) * sympy.cos(2 * TIME) * DX / R, (R - 1) * sympy.cos(2 * TIME) * DY / R),
    (E0 + sympy.sin(3 * TIME), E1),
)


def start(count=3, seed=0):
    """Some bodies at rest."""
    place = np.random.default_rng(seed).normal(size=(count, 2))
    return {"position": place, "velocity": np.zeros((count, 2))}


def recorded(law, sims=40, times=26):
    """Recordings of four bodies that a law moves."""
    rng = np.random.default_rng(1)
    place = rng.normal(size=(sims, 4, 2))
    bodies = {"position": place, "velocity": 0.5 * rng.normal(size=place.shape)}
    return law.simulate(bodies, np.linspace(0, 4, times))


def test_a_body_that_the_time_drives_moves_as_it_should():
    law = sgn.SymbolicModel((0 * DX, 0 * DY), (E0 + sympy.sin(3 * TIME), E1))
    times = np.linspace(1.0, 4.0, 13)
    run = law.simulate(start(1), times)
    first = start(1)["position"][0, 0]
    late = times - 1
    exact = first + late * np.cos(3) / 3 - (np.sin(3 * times) - np.sin(3)) / 9
    # The solver's tolerance is 1e-7 a step.
    np.testing.assert_allclose(run.position[0, :, 0, 0], exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run.target[0, :, 0, 0], np.sin(3 * times), atol=1e-12)
    assert run.properties == {}


def test_all_data_that_know_their_time_give_it_to_a_law():
    run = SWINGING.simulate(start(), np.linspace(1.0, 3.0, 9))
    np.testing.assert_allclose(SWINGING.predict(run), run.target, atol=1e-9)
    data = make_dataset(run)
    np.testing.assert_allclose(SWINGING.predict(data), run.target[0], atol=1e-9)
    assert "time" not in data.nodes.properties
    # One graph is of one moment, which is known all the same.
    np.testing.assert_allclose(SWINGING.predict(take(data, [4])), run.target[0, 4:5], atol=1e-9)
    moved = {"position": run.position[0, 4], "time": run.time[4]}
    np.testing.assert_allclose(SWINGING.predict(moved), run.target[0, 4], atol=1e-9)
    pair = SWINGING({"position": [0.0, 0.0], "time": 1.0}, {"position": [0.0, 2.0]})
    np.testing.assert_allclose(pair, [0, np.cos(2)], atol=1e-15)
    np.testing.assert_allclose(SWINGING(r=2.0, time=1.0)[0], np.cos(2))


def test_a_law_says_that_it_needs_the_time():
    with pytest.raises(ValueError, match="The law needs time of the nodes, which have: position"):
        SWINGING.predict({"position": start()["position"]})
    with pytest.raises(ValueError, match="got r, so that time must be added"):
        SWINGING(r=2.0)


def test_a_graph_has_one_moment():
    data = with_time(make_dataset(SWINGING.simulate(start(), np.linspace(0.0, 1.0, 9))))
    assert np.array_equal(data.nodes.time[:, 0], data.time)
    assert with_time(data) is data
    ages = data.nodes.time + np.arange(3)
    nodes = data.nodes._replace(properties={"time": ages})
    wrong = dataclasses.replace(data, graphs=data.graphs._replace(nodes=nodes))
    with pytest.raises(ValueError, match="differs between bodies of one graph.*rename it"):
        sgn.discover(jax.random.key(0), wrong)


def test_pairs_and_samples_know_their_moment_where_there_are_several():
    data = make_dataset(recorded(SWINGING, 2, 9))
    receiver, sender, graph, _ = sample_pairs(jax.random.key(0), data, 20)
    assert np.array_equal(receiver.time, np.asarray(data.time)[graph])
    assert np.array_equal(receiver.time, sender.time)
    samples = gather(data, 100)
    assert np.ptp(samples.owners["time"]) > 0
    assert {name for name in samples.elements if "time" in name} == {"time"}
    still = dataclasses.replace(data, time=0 * np.asarray(data.time))
    assert "time" not in gather(still, 100).owners


@pytest.fixture(scope="module")
def springs():
    """Pairs of springs that swing, and of others to choose by."""
    data = make_dataset(recorded(SWINGING))
    half = np.arange(len(data)) < len(data) // 2
    return [gather(take(data, part), 4_000) for part in (half, ~half)]


def test_terms_that_change_in_time_are_found(springs):
    found = find_structure(*springs, QUICK)
    law = found.state.law
    (pair,), (_, alone) = law.message, law.update
    assert {one.variable for one in pair.factors} == {R, TIME}
    assert alone.along == (1, 0) and alone.factors[0].variable == TIME
    # Splines of as many pieces as the data allow.
    assert found.error < 1e-3


def test_functions_that_multiply_each_other_are_fitted_whatever_their_average(springs, monkeypatch):
    """A force that is nothing on average tells nothing of how it depends on the distance alone."""
    term = make_term(pair_vectors(springs[0].elements, 2)[0], sympy.Integer(1))
    swing = Factor(TIME, Formula(sympy.cos(np.pi * R)))
    true = force_law([term._replace(factors=(Factor(R, Formula(R - 1.0)), swing))], (), 2)
    several = []
    for one in springs:
        exact = predict(true, one)
        several.append(reweighted(one._replace(target=exact), exact))
    law = force_law([term._replace(factors=(Factor(R, Grid(14)), Factor(TIME, Grid(14))))], (), 2)
    first = Fits(*several)(law)
    # Splines of 14 pieces, of two periods.
    assert first.error < 2e-3
    # What was fitted to other data is where fits start, not what terms would be alone.
    monkeypatch.setattr(Fits, "_started", None)
    finer = law.with_shapes([Grid(14), Grid(28)])
    assert Fits(*several, near=first.law)(finer).error < 0.5 * first.error


def test_functions_of_any_property_and_of_the_time_are_offered():
    """Of the receiver's, the sender's, or both, and of the moment."""
    rng = np.random.default_rng(0)
    names = ("m_i", "m_j", "q_i", "q_j", "time", "r")
    columns = {name: rng.uniform(1, 2, 50) for name in names}
    data = types.SimpleNamespace(elements=columns, owners={"m_i": columns["m_i"]})
    fits: Any = types.SimpleNamespace(train=data, promised=lambda law: 0.0)
    pair = Term((DX / R, DY / R), (Factor(R, Grid(14)),), sympy.Symbol("m_i") * sympy.Symbol("q_j"))
    found: Any = types.SimpleNamespace(error=1.0)
    state = State(force_law([pair], (), 2), found)
    laws = list(factored(state, Known(fits, None)))
    own = [tuple(str(one.variable) for one in law.message[0].factors[1:]) for law in laws]
    assert set(own) == {
        ("m_i",), ("m_j",), ("m_i", "m_j"), ("q_i",), ("q_j",), ("q_i", "q_j"), ("time",),
    }  # fmt: skip
    # What functions are of has no part in the coupling any more.
    assert all(law.is_proper for law in laws)


def test_a_law_that_changes_in_time_is_found_and_believed():
    found = sgn.discover(
        jax.random.key(0), recorded(SWINGING, 40, 41), settings=sgn.Settings(route="data")
    )
    assert found.certificate.says == "believe"
    expected = sympy.cos(2 * TIME) * (R - 1)
    assert sympy.simplify(found.law.message[0] * R / DX - expected) == 0
    assert sympy.simplify(found.law.update[0] - E0 - sympy.sin(3 * TIME)) == 0

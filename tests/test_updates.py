"""Sums of forces within a function: of their length, of the body, of another sum."""

import dataclasses

import numpy as np
import pytest
import sympy

from symjax_gn import reading
from symjax_gn.data.building import make_dataset
from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.discovery import factoring, formulas
from symjax_gn.discovery.acceptance import Known, State, search
from symjax_gn.discovery.exponents import freed
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.moves import SIMPLER, regridded
from symjax_gn.discovery.objective import OnFormulas
from symjax_gn.discovery.proposals import Candidates
from symjax_gn.discovery.refitting import force_model
from symjax_gn.discovery.terms import force_law, make_term, pair_vectors
from symjax_gn.discovery.updates import within_a_function
from symjax_gn.discovery.verdict import Verdict
from symjax_gn.laws.bound import bind
from symjax_gn.laws.law import Factor, Law, Term, sum_symbols
from symjax_gn.laws.least_squares import fitted, mean_size
from symjax_gn.laws.samples import gather, reweighted, some_owners
from symjax_gn.laws.shapes import Formula, Grid
from symjax_gn.report.plots import pair_forces

R, MI, MJ, VI = sympy.symbols("r m_i m_j v_i")
E0, E1, E2 = sum_symbols(3)
LENGTH = sympy.sqrt(E0**2 + E1**2)


def mond(force, velocity, others):
    return force / np.sqrt(1 + np.sum(force**2, axis=-1, keepdims=True))


def limited(force, velocity, others):
    return force * (1 - 0.1 * np.sum(velocity**2, axis=-1, keepdims=True))


def shared(force, velocity, others):
    return force / others[..., None]


def dataset(became, seed=0, sims=60, moments=10, bodies=5):
    """Bodies anywhere that pull at each other by m m / (r + 0.3)^2, within a function."""
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, sims, moments, bodies, 2))
    mass = rng.uniform(0.5, 2.0, size=(sims, bodies))
    way = x[:, :, None] - x[:, :, :, None]
    r = np.linalg.norm(way, axis=-1) + np.eye(bodies)
    other = 1 - np.eye(bodies)
    size = other * mass[:, None, :, None] * mass[:, None, None] / (r + 0.3) ** 2 / r
    force = np.sum(size[..., None] * way, axis=3)
    sums = np.sum(other * np.exp(-r), axis=3)
    a = became(force, v, sums) / mass[:, None, :, None]
    return make_dataset(trajectory_from_arrays(0.1 * np.arange(moments), x, v, a, mass=mass))


def bodies(data, groups) -> list:
    parts = [take(data, np.isin(np.asarray(data.group), one)) for one in groups]
    gathered = [gather(part, 10**6) for part in parts]
    return [reweighted(one, one.target) for one in gathered]


@pytest.mark.parametrize(
    ("became", "variable"),
    [(mond, LENGTH), (limited, VI), pytest.param(shared, E2, marks=pytest.mark.slow)],
    ids=["length", "speed", "sum"],
)
def test_sums_within_a_function_are_found(monkeypatch, became, variable):
    """Whatever a network says, and among other couplings than the true one."""
    train, valid = bodies(dataset(became), [range(40), range(40, 60)])
    ways = [MI * MJ, sympy.Integer(1), MI + MJ]
    state, steps = limited_law(monkeypatch, ways, ways[2], train, valid)
    (force, *others), (whole,) = state.law.message, state.law.update
    assert force.coupling == MI * MJ and len(others) == (variable == E2)
    assert [one.variable for one in whole.factors] == [variable]
    # Splines of two unknown functions at once, of some 2,000 accelerations.
    assert state.found.error < 0.02 and "within_a_function" in [one.move for one in steps]


def limited_law(monkeypatch, ways, first, train, valid):
    """What is found from a term with one coupling, where others are candidates."""
    line = pair_vectors(train.elements, 2)[0]
    terms = [make_term(line, way) for way in ways]
    monkeypatch.setattr(Candidates, "pairs", lambda *_: terms)
    candidates = Candidates(some_owners(train, 100))
    moves = (SIMPLER, (regridded,), (within_a_function,))
    law = force_law([make_term(line, first)], (), 2)
    return search(law, moves, Known(Fits(train, valid), candidates))


def test_a_sum_of_terms_is_left_as_it_is(monkeypatch):
    train, valid = bodies(dataset(lambda force, *_: force), [range(40), range(40, 60)])
    state, _ = limited_law(monkeypatch, [MI * MJ], MI * MJ, train, valid)
    assert state.law.is_linear


def law_of_mond() -> Law:
    force = force_law([make_term(vectors()[0], MI * MJ)], (), 2)
    force = force.with_shapes([Formula(1 / (R + 0.3) ** 2)])
    within = Term((E0, E1), (Factor(LENGTH, Formula(1 / sympy.sqrt(1 + R**2))),))
    return force._replace(update=(within,))


def vectors():
    return pair_vectors({"r": np.ones(1), "dx": np.ones(1), "dy": np.ones(1)}, 2)


def test_a_law_within_a_function_ends_as_a_model():
    """Its predictions are those of the law on samples, and it says what sums become."""
    data = dataset(mond, sims=6)
    (seen,) = bodies(data, [range(6)])
    law = law_of_mond()
    errors = OnFormulas(law, seen).errors([one.expression for one in law.shapes])
    chosen = formulas.Chosen(law, errors, formulas.candidate_of(law), (), ())
    nothing = bind(law, seen)
    known = factoring.Fitted(law, (), errors)
    found = factoring.factor(factoring.Found(known, (), chosen, seen))
    refit = found.refit
    assert refit.update == (E0 / sympy.sqrt(1 + E0**2 + E1**2), E1 / sympy.sqrt(1 + LENGTH**2))
    # The force of a pair alone would be judged, or integrated, as what bodies feel.
    assert refit.scalar is None and refit.towards is None
    # That of pairs may be a system's, which sums them as they are.
    near = Verdict("exact", {}, None, 0.0, "same")
    assert not reading._judged_whole(near, refit).recovered
    assert reading._judged_whole(near, refit._replace(update=())).recovered
    model = force_model(refit.force, refit.one_body, data, update=refit.update)
    predicted = np.asarray(model.predict(data.graphs)).reshape(-1, 2)
    # In float32, of numbers of size 1.
    np.testing.assert_allclose(predicted, nothing.predict(nothing.start), atol=1e-5)
    assert mean_size(nothing.errors(nothing.start)) < 1e-6
    pairs = pair_forces(refit, data)
    # What the law leaves is rounding of accelerations.
    np.testing.assert_allclose(pairs.data, pairs.law, atol=1e-4)


def test_laws_of_sums_that_nothing_adds_to_and_of_what_enters_twice_are_none():
    force = law_of_mond().message[0]
    wide = force._replace(along=(*force.along, sympy.Integer(0)))
    within = (Term((E0, E1), (Factor(E2, Formula(1 / R)),)),)
    assert Law((wide,), within).is_proper and law_of_mond().is_proper
    assert force_law((), (), 2).is_proper
    assert not Law((force,), within).is_proper and not Law((), within).is_proper
    twice = force._replace(factors=(*force.factors, Factor(MI, Formula(R))))
    assert not force_law([twice], (), 2).is_proper


def test_another_sum_is_a_message_beside_the_forces():
    data = dataset(shared, sims=6)
    (seen,) = bodies(data, [range(6)])
    law = law_of_mond()
    nothing, one = sympy.Integer(0), sympy.Integer(1)
    force = law.message[0]._replace(along=(*law.message[0].along, nothing))
    beside = Term((nothing, nothing, one), (Factor(R, Formula(sympy.exp(-R))),))
    within = Term((E0, E1), (Factor(E2, Formula(1 / R)),))
    law = Law((force, beside), (within,))
    errors = OnFormulas(law, seen).errors(formulas.candidate_of(law))
    assert np.mean(errors) < 1e-6
    chosen = formulas.Chosen(law, errors, formulas.candidate_of(law), (), ())
    refit = factoring.factor(
        factoring.Found(factoring.Fitted(law, (), errors), (), chosen, seen)
    ).refit
    assert refit.others == (sympy.exp(-R),) and refit.update == (E0 / E2, E1 / E2)
    extra = dict(others=refit.others, update=refit.update)
    model = force_model(refit.force, refit.one_body, data, **extra)
    gap = np.asarray(model.predict(data.graphs)) - np.asarray(data.target)
    assert np.max(np.abs(gap)) < 1e-4


def test_exponents_of_a_law_within_a_function_may_be_any():
    seen, held_out = bodies(dataset(mond, sims=12), [range(8), range(8, 12)])
    law = law_of_mond()
    state = State(law.with_shapes([Grid(14), Grid(6)]), fitted(law, seen, held_out))
    (free,) = freed(state, Known(Fits(seen, held_out), None))
    assert [one.variable for one in free.message[0].factors[1:]] == [MI, MJ]


def test_there_are_as_many_updates_as_axes():
    data: Dataset = dataclasses.replace(dataset(mond, sims=2))
    with pytest.raises(ValueError, match="2 dimensions need as many laws of each kind"):
        force_model((R, R), (R, R), data, update=(E0,))

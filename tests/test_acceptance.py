"""The rule by which moves from law to law are taken, and the fits it decides upon."""

import math
import time

import numpy as np
import pytest
import sympy
from test_terms import LINE, MI, MJ, QI, QJ, R, find, named, planted, prepared, spring

from symjax_gn.discovery import acceptance, structure
from symjax_gn.discovery.acceptance import Known, State, gain, independent, search, to_gain
from symjax_gn.discovery.fitter import Fits
from symjax_gn.discovery.moves import dropped, regridded
from symjax_gn.discovery.terms import force_law
from symjax_gn.laws.bound import bind
from symjax_gn.laws.law import Factor, Fitted, in_words
from symjax_gn.laws.least_squares import mean_size
from symjax_gn.laws.samples import ROUNDING
from symjax_gn.laws.shapes import Formula, Grid
from symjax_gn.physics.systems import SYSTEMS

WORD = math.log(12)


def rated(law, errors):
    """A law that is said to leave these errors."""
    return State(law, Fitted(law, (), np.asarray(errors)))


@pytest.fixture(scope="module")
def ends():
    return planted([(named(LINE, MI * MJ), 1 / (R + sympy.Float(0.3)))])


def test_a_word_is_worth_as_many_nats_whatever_the_errors(ends):
    """Laws that err alike differ by their words, those of the couplings and of c r at least."""
    fits = Fits(*ends)
    one, two = (force_law([named(LINE, way)], (), 2) for way in (1, MI * MJ))
    assert two.words - one.words == 2 and force_law((), (), 2).words < one.words
    for size in (0.1, 1e-3):
        errors = np.full(500, size)
        assert gain(rated(two, errors), rated(one, errors), fits) == pytest.approx(2 * WORD)
        assert gain(rated(one, errors), rated(two, errors), fits) == pytest.approx(-2 * WORD)


def test_many_errors_are_worth_more_than_a_few_large_ones(ends):
    """The same fall of the mean error, of all or of one in a hundred."""
    fits = Fits(*ends)
    one, two = (force_law([named(LINE, way)], (), 2) for way in (1, MI * MJ))
    even, few = np.full(500, 10.0), np.zeros(500)
    few[:5] = 1000.0
    gains = [gain(rated(one, x), rated(two, 0.5 * x), fits) for x in (even, few)]
    expected = [count * math.log(2) - 2 * WORD for count in (500, 5)]
    assert gains == pytest.approx(expected) and gains[1] < 0 < gains[0]


def test_errors_of_coarse_splines_are_as_many_as_these_have_numbers(ends):
    fits = Fits(*ends)
    law = force_law([named(LINE, MI * MJ)], (), 2)
    assert independent(State(law, fits(law)), fits) <= 14 + 3
    # A coupling that is wrong leaves as much with finer splines.
    wrong = force_law([named(LINE)], (), 2)
    assert independent(State(wrong, fits(wrong)), fits) > 500


def test_what_leaves_nothing_has_nothing_to_gain(ends):
    law = force_law([named(LINE)], (), 2)
    assert to_gain(rated(law, np.full(9, 0.5 * ROUNDING)), Fits(*ends)) == 0
    assert to_gain(rated(law, np.full(9, math.e * ROUNDING)), Fits(*ends)) > 0


def test_each_step_gains_and_says_what_it_did():
    found = structure.find_structure(*spring(), structure.QUICK)
    assert found.steps[0].move == "added" and found.steps[0].tried > 100
    assert all(step.gained > 0 for step in found.steps)
    assert acceptance.ENDED not in [step.move for step in found.steps]
    assert in_words(found.steps[-1].law) == f"f(r) {LINE}"
    assert found.steps[-1].error == found.error


def test_noise_is_no_law():
    """Nothing is said of accelerations that depend on nothing."""
    bodies = prepared(SYSTEMS["spring"], moments=40)
    rng = np.random.default_rng(0)
    train, valid = (one._replace(target=rng.normal(size=one.target.shape)) for one in bodies)
    assert find(train, valid).law == force_law((), (), 2)


def test_terms_do_not_depend_on_the_clock(monkeypatch):
    law = find(*spring()).law

    def fails(*_):
        raise AssertionError("It reads the clock.")

    for name in ("time", "perf_counter", "thread_time", "process_time", "monotonic"):
        monkeypatch.setattr(time, name, fails)
    assert find(*spring()).law == law


def test_terms_do_not_depend_on_last_digits():
    """As those of another processor would be."""
    rng = np.random.default_rng(0)

    def shaken(x):
        return x * (1 + 1e-12 * rng.normal(size=np.shape(x)))

    train, valid = (one._replace(target=shaken(one.target)) for one in spring())
    assert find(train, valid).law == find(*spring()).law


def test_a_search_that_its_work_ends_says_so(monkeypatch):
    """It is left with what it has, made simpler."""
    monkeypatch.setattr(acceptance, "_MOST_WORK", 10)
    found = structure.find_structure(*spring(), structure.QUICK)
    assert [one.move for one in found.steps] == ["added", acceptance.ENDED, acceptance.ENDED]


def test_a_law_without_a_move_stays_as_it_is(ends):
    law = force_law([named(LINE)], (), 2)
    state, steps = search(law, (), Known(Fits(*ends), None))
    assert state.law == law and steps == ()


def test_functions_that_multiply_each_other_are_fitted_together(ends):
    """A function of each mass in place of the coupling."""
    term = named(LINE)
    masses = (Factor(one, Grid(14)) for one in (MI, MJ))
    law = force_law([term._replace(factors=(*term.factors, *masses))], (), 2)
    found = Fits(*ends)(law)
    # Steps end once they lower the squared error by less than a thousandth.
    assert found.error < 1e-4
    low, high = (found.law.shapes[1].values(np.array([x]))[0] for x in (0.7, 1.4))
    assert high / low == pytest.approx(2, abs=0.01)


def test_one_step_promises_what_a_linear_fit_leaves(ends):
    """Of a law that is not linear in its numbers it is no more than a promise."""
    law = force_law([named(LINE)], (), 2)
    fits = Fits(*ends)
    bound = bind(fits(law).law, ends[0])
    assert fits.promised(law) == pytest.approx(mean_size(bound.errors(bound.start)), rel=1e-6)
    assert fits.is_quick(law)
    power = Factor(MI, Formula(R ** sympy.Float(0.5)))
    (term,) = law.message
    other = law._replace(message=(term._replace(factors=(*term.factors, power)),))
    assert not fits.is_quick(other) and fits.promised(other) < fits.promised(law)


def test_a_function_of_what_does_not_vary_is_a_constant(ends):
    alike = [
        one._replace(elements=one.elements | {"r": np.ones_like(one.elements["r"])}) for one in ends
    ]
    law = force_law([named(LINE)], (), 2)
    (shape,) = Fits(*alike)(law).law.shapes
    assert shape.pieces == 0 and math.isfinite(shape.numbers[0])


def test_moves_keep_what_they_do_not_name(ends):
    """A term that is dropped leaves the others, on their grids or the next finer ones."""
    law = force_law([named(LINE), named(LINE, QI * QJ)], (), 2)
    known = Known(Fits(*ends), None)
    state = State(law, known.fits(law))
    left = list(dropped(state, known))
    assert [[term.coupling for term in one.message] for one in left] == 2 * [[QI * QJ]] + 2 * [[1]]
    assert [one.shapes[0].pieces for one in left] == [14, 40, 14, 40]
    for one in regridded(state, known):
        assert one.structure == law.structure and one != law


def test_waves_of_many_periods_are_seen():
    """A grid of a few pieces says nothing of them."""
    ends = planted([(named(LINE), sympy.sin(25 * R))])
    state = find(*ends)
    # Some 100 numbers of a few thousand accelerations.
    assert in_words(state.law) == f"f(r) {LINE}" and state.found.error < 0.05

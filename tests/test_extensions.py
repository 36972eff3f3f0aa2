"""What a user adds to the search: it is used, and what is wrong with it is named."""

import numpy as np
import pytest
import sympy
from test_terms import LINE, R, find, in_formulas, named, planted, spring

import symjax_gn as sgn
from symjax_gn.command import make_parser
from symjax_gn.discovery import structure
from symjax_gn.discovery.certificate import certify
from symjax_gn.discovery.extensions import (
    NOTHING,
    Extensions,
    check_columns,
    check_extensions,
    guarded,
    run_checks,
)
from symjax_gn.discovery.terms import Vector, make_term
from symjax_gn.laws.kinds import Kind
from symjax_gn.settings import check_settings

DX, DY, MI, MJ = sympy.symbols("dx dy m_i m_j")
TURNED = Vector("turned", ((3 * DX - 4 * DY) / R, (4 * DX + 3 * DY) / R), R)


def shrinking(m, x, k):
    return m.log(1 + k * x) / x


def of_numbers_only(m, x, k):
    return np.sin(k * x) if m is np else 1


KIND = Kind("shrinking", shrinking, ((0.5,), (1.0,), (2.0,)), (0,))


def test_a_direction_and_a_coupling_are_used():
    """By themselves they are one term, without them it takes several."""
    way = MI**3 + MJ**3
    ends = planted([(make_term(TURNED, way), sympy.exp(-R))])
    more = Extensions(directions=(TURNED,), couplings=(way,))
    found = structure.find_structure(*ends, structure.QUICK, more).state
    ((term,), _) = found.law.message, found.law.update
    assert (term.name, term.coupling) == ("turned", way)


def test_a_function_is_used():
    ends = planted([(named(LINE), shrinking(sympy, R, sympy.Float(1.3)))])
    state = find(*ends)
    plain, more = (
        in_formulas(state, *ends, functions=one.kinds)
        for one in (NOTHING, Extensions(functions=(KIND,)))
    )
    (law,) = more.candidate
    assert law.has(sympy.log) and more.error < 1e-6
    assert more.complexity <= plain.complexity


def test_a_move_is_made():
    """To the empty law: of noise it is the best one."""
    calls = []

    def emptied(state, known):
        calls.append(state.law)
        yield state.law._replace(message=())

    more = Extensions(moves=(emptied,))
    state = structure.find_structure(*spring(), structure.QUICK, more).state
    assert state.law.message and not calls, "nothing is left of springs to try it on"
    rng = np.random.default_rng(0)
    bodies = [one._replace(target=rng.normal(size=one.target.shape)) for one in spring()]
    structure.find_structure(*bodies, structure.QUICK, more)
    assert calls


def test_a_check_is_made(spring_parts):
    train, _, test = spring_parts
    r, dx, dy = sympy.symbols("r dx dy")
    sums = [sympy.Symbol(f"e_{k}") / sympy.Symbol("m_i") for k in range(2)]
    law = sgn.SymbolicModel([(2 * r - sympy.Float(1.98)) * way / r for way in (dx, dy)], sums)

    def has_a_root(law, train, test):
        return dict(place=0.99, holds=False)

    assert certify(law, None, train, test).says == "believe"
    said = certify(law, None, train, test, Extensions(checks=(has_a_root,)))
    assert said.says == "doubt" and said.checks["has_a_root"]["place"] == 0.99


WRONG = {
    "a list": (Extensions(directions=[TURNED]), "directions must be a tuple"),  # pyright: ignore
    "no kind": (Extensions(functions=(np.sin,)), "must be a Kind"),  # pyright: ignore
    "no grid": (Extensions(functions=(KIND._replace(grid=()),)), "needs a grid"),
    "raises": (
        Extensions(functions=(KIND._replace(function=lambda m, x: x),)),
        "raised TypeError",
    ),
    "shape": (
        Extensions(functions=(KIND._replace(function=lambda m, x, k: np.ones(3)),)),
        "values of shape",
    ),
    "no number": (
        Extensions(functions=(KIND._replace(function=lambda m, x, k: m.log(-x)),)),
        "no finite value",
    ),
    "no expression": (
        Extensions(functions=(KIND._replace(function=of_numbers_only),)),
        "must be an expression",
    ),
    "no function": (Extensions(moves=(3,)), "must be a function with a name"),  # pyright: ignore
    "arguments": (Extensions(moves=(lambda state: [],)), "must take"),  # pyright: ignore
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_refused_at_once(name):
    more, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        check_settings(sgn.Settings(more=more))


def test_what_the_data_do_not_have_is_named():
    columns = spring()[0].elements
    nothing = Vector("nothing", (sympy.Integer(0),) * 2, R)
    other = Vector("other", (sympy.Symbol("spin"), DX), R)
    for more, message in (
        (Extensions(directions=(other,)), "is of spin, which pairs do not have"),
        (Extensions(directions=(TURNED._replace(along=(DX,)),)), "has 1 components"),
        (Extensions(directions=(nothing,)), "is 0, or no number, of all pairs"),
        (Extensions(couplings=(sympy.sqrt(MI - 100),)), "is no number of 100% of the pairs"),
        (Extensions(couplings=("m_i",)), "made of SymPy expressions"),  # pyright: ignore
    ):
        with pytest.raises(ValueError, match=message):
            check_columns(more, columns, 2)
    check_columns(Extensions(directions=(TURNED,), couplings=(MI**3,)), columns, 2)


def test_moves_and_checks_that_fail_are_named():
    def breaking(state, known):
        yield state.law
        raise KeyError("r")

    def strange(state, known):
        yield 3

    def wrong(law, train, test):
        return dict(holds="maybe")

    def failing(law, train, test):
        raise IndexError("1")

    state = structure.find_structure(*spring(), structure.QUICK).state
    for move, message in ((breaking, "move breaking failed .*KeyError"), (strange, "gave a int")):
        with pytest.raises(ValueError, match=message):
            list(guarded(move)(state, None))  # pyright: ignore
    for check, message in ((wrong, 'under "holds"'), (failing, "check failing failed: IndexError")):
        with pytest.raises(ValueError, match=message):
            run_checks(Extensions(checks=(check,)), None, None, None)


def test_extensions_are_no_option_of_the_command_line():
    check_extensions(NOTHING)
    assert "--more" not in make_parser({}).format_help()

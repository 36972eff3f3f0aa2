"""What a user adds to the search for laws of forces: directions, functions, moves, checks."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import sympy

from symjax_gn.discovery.acceptance import Known, Move, State
from symjax_gn.discovery.terms import Columns, Vector, components
from symjax_gn.laws.expressions import values
from symjax_gn.laws.kinds import KINDS, Kind
from symjax_gn.laws.law import Law

Check = Callable[..., Mapping[str, Any]]
"""`check(law, train, test)` gives numbers of a law by name, and under "holds" True, False or, where
the data cannot tell, None."""

# Values of a variable on which functions are tried.
_SOME = np.linspace(0.5, 2.0, 7)


@dataclasses.dataclass(frozen=True)
class Extensions:
    """What a user adds to the search for the terms of a force; see `Settings(more=...)`.

    Attributes:
        directions: vectors of pairs, `Vector(name, along, variable)`: components along the axes and
            the variable of their functions, as expressions of columns (`data.features`).
        couplings: expressions of properties of both bodies, as `sympy.Symbol("m_i") ** 3`.
        functions: of one variable, `Kind(name, function, grid)`, see `laws.kinds`.
        moves: functions of a state and of what is known that yield laws, see `discovery.moves`.
        checks: functions `(law, train, test)` for the certificate, see `Check`; their names are
            those of the checks.

    >>> x, y, r = sympy.symbols("dx dy r")
    >>> Extensions(directions=(Vector("turned line", (-y / r, x / r), r),)).directions[0].name
    'turned line'
    """

    directions: tuple[Vector, ...] = ()
    couplings: tuple[sympy.Expr, ...] = ()
    functions: tuple[Kind, ...] = ()
    moves: tuple[Move, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All functions of one variable."""
        return (*KINDS, *self.functions)


NOTHING = Extensions()
"""What a user adds who adds nothing."""


def check_extensions(more: Extensions) -> None:
    """Raise a `ValueError` for what cannot be used, whatever the data.

    Args:
        more: what a user adds.
    """
    for name in ("directions", "couplings", "functions", "moves", "checks"):
        if not isinstance(getattr(more, name), tuple):
            raise ValueError(f"Extensions: {name} must be a tuple, as ({name[:-1]},).")
    for kind in more.functions:
        _check_kind(kind)
    for name, several, count in (("move", more.moves, 2), ("check", more.checks, 3)):
        for one in several:
            if not callable(one) or not getattr(one, "__name__", ""):
                raise ValueError(f"A {name} must be a function with a name, got {one!r}.")
            try:
                inspect.signature(one).bind(*range(count))
            except TypeError:
                needs = "(state, known)" if count == 2 else "(law, train, test)"
                raise ValueError(
                    f"The {name} {one.__name__} must take {needs}: it has the arguments "
                    f"{inspect.signature(one)}."
                ) from None


def _check_kind(kind):
    """Raise a `ValueError` for a function of one variable that is none."""
    if not isinstance(kind, Kind):
        raise ValueError(f"A function of one variable must be a Kind, got {type(kind).__name__}.")
    if not kind.grid:
        raise ValueError(f'The function "{kind.name}" needs a grid: parameters that are tried.')
    parameters = kind.grid[0]
    what = f'The function "{kind.name}" of 0.5 to 2 with parameters {parameters}'
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(kind.values(_SOME, *parameters))
        written = kind.expression(sympy.Symbol("r"), *parameters)
    except Exception as error:  # whatever a user's function raises
        raise ValueError(f"{what} raised {type(error).__name__}: {error}") from error
    if found.shape != _SOME.shape:
        raise ValueError(f"{what} has values of shape {found.shape}, which must be {_SOME.shape}.")
    if not np.any(np.isfinite(found)):
        raise ValueError(f"{what} has no finite value.")
    if not isinstance(written, sympy.Expr) or not written.has(sympy.Symbol("r")):
        raise ValueError(
            f"{what} must be an expression of the variable when it is given SymPy in place of "
            f"NumPy, got {written!r}."
        )


def check_columns(more: Extensions, columns: Columns, dim: int) -> None:
    """Raise a `ValueError` for directions and couplings that the data do not have.

    Args:
        more: what a user adds.
        columns: features of pairs.
        dim: spatial dimension.
    """
    for vector in more.directions:
        what = f'The direction "{vector.name}"'
        if len(vector.along) != dim:
            raise ValueError(f"{what} has {len(vector.along)} components; there are {dim} axes.")
        parts = [*vector.along, *([] if vector.variable is None else [vector.variable])]
        for one in parts:
            _check_column(what, one, columns)
        if not np.any(components(vector, columns)):
            raise ValueError(f"{what} is 0, or no number, of all pairs.")
    for way in more.couplings:
        what = f'The coupling "{way}"'
        _check_column(what, way, columns)
        with np.errstate(all="ignore"):
            bad = ~np.isfinite(values(sympy.sympify(way), columns))
        if np.any(bad):
            raise ValueError(f"{what} is no number of {np.mean(bad):.0%} of the pairs.")


def _check_column(what, expression, columns):
    if not isinstance(expression, sympy.Expr):
        raise ValueError(f"{what} must be made of SymPy expressions, got {expression!r}.")
    unknown = {str(one) for one in expression.free_symbols} - set(columns)
    if unknown:
        raise ValueError(
            f"{what} is of {', '.join(sorted(unknown))}, which pairs do not have; they have "
            f"{', '.join(sorted(columns))}."
        )


def guarded(move: Move) -> Move:
    """A user's move that says what it was given if it fails.

    Args:
        move: yields laws; another thing, or an exception, is a `ValueError` that names it.
    """

    def run(state: State, known: Known) -> Iterator[Law]:
        try:
            for law in move(state, known):
                if not isinstance(law, Law):
                    raise TypeError(f"it gave a {type(law).__name__}, which must be a Law")
                yield law
        except Exception as error:  # whatever a user's function raises
            raise ValueError(
                f"The move {move.__name__} failed with the law {state.law}: "
                f"{type(error).__name__}: {error}."
            ) from error

    run.__name__ = move.__name__
    return run


def run_checks(more: Extensions, *given: Any) -> dict[str, dict[str, Any]]:
    """What a user's checks say of a law, by their names.

    Args:
        more: what a user adds.
        *given: the law, training data and test data.
    """
    found = {}
    for check in more.checks:
        what = f"The check {check.__name__}"
        try:
            said = dict(check(*given))
        except Exception as error:  # whatever a user's function raises
            raise ValueError(f"{what} failed: {type(error).__name__}: {error}.") from error
        if said.get("holds", "missing") not in (True, False, None):
            raise ValueError(f'{what} must say under "holds" True, False or None, got {said}.')
        found[check.__name__] = said
    return found

"""Laws of one variable as short sums of products of elementary functions, found in order.

Genetic programming needs luck where a law has one variable and the data are exact. Here all
pairs of some thousand functions are compared by least squares, the best pairs of each two
kinds of functions are fitted, and further functions are added to the best of these.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy
from jaxtyping import Float, Int

from symjax_gn.laws.expressions import evaluate
from symjax_gn.laws.fronts import Column
from symjax_gn.laws.kinds import KINDS, WAVES, Kind
from symjax_gn.laws.products import search_products
from symjax_gn.laws.rationals import search_rationals
from symjax_gn.laws.refinement import SampleObjective, improve
from symjax_gn.laws.rules import left_out, near_integer, zero

_R = sympy.Symbol("r")

# Fits of sums from the starts that are best on the grid, of each two kinds of functions.
_STARTS = 2

# Sums that are fitted, of all that are best for their kinds.
_FITTED = 110

# Whole powers of which all sums of up to four are compared.
_WHOLE_POWERS = tuple(float(p) for p in range(-4, 8))

# Sums that further functions are added to, and how many functions a sum may have.
_LONGER, _MOST = 6, 4

# What makes products plain, and fits that this may take.
_PLAIN, _REFINED = (left_out, near_integer, zero), 80

# Shares of the typical value that a positive variable may be softened by.
_SHIFTS = (0.0, 0.004, 0.02)

# Frequencies beyond those that are listed: at least so many samples for each period, steps over
# the range of the variable, and how many are taken.
_PER_WAVE, _STEP, _PEAKS = 4, 1.0, 3

# Functions whose values on the samples span more than this say nothing, nor those that vary by
# a smaller share where a constant is added.
_SPAN, _CONSTANT = 1e14, 1e-9


class _Atom(NamedTuple):
    """One function."""

    kind: Kind
    parameters: tuple[float, ...]
    shift: float
    """What is added to the variable in its unit."""
    unit: float


class _Atoms(NamedTuple):
    """Functions on the samples."""

    atoms: list[_Atom]
    columns: Float[np.ndarray, "atom sample"]
    """[atom, sample], times the weights and divided by their length."""
    lengths: Float[np.ndarray, " atom"]
    """[atom], these lengths."""
    kinds: Int[np.ndarray, " atom"]
    """[atom], numbers of kinds."""
    numbers: Int[np.ndarray, " atom"]
    """[atom], the same for functions with the same constants; -1 for those without."""
    level: Float[np.ndarray, " sample"]
    """[sample], what is taken off all columns: the part along this direction."""


def _frequencies(x: Column, target: Column) -> list[float]:
    """Those above all that are listed of which weighted samples of a function have most."""
    reach = float(np.ptp(x)) or 1.0
    tried = np.arange(WAVES[-1], 2 * np.pi * len(x) / (_PER_WAVE * reach), _STEP / reach)
    if len(tried) < 3:
        return []
    power = np.abs(np.exp(1j * np.outer(tried, x)) @ target)
    peaks = 1 + np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:]))
    best = peaks[np.argsort(-power[peaks])[:_PEAKS]]
    return [float(tried[k]) for k in best]


def _atoms(x, unit, shift, weight, operators, level, waves, functions) -> _Atoms:
    """All functions of the kinds that the operators allow, of x / unit + shift."""
    scaled = x / unit + shift
    atoms, columns, lengths, kinds, numbers = [], [], [], [], []
    known: dict[Any, int] = {}
    # Targets, and so weights, may be in any unit.
    usual = np.linalg.norm(weight)
    for number, kind in enumerate(functions):
        if not all(name in operators for name in kind.needs):
            continue
        for parameters in kind.parameters(waves):
            with np.errstate(all="ignore"):
                column = kind.values(scaled, *parameters) * weight
                whole = np.linalg.norm(column)
                column = _without(column, level)
                length = np.linalg.norm(column)
            if not np.isfinite(length) or not 1 / _SPAN < length / usual < _SPAN:
                continue
            if length < _CONSTANT * whole:
                continue
            atoms.append(_Atom(kind, parameters, shift, unit))
            columns.append(column / length)
            lengths.append(length)
            kinds.append(number)
            mine = tuple(parameters[k] for k in kind.numbers)
            group = kind.family or kind.name, mine
            numbers.append(known.setdefault(group, len(known)) if mine else -1)
    arrays = [np.asarray(x) for x in (columns, lengths, kinds, numbers)]
    return _Atoms(atoms, *arrays, level=level)


def _without(column, level):
    """The column without its part along a direction."""
    return column - (column @ level) * level


def _written(atom: _Atom) -> Any:
    """The expression of a function, in the unit of the variable."""
    place = _R + sympy.Float(atom.shift * atom.unit) if atom.shift else _R
    place = place if atom.unit == 1 else place / sympy.Float(atom.unit)
    return atom.kind.expression(_R, *atom.parameters).xreplace({_R: place})


def _blocks(atoms: _Atoms) -> list[slice]:
    """The functions of each kind."""
    starts = [int(k) for k in np.flatnonzero(np.diff(atoms.kinds, prepend=-1))]
    return [slice(a, b) for a, b in itertools.pairwise([*starts, len(atoms.kinds)])]


def _best_singles(atoms: _Atoms, target) -> list[tuple[int, ...]]:
    """The functions of each kind that leave the least."""
    gained = (atoms.columns @ target) ** 2
    found: list[tuple[int, ...]] = []
    for one in _blocks(atoms):
        for k in np.argsort(-gained[one])[:_STARTS]:
            found.append((one.start + int(k),))
    return found


def _best_pairs(atoms: _Atoms, target) -> list[tuple[int, ...]]:
    """The pairs of each two kinds that leave the least, the best first."""
    columns = atoms.columns
    gram, right = columns @ columns.T, columns @ target
    found: list[tuple[float, tuple[int, ...]]] = []
    blocks = _blocks(atoms)
    for n, one in enumerate(blocks):
        for other in blocks[n:]:
            g = gram[one, other]
            free = 1 - g**2
            a, b = right[one][:, None], right[other][None, :]
            with np.errstate(all="ignore"):
                gained = (a * a + b * b - 2 * a * b * g) / free
            gained[~(free > 1e-9)] = 0.0
            mine, yours = atoms.numbers[one][:, None], atoms.numbers[other][None, :]
            # With constants in common there are fewer to be fitted.
            for among in (gained, np.where((mine == yours) & (mine >= 0), gained, 0.0)):
                few = min(_STARTS, among.size - 1)
                for k in np.argpartition(-among, few, axis=None)[:_STARTS]:
                    i, j = (int(x) for x in np.unravel_index(int(k), gained.shape))
                    if among[i, j] > 0:
                        found.append((float(gained[i, j]), (one.start + i, other.start + j)))
    return list(dict.fromkeys(which for _, which in sorted(found, reverse=True)))


def _polynomials(atoms: _Atoms, target) -> list[tuple[int, ...]]:
    """The best sums of each number of whole powers."""
    powers = [
        k
        for k, atom in enumerate(atoms.atoms)
        if atom.kind.name == "power" and atom.parameters[0] in _WHOLE_POWERS
    ]
    columns = atoms.columns[powers].T
    gram, right = columns.T @ columns, columns.T @ target
    found = []
    for count in range(2, _MOST + 1):
        gains = []
        for which in itertools.combinations(range(len(powers)), count):
            few = list(which)
            with np.errstate(all="ignore"):
                factors = np.linalg.lstsq(gram[np.ix_(few, few)], right[few], rcond=1e-14)[0]
            gains.append((float(factors @ right[few]), which))
        for _, which in sorted(gains)[-_STARTS:]:
            found.append(tuple(powers[k] for k in which))
    return found


def _sum(atoms: _Atoms, which: Sequence[int], target) -> Any:
    """The sum of some functions with factors by least squares."""
    few = list(which)
    factors = np.linalg.lstsq(atoms.columns[few].T, target, rcond=None)[0] / atoms.lengths[few]
    terms = [
        sympy.Float(float(c)) * _written(atoms.atoms[k]) for c, k in zip(factors, few, strict=True)
    ]
    return sympy.Add(*terms)


def _levelled(law: Any, x, target, weight) -> Any:
    """The law with a constant added by least squares."""
    left = (target - evaluate(law, {"r": x})) * weight
    return law + sympy.Float(float(left @ weight / (weight @ weight)))


def search_sums(
    x: Column,
    target: Column,
    weight: Column | None = None,
    *,
    operators: Sequence[str],
    constant: bool = False,
    functions: Sequence[Kind] = KINDS,
) -> Iterator[dict[sympy.Expr, float]]:
    """Sums of up to four functions of one variable `r`, with their errors, in stages.

    Each stage gives all that was found so far: single functions and sums of whole powers;
    sums of two; products and quotients (`laws.products`, `laws.rationals`), unless a constant is
    added; sums of two of a
    variable with something added; longer sums.

    Args:
        x: `[sample]`, the variable.
        target: `[sample]`.
        weight: `[sample]`, factors of the absolute errors, or None for 1.
        operators: those that laws may use; sums, products and powers are always there.
        constant: whether every sum has a constant besides its functions, for targets that are
            known up to an offset.
        functions: of one variable, with their parameters.

    >>> x = np.linspace(0.5, 3.0, 200)
    >>> search = search_sums(x, 2 * np.exp(-x) - 0.5 / x**2, operators=["exp"])
    >>> [min(next(search).values()) < 1e-6 for _ in range(2)]
    [False, True]
    """
    weight = np.ones(len(x)) if weight is None else weight
    unit = _unit(x)
    level = weight / np.linalg.norm(weight) if constant else np.zeros(len(x))
    flat = _without(target * weight, level)
    objective = SampleObjective({"r": x}, target, weight)
    rated: dict[Any, float] = {}

    def ranked(atoms, sums):
        """Fitted sums, the best first."""
        found = []
        for expression, which in sums:
            start = _levelled(expression, x, target, weight) if constant else expression
            (law,), error = objective.fit((start,))
            if np.isfinite(error):
                rated[law] = error
                found.append((error, law, which))
        return sorted(found, key=lambda row: row[0])

    def sums(atoms, several):
        return ranked(atoms, [(_sum(atoms, which, flat), which) for which in several])

    def whole():
        """Products, with exponents that are whole where this is as good, and quotients."""
        place = _R / sympy.Float(unit) if unit != 1 else _R
        offered = search_products(x / unit, target, weight, operators)
        offered += search_rationals(x / unit, target, weight)
        written: Any = [(law.xreplace({_R: place}),) for _, law in offered]
        rows = improve(written, objective, _PLAIN, budget=_REFINED)
        return [(row.error, row.candidate[0]) for row in rows]

    waves = _frequencies(x / unit, flat)
    best: list[tuple[_Atoms, Any]] = []
    for shift in _SHIFTS if np.all(x > 0) else (0.0,):
        atoms = _atoms(x, unit, shift, weight, operators, level, waves, functions)
        found = sums(atoms, _best_singles(atoms, flat) + _polynomials(atoms, flat))
        if not shift:
            yield rated
        found += sums(atoms, _best_pairs(atoms, flat)[:_FITTED])
        if not shift and not constant:
            yield rated
            found += [(rated.setdefault(law, error), law, ()) for error, law in whole()]
        best.append((atoms, sorted(found, key=lambda row: row[0])[:_LONGER]))
        yield rated
    for atoms, longer in best:
        for _ in range(2, _MOST):
            more = []
            for _, law, which in longer:
                left = _without((target - evaluate(law, {"r": x})) * weight, level)
                gain = np.abs(atoms.columns @ left)
                for one in _blocks(atoms):
                    k = one.start + int(np.argmax(gain[one]))
                    factor = float(atoms.columns[k] @ left) / atoms.lengths[k]
                    added = sympy.Float(factor) * _written(atoms.atoms[k])
                    more.append((law + added, (*which, k)))
            longer = ranked(atoms, more)[:_LONGER]
        yield rated


def _unit(x: Column) -> float:
    """The power of two nearest to the typical value, which leaves plain numbers plain."""
    size = float(np.median(np.abs(x))) or 1.0
    power = round(np.log2(size))
    return 1.0 if abs(power) <= 2 else float(2.0**power)

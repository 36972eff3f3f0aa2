"""Whether a law has the form of the true one: is it the same for some values of its constants?

Numbers alone cannot tell a law from a formula that comes near it. Here the constants of the law
are fitted to the exact true values, and what is left must be rounding.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
import sympy
from jaxtyping import Float

from symjax_gn.data.features import node_features, pair_features
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.units import typical_size
from symjax_gn.discovery.gauge import GaugeFit
from symjax_gn.laws.rules import substituted
from symjax_gn.laws.tapes import Tape
from symjax_gn.physics.systems import System, one_body_force, pair_forces

FORMS = ("same", "other", "unknown")
"""What is said of a form; "unknown" where the true values are not known to rounding."""

# Errors relative to |truth| + 1e-4 typical |truth| that are rounding: of 99% of the samples, and
# of all of them, some of which are next to a pole or the end of a step.
_SAME, _SAME_ANYWHERE, _FLOOR = 1e-8, 1e-5, 1e-4

# Samples this near to a step, as a share of all its argument's values, say nothing of the form:
# where the step is is a constant, and no derivative shows it.
_NEAR_STEP = 0.05

# A whole number or a fraction as an exponent stands for what is nearer to it than this share:
# r^2 for r^1.998, but not for r.
_PLAIN = 0.01

# Evaluations of one fit. Fits of the true form converge quadratically.
_STEPS = 100

# Positions are moved by this share to see whether the truth is rounded to float32.
_STEP = 1e-7

# An error that is not finite counts as this.
_MOST = 1e6

Columns = Mapping[str, Float[np.ndarray, " sample"]]


def compare_form(
    law: Any,
    truth: Float[np.ndarray, " sample"],
    columns: Columns,
    free: Float[np.ndarray, "sample part"] | None = None,
) -> str:
    """Whether a law is the true one for some values of its constants.

    Constants are all numbers that the law is written with, and a factor of each term; exponents
    too, but not those of what may be negative, and whole ones within 1%. They are fitted to the
    truth, starting at their own values. The form is the same if the error then is rounding, and
    no part of the law is too much: where the law without a term or a factor is also the truth,
    but cannot be the law that was found, the found form is a larger one that holds the truth, as
    a polynomial may.

    Args:
        law: an expression of the columns.
        truth: `[sample]`, the true values, float64 and exact to rounding; NaN where the truth
            is known to be infinite.
        columns: columns `[sample]` by name, float64.
        free: `[sample, part]`, what the truth is known up to: any sum of these parts is none of
            the law's form. None: nothing.

    Returns:
        One of `FORMS`.

    >>> r = sympy.Symbol("r")
    >>> x = np.linspace(0.5, 3.0, 100)
    >>> compare_form(2.0001 * r - 1.9998, 2 * x - 2, {"r": x})
    'same'
    >>> compare_form(2 * r - 2 + 1e-6 * r**2, 2 * x - 2, {"r": x})
    'other'
    """
    kept = np.isfinite(truth) & _away_from_steps(law, columns)
    if np.count_nonzero(kept) < 2 * len(law.atoms(sympy.Number)) + 2:
        return "unknown"
    truth = truth[kept]
    columns = {name: np.asarray(x, np.float64)[kept] for name, x in columns.items()}
    scale = np.abs(truth) + _FLOOR * typical_size(truth) + 1e-300
    parts = np.zeros((len(truth), 0)) if free is None else free[kept] / scale[:, None]
    known = np.linalg.qr(parts)[0]

    def error_of(gap):
        error = np.clip(np.nan_to_num((gap.T / scale).T, nan=_MOST), -_MOST, _MOST)
        return error - known @ (known.T @ error)

    form, start, plain = _with_free_numbers(law, columns)

    def fitted(form: Any, target: Any, start: Any) -> Any:
        return _fitted(form, target, error_of, columns, start)

    found = fitted(form, truth, start)
    if found is None:
        return "other"
    own = _values(law, columns)

    def is_form(form: Any, found: Any, start: Any) -> bool:
        """Whether the form is the truth with no part too much; redundant ones are left out.

        Of these any values would do, also of exponents.
        """
        for less in _with_less(form, set(start)):
            as_truth = fitted(less, truth, found)
            if as_truth is not None:
                # The law is near the truth, or near where it is written.
                as_law = fitted(less, own, as_truth) or fitted(less, own, start)
                return as_law is not None and is_form(less, as_truth, as_law)
        moved = ((found[slot], start[slot]) for slot in plain if slot in found)
        return all(abs(new - old) <= _PLAIN * abs(old) for new, old in moved)

    return "same" if is_form(form, found, start) else "other"


def _with_free_numbers(law: Any, columns: Columns) -> tuple[Any, dict[Any, float], list[Any]]:
    """The law with a symbol in the place of each constant, the values of these; plain exponents."""
    values: dict[Any, float] = {}
    plain: list[Any] = []
    count = itertools.count()

    def slot(value):
        symbol = sympy.Symbol(f"_c{next(count)}")
        values[symbol] = float(value)
        return symbol

    def scaled(term: Any) -> Any:
        """A term or a whole law, with a factor of its own."""
        number, rest = term.as_coeff_Mul()
        if rest == 1:
            return slot(number)
        return sympy.Mul(slot(number), freed(rest), evaluate=False)

    def freed(node: Any) -> Any:
        if node.is_number:
            return slot(node)
        if node.is_Atom or isinstance(node, sympy.Heaviside):
            return node
        if node.is_Add:
            return sympy.Add(*map(scaled, node.args), evaluate=False)
        if node.is_Pow and node.exp.is_number:
            base = freed(node.base)
            # 1 / x is a division, and powers of what may be negative are whole.
            fixed = (node.exp == -1 and not node.base.is_Symbol) or not np.all(
                _values(node.base, columns) > 0
            )
            if fixed:
                return base**node.exp
            exponent = slot(node.exp)
            if isinstance(node.exp, sympy.Rational):
                plain.append(exponent)
            return base**exponent
        return node.func(*map(freed, node.args))

    return (freed(law) if law.is_Add else scaled(law)), values, plain


def _with_less(form, slots) -> Iterator[Any]:
    """The form without one term or factor; its constants are no factors."""
    for node in dict.fromkeys(sympy.preorder_traversal(form)):
        if isinstance(node, sympy.Heaviside) or not (node.is_Add or node.is_Mul):
            continue
        for k, part in enumerate(node.args):
            if node.is_Add or part not in slots:
                rest = node.func(*node.args[:k], *node.args[k + 1 :])
                yield substituted(form, {node: rest})


def _fitted(form: Any, truth: Any, error_of: Any, columns: Columns, start: Any) -> Any:
    """Values of constants near the first ones for which a form is the truth, or None."""
    slots = sorted(form.free_symbols - {sympy.Symbol(name) for name in columns}, key=str)
    names = list(columns)
    tape = Tape([form], names, list(map(str, slots))).bind([columns[name] for name in names])
    first = np.asarray([start[slot] for slot in slots])

    def residual(values):
        with np.errstate(all="ignore"):
            return error_of(tape.values(values)[0] - truth)

    def slopes(values):
        with np.errstate(all="ignore"):
            return error_of(tape.slopes(values)[0])

    if slots and not _is_same(residual(first)):
        # Where the truth can be met each step takes off most of the error that is left.
        options: Any = dict(jac=slopes, xtol=1e-15, ftol=1e-6, gtol=None, max_nfev=_STEPS)
        with np.errstate(all="ignore"), contextlib.suppress(ValueError, np.linalg.LinAlgError):
            first = scipy.optimize.least_squares(residual, first, x_scale="jac", **options).x
    return dict(zip(slots, first, strict=True)) if _is_same(residual(first)) else None


def _is_same(error):
    """Whether errors are rounding."""
    size = np.abs(error)
    return np.quantile(size, 0.99) <= _SAME and np.max(size) <= _SAME_ANYWHERE


def _values(law, columns):
    """Values `[sample]` of an expression of columns."""
    names = list(columns)
    return Tape([law], names).bind([columns[name] for name in names]).values(())[0]


def _away_from_steps(law, columns):
    """Which samples are not next to a step of the law."""
    kept = np.ones(len(next(iter(columns.values()))), bool)
    for step in law.atoms(sympy.Heaviside):
        argument = _values(step.args[0], columns)
        kept &= np.abs(argument) > _NEAR_STEP * np.quantile(np.abs(argument), 0.95)
    return kept


def form_of_forces(
    components: Sequence[sympy.Expr], system: System, receiver: Nodes, sender: Nodes
) -> str:
    """The form of a law of the forces between pairs, along all axes; see `compare_form`.

    Args:
        components: the force on the receiver along each axis, of the features of pairs.
        system: the system whose pair force is the truth.
        receiver: fields `[pair, ...]`, user's units.
        sender: the same.
    """
    truth = _in_float64(lambda *ends: pair_forces(*ends, system), receiver, sender)
    return _form_of_axes(components, truth, pair_features(receiver, sender, system.space))


def form_of_one_body(components: Sequence[sympy.Expr], system: System, bodies: Nodes) -> str:
    """The same of a law of what a body feels by itself.

    Args:
        components: the force along each axis, of a body's own features.
        system: the system whose drag and one-body potential are the truth.
        bodies: fields `[node, ...]`, user's units.
    """
    truth = _in_float64(jax.vmap(lambda body: one_body_force(system, body)), bodies)
    return _form_of_axes(components, truth, node_features(bodies))


def form_of_messages(
    components: Sequence[sympy.Expr],
    gauge: GaugeFit,
    system: System,
    receiver: Nodes,
    sender: Nodes,
    softening: float,
) -> str:
    """The form of raw messages m = g A f + b, of which A and b may have any value.

    Args:
        components: the messages, of the features of pairs.
        gauge: the gauge in which they are nearest to the truth; the form is unknown if its g
            or b is a fitted function.
        system: the system whose pair force f is the truth.
        receiver: fields `[pair, ...]`, user's units.
        sender: the same.
        softening: in place of the system's own.
    """
    truth = _in_float64(lambda *ends: pair_forces(*ends, system, softening), receiver, sender)
    if truth is None or gauge.name == "fitted" or np.any(gauge.offset[1:]):
        return "unknown"
    columns = pair_features(receiver, sender, system.space)
    if gauge.name == "1/m_i":
        truth = truth / columns["m_i"][:, None]
    forms = []
    for law, row in zip(components, gauge.matrix, strict=True):
        # Its largest entry is held: if all of A were free, nothing times the force would fit.
        held = int(np.argmax(np.abs(row)))
        free = np.concatenate([np.ones((len(truth), 1)), np.delete(truth, held, axis=1)], axis=1)
        forms.append(compare_form(law, row[held] * truth[:, held], columns, free))
    return all_of(forms)


def all_of(forms: Iterable[str]) -> str:
    """The form of several laws together: "other" if one is, else "unknown" if one is.

    >>> all_of(["same", "unknown"])
    'unknown'
    """
    found = set(forms)
    return next((word for word in ("other", "unknown") if word in found), "same")


def _form_of_axes(components, truth, columns):
    if truth is None:
        return "unknown"
    return all_of(compare_form(*one, columns) for one in zip(components, truth.T, strict=True))


def _in_float64(function: Callable[..., Any], *nodes: Nodes) -> Any:
    """Values of a function of nodes in float64; None if the function rounds to float32.

    A smooth function hardly bends over a step smaller than the spacing of float32, and one that
    rounds jumps.
    """

    def moved(share):
        def scaled(x):
            return None if x is None else jnp.asarray(x, jnp.float64) * (1 + share)

        return [
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), one)._replace(
                position=scaled(one.position), velocity=scaled(one.velocity)
            )
            for one in nodes
        ]

    with jax.enable_x64(True):
        low, value, high = (np.asarray(function(*moved(k * _STEP))) for k in (-1, 0, 1))
    scale = np.abs(value) + _FLOOR * typical_size(value) + 1e-300
    with np.errstate(all="ignore"):
        bend = np.nan_to_num(np.abs(low - 2.0 * value + high) / scale)
    return None if np.quantile(bend, 0.9) > _SAME else value

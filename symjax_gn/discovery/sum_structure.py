"""Which terms a law of sums needs.

Splines take the place of factors. Those are as fine as the data allow, and parts are left out
without which the law errs no more.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from symjax_gn.discovery.separation import (
    COMPARED,
    FIRST,
    SUM,
    SplineLaw,
    Term,
    evaluate_terms,
    fit_law,
    fit_terms,
    refined,
    separate,
    with_covariance,
)
from symjax_gn.discovery.sum_growth import grown
from symjax_gn.laws.samples import ROUNDING, Samples
from symjax_gn.laws.shapes import Spline

# Pieces of a factor in the end, where more are taken as long as they lower the error.
_FINAL = (28, 56, 112)

# So many parts of splines are fitted together in seconds; twice as many take eight times as long.
_MOST_PARTS = 600

# In the end terms are needless without which the error rises by no more than this factor.
_NEEDLESS = 2.0

# Coarse splines make terms seem needed without which the error rises by up to this factor, and
# no more than this.
_AT_FIRST, _LITTLE = 8.0, 0.02

# Elements that what is left of a message is fitted to.
_SOME = 5_000


def find_law(
    columns: Mapping[str, Float[np.ndarray, " sample"]],
    sent: Float[np.ndarray, " sample"],
    train: Samples,
    valid: Samples,
    as_good: Any,
) -> SplineLaw:
    """The terms that a law of sums needs, with factors as fine as the data allow.

    Args:
        columns: variables of samples of messages; none of them constant.
        sent: `[sample]`, messages of the network.
        train: what factors are fitted to.
        valid: other data, which say what terms are needed.
        as_good: says of errors `[owner]` whether they are as small as others.
    """
    as_good = functools.partial(_as_good, as_good)
    message = separate(columns, sent)
    of_receivers = any(map(_of_receiver, itertools.chain(*message)))
    found: list[tuple[SplineLaw, int]] = []
    seen = []
    for start in (_without_receivers, _stripped, _as_sent) if of_receivers else (_as_sent,):
        first = _started(start, message, columns, sent, train, valid, as_good)
        if first is None:
            continue
        law, pieces = _finer(*first, train, valid, as_good, most=COMPARED)
        # What splines that are not the finest seem to need may be all that is needed.
        rough = _shortened(law, pieces, train, valid, _at_first)
        if _terms(rough) in seen:
            continue
        seen.append(_terms(rough))
        found.append(_shortest(law, pieces, rough, train, valid, as_good))
        law, pieces = found[-1]
        if law.error <= ROUNDING or _still_falls(law, pieces, train, valid):
            return with_covariance(law, train)
    least = min((law for law, _ in found), key=lambda law: law.error)
    law, pieces = next(one for one in found if as_good(one[0].errors, least.errors))
    longer = grown(law, list(columns), train, valid, pieces, as_good)
    if longer is not law:
        law, _ = _shortest(longer, pieces, longer, train, valid, as_good)
    return with_covariance(law, train)


def _as_good(as_good, errors, best):
    """What `as_good` says of owners of whom both laws say something."""
    both = ~np.isnan(errors + best)
    return bool(np.any(both)) and as_good(errors[both], best[both])


def _terms(law):
    """What a law consists of, in no order."""
    return frozenset(law.message), frozenset(law.update)


def _shortest(law, pieces, rough, train, valid, as_good):
    """The law with the terms that it needs, and splines as fine as the data allow; their pieces.

    Those are the terms of the rough one, if it proves as good.
    """

    def needless(trial, law):
        # The finest splines may be all that is wrong.
        limit = _NEEDLESS * law.error if pieces == _FINAL[-1] else 0.0
        return trial.error <= limit or as_good(trial.errors, law.errors)

    start = pieces
    best, pieces = _finer(law, pieces, train, valid, as_good)
    # A law that has too many parts to be made finer is compared with one that is as coarse.
    most = pieces if 2 * pieces * len(best.curves) > _MOST_PARTS else _FINAL[-1]
    rough, number = _finer(rough, start, train, valid, as_good, most)
    if needless(rough, best):
        best, pieces = rough, number
    while True:
        best = _shortened(best, pieces, train, valid, needless)
        best, number = _finer(best, pieces, train, valid, as_good)
        if number == pieces:
            return best, pieces
        pieces = number


def _still_falls(law, pieces, train, valid):
    """Whether all that is wrong is that splines are not finer: those of corners, or steps.

    With half the pieces such laws err twice as much, or more.
    """
    return pieces in _FINAL and _refitted(law, pieces // 2, train, valid).error >= 2 * law.error


def _of_receiver(name):
    return name.endswith("_i")


def _as_sent(message, columns, sent, pieces):
    """The terms of a message, and their factors."""
    return message, fit_terms(message, columns, sent, pieces)


def _without_receivers(message, columns, sent, pieces):
    """The same without terms of what receivers know of themselves: that need not be sent."""
    return _as_sent(
        [term for term in message if not any(map(_of_receiver, term))], columns, sent, pieces
    )


def _stripped(message, columns, sent, pieces):
    """Terms without the factors that receivers know; of those that are left alike the largest.

    Nothing where there are no such factors: then nothing is left but what is known without them.
    """
    if not any(0 < sum(map(_of_receiver, term)) < len(term) for term in message):
        return [], ()
    curves = iter(fit_terms(message, columns, sent, pieces))
    largest: dict[Term, tuple[float, list[Spline]]] = {}
    for term in message:
        factors = {name: next(curves) for name in term}
        each = {name: curve.values(columns[name]) for name, curve in factors.items()}
        rest = tuple(name for name in term if not _of_receiver(name))
        size = float(np.std(np.prod(list(each.values()), axis=0)))
        if rest and size > largest.get(rest, (0.0,))[0]:
            known = [each[name] for name in term if name not in rest]
            first, *others = (factors[name] for name in rest)
            first = first._replace(numbers=first.numbers * np.mean(np.abs(np.prod(known, axis=0))))
            largest[rest] = size, [first, *others]
    return list(largest), tuple(itertools.chain(*(found for _, found in largest.values())))


def _started(start, message, columns, sent, train, valid, as_good):
    """A law with all terms that may be there, and the pieces of its splines; None without any."""
    laws = []
    for pieces in (FIRST, COMPARED):
        terms, curves = start(message, columns, sent, pieces)
        if not terms:
            return None
        sums = train.sums @ evaluate_terms(terms, curves, train.elements)
        owners = {SUM: sums, **{k: x for k, x in train.owners.items() if np.ptp(x) > 0}}
        update: list[Term] = [(SUM,)]
        if len(owners) > 1:
            # Targets may have noise of their own, which hides how much an error falls.
            update = separate(
                owners, train.target[:, 0], lambda before, after: not as_good(before, after)
            )
        laws.append(fit_law(terms, curves, update, train, valid, pieces))
        if laws[0].error <= ROUNDING:
            break
    coarse, fine = laws[0], laws[-1]
    return (coarse, FIRST) if as_good(coarse.errors, fine.errors) else (fine, COMPARED)


def _finer(law, pieces, train, valid, as_good, most=_FINAL[-1]):
    """The law with splines as fine as lowers the error, and their pieces.

    As long as finer splines err less, it is not known whether more terms are needed: these do
    some of what finer ones would do.
    """
    for number in (n for n in (COMPARED, *_FINAL) if pieces < n <= most):
        if law.error <= ROUNDING or number * len(law.curves) > _MOST_PARTS:
            break
        finer = _refitted(law, number, train, valid)
        if as_good(law.errors, finer.errors):
            break
        law, pieces = finer, number
    return law, pieces


def _refitted(law, pieces, train, valid):
    """The law with splines of another number of pieces."""
    curves = law.curves[: sum(map(len, law.message))]
    curves = refined(law.message, curves, train.elements, pieces)
    return fit_law(law.message, curves, law.update, train, valid, pieces)


def _at_first(trial, law):
    """Whether a part may be needless, as far as splines say that are not the finest."""
    return trial.error <= min(_AT_FIRST * law.error, law.error + _LITTLE)


def _shortened(law, pieces, train, valid, needless):
    """The law without the terms, and factors of terms, that it does not need.

    What is needed beside other terms is needed without them.
    """
    least, needed = law, set()
    while True:
        for one in _parts(law):
            if one in needed:
                continue
            trial = _without(law, one, train, valid, pieces)
            if trial is not None and needless(trial, least):
                law, least = trial, min(least, trial, key=lambda law: law.error)
                break
            needed.add(one)
        else:
            return law


def _parts(law):
    """What may be left out: terms, and factors of terms, of the message or not; longest first."""
    parts = [
        (inside, term, name)
        for inside, terms in ((True, law.message), (False, law.update))
        for term in terms
        for name in (None, *(term if len(term) > 1 else ()))
    ]
    return sorted(parts, key=lambda one: -len(one[1]))


def _without(law, part, train, valid, pieces):
    """The law without one of its parts; None if nothing would be left.

    What is left of a message is fitted to the whole of it first, on some elements; what an
    update lacks an offset of the message adds, as far as it can.
    """
    inside, term, name = part
    less = tuple(one for one in term if name is not None and one != name)
    if less and less in (law.message if inside else law.update):
        return None

    def rest(terms):
        left = [less if one == term else one for one in terms]
        return tuple(one for one in left if one)

    message, update = (rest(law.message), law.update) if inside else (law.message, rest(law.update))
    if not message or not any(SUM in one for one in update):
        return None
    count = sum(map(len, law.message))
    if inside:
        some = _some(train.elements, {name for term in law.message for name in term})
        sent = evaluate_terms(law.message, law.curves[:count], some)
        curves = fit_terms(message, some, sent, pieces)
    else:
        names = [(one, name) for one in (*law.message, *law.update) for name in one]
        kept = [
            curve
            for k, (place, curve) in enumerate(zip(names, law.curves, strict=True))
            if k < count or place[0] != term or place[1] in less
        ]
        shorter = law._replace(update=update, curves=tuple(kept))
        curves = _with_offset(shorter, law, train)[:count]
    return fit_law(message, curves, update, train, valid, pieces)


def _with_offset(shorter, law, train):
    """Factors of a shorter law, those of the message moved by what fits the targets best.

    By nothing; by what brings it nearest to the longer law, as far as slopes say; or so that the
    message is 0 at one of its ends, or on average.
    """
    firsts = np.cumsum([0, *map(len, shorter.message)])
    alone = [k for k, term in zip(firsts, shorter.message, strict=False) if len(term) == 1]
    if not alone:
        return shorter.curves
    bound, whole = shorter.on(train), law.on(train)
    lacking = (whole.errors(whole.start) - bound.errors(bound.start))[:, 0]
    ends = np.cumsum([0, *(len(curve.numbers) for curve in shorter.curves)])
    own = slice(ends[alone[0]], ends[alone[0] + 1])
    slope = np.sum(bound.slopes(bound.start)[:, 0, own], axis=1)
    sent = evaluate_terms(shorter.message, shorter.curves[: firsts[-1]], train.elements)
    sums, counts = train.sums @ sent, np.diff(train.sums.indptr)
    target = train.target[:, 0]

    def error(offset):
        columns = {**train.owners, SUM: sums + offset * counts}
        curves = fit_terms(shorter.update, columns, target, FIRST)
        return np.mean((target - evaluate_terms(shorter.update, curves, columns)) ** 2)

    near = slope @ lacking / (slope @ slope or 1.0)
    offset = min((0.0, near, -np.min(sent), -np.max(sent), -np.mean(sent)), key=error)
    moved = shorter.curves[alone[0]]
    curves = list(shorter.curves)
    curves[alone[0]] = moved._replace(numbers=moved.numbers + offset)
    return tuple(curves)


def _some(columns, names):
    """Evenly spaced samples, with the ends of all variables."""
    ends = [place for name in names for place in (columns[name].argmin(), columns[name].argmax())]
    count = len(next(iter(columns.values())))
    rows = np.unique([*ends, *np.linspace(0, count - 1, min(count, _SOME)).astype(int)])
    return {name: x[rows] for name, x in columns.items()}

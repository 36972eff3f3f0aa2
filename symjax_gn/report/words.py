"""What is said of a law, its checks and its numbers; the same wherever it is printed."""

import math
from collections.abc import Mapping
from typing import Any

import sympy

from symjax_gn.laws.expressions import rounded

MARKS = {"doubt": " (doubted)", "reject": " (rejected)"}
"""What follows the name of a law that its certificate does not believe."""

CERTIFICATES = {
    "believe": "**Believe**: the data support this law.",
    "doubt": "**Doubt**: the data do not support all of this law.",
    "reject": "**Reject**: this is not the law of the data. It is printed for the record only.",
}

_NEAR = {
    "exact": "its forces agree with the true ones to 0.1%",
    "approximate": "its forces agree with the true ones to 2% only",
    "up to a gauge": "its messages agree with the true forces, up to a gauge, to 2%",
    "not recovered": "its forces do not agree with the true ones",
}
_FORM = {
    "same": "its form is the true one",
    "other": "its form is another one",
    "unknown": "whether its form is the true one cannot be told",
}

# Names of checks, and of their numbers. All errors are relative and have no unit.
_CHECKS = {
    "determines_force": "messages determine the force",
    "error_seen": "forces on fresh pairs",
    "error_beyond": "forces beyond the distances seen",
    "one_body": "force on a body by itself",
    "dimension": "number of message components",
    "potential": "potential of a pair",
    "kinetic": "kinetic energy",
}
_NUMBERS = {
    "of_nothing": "relative error of predicting zero",
    "law_error": "relative error of the law",
    "network_error": "relative error of the network",
    "explained": "share of the remaining error that a further term explains",
    "missing": "part of accelerations that is left and is no noise",
    "told_from": "smallest part that noise would not hide",
    "apart": "relative difference of laws fitted to two halves",
    "work": "difference of work as a share of it",
    "median": "median relative error",
    "quantile_90": "90% quantile",
    "wrong": "share of pairs off by over a tenth",
    "condition_number": "condition number",
}
_NUMBERS_OF = {
    "momentum": {
        "law": "net force over the sum of forces, of the law",
        "data": "the same of the data",
    }
}
# What holds, what is needed for that, and what is said elsewhere.
_SILENT = ("holds", "needs", "approximate")


def mark(certificate: Mapping[str, Any] | None) -> str:
    """What follows the name of a law: "" where it is believed or has no certificate.

    >>> mark(dict(says="reject"))
    ' (rejected)'
    """
    return "" if not certificate else MARKS.get(certificate["says"], "")


def number(value: Any, digits: int = 3) -> str:
    """A number of a report in words where it is none.

    >>> [number(x) for x in (0.12345, None, float("nan"), float("inf"))]
    ['0.123', 'cannot be told', 'not known', 'infinite']
    """
    if value is None:
        return "cannot be told"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else "infinite"
    return f"{value:.{digits}g}"


def answer(check: Mapping[str, Any]) -> str:
    """Whether a check holds.

    >>> answer(dict(holds=None, needs="four recordings"))
    'cannot be told: needs four recordings'
    """
    if check["holds"] is None:
        return "cannot be told" + (f": needs {check['needs']}" if check.get("needs") else "")
    return "yes" if check["holds"] else "no"


def check_row(name: str, check: Mapping[str, Any]) -> str:
    """A check as a line of a table: its name, its numbers with their names, and the answer.

    >>> check_row("beyond", dict(law_error=0.5, limit=0.2, holds=False))
    '| beyond | relative error of the law 0.5, limit 0.2 | no |'
    """
    names = _NUMBERS | _NUMBERS_OF.get(name, {})
    numbers = []
    for key, value in check.items():
        if key in _SILENT or value is None or key.endswith("_limit"):
            continue
        most = check.get(f"{key}_limit")
        limit = "" if most is None else f" (at most {number(most)})"
        numbers.append(f"{names.get(key, key.replace('_', ' '))} {number(value)}{limit}")
    title = _CHECKS.get(name, name.replace("_", " "))
    return f"| {title} | {', '.join(numbers)} | {answer(check)} |"


def form_answer(report: Mapping[str, Any]) -> str:
    """Whether the form is the true one.

    >>> form_answer(dict(form_verdict="unknown"))
    'cannot be told'
    """
    return {"same": "yes", "other": "no"}.get(report["form_verdict"], "cannot be told")


def verdict_words(report: Mapping[str, Any]) -> str:
    """What the verdict says, in a sentence: how near the law is, and whether of the same form.

    >>> verdict_words(dict(verdict="exact", form_verdict="other", recovered=False))
    'not recovered: its forces agree with the true ones to 0.1%, but its form is another one'
    """
    says, form = report["verdict"], report["form_verdict"]
    if says is None:
        return "no verdict: the true law is not known"
    near, seen = _NEAR[says], report.get("checks", {}).get("error_seen", {})
    if "median" in seen:
        near += f" (median relative error {number(seen['median'])})"
    if report["recovered"]:
        return f"recovered: {near}, and {_FORM[form]}"
    joined = "but" if says in ("exact", "up to a gauge") or form == "same" else "and"
    return f"not recovered: {near}, {joined} {_FORM[form]}"


def in_short(law: Any) -> str:
    """A law in a line, its constants rounded.

    >>> in_short(sympy.Float(-0.006663))
    '-0.006663'
    """
    return sympy.sstr(rounded(law), full_prec=False)


def interval_text(value: float, low: float, high: float) -> str:
    """A constant with the ends of its interval, with digits enough to tell them apart.

    >>> interval_text(-1.98, -1.98000002, -1.97999998)
    '-1.98, between -1.98000002 and -1.97999998'
    >>> interval_text(2.5, 2.5, 2.5)
    '2.5, known to rounding'
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.6g}, its interval cannot be told"
    if not low < high:
        return f"{value:.15g}, known to rounding"
    places = math.ceil(-math.log10((high - low) / max(abs(low), abs(high)))) + 1
    digits = min(17, max(4, places))
    return f"{value:.{digits}g}, between {low:.{digits}g} and {high:.{digits}g}"

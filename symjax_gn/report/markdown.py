"""`report.md`: what `report.json` says, for people."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from symjax_gn.data.nodes import AXES
from symjax_gn.report.words import (
    CERTIFICATES,
    check_row,
    form_answer,
    interval_text,
    mark,
    number,
    verdict_words,
)


def report_markdown(report: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """`report.md`: the same for people, with figures given as titles by file name."""
    outcome = verdict_words(report)
    outcome = outcome[0].upper() + outcome[1:]
    said, _, why = outcome.partition(":")
    marked = mark(report.get("certificate"))
    where = "" if report["dim"] is None else f", {report['dim']}D"
    what = "elements" if report["dim"] is None else "bodies"
    lines = [f"# {report['system']}{where}, {report['n']} {what}", ""]
    lines += [*_certificate_lines(report.get("certificate")), f"**{said}**:{why}.", ""]
    for law in report["laws"]:
        lines += [f"The {law['target']}{marked}:", "", f"$$ {law['latex']} $$", ""]
        lines += [_rating(law, report["mae_unit"]), ""]
    for law in report.get("update") or ():
        lines += [f"The {report['quantity']} of the sums e of messages{marked}:", ""]
        lines += [f"$$ {law['latex']} $$", ""]
    if report["dim"] is not None:
        lines += ["Here j is the sender, i the receiver and r their distance.", ""]
    if report.get("update") and report["model"]:
        lines += [f"Composed, with all constants refitted{marked}:", ""]
        for name, laws in report["model"].items():
            lines += [f"$$ \\mathrm{{{name}}}: {law['latex']} $$\n" for law in laws]
    if report["form"] == "linear":
        lines += [
            "The law is that of a force along M u, where u is the unit vector to the sender and "
            f"M = {np.round(report['matrix'], 4).tolist()}; {report['across']:.1%} of the force "
            "(median) is across the line of centres.",
            "",
        ]
    elif report["form"] == "components" and report["across"] is not None:
        lines += [
            f"One law per component; {report['across']:.1%} of the force (median) is across the "
            "line of centres.",
            "",
        ]
    lines += _energy_lines(report, marked)
    lines += _one_body_lines(report.get("one_body"), marked)
    if report.get("motion"):
        lines += [f"The equation of motion as a whole{marked}:", ""]
        lines += [f"$$ {latex} $$\n" for latex in report["motion"]]
    if report["checks"]:
        lines += ["## Against the true law", "", "| check | numbers | holds |", "|---|---|---|"]
        lines += [check_row(name, check) for name, check in report["checks"].items()]
        lines += [
            f"| form | the law for some values of its constants | {form_answer(report)} |",
            "",
        ]
        lines += [_ERRORS, ""]
        compared = report["compared_in"]
        if compared is not None:
            lines += [
                f"Compared in the gauge g = {compared['g']}, with a true softening of "
                f"{compared['softening']}.",
                "",
            ]
    if report.get("remarks"):
        lines += [*(f"- {remark}" for remark in report["remarks"]), ""]
    if report.get("failed_simulations"):
        lines += [f"{report['failed_simulations']} simulations failed and were left out.", ""]
    lines += _network_lines(report)
    components = report.get("message_components")
    if components:
        how = "given as the dimension" if components["told"] else "found, with no dimension given"
        lines += [
            f"Message components in use: {components['used']} of {components['of']}, {how}.",
            "",
        ]
    lines += _law_lines(report, marked)
    more = report.get("more_bodies")
    if more:
        lines += [
            f"With {more['n']} bodies, without training on them: network "
            f"{number(more['network'], 4)}, law {more['law']:.4g}, of a mean size of "
            f"{more['mean_abs_target']:.4g} (same unit).",
            "",
        ]
    if report["message_r2"]:
        r2 = report["message_r2"]
        lines += [
            f"R^2 of raw messages against true forces: {r2['force']:.4f}; without the worst 10%: "
            f"{r2['force_trimmed']:.4f}; in the gauge g = {r2['gauge_name']}: {r2['gauge']:.4f}. "
            f"Of the forces they stand for: {r2['influence']:.6f}.",
            "",
        ]
    if report.get("message_gauge"):
        lines += [
            "Size of a raw message per unit of force, up to a factor: "
            f"${report['message_gauge']['latex']}$ (mean relative error "
            f"{report['message_gauge']['mae']:.2%}).",
            "",
        ]
    if report["flattening_power"]:
        lines += [
            f"During the search targets were multiplied by r^{report['flattening_power']}, so "
            "that close pairs do not hide the rest; complexities count the laws in that form.",
            "",
        ]
    names = [law["target"] for law in report["laws"]]
    for k, front in enumerate(report["fronts"]):
        target = names[k] if k < len(names) else f"target {k}"
        lines += [f"## Candidates for the {target}", "", "| complexity | error | score | law |"]
        lines += ["|---|---|---|---|"]
        for law in front:
            lines.append(
                f"| {law['complexity']} | {law['mae']:.3g} | {law['score']:.2f} "
                f"| ${law['latex']}$ |"
            )
        lines.append("")
    lines += _step_lines(report.get("steps"))
    for file, title in figures.items():
        lines += [f"![{title}]({file})", ""]
    stages = dict(report["seconds"])
    compiling = stages.pop("compile", None)
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    seconds += "" if compiling is None else f"; compiling, in all of them, {compiling:.1f}"
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    strategy = report["strategy"] or "none, without a network"
    lines += [
        f"Strategy {strategy}, regressor {report['regressor']}, seed {report['seed']}. "
        f"Seconds: {seconds}. Versions: {packages}.",
        "",
    ]
    return "\n".join(lines)


_ERRORS = "Relative errors are shares of |value| plus a small share of its typical size."


def _step_lines(steps):
    """How terms were found."""
    if not steps:
        return []
    return [
        "## How the terms were found",
        "",
        "Each step is the one, of so many that were compared, that shortens the description of "
        "data and law most; a word of a law counts 2.5 nats.",
        "",
        "| move | terms | error | gained, nats | compared |",
        "|---|---|---|---|---|",
        *(
            f"| {one['move']} | {one['law']} | {one['error']:.2g} | {one['gained']:.0f} | "
            f"{one['compared']} |"
            for one in steps
        ),
        "",
    ]


def _network_lines(report):
    """By which route the law was found, and what the network errs by."""
    found, error = report.get("route"), report["test_error"]
    lines = []
    if found:
        lines += ["## The route", "", _ROUTES[found["found"]], ""]
    if error is None:
        return [*lines, "No network was trained.", ""]
    share = error["value"] / error["mean_abs_target"] if error["mean_abs_target"] else math.nan
    steps = report.get("training_steps")
    after = "" if steps is None else f" after {steps} steps"
    return [
        *lines,
        f"The network's error on test data{after} is {number(error['value'], 4)}, {number(share)} "
        f"of the size of what it predicts, {number(error['mean_abs_target'], 4)} "
        f"({error['unit']}).",
        "",
    ]


_ROUTES = {
    "data": "The law was found from the data: terms were fitted to them by least squares, and the "
    "functions of these were read as formulas. No network had a part in it.",
    "messages": "The law was found from messages: a network was trained, and what it sends was "
    "read as formulas, whose constants were then fitted to the data.",
}


def _rating(law, unit):
    """How a law was rated among its candidates."""
    text = f"Complexity {law['complexity']}"
    if math.isfinite(law["mae"]):
        text += f", mean error {law['mae']:.3g} in units of {unit}"
    if law["score"]:
        text += f", score {law['score']:.3g} (fall of log error per unit of complexity)"
    return text + "."


def _certificate_lines(found):
    """Whether to believe the law, and why."""
    if not found:
        return []
    lines = [CERTIFICATES[found["says"]], ""]
    lines += ["| from the data alone | numbers | holds |", "|---|---|---|"]
    return [*lines, *(check_row(*one) for one in found["checks"].items()), ""]


def _one_body_lines(alone, marked):
    """What moves a body by itself."""
    if not alone:
        return []
    if alone["form"] == "none":
        lines = ["No force on a body by itself was found.", ""]
        # More than all of a pair's force is what an untrained network adds.
        if 0 < alone["share"] < 1:
            share = f"{alone['share']:.2%} of a pair's force (median)"
            lines[0] += f" What the network adds to the messages is {share}."
    else:
        lines = [f"The force on a body by itself, along each axis{marked}:", ""]
        lines += [
            f"$$ {axis}: {latex} $$\n" for axis, latex in zip(AXES, alone["latex"], strict=False)
        ]
    if alone["check"]:
        check = alone["check"]
        lines += [
            f"It {'agrees' if check['holds'] else 'does not agree'} with the truth: median "
            f"relative error {number(check['median'])}, 90% quantile "
            f"{number(check['quantile_90'])}.",
            "",
        ]
    return lines


def _law_lines(report, marked):
    """Errors of the law in the network's place, and its constants."""
    before, found = report.get("law_error"), report.get("refit")
    if not found:
        return [] if before is None else [f"The law's error is {number(before, 4)}.", ""]
    lines = [
        f"The law's error, with constants fitted to data, is {number(found['law_error'], 4)} "
        f"(same unit; {number(before, 4)} before); its mean relative error on bodies in training "
        f"goes from {number(found['error_before'])} to {number(found['error'])}.",
        "",
    ]
    towards = found["towards"]
    if towards is not None and towards["latex"] not in [law["latex"] for law in report["laws"]]:
        lines += [f"The force towards the sender is then{marked}", "", f"$$ {towards['latex']} $$"]
        lines += [""]
    if found.get("becomes"):
        lines += [f"Sums of forces, e_0, e_1, ..., are within a function{marked}. They become", ""]
        lines += [f"$$ {law['latex']} $$\n" for law in found["becomes"]]
        if found.get("beside"):
            lines += ["where the last sum is that of", ""]
            lines += [f"$$ {law['latex']} $$\n" for law in found["beside"]]
    if found.get("constants"):
        lines += ["Its constants, with 95% intervals of the fit:", ""]
        lines += [f"$$ {latex} $$\n" for latex in found["named"]]
        lines += [
            f"- {x['name']} = {interval_text(x['value'], x['low'], x['high'])}"
            for x in found["constants"]
        ]
        lines.append("")
    if found.get("exact"):
        lines += [f"Exact numbers in it, which the data allow: {', '.join(found['exact'])}.", ""]
    return lines


def _energy_lines(report, marked):
    """What a Hamiltonian adds to `report.md`."""
    found = report.get("energies")
    if not found:
        return []
    lines = ["## Energies", ""]
    if report.get("drag_without_dissipation"):
        lines += [
            "The system has drag, which no Hamiltonian holds; --dissipative adds what does.",
            "",
        ]
    if found["potential"] is None:
        lines += [
            "No potential: the law of force is not central, or has no integral that is known and "
            "real on the data.",
            "",
        ]
    else:
        lines += [
            f"The potential of a pair{marked}:",
            "",
            f"$$ {found['potential']['latex']} $$",
            "",
        ]
        lines += [
            "Energies of the network have on top of it, without effect on any force: "
            f"${found['additive']['latex']}$. The standard deviation of what is left is "
            f"{number(found['additive_error'])} of that of the network's energies.",
            "",
        ]
    if found.get("refitted"):
        potential = found["refitted"]["latex"]
        if found["potential"] is None or potential != found["potential"]["latex"]:
            lines += [f"With constants fitted to accelerations{marked}:", ""]
            lines += [f"$$ {potential} $$", ""]
    kinetic = found["kinetic"]
    if kinetic and kinetic["energy"]:
        energy = kinetic["energy"]["latex"]
        lines += [
            f"The kinetic energy of a body with momentum p{marked}:",
            "",
            f"$$ {energy} $$",
            "",
        ]
    elif kinetic:
        lines += [
            f"The network's dH/dp is ${kinetic['velocity']['latex']}$, of which no integral is "
            "known that is real on the data: there is no kinetic energy.",
            "",
        ]
    for name, check in found["checks"].items():
        lines += [
            f"Check of the {name} energy: median relative error {number(check['median'])}, 90% "
            f"quantile {number(check['quantile_90'])}; "
            f"{'holds' if check['holds'] else 'does not hold'}.",
            "",
        ]
    if found["rollouts"] is None:
        return [*lines, f"No paths were followed: {found['no_rollouts']}.", ""]
    lines += [
        "Largest change of energy along paths, over the initial kinetic energy, median; the "
        "distilled Hamiltonian is that of the refitted law"
        + (":" if found.get("refitted") else ", which has no potential that is known:"),
        "",
    ]
    lines += ["| solver | Hamiltonian | its own energy | the true energy | finished |"]
    lines += ["|---|---|---|---|---|"]
    for row in found["rollouts"]:
        true = "" if row["true_drift"] is None else f"{row['true_drift']:.3g}"
        lines.append(
            f"| {row['solver']} | {row['hamiltonian']} | {row['own_drift']:.3g} | {true} "
            f"| {row['paths'] - row['failed']} of {row['paths']} |"
        )
    return [*lines, ""]


_GREY, _BLUE, _RED, _ORANGE = "0.7", "#1f5fa8", "#c0392b", "#e69f00"

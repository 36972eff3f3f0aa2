"""`report.md`: what `report.json` says, for people."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def report_markdown(report: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """`report.md`: the same for people, with figures given as titles by file name."""
    outcome = {
        "exact": "**Recovered**: the law is the one the data were made with.",
        "up to a gauge": "**Recovered**, as raw messages are: up to their gauge.",
        "approximate": "**Approximate**: the law is near the one the data were made with, and not "
        "it.",
        "not recovered": "**Not recovered**: the law is not the one the data were made with.",
        None: "The true law is not known, so there is no verdict; see the held-out error.",
    }[report["verdict"]]
    where = "" if report["dim"] is None else f", {report['dim']}D"
    what = "elements" if report["dim"] is None else "bodies"
    lines = [f"# {report['system']}{where}, {report['n']} {what}", ""]
    lines += [*_certificate_lines(report.get("certificate")), outcome, ""]
    for law in report["laws"]:
        lines += [f"The {law['target']}:", "", f"$$ {law['latex']} $$", ""]
        lines += [
            f"Complexity {law['complexity']}, error {law['mae']:.3g}, score {law['score']:.3g} "
            f"({report['mae_unit']}).",
            "",
        ]
    for law in report.get("update") or ():
        lines += [f"The {report['quantity']} of the sums e of messages:", ""]
        lines += [f"$$ {law['latex']} $$", ""]
    if report["dim"] is not None:
        lines += ["Here j is the sender, i the receiver and r their distance.", ""]
    if report.get("update") and report["model"]:
        lines += ["Composed, with all constants refitted:", ""]
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
    lines += _energy_lines(report)
    alone = report.get("one_body")
    if alone and alone["form"] == "none":
        lines += [
            "No force on a body by itself was found: what the network adds to the messages is "
            f"{alone['share']:.2%} of a pair's force (median).",
            "",
        ]
    elif alone:
        lines += [f"The force on a body by itself, {alone['form']}, component by component:", ""]
        lines += [f"$$ {latex} $$\n" for latex in alone["latex"]]
    if alone and alone["check"]:
        lines += [
            f"It {'agrees' if alone['check']['holds'] else 'does not agree'} with the truth: "
            f"median error {alone['check']['median']:.3g}, 90% quantile "
            f"{alone['check']['quantile_90']:.3g}.",
            "",
        ]
    if report.get("motion"):
        lines += ["Newton's law as a whole, with constants as they were distilled:", ""]
        lines += [f"$$ {latex} $$\n" for latex in report["motion"]]
    if report["checks"]:
        lines += ["## Checks", "", "| check | numbers | holds |", "|---|---|---|"]
        for name, check in report["checks"].items():
            numbers = ", ".join(f"{k} {v:.3g}" for k, v in check.items() if k != "holds")
            lines.append(f"| {name} | {numbers} | {'yes' if check['holds'] else 'no'} |")
        lines.append("")
        compared = report["compared_in"]
        if compared is not None:
            lines += [
                f"Compared in the gauge g = {compared['g']}, with a true softening of "
                f"{compared['softening']}.",
                "",
            ]
    if report.get("derived"):
        lines += [f"Not given, so differentiated or assumed: {', '.join(report['derived'])}.", ""]
    if report.get("failed_simulations"):
        lines += [f"{report['failed_simulations']} simulations failed and were left out.", ""]
    error = report["test_error"]
    lines += [
        "## Network",
        "",
        f"Held-out error {error['value']:.4g} where the mean is {error['mean_abs_target']:.4g} "
        f"({error['unit']}).",
        "",
    ]
    if report.get("ended_at"):
        lines += [
            f"Training ended after {report['ended_at']} steps, as a law that was found by then "
            "leaves nothing but rounding; the network's errors are those of that moment.",
            "",
        ]
    components = report.get("message_components")
    if components:
        how = "as told" if components["told"] else "found without being told the dimension"
        lines += [
            f"Message components in use: {components['used']} of {components['of']}, {how}.",
            "",
        ]
    if report.get("law_error") is not None:
        lines += [f"The distilled laws in its place: {report['law_error']:.4g}.", ""]
    lines += _refit_lines(report.get("refit"))
    more = report.get("more_bodies")
    if more:
        lines += [
            f"With {more['n']} bodies, without training on them: network {more['network']:.4g}, "
            f"laws {more['law']:.4g}, where the mean is {more['mean_abs_target']:.4g}.",
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
    for number, front in enumerate(report["fronts"]):
        lines += [f"## Pareto front {number}", "", "| complexity | error | score | law |"]
        lines += ["|---|---|---|---|"]
        for law in front:
            lines.append(
                f"| {law['complexity']} | {law['mae']:.3g} | {law['score']:.2f} "
                f"| ${law['latex']}$ |"
            )
        lines.append("")
    for file, title in figures.items():
        lines += [f"![{title}]({file})", ""]
    stages = dict(report["seconds"])
    compiling = stages.pop("compile", None)
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in stages.items())
    seconds += "" if compiling is None else f"; compiling, in all of them, {compiling:.1f}"
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines += [
        f"Strategy {report['strategy']}, regressor {report['regressor']}, seed {report['seed']}. "
        f"Seconds: {seconds}. Versions: {packages}.",
        "",
    ]
    return "\n".join(lines)


_SAID = {
    "believe": "**Believe**: the data support this law.",
    "doubt": "**Doubt**: the data do not support all of this law.",
    "reject": "**Reject**: this is not what the network knows, or the network knows no law.",
}


def _certificate_lines(found):
    """Whether to believe the law, and why."""
    if not found:
        return []
    lines = [_SAID[found["says"]], "", "| from the data alone | numbers | holds |", "|---|---|---|"]
    for name, check in found["checks"].items():
        numbers = ", ".join(
            f"{k.replace('_', ' ')} {v:.3g}"
            for k, v in check.items()
            if k != "holds" and v is not None
        )
        lines.append(f"| {name} | {numbers} | {'yes' if check['holds'] else 'no'} |")
    return [*lines, ""]


def _refit_lines(found):
    if not found:
        return []
    lines = [
        f"With constants fitted to accelerations: {found['law_error']:.4g}; the mean relative "
        f"error of bodies in training goes from {found['error_before']:.3g} to "
        f"{found['error']:.3g}.",
        "",
    ]
    if found["towards"] is not None:
        law = found["towards"]["latex"]
        lines += ["The force towards the sender is then", "", f"$$ {law} $$", ""]
    if found.get("constants"):
        lines += ["Its constants, with 95% intervals of the fit:", ""]
        lines += [
            f"- {x['value']:.6g}: {x['low']:.6g} to {x['high']:.6g}" for x in found["constants"]
        ]
        lines.append("")
    return lines


def _energy_lines(report):
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
        lines += ["The potential of a pair:", "", f"$$ {found['potential']['latex']} $$", ""]
        lines += [
            "Energies of the network have on top of it, without effect on any force: "
            f"${found['additive']['latex']}$. What is left over is {found['additive_error']:.2%} "
            "of both together (standard deviations).",
            "",
        ]
    if found.get("refitted"):
        potential = found["refitted"]["latex"]
        lines += ["With constants fitted to accelerations:", "", f"$$ {potential} $$", ""]
    kinetic = found["kinetic"]
    if kinetic and kinetic["energy"]:
        energy = kinetic["energy"]["latex"]
        lines += ["The kinetic energy of a body with momentum p:", "", f"$$ {energy} $$", ""]
    elif kinetic:
        lines += [
            f"The network's dH/dp is ${kinetic['velocity']['latex']}$, of which no integral is "
            "known that is real on the data: there is no kinetic energy.",
            "",
        ]
    for name, check in found["checks"].items():
        lines += [
            f"Check of the {name}: median error {check['median']:.3g}, 90% quantile "
            f"{check['quantile_90']:.3g}, {'holds' if check['holds'] else 'does not hold'}.",
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

"""The command line: from a simulated system, or measured trajectories, to the law.

    python -m symjax_gn --system spring --dim 2 --n 4 --seed 0 --out spring-2
    python -m symjax_gn --system examples/yukawa.py --out yukawa-2
    python -m symjax_gn --data measured.npz --out mine
    python -m symjax_gn --strategy flathgn --system charge --out charge-2

Writes report.json, report.md, figures, the network and the law to the output folder, and
prints the law. Exits with 0 whether or not the law is the true one (the report says), with 2
and one line of explanation if something is wrong with what it was given.
"""

import argparse
import dataclasses
import re
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from symjax_gn.compiling import keep_compiled, seconds_compiling
from symjax_gn.console import INTERRUPTED, never_swallowed, speaking_on
from symjax_gn.data.building import make_dataset
from symjax_gn.data.checks import LARGEST_SEED, check_count, check_path
from symjax_gn.data.folders import own_folder
from symjax_gn.data.nodes import AXES
from symjax_gn.data.trajectories import load_trajectory, remarks
from symjax_gn.discovery.certificate import Certificate
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.model import held_out_error
from symjax_gn.networks.training import TrainingError
from symjax_gn.physics.simulation import SimulationError, simulate
from symjax_gn.physics.systems import SYSTEMS, System, get_system, load_system
from symjax_gn.pipeline import OUTPUTS, discover
from symjax_gn.report import records
from symjax_gn.report.words import in_short, mark, verdict_words
from symjax_gn.results import Discovery
from symjax_gn.settings import PRESETS, Settings, check_settings, options, preset

_LEAST_SIMULATIONS = 3  # one for each of training, validation and test
_MORE_SIMULATIONS = 100

# What is saved as soon as it is there.
_KEPT = ("network.msgpack", "law.json")

# Options of simulated data: type, default and help.
_SIMULATED: dict[str, tuple[Callable[[str], Any], Any, str]] = dict(
    system=(
        str,
        "spring",
        f"one of {', '.join(SYSTEMS)}; or FILE.py[:NAME] with a System or a pair potential: "
        "the code of that file is run, so give one that you trust",
    ),
    dim=(int, 2, "spatial dimensions, 1 to 3"),
    n=(int, None, "bodies (default: the system's, mostly 4)"),
    test_n=(int, None, "bodies of a second test set, to see how network and law carry over"),
    simulations=(int, 1000, "number of simulations"),
    outputs=(int, 100, "outputs of each simulation"),
    every=(int, 5, "system's time steps between two outputs"),
    solver=(str, "adaptive", "adaptive, symplectic or midpoint"),
)


def make_parser(defaults: dict[str, Any]) -> argparse.ArgumentParser:
    """All options; those of `Settings` are made from its fields.

    Args:
        defaults: settings that differ from those of `Settings`.
    """
    parser = argparse.ArgumentParser(
        prog="symjax-gn",
        description=(__doc__ or "").split("\n")[0],
    )
    data = parser.add_argument_group("data")
    for name, (kind, default, text) in _SIMULATED.items():
        text += "" if default is None else f" (default: {default})"
        data.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    data.add_argument(
        "--data",
        metavar="FILE.npz",
        help="measured trajectories in place of a system: arrays time [time] and position "
        "[sim, time, node, dim], and optionally velocity, acceleration, mass, charge, ...",
    )
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(Settings)
    for field in options():
        name = field.metadata["group"]
        groups.setdefault(name, parser.add_argument_group(name))
        default = defaults.get(field.name, field.default)
        _add_option(groups[name], field, hints[field.name], default)
    parser.add_argument(
        "--preset", default="default", help=f"{' or '.join(PRESETS)} (default: default)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of everything random (default: 0)"
    )
    parser.add_argument(
        "--out", default="discovered", help="folder for the report (default: discovered)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from what a run that was ended has left in the folder",
    )
    return parser


def _add_option(group, field, hint, default):
    """An option for one field of `Settings`; left out, it is not in the result."""
    flag = "--" + field.name.replace("_", "-")
    text = field.metadata["help"].replace("%", "%%")
    if default is not None and "default" not in text:
        text += f" (default: {' '.join(default) if isinstance(default, tuple) else default})"
    kinds = [k for k in (hint, *typing.get_args(hint)) if k is not types.NoneType]
    options: dict[str, Any] = dict(default=argparse.SUPPRESS, help=text)
    if bool in kinds:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif isinstance(field.default, tuple):
        group.add_argument(flag, nargs="+", **options)
    else:
        kind = next(k for k in kinds if k in (int, float, str))
        group.add_argument(flag, type=kind, **options)


def parse(argv: Sequence[str] | None = None, **defaults: Any) -> argparse.Namespace:
    """The command line; its settings, not yet checked, are in `settings`.

    Args:
        argv: the words of the command line; None takes those of the process.
        **defaults: settings that differ from those of `Settings`.
    """
    args = make_parser(defaults).parse_args(argv)
    names = [field.name for field in options()]
    given = {name: vars(args).pop(name) for name in names if name in args}
    if "operators" in given:
        given["operators"] = tuple(given["operators"])
    if args.data is None:
        for name, (_, default, _) in _SIMULATED.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
    args.settings = preset(args.preset, **(defaults | given))
    return args


def check_options(args: argparse.Namespace) -> None:
    """What is wrong with the options is an error before anything runs."""
    check_settings(args.settings)
    check_path("--out", args.out)
    check_count("--seed", args.seed, 0, LARGEST_SEED)
    if args.data is None:
        check_count("--simulations", args.simulations, _LEAST_SIMULATIONS)
        check_count("--outputs", args.outputs, 2)
        check_count("--every", args.every)
    if args.test_n is not None:
        check_count("--test-n", args.test_n, 2)
        if args.settings.gauge == "messages":
            raise ValueError("--test-n needs --gauge influence.")
    if args.data is not None:
        if not args.data:
            raise ValueError("--data needs the name of an .npz file, got an empty one.")
        for name in _SIMULATED:
            if getattr(args, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is of data to be simulated; with --data leave it out.")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the whole path and write the report; returns its contents."""
    check_options(args)
    # Locked before anything is read, deleted or written.
    with own_folder(args.out, (*OUTPUTS, *records.OUTPUTS)) as folder:
        assert folder is not None
        return _run_in(folder, args)


def _run_in(folder, args):
    start = time.perf_counter()
    keep_compiled()
    watched = seconds_compiling()
    key = jax.random.key(args.seed)
    data_key, run_key, more_key = jax.random.split(key, 3)
    settings, system = args.settings, None
    if args.data is not None:
        trajectory = load_trajectory(args.data)
        for line in remarks(trajectory):
            print(line)
        dataset = make_dataset(trajectory)
    else:
        system = (load_system if ".py" in args.system else get_system)(args.system)
        trajectory, dataset = _simulate(args, data_key, system, args.n, args.simulations)
        # In each of the system's time steps.
        substeps = settings.rollout_substeps * args.every
        settings = dataclasses.replace(settings, rollout_substeps=substeps)
    other = None
    if args.test_n is not None and system is not None:
        other = _simulate(args, more_key, system, args.test_n, _MORE_SIMULATIONS)[1]
    simulated = time.perf_counter() - start

    def tell(stage):
        if stage == "train" and settings.route == "messages":
            print("looking for laws", flush=True)

    def show(law):
        print("what data say, before it is checked; e are sums over senders j:")
        for k, one in enumerate(law.message):
            print(f"  e_{k} = sum of {in_short(one)}")
        for axis, one in zip(AXES, law.update, strict=False):
            print(f"  {law.quantity.name} along {axis} = {in_short(one)}", flush=True)

    found = discover(
        run_key,
        dataset,
        settings,
        system=system,
        search_seed=args.seed,
        progress=True,
        on_stage=tell,
        on_law=show,
        folder=folder,
        resume=args.resume,
    )
    if found.parts[0].note:
        print(found.parts[0].note)
    print_laws(found)
    # Imported once something is drawn, since matplotlib takes long.
    from symjax_gn.report import plots

    figures = {"trajectories.png": ("Trajectories", plots.plot_trajectories(trajectory))}
    figures |= found.figures()
    seconds = {"simulate": simulated, **found.seconds}
    seconds["report"] = time.perf_counter() - start - simulated - found.seconds["total"]
    seconds["total"] = time.perf_counter() - start
    seconds["compile"] = seconds_compiling() - watched
    contents = found.report(
        system=args.data or (system.name if system else None),
        dim=trajectory.position.shape[-1],
        n=trajectory.position.shape[2],
        seed=args.seed,
        arguments=arguments(args),
        derived=list(trajectory.derived),
        remarks=remarks(trajectory),
        failed_simulations=trajectory.failed,
        more_bodies=_measure_more_bodies(other, found),
        drag_without_dissipation=bool(
            system and system.drag and found.energies and not settings.dissipative
        ),
    )
    contents["seconds"] = seconds
    # Together and last, so that an interruption mixes no two runs.
    records.write_report(folder, contents, figures)
    print(certificate_line(found.certificate))
    print(f"{verdict_words(contents)}; {seconds['total']:.0f} s; see {folder / 'report.md'}")
    return contents


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """All options of a run, for the report."""
    options = {name: x for name, x in vars(args).items() if name not in ("out", "settings")}
    return options | dataclasses.asdict(args.settings)


def _simulate(args, key, system: System, num_nodes, num_simulations):
    """Simulated trajectories and their graphs."""
    trajectory = simulate(
        key,
        system,
        num_nodes=num_nodes,
        dim=args.dim,
        num_simulations=num_simulations,
        num_outputs=args.outputs,
        dt=args.every * system.dt,
        solver=args.solver,
        progress=True,
    )
    if system.cutoff is not None:
        return trajectory, make_dataset(trajectory, cutoff=system.cutoff)
    return trajectory, make_dataset(trajectory, *system.edges(trajectory.position.shape[2]))


def _measure_more_bodies(other, found: Discovery):
    """Errors of the network and of the refitted laws on graphs of another number of bodies."""
    if other is None or found.law is None:
        return None
    law, size = held_out_error(found.law, other)
    network = None
    if found.trained is not None:
        network, _ = held_out_error(found.trained, other)
    count = other.nodes.position.shape[1]
    return dict(n=count, network=network, law=law, mean_abs_target=size)


def certificate_line(said: Certificate) -> str:
    """The certificate in a line, with what does not hold and what cannot be told."""
    line = f"certificate: {said.says}"
    failed = [name for name, check in said.checks.items() if check["holds"] is False]
    untold = [
        f"{name} (needs {check['needs']})"
        for name, check in said.checks.items()
        if check["holds"] is None
    ]
    for title, names in (("does not hold", failed), ("cannot be told", untold)):
        line += f"; {title}: {', '.join(names)}" if names else ""
    return line


def print_laws(found: Discovery) -> None:
    """The laws as they were refitted, those of raw messages as they were picked, and a mark."""
    marked, energies = mark(found.certificate._asdict()), found.energies

    def show(name, law):
        print(f"{name}{marked}: {in_short(law)}")

    if energies is not None:
        if energies.potential.potential is not None:
            show("potential of a pair", energies.potential.potential)
        if energies.refitted is not None:
            show("potential of a pair, constants refitted", energies.refitted)
        if energies.kinetic is not None and energies.kinetic.energy is not None:
            show("kinetic energy of a body", energies.kinetic.energy)
    raw = found.settings.gauge == "messages" or found.update is not None
    laws = found.distilled.components if found.refit is None else found.refit.force
    for k, law in enumerate(laws):
        show(f"message {k}" if raw else f"force on i from j, {AXES[k]}", law)
    for law in found.update.selected if found.update is not None else ():
        show(f"{found.parts[0].quantity.name} of the sums", law.expression)
    alone = () if found.one_body is None else found.one_body.components
    if found.refit is not None:
        alone = found.refit.one_body
    if any(law != 0 for law in alone):
        for axis, law in zip(AXES, alone, strict=False):
            show(f"force on i alone, {axis}", law)
    if found.refit is not None and found.refit.towards is not None:
        show("force on i towards j", found.refit.towards)
    if found.refit is not None:
        for law in found.refit.others:
            show("summed beside forces", law)
        for axis, law in zip(AXES, found.refit.update, strict=False):
            show(f"sums of forces become, {axis}", law)


def main(argv: Sequence[str] | None = None, **defaults: Any) -> int:
    """Run; errors in what was given become one line and exit code 2.

    Args:
        argv: the words of the command line; None takes those of the process.
        **defaults: settings that differ from those of `Settings`.
    """
    with speaking_on() as said, never_swallowed():
        code = _main(argv, defaults)
    if said.error is not None and code == 0:
        print(
            f"error: standard output: {said.error.strerror}; all results were saved",
            file=sys.stderr,
        )
        return 2
    return code


def _main(argv, defaults):
    out, start = None, time.time()
    try:
        args = parse(argv, **defaults)
        out = Path(args.out)
        run(args)
    except KeyboardInterrupt:
        files = [] if out is None else [out / name for name in _KEPT]
        # Files of an earlier run are none of this one.
        kept = [x.name for x in files if x.exists() and x.stat().st_mtime >= start]
        what = f"; {' and '.join(kept)} in {out} were kept" if kept else ""
        states = [] if out is None else (out / "training" / "states").glob("*")
        if any(x.stat().st_mtime >= start for x in states):
            what += "; --resume goes on from here"
        print(f"\ninterrupted{what}", file=sys.stderr)
        return INTERRUPTED
    except (
        ValueError,
        OSError,
        ImportError,
        MemoryError,
        SimulationError,
        TrainingError,
        RegressionError,
    ) as error:
        print(f"error: {_with_flags(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    return 0


def _with_flags(message: str) -> str:
    """An error message with the options of the command line in the place of settings."""
    for field in options():
        flag = "--" + field.name.replace("_", "-")
        message = re.sub(rf"(?<![\w-]){field.name}(?= must be | is of |=)", flag, message)
        if "_" in field.name:
            message = re.sub(rf"(?<![\w-]){field.name}(?!\w)", flag, message)
    return message

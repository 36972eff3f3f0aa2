"""From a simulated system, or measured trajectories, to its Hamiltonian.

    python examples/discover_potential.py --system charge --dim 2 --seed 0 --out charge-2
    python examples/discover_potential.py --system damped --dissipative --out damped-2

As `discover_force.py`, with energies in place of forces: a flat Hamiltonian graph network is
trained, the potential of a pair and the kinetic energy of a body are distilled from it, and
the distilled Hamiltonian is followed in time beside the network's and the true one.
"""

import argparse
import sys

import jax
import numpy as np
from discover_force import (
    arguments,
    check_options,
    get_data,
    get_more_bodies,
    get_source,
    guarded,
    make_parser,
    may_feel_field,
    measure_more_bodies,
    print_laws,
    print_outcome,
    print_refit,
    regressors,
    stopwatch,
    training_options,
)

from symjax_gn.data import datasets
from symjax_gn.data.checks import check_at_least
from symjax_gn.data.nodes import Body
from symjax_gn.discovery import distillation, energies, refitting, rollouts, verdict
from symjax_gn.discovery.gauge import message_r2
from symjax_gn.laws.expressions import rounded
from symjax_gn.networks import training
from symjax_gn.physics import dynamics
from symjax_gn.report import plots, records


def parse(argv):
    """The command line."""
    parser = make_parser(__doc__.split("\n")[0])
    network = parser.add_argument_group("Hamiltonian")
    network.add_argument(
        "--dissipative",
        action="store_true",
        help="add a Rayleigh function of velocities, for what no Hamiltonian holds",
    )
    network.add_argument(
        "--kinetic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train on velocities too, as dH/dp",
    )
    network.add_argument(
        "--penalty", type=float, default=None, help="weight of the penalty on energies"
    )
    network.add_argument(
        "--rollouts", type=int, default=32, help="paths to follow with each Hamiltonian; 0 for none"
    )
    network.add_argument(
        "--rollout-length", type=int, default=10, help="length of paths, in that of training"
    )
    network.add_argument(
        "--rollout-substeps",
        type=int,
        default=8,
        help="steps of the midpoint rule in each of the system's time steps, or between two "
        "moments of --data",
    )
    # Accelerations are gradients of what is learned, and take longer to get right.
    parser.set_defaults(steps=16_000)
    return parser.parse_args(argv)


def follow(args, system, trajectory, test, trained, potential, kinetic):
    """Rows of `rollouts.compare_rollouts` from the starts of test simulations, or why none."""
    if not args.rollouts:
        return None, "none asked for"
    if system is not None and system.drag:
        return None, "a system with drag keeps no energy"
    if args.dissipative:
        return None, "with --dissipative energies may be lost"
    if trained.model.external_field:
        return None, "the energy in an outer field is not distilled"
    if kinetic is None or kinetic.energy is None:
        return None, "there is no kinetic energy"
    if len(trajectory.time) < 2:
        return None, "the data hold one moment of each simulation"
    edges = (np.asarray(test.senders), np.asarray(test.receivers))
    hamiltonians = {"network": rollouts.trained_hamiltonian(trained, edges)}
    if potential is not None:
        hamiltonians["distilled"] = rollouts.distilled_hamiltonian(potential, kinetic.energy, edges)
    if system is not None:
        hamiltonians["true"] = dynamics.true_hamiltonian(system)
    sims = np.unique(test.simulation)[: args.rollouts]
    bodies = Body(
        trajectory.position[sims, 0],
        trajectory.velocity[sims, 0],
        trajectory.mass[sims],
        trajectory.charge[sims],
    )
    outputs = args.rollout_length * (len(trajectory.time) - 1) + 1
    length = args.rollout_length * float(trajectory.time[-1] - trajectory.time[0])
    time = np.linspace(0.0, length, outputs)
    return rollouts.compare_rollouts(
        hamiltonians,
        bodies,
        time,
        true="true" if system is not None else None,
        substeps=args.rollout_substeps * (1 if args.data else args.every),
    ), None


def discover(args):
    """Run the whole path and write the report; returns the report."""
    check_options(args)
    distillation.check_form("influence", args.form)
    check_at_least("--rollouts", args.rollouts, 0)
    check_at_least("--rollout-length", args.rollout_length, 1)
    check_at_least("--rollout-substeps", args.rollout_substeps, 1)
    engines = regressors(args)
    folder = records.open_folder(args.out)
    keys = jax.random.split(jax.random.key(args.seed), 5)
    lap, seconds = stopwatch()

    system, trajectory, dim = get_source(args)
    model = training.make_model(
        "flathgn",
        dim,
        width=args.width,
        depth=args.depth,
        dissipative=args.dissipative,
        kinetic=args.kinetic,
        external_field=may_feel_field(args, system),
    )
    trajectory, dataset = get_data(args, keys[0], system, trajectory)
    train, validation, test = datasets.split(keys[1], dataset)
    other = get_more_bodies(args, keys[0], system)
    lap("simulate")

    trained = training.fit(
        keys[2],
        train,
        validation,
        strategy="flathgn",
        model=model,
        **training_options(args),
    )
    test_error = training.held_out_error(trained, test)
    lap("train")

    print("looking for laws")
    table = energies.record_energies(keys[3], trained, train, system=system)
    law = energies.distill_potential(
        table,
        engines,
        form=args.form,
        power=args.flatten,
        relative_error=args.errors == "relative",
    )
    features = ["m_i", "q_i"]
    if model.external_field:
        features += [f"{axis}_i" for axis in "xyz"[:dim]]
    alone = distillation.distill_one_body(table.forces, engines, features=features)
    kinetic = energies.distill_kinetic(table, engines)
    lap("regress")

    force = law.force
    checks = {}
    r2 = judged = alone_check = None
    if system is not None:
        r2 = message_r2(table.forces._replace(messages=table.forces.influence))
        judged = verdict.judge(keys[4], force.components, system, train, test)
        checks["potential"] = verdict.judge_potential(keys[4], law.potential, system, test)
        judged = judged._replace(
            recovered=judged.recovered and checks["potential"]["holds"],
            checks=judged.checks | {"potential": checks["potential"]},
        )
        alone_check = verdict.judge_one_body(keys[4], alone.components, system, test)
    if kinetic is not None:
        checks["kinetic"] = verdict.judge_kinetic(keys[4], kinetic.velocity, test)
        # A law of dH/dp without an integral is no energy.
        checks["kinetic"]["holds"] &= kinetic.energy is not None
    refitted = refitting.refit(force, alone, train)
    potential = energies.refitted_potential(refitted, table.forces.features)
    lap("refit")
    rows, why_not = follow(args, system, trajectory, test, trained, potential, kinetic)
    lap("follow")

    figures = {
        "trajectories.png": ("Trajectories", plots.plot_trajectories(trajectory)),
        "training.png": ("Training", plots.plot_training(trained.history, 1)),
        "forces.png": ("Forces of the network", plots.plot_messages(table.forces)),
    }
    if force.scalar is not None:
        figures["law.png"] = ("The law of force", plots.plot_law(force, table.forces))
    if law.potential is not None:
        figures["potential.png"] = (
            "The potential of a pair",
            plots.plot_potential(law, table, potential),
        )
    for k, front in enumerate(force.fronts):
        figures[f"pareto_{k}.png"] = (
            f"Pareto front {k}",
            plots.plot_front(front, force.error_unit),
        )
    lap("report")
    contents = records.make_report(
        law=force,
        verdict=judged,
        message_r2=r2,
        test_error=test_error,
        seconds=seconds,
        one_body=alone,
        one_body_check=alone_check,
        law_on_test=refitting.law_error(force.components, alone.components, test),
        refit=records.refit_record(refitted, test),
        more_bodies=measure_more_bodies(other, trained, refitted),
        energies=records.energy_record(law, kinetic, checks, rows, why_not, potential),
        system=args.data or (system.name if system else None),
        dim=dim,
        n=trajectory.position.shape[2],
        strategy="flathgn",
        regressor=args.regressor,
        seed=args.seed,
        arguments=arguments(args),
        derived=list(trajectory.derived),
        failed_simulations=trajectory.failed,
        drag_without_dissipation=bool(system and system.drag and not args.dissipative),
    )
    # Together and last, so that an interruption mixes no two runs.
    records.write_report(folder, contents, records.save_figures(folder, figures))
    if law.potential is not None:
        print(f"potential of a pair: {rounded(law.potential)}")
    if potential is not None:
        print(f"potential of a pair, constants refitted: {rounded(potential)}")
    if kinetic is not None and kinetic.energy is not None:
        print(f"kinetic energy of a body: {rounded(kinetic.energy)}")
    print_laws(force.components, alone.components)
    print_refit(refitted)
    print_outcome(contents, folder)
    return contents


def main(argv=None):
    """Run; returns the exit code."""
    return guarded(discover, parse(argv))


if __name__ == "__main__":
    sys.exit(main())

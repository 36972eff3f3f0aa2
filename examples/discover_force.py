"""From a simulated system, or measured trajectories, to the law of force.

    python examples/discover_force.py --system spring --dim 2 --n 4 --seed 0 --out spring-2
    python examples/discover_force.py --system examples/yukawa.py --out yukawa-2
    python examples/discover_force.py --data measured.npz --out mine

Writes report.json, report.md and figures to the output folder, and prints the law.
Exits with 0 whether or not the law is the true one (the report says), with 2 and one
line of explanation if something is wrong with what it was given.
"""

import argparse
import math
import sys
import time

import jax

from symjax_gn.data import datasets, trajectories
from symjax_gn.data.checks import check_at_least, check_choice
from symjax_gn.discovery import distillation, recording, refitting, verdict
from symjax_gn.discovery.gauge import message_r2
from symjax_gn.laws import engines
from symjax_gn.laws.expressions import rounded
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.networks import training
from symjax_gn.networks.graphnet import NODES, PAIRS
from symjax_gn.networks.losses import LOSSES, STRATEGIES
from symjax_gn.physics.simulation import SOLVERS, SimulationError, simulate
from symjax_gn.physics.systems import SYSTEMS, get_system, load_system
from symjax_gn.report import plots, records

COUNTS = dict(simulations=3, outputs=2, every=1, steps=1, width=1, depth=1, searches=1)
COUNTS |= dict(evaluations=1, iterations=1, batch_size=1, focus=1)
NETWORKS = {
    "power-laws": dict(),
    "paper": dict(power_laws=False, inputs="absolute", activation=jax.nn.relu),
}


def make_parser(description):
    """A command line with the options that are not about the network's kind."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--system",
        default="spring",
        metavar="NAME",
        help=f"one of {', '.join(SYSTEMS)}; or FILE.py[:NAME] with a System or a pair potential",
    )
    data.add_argument(
        "--data",
        metavar="FILE.npz",
        help="measured trajectories in place of a system: arrays time [time] and position "
        "[sim, time, node, dim], and optionally velocity, acceleration, mass, charge",
    )
    data.add_argument("--dim", type=int, default=2, help="spatial dimensions, 2 or 3")
    data.add_argument(
        "--n", type=int, default=None, help="bodies (default: the system's, mostly 4)"
    )
    data.add_argument(
        "--test-n",
        type=int,
        default=None,
        help="bodies of a second test set, to see how the network and the law carry over",
    )
    data.add_argument("--simulations", type=int, default=1000, help="number of simulations")
    data.add_argument("--outputs", type=int, default=100, help="outputs of each simulation")
    data.add_argument(
        "--every", type=int, default=5, help="system's time steps between two outputs"
    )
    data.add_argument("--solver", default="adaptive", help=" or ".join(SOLVERS))
    data.add_argument(
        "--external-field",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a body may feel a field that depends on its position (default: as the "
        "system has one; for --data, no)",
    )
    fitting = parser.add_argument_group("training")
    fitting.add_argument("--loss", default="relative", help=" or ".join(LOSSES))
    fitting.add_argument("--optimizer", default="muon", help=" or ".join(training.OPTIMIZERS))
    fitting.add_argument("--learning-rate", type=float, default=1e-2, help="peak of the schedule")
    fitting.add_argument("--batch-size", type=int, default=64, help="graphs per step")
    fitting.add_argument(
        "--focus",
        type=float,
        default=2.0,
        help="how much oftener graphs with large accelerations are drawn; 1 draws all alike",
    )
    fitting.add_argument("--steps", type=int, default=8000, help="training steps (%(default)s)")
    fitting.add_argument("--width", type=int, default=64, help="width of the hidden layers")
    fitting.add_argument("--depth", type=int, default=4, help="number of hidden layers")
    search = parser.add_argument_group("symbolic regression")
    search.add_argument("--regressor", default="operon", help=" or ".join(engines.REGRESSORS))
    search.add_argument(
        "--operators",
        nargs="+",
        default=list(engines.DEFAULT_OPERATORS),
        help="operators a law may use",
    )
    search.add_argument("--searches", type=int, default=6, help="most searches per target")
    search.add_argument("--evaluations", type=int, default=100_000, help="per search (operon)")
    search.add_argument("--iterations", type=int, default=40, help="per search (pysr)")
    search.add_argument(
        "--flatten",
        type=int,
        default=None,
        help="power of the distance that targets are multiplied with (default: found)",
    )
    search.add_argument("--errors", default="relative", help="relative or absolute")
    search.add_argument("--form", default="auto", help=", ".join(distillation.FORMS))
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--out", default="discovered", help="folder for the report")
    return parser


def parse(argv):
    """The command line."""
    parser = make_parser(__doc__.split("\n")[0])
    network = parser.add_argument_group("graph network")
    network.add_argument("--strategy", default="bottleneck", help=", ".join(STRATEGIES))
    network.add_argument(
        "--network",
        default="power-laws",
        help="power-laws, or paper: absolute positions, ReLU and no features but the bodies'",
    )
    network.add_argument("--node", default="free", help=" or ".join(NODES))
    network.add_argument("--pair", default="free", help=", ".join(PAIRS))
    network.add_argument("--penalty", type=float, default=None, help="weight of the L1 or KL term")
    network.add_argument(
        "--prune",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="mask message components as training goes on, and let penalties fade (default: "
        "for pruning, l1 and kl)",
    )
    network.add_argument("--gauge", default="influence", help=" or ".join(distillation.GAUGES))
    return parser.parse_args(argv)


def regressors(args):
    """One engine per search, each with a seed of its own."""
    limits = (
        {"evaluations": args.evaluations}
        if args.regressor == "operon"
        else {"iterations": args.iterations}
    )
    seeds = [args.searches * args.seed + k for k in range(args.searches)]
    options = limits | {"operators": tuple(args.operators)}
    return [engines.make_regressor(args.regressor, seed=seed, **options) for seed in seeds]


def may_feel_field(args, system):
    """Whether bodies may feel a field that depends on their position."""
    if args.external_field is not None:
        return args.external_field
    return system is not None and system.one_body_potential is not None


def make_network(args, dim, system):
    """The graph network that the options ask for."""
    return training.make_model(
        args.strategy,
        dim,
        width=args.width,
        depth=args.depth,
        node=args.node,
        pair=args.pair,
        external_field=may_feel_field(args, system),
        **NETWORKS[args.network],
    )


def training_options(args):
    """Arguments of `training.fit` that do not depend on the network's kind."""
    return dict(
        loss=args.loss,
        penalty_weight=args.penalty,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        focus=args.focus,
        steps=args.steps,
        progress=True,
    )


def stopwatch():
    """A function to call at the end of each stage, and the seconds of stages and in total."""
    clock = [time.perf_counter()]
    seconds = {}

    def lap(stage):
        clock.append(time.perf_counter())
        seconds[stage] = clock[-1] - clock[-2]
        seconds["total"] = clock[-1] - clock[0]

    return lap, seconds


def check_options(args):
    """What is wrong with the shared options is an error before anything runs."""
    check_choice("loss", args.loss, LOSSES)
    check_choice("optimizer", args.optimizer, training.OPTIMIZERS)
    check_choice("kind of errors", args.errors, ("relative", "absolute"))
    check_at_least("--seed", args.seed, 0)
    if args.penalty is not None:
        check_at_least("--penalty", args.penalty, 0)
    if not 0 < args.learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be positive, got {args.learning_rate}.")
    if args.test_n is not None:
        check_at_least("--test-n", args.test_n, 2)
    for name in ("n", "test_n"):
        if args.data and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} needs a --system to simulate.")
    for name, least in COUNTS.items():
        check_at_least(f"--{name.replace('_', '-')}", getattr(args, name), least)


def get_source(args):
    """The system, or else the measured trajectories; and the spatial dimension."""
    if args.data:
        trajectory = trajectories.load_trajectory(args.data)
        return None, trajectory, trajectory.position.shape[-1]
    load = load_system if ".py" in args.system else get_system
    return load(args.system), None, args.dim


def get_data(args, key, system, trajectory):
    """Trajectories and their graphs."""
    if system is not None:
        return make_data(args, key, system, args.n, args.simulations)
    if trajectory.derived:
        print(f"not in the data, so differentiated or assumed: {', '.join(trajectory.derived)}")
    return trajectory, datasets.make_dataset(trajectory)


def get_more_bodies(args, key, system):
    """Graphs of another number of bodies, if they were asked for."""
    if args.test_n is None:
        return None
    return make_data(args, jax.random.fold_in(key, 1), system, args.test_n, 100)[1]


def measure_more_bodies(other, trained, refitted):
    """Errors of the network and of the refitted laws on graphs of another number of bodies."""
    if other is None:
        return None
    network, size = training.held_out_error(trained, other)
    law, _ = refitting.law_error(refitted.force, refitted.one_body, other)
    count = other.nodes.mass.shape[1]
    return dict(n=count, network=network, law=law, mean_abs_target=size)


def arguments(args):
    """The options of a run, for the report."""
    return {name: value for name, value in vars(args).items() if name != "out"}


def print_laws(force, one_body, gauge="influence"):
    """The laws along each axis, or those of raw messages."""
    for k, component in enumerate(force):
        what = f"force on i from j, {'xyz'[k]}" if gauge == "influence" else f"message {k}"
        print(f"{what}: {rounded(component)}")
    if any(component != 0 for component in one_body):
        for axis, component in zip("xyz", one_body, strict=False):
            print(f"force on i alone, {axis}: {rounded(component)}")


def print_refit(refitted):
    """The law with its constants fitted to accelerations, where there is one scalar law."""
    if refitted is not None and refitted.scalar is not None:
        print(f"refitted, towards j: {rounded(refitted.towards)}")


def print_outcome(contents, folder):
    """The verdict in a line."""
    said = {True: "recovered", False: "not recovered", None: "no verdict: true law not known"}
    seconds = contents["seconds"]["total"]
    print(f"{said[contents['recovered']]}; {seconds:.0f} s; see {folder / 'report.md'}")


def make_data(args, key, system, num_nodes, num_simulations):
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
    return trajectory, datasets.make_dataset(trajectory, *system.edges(trajectory.mass.shape[1]))


def discover(args):
    """Run the whole path and write the report; returns the report."""
    check_choice("strategy", args.strategy, STRATEGIES)
    check_choice("network", args.network, NETWORKS)
    check_choice("node function", args.node, NODES)
    check_choice("pair function", args.pair, PAIRS)
    distillation.check_form(args.gauge, args.form)
    if args.strategy == "pruning" and args.prune is False:
        raise ValueError('Without pruning the strategy is "standard".')
    if args.penalty is not None and args.strategy not in ("l1", "kl"):
        raise ValueError(f'--penalty is of "l1" and "kl", not of "{args.strategy}".')
    check_options(args)
    if args.external_field and args.node == "newton":
        raise ValueError("Newton's node function has no --external-field.")
    if args.test_n is not None and args.gauge == "messages":
        raise ValueError("--test-n needs --gauge influence.")
    engines = regressors(args)
    folder = records.open_folder(args.out)
    keys = jax.random.split(jax.random.key(args.seed), 5)
    lap, seconds = stopwatch()

    system, trajectory, dim = get_source(args)
    model = make_network(args, dim, system)
    trajectory, dataset = get_data(args, keys[0], system, trajectory)
    train, validation, test = datasets.split(keys[1], dataset)
    other = get_more_bodies(args, keys[0], system)
    lap("simulate")

    trained = training.fit(
        keys[2],
        train,
        validation,
        strategy=args.strategy,
        model=model,
        prune=args.prune,
        **training_options(args),
    )
    test_error = training.held_out_error(trained, test)
    lap("train")

    print("looking for laws")
    table = recording.record_messages(keys[3], trained, train, system=system)
    law = distillation.distill(
        table,
        engines,
        gauge=args.gauge,
        form=args.form,
        power=args.flatten,
        relative_error=args.errors == "relative",
    )
    features = ["m_i", "q_i"]
    if trained.model.external_field:
        features += [f"{axis}_i" for axis in "xyz"[:dim]]
    alone = distillation.distill_one_body(table, engines, features=features)
    gauge_law = distillation.distill_gauge(table, engines[:1])
    lap("regress")

    on_test = refitted = None
    if args.gauge == "influence":
        on_test = refitting.law_error(law.components, alone.components, test)
        refitted = refitting.refit(law, alone, train)
    lap("refit")

    r2 = judged = alone_check = None
    if system is not None:
        r2 = message_r2(table)
        judged = verdict.judge(
            keys[4],
            law.components,
            system,
            train,
            test,
            gauge=args.gauge,
            num_components=len(table.components),
        )
        alone_check = verdict.judge_one_body(keys[4], alone.components, system, test)
    figures = {
        "trajectories.png": ("Trajectories", plots.plot_trajectories(trajectory)),
        "training.png": ("Training", plots.plot_training(trained.history, dim)),
        "messages.png": ("Messages against forces", plots.plot_messages(table)),
    }
    if law.scalar is not None:
        figures["law.png"] = ("The law and the messages", plots.plot_law(law, table))
    for k, front in enumerate(law.fronts):
        figures[f"pareto_{k}.png"] = (
            f"Pareto front {k}",
            plots.plot_front(front, law.error_unit),
        )
    lap("report")
    contents = records.make_report(
        law=law,
        verdict=judged,
        message_r2=r2,
        test_error=test_error,
        seconds=seconds,
        one_body=alone,
        one_body_check=alone_check,
        law_on_test=on_test,
        refit=refitted and records.refit_record(refitted, test),
        more_bodies=measure_more_bodies(other, trained, refitted),
        gauge_law=gauge_law,
        system=args.data or (system.name if system else None),
        dim=dim,
        n=trajectory.position.shape[2],
        strategy=args.strategy,
        regressor=args.regressor,
        seed=args.seed,
        arguments=arguments(args),
        derived=list(trajectory.derived),
        failed_simulations=trajectory.failed,
        message_components=dict(
            used=len(table.components),
            of=trained.model.message_dim,
            told=args.strategy == "bottleneck",
        ),
    )
    # Together and last, so that an interruption mixes no two runs.
    records.write_report(folder, contents, records.save_figures(folder, figures))
    print_laws(law.components, alone.components, args.gauge)
    print_refit(refitted)
    print_outcome(contents, folder)
    return contents


def guarded(job, args):
    """Run a job; errors in what was given become one line and exit code 2."""
    try:
        job(args)
    except (
        ValueError,
        OSError,
        ImportError,
        SimulationError,
        training.TrainingError,
        RegressionError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(argv=None):
    """Run; returns the exit code."""
    return guarded(discover, parse(argv))


if __name__ == "__main__":
    sys.exit(main())

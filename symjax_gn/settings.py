"""All choices of a run, checked before anything runs; the options of the command line."""

import dataclasses
import math
import os
from typing import Any

from symjax_gn.data.border import check_fields
from symjax_gn.data.checks import (
    LARGEST_COUNT,
    LONGEST,
    check_choice,
    check_count,
    check_number,
    check_type,
)
from symjax_gn.discovery import distillation
from symjax_gn.discovery.extensions import NOTHING, Extensions, check_extensions
from symjax_gn.laws import engines
from symjax_gn.laws.keeping import KeptRegressor
from symjax_gn.networks import strategies
from symjax_gn.networks.graphnet import NODES, PAIRS
from symjax_gn.networks.layers import PRODUCTS
from symjax_gn.networks.losses import LOSSES
from symjax_gn.networks.steps import OPTIMIZERS

ERRORS = ("relative", "absolute")
CHOICES = ("data", "score")
ROUTES = ("both", "messages", "data")
PRESETS = ("default", "paper")

# Accelerations that are gradients of what is learned take longer to get right.
STEPS = 8_000
STEPS_OF_ENERGIES = 16_000

# Steps of a network that is compared with a law that leaves nothing.
STEPS_TO_COMPARE = 1_000


def _option(default: Any, help: str, group: str) -> Any:
    return dataclasses.field(default=default, metadata=dict(help=help, group=group))


@dataclasses.dataclass(frozen=True)
class Settings:
    """All choices of `discover`; the options of the command line.

    But for `more`, which is what a user adds to the search, see `discovery.extensions`.

    >>> Settings(strategy="l1", steps=2000).batch_size
    64
    """

    strategy: str = _option("bottleneck", ", ".join(strategies.STRATEGIES), "network")
    network: str = _option(
        "power-laws",
        "power-laws, or paper: absolute positions, ReLU and no features but the bodies'",
        "network",
    )
    width: int = _option(64, "width of the hidden layers", "network")
    depth: int = _option(4, "number of hidden layers", "network")
    node: str = _option("free", " or ".join(NODES), "network")
    pair: str = _option("free", ", ".join(PAIRS), "network")
    external_field: bool = _option(
        False,
        "let the network see where a body is; laws have outer fields without it, where the "
        "data show them",
        "network",
    )
    dissipative: bool = _option(
        False,
        "flathgn: add a Rayleigh function of velocities, for what no Hamiltonian holds",
        "network",
    )
    kinetic: bool = _option(True, "flathgn: train on velocities too, as dH/dp", "network")

    loss: str = _option("relative", " or ".join(LOSSES), "training")
    penalty: float | None = _option(
        None, "weight of the L1 or KL term, or of that of energies", "training"
    )
    prune: bool | None = _option(
        None,
        "mask message components as training goes on, and let penalties fade (default: "
        "for pruning, l1 and kl)",
        "training",
    )
    precision: str = _option(
        "float32",
        "of matrix products in training: float32, bf16, or on GPUs tf32; sums are float32",
        "training",
    )
    optimizer: str = _option("muon", " or ".join(OPTIMIZERS), "training")
    learning_rate: float = _option(1e-2, "peak of the schedule", "training")
    weight_decay: float = _option(0.0, "decoupled weight decay", "training")
    batch_size: int = _option(64, "graphs per step", "training")
    focus: float = _option(
        2.0,
        "importance-sampling exponent: how much more often graphs with large targets are "
        "drawn; 1 draws all alike",
        "training",
    )
    steps: int | None = _option(
        None,
        f"training steps (default: {STEPS}, flathgn {STEPS_OF_ENERGIES}; bottleneck "
        f"{STEPS_TO_COMPARE} to compare it with a law that leaves nothing)",
        "training",
    )

    regressor: str = _option("operon", " or ".join(engines.REGRESSORS), "search")
    operators: tuple[str, ...] = _option(
        engines.DEFAULT_OPERATORS, "operators a law may use", "search"
    )
    searches: int = _option(6, "most searches per target", "search")
    evaluations: int = _option(100_000, "per search (operon)", "search")
    iterations: int = _option(40, "per search (pysr)", "search")
    more: Extensions = NOTHING
    fits: int = _option(2_000, "most fits of formulas, of the terms of a force or a sum", "search")
    time_limit: float | None = _option(
        None,
        "seconds for each search of an engine, and of one core for formulas; running searches "
        "finish; then the law depends on the machine, which is said",
        "search",
    )
    route: str = _option(
        "both",
        "data: forces are sums of terms of one variable each, fitted to the data, and no network "
        "is trained; messages, as in the paper: a network is trained, and its messages are "
        "searched for formulas; both: data first, then a network is trained, whose messages are "
        "compared with the law, or searched where no sum fits",
        "search",
    )
    choice: str = _option(
        "data",
        "how laws of forces are chosen: data, the simplest whose held-out error is not above "
        "the best one's, or score, the paper's",
        "search",
    )
    flatten: int | None = _option(
        None, "power of the distance that targets are multiplied with (default: found)", "search"
    )
    errors: str = _option("relative", " or ".join(ERRORS), "search")
    form: str = _option("auto", ", ".join(distillation.FORMS), "search")
    gauge: str = _option("influence", " or ".join(distillation.GAUGES), "search")

    rollouts: int = _option(
        32, "flathgn: paths to follow with each Hamiltonian; 0 for none", "rollouts"
    )
    rollout_length: int = _option(
        10, "flathgn: length of paths, in that of the recordings", "rollouts"
    )
    rollout_substeps: int = _option(
        8, "flathgn: steps of the midpoint rule between two moments of the data", "rollouts"
    )


PAPER: dict[str, Any] = dict(
    network="paper",
    width=300,
    depth=2,
    loss="absolute",
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=1e-8,
    focus=1.0,
    prune=False,
    gauge="messages",
    route="messages",
    flatten=0,
    errors="absolute",
)
"""The paper's network, loss, schedule, augmentation and selection (its appendices A, B)."""


def preset(name: str, **changes: Any) -> Settings:
    """Settings by name, with some of them changed.

    Args:
        name: "default", or "paper": network, loss, optimiser, schedule, penalties,
            augmentation and selection as in the paper's appendices. The paper trains for
            a million steps or more; `steps` says how many there are to be.
        **changes: fields of `Settings`.

    Raises:
        ValueError: there is no such preset or field.

    >>> preset("paper", strategy="l1").penalty
    0.01
    """
    check_choice("preset", name, PRESETS)
    for field in changes:
        check_choice("setting", field, [f.name for f in dataclasses.fields(Settings)])
    if name == "default":
        return Settings(**changes)
    strategy = changes.get("strategy", "bottleneck")
    chosen = dict(PAPER, penalty=strategies.PAPER_WEIGHT.get(strategy))
    if strategy == "flathgn":
        # Its energies need a smooth activation, and forces are what it records.
        chosen |= dict(network="power-laws", gauge="influence", flatten=None)
    if strategy == "pruning":
        chosen |= dict(prune=None)
    return Settings(**(chosen | changes))


def check_settings(settings: Settings) -> None:
    """Raise a `ValueError` for settings that are wrong or do not go together."""
    check_type("settings", settings, Settings, "Write Settings(steps=..., ...) or preset(...).")
    for what, name, choices in (
        ("strategy", settings.strategy, strategies.STRATEGIES),
        ("network", settings.network, strategies.NETWORKS),
        ("node function", settings.node, NODES),
        ("pair function", settings.pair, PAIRS),
        ("loss", settings.loss, LOSSES),
        ("precision", settings.precision, PRODUCTS),
        ("optimizer", settings.optimizer, OPTIMIZERS),
        ("regressor", settings.regressor, engines.REGRESSORS),
        ("kind of errors", settings.errors, ERRORS),
        ("choice", settings.choice, CHOICES),
        ("route", settings.route, ROUTES),
    ):
        check_choice(what, name, choices)
    distillation.check_form(settings.gauge, settings.form)
    check_fields(settings)
    check_extensions(settings.more)
    counts = ("width", "depth", "batch_size", "searches", "evaluations", "iterations", "fits")
    for name in (*counts, "rollout_length", "rollout_substeps"):
        check_count(name, getattr(settings, name), most=LARGEST_COUNT)
    if settings.steps is not None:
        check_count("steps", settings.steps, most=LARGEST_COUNT)
    check_count("rollouts", settings.rollouts, 0)
    if settings.time_limit is not None:
        check_number("time_limit", settings.time_limit, above=0, most=LONGEST)
    check_number("focus", settings.focus, least=1)
    check_number("learning_rate", settings.learning_rate, above=0)
    check_number("weight_decay", settings.weight_decay, least=0)
    if settings.flatten is not None:
        check_count("flatten", settings.flatten, 0)
    if settings.penalty is not None:
        check_number("penalty", settings.penalty, least=0)
        if settings.strategy not in strategies.DEFAULT_WEIGHT:
            raise ValueError(f'penalty is of "l1" and "kl", not of "{settings.strategy}".')
    if settings.strategy == "pruning" and settings.prune is False:
        raise ValueError('Without pruning the strategy is "standard".')
    if settings.external_field and settings.node == "newton":
        raise ValueError("Newton's node function has no external_field.")
    biased = settings.node == "newton" or settings.pair == "central"
    if biased and settings.strategy not in ("bottleneck", "flathgn"):
        raise ValueError("Messages that are forces have its dimension: use the bottleneck.")
    if settings.strategy == "kl" and settings.pair != "free":
        raise ValueError('Messages of the KL strategy are noisy: use pair="free".')
    if settings.route == "data":
        _check_data_alone(settings)
    if settings.strategy == "flathgn" and settings.gauge == "messages":
        raise ValueError('A Hamiltonian has no messages: use gauge="influence".')
    make_engines(settings, 0)


def _check_data_alone(settings):
    """Without a network there is nothing of it to read."""
    for name, needed in (("gauge", "influence"), ("form", "auto")):
        if getattr(settings, name) != needed:
            raise ValueError(
                f'{name}="{getattr(settings, name)}" is of messages, of which there are none with '
                f'route="data": use "both" or "messages".'
            )
    if settings.strategy == "flathgn":
        raise ValueError('Energies are read from a network: use route="both" or "messages".')


def make_engines(
    settings: Settings, seed: int, folder: str | os.PathLike[str] | None = None
) -> list[engines.Regressor]:
    """One engine per search, each with a seed of its own; a folder keeps what they find."""
    limits = (
        dict(evaluations=settings.evaluations)
        if settings.regressor == "operon"
        else dict(iterations=settings.iterations)
    )
    if settings.time_limit is not None:
        limits["time_limit"] = math.ceil(settings.time_limit)
    # PySR takes seeds of 32 bits.
    seeds = [(settings.searches * seed + k) % 2**32 for k in range(settings.searches)]
    every = tuple(settings.operators)
    # Plain engines leave out operators that they could not name.
    engines.make_regressor(settings.regressor, seed=seed, operators=every, **limits)
    plain = tuple(name for name in every if name in engines.PLAIN_OPERATORS) or every
    found = [
        engines.make_regressor(
            settings.regressor, seed=seed, operators=every if k % 2 else plain, **limits
        )
        for k, seed in enumerate(seeds)
    ]
    return [engine if folder is None else KeptRegressor(engine, folder) for engine in found]


def options() -> list[dataclasses.Field[Any]]:
    """The settings that are options of the command line."""
    return [one for one in dataclasses.fields(Settings) if one.metadata]

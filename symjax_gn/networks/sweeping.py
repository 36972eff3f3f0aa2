"""Sweeps: many networks in one program, over seeds, hyperparameters and data sets."""

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int, PRNGKeyArray
from tqdm import tqdm

from symjax_gn.compiling import in_32_bits
from symjax_gn.data.border import checked
from symjax_gn.data.checks import check_count, check_number
from symjax_gn.data.datasets import Dataset, take, target_mask
from symjax_gn.networks.checkpoints import Checkpoints, describe
from symjax_gn.networks.intervals import run_interval
from symjax_gn.networks.members import Members, check_members
from symjax_gn.networks.meshes import (
    calls_at_once,
    gathered,
    last_kept,
    members_at_once,
    placed,
)
from symjax_gn.networks.preparation import Prepared, check_fits, prepare
from symjax_gn.networks.steps import Hyperparameters, Recipe
from symjax_gn.networks.training import History, Trained, new_history


class Sweep(NamedTuple):
    """What a sweep gives."""

    trained: Trained
    """What `fit` gives, with a leading axis `[member]` on all arrays, scales among them. After
    a member's end its history is NaN."""
    members: Members
    ended: Int[np.ndarray, " member"]
    """[member], steps that each was trained."""
    failed: Int[np.ndarray, " member"]
    """[member], the step at which training was not finite, whose parameters are the last good
    ones; 0: none."""
    size: Float[np.ndarray, " member"]
    """[member], the validation error of a network that predicts nothing."""
    at_once: int
    """Members that were trained at once."""

    def member(self, k: int) -> Trained:
        """The k-th network, as `fit` would have given it."""
        check_count("k", k, 0)
        if k >= len(self.ended):
            raise ValueError(f"There are {len(self.ended)} members, the first is 0; got {k}.")
        whole = self.trained
        arrays = whole.params, whole.mask, whole.scales, whole.history, whole.learned
        params, mask, scales, history, learned = jax.tree.map(lambda x: x[k], arrays)
        scales = jax.tree.map(lambda x: x if np.ndim(x) else float(x), scales)
        history = History(*(column[history.step <= self.ended[k]] for column in history))
        return Trained(whole.model, params, mask, scales, whole.strategy, history, learned)

    def table(self) -> Any:
        """A pandas table with a row for each member, the least error first.

        `error` is the validation error at the member's end as a share of `size`.
        """
        import pandas as pd

        history = self.trained.history
        last = np.sum(history.step <= self.ended[:, None], axis=1) - 1
        error = history.validation_error[np.arange(len(last)), last]
        early = np.where(self.ended < history.step[:, -1], "ended early", "trained")
        columns = dict(self.members) | dict(
            steps=self.ended,
            error=np.where(last < 0, np.nan, error / self.size),
            components=np.sum(np.asarray(self.trained.mask) > 0, axis=1),
            says=np.where(self.failed > 0, "failed", early),
        )
        index = pd.Index(np.arange(len(last)), name="member")
        return pd.DataFrame(columns, index=index).sort_values("error", kind="stable")


class _Fixed(NamedTuple):
    """What is compiled in."""

    recipe: Recipe
    batch_size: int
    length: int
    num_graphs: int
    """Of each data set."""
    num_validation: int


@in_32_bits
@functools.partial(jax.jit, static_argnames=("fixed", "mesh"))
def _interval(states, which, train, validation, stars, *, fixed, mesh):
    """An interval of some members; one that fails stays as it was."""

    def spread(index):
        if mesh is None or "data" not in mesh.axis_names:
            return index
        return jax.lax.with_sharding_constraint(index, PartitionSpec("data"))

    def one(state, which, train, validation, stars):
        held_out = which * fixed.num_validation + jnp.arange(fixed.num_validation)
        new, report = run_interval(
            state,
            train,
            take(validation, held_out),
            jax.tree.map(lambda x: x[which], stars),
            recipe=fixed.recipe,
            batch_size=fixed.batch_size,
            length=fixed.length,
            first=which * fixed.num_graphs,
            num_graphs=fixed.num_graphs,
            spread=spread,
        )
        good = report.usable & jnp.all(report.finite)
        return jax.tree.map(lambda x, y: jnp.where(good, x, y), new, state), report

    together = jax.vmap(one, (0, 0, None, None, None))
    if mesh is not None:
        mine, alike = PartitionSpec("model"), PartitionSpec()
        together = jax.shard_map(
            together,
            mesh=mesh,
            in_specs=(mine, mine, alike, alike, alike),
            out_specs=mine,
            axis_names={"model"},
            check_vma=False,
        )
    return together(states, which, train, validation, stars)


@jax.jit
def _get(states, index):
    return jax.tree.map(lambda x: x[index], states)


@jax.jit
def _put(states, index, some):
    return jax.tree.map(lambda x, y: x.at[index].set(y), states, some)


@checked
def sweep(
    key: PRNGKeyArray,
    train: Dataset | Sequence[Dataset],
    validation: Dataset | Sequence[Dataset],
    members: Mapping[str, Sequence[float]],
    *,
    halve_at: Sequence[float] = (),
    at_once: int | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool = False,
    **options: Any,
) -> Sweep:
    """Train many networks that differ by seed, hyperparameters or data set, in one program.

    Main arguments:
        key: PRNG key; parameters and batches of a member come from it and the member's seed.
        train: graphs to learn from, user's units; or several data sets of one shape.
        validation: graphs for the history and for pruning; as many data sets.
        members: columns `[member]` by names in `SWEPT`, e.g. from `grid`: "seed" and "data",
            the number of the data set, by default 0, and fields of `Hyperparameters`, whose
            defaults are those of `fit`.

    Other Arguments:
        halve_at: shares of the training after which only the better half of the members that
            learn from one data set goes on, by the validation error.
        at_once: members in one call of the program; each takes about 32 bytes for each
            parameter and 40 for each hidden unit of each edge of a batch. None: as many as fit
            into the memory of an accelerator. On a CPU such calls run side by side, one on each
            core, and None is 1.
        mesh: devices with one axis "model", along which members are spread; None: one device.
        folder: where all states are saved after each interval, see `fit`.
        resume: see `fit`.
        progress: whether to show a progress bar.
        **options: of `fit`, the same for all members: strategy, steps, model, ...

    Raises:
        ValueError: an argument or the data are wrong, or what is swept has no effect or
            cannot differ within one program.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> members = sgn.grid(learning_rate=[1e-3, 1e-2], seed=range(2))
    >>> found = sweep(key, train, validation, members, model=tiny, steps=20, intervals=2)
    >>> found.member(3).predict(test.graphs).shape, found.table()["steps"].tolist()
    ((20, 4, 2), [20, 20, 20, 20])
    """
    for share in halve_at:
        check_number("halve_at", share, above=0)
    init_key, star_key = jax.random.split(key)
    parts = _prepared(star_key, train, validation, options)
    first = parts[0]
    columns = check_members(members, first, len(parts))
    at_once = members_at_once(first, len(next(iter(columns.values()))), at_once, mesh)
    which, course = _start(init_key, first, columns)
    scales = jax.tree.map(lambda *x: np.stack(x)[which], *(part.scales for part in parts))
    halvings, steps, length = sorted(halve_at), first.recipe.steps, first.length
    advance = _advancing(parts, mesh)
    with contextlib.ExitStack() as open_:
        kept = None
        # All processes have all states; the first one keeps them.
        if folder is not None and jax.process_index() == 0:
            about = _about(key, parts, columns, halvings)
            kept = open_.enter_context(Checkpoints(folder, about, resume=resume))
        start, course = last_kept(kept, course)
        course = _Course(course.states, *jax.tree.map(np.array, course[1:]))
        bar = open_.enter_context(
            tqdm(
                total=steps * len(which),
                initial=start * length * len(which),
                desc="sweep",
                unit="step",
                disable=not progress or jax.process_index() > 0,
            )
        )
        pool = open_.enter_context(ThreadPoolExecutor(calls_at_once(mesh)))
        for interval in range(start, first.intervals):
            if not np.any(course.goes_on):
                break
            lots = list(_lots(np.flatnonzero(course.goes_on), at_once))
            work = [(_get(course.states, index), which[index]) for index in lots]
            for index, (some, report) in zip(lots, pool.map(advance, work), strict=True):
                course = course._replace(states=_put(course.states, index, some))
                _note(course, interval, index, report, scales.target, length)
                bar.update(length * len(np.unique(index)))
                bar.set_postfix(failed=np.count_nonzero(course.failed), refresh=False)
            done, goes_on = length * (interval + 1), course.goes_on & (course.failed == 0)
            if done < steps and any(done - length < share * steps <= done for share in halvings):
                goes_on &= _better_half(course.history.validation_error[interval], which, goes_on)
            course = course._replace(goes_on=goes_on)
            if kept is not None:
                kept.save(interval + 1, course)
    history, states = course.history, course.states
    history.step[:] = length * np.arange(1, first.intervals + 1)[:, None]
    trained = Trained(
        model=first.recipe.model.clone(precision="float32"),
        params=states.params["network"],
        mask=states.mask,
        scales=scales,
        strategy=first.recipe.strategy,
        history=History(*(np.moveaxis(column, 0, 1) for column in history)),
        learned={name: np.exp(np.asarray(x)) for name, x in states.params["learned"].items()},
    )
    size = np.asarray([_size(part) for part in parts])[which]
    return Sweep(trained, columns, course.ended, course.failed, size, at_once)


class _Course(NamedTuple):
    """What is known of all members, and kept."""

    states: Any
    history: History
    goes_on: Any
    ended: Any
    failed: Any


def _start(key, prepared, columns):
    """The data set of each member, and their course before the first step."""
    count = len(next(iter(columns.values())))
    seed = np.asarray(columns.get("seed", np.zeros(count)), np.uint32)
    which = np.asarray(columns.get("data", np.zeros(count)), np.int32)
    hyper = Hyperparameters(
        *(
            jnp.asarray(columns.get(name, np.full(count, x)), jnp.float32)
            for name, x in prepared.hyper._asdict().items()
        )
    )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, seed)
    states = jax.vmap(prepared.init)(keys, hyper)
    none = np.zeros(count, int), np.zeros(count, int)
    return which, _Course(states, new_history(prepared, count), np.ones(count, bool), *none)


def _advancing(parts, mesh):
    """What brings some members one interval on."""
    data, fixed = _together(parts)
    if mesh is None:
        return lambda work: jax.block_until_ready(_interval(*work, *data, fixed=fixed, mesh=None))
    there = placed(data, mesh)
    return lambda work: gathered(
        _interval(*placed(work, mesh, "model"), *there, fixed=fixed, mesh=mesh)
    )


def _note(course, interval, index, report, unit, length):
    """Write what an interval of some members gave into their course."""
    done = length * (interval + 1)
    loss, error, spread, finite, usable = map(np.asarray, report)
    good = usable & np.all(finite, axis=1)
    well = index[good]
    course.ended[well] = done
    course.history.loss[interval, well] = loss[good]
    course.history.validation_error[interval, well] = error[good] * np.asarray(unit)[well]
    course.history.message_std[interval, well] = spread[good]
    bad = np.where(np.all(finite, axis=1), length, 1 + np.argmin(finite, axis=1))
    course.failed[index] = np.where(good, 0, done - length + bad)


def _about(key, parts, columns, halvings):
    """What decides the course of a sweep, in plain values."""
    several = [describe(key, part) for part in parts]
    members = {name: column.tolist() for name, column in sorted(columns.items())}
    data = [one["data"] for one in several]
    return several[0] | dict(data=data, members=members, halve_at=list(halvings))


def _prepared(key, train, validation, options) -> list[Prepared]:
    """Each data set prepared; all have one shape."""
    trains, validations = (
        [one] if isinstance(one, Dataset) else list(one) for one in (train, validation)
    )
    if len(trains) != len(validations) or not trains:
        raise ValueError(
            f"Every data set needs a part for training and one for validation: got {len(trains)} "
            f"and {len(validations)}."
        )
    parts = [prepare(key, *both, **options) for both in zip(trains, validations, strict=True)]
    check_fits(parts[0])
    for k, part in enumerate(parts):
        for what in ("recipe", "train", "validation", "stars"):
            if _shape(getattr(part, what)) != _shape(getattr(parts[0], what)):
                raise ValueError(
                    f"The data sets 0 and {k} do not fit into one program, for they differ in "
                    "the number of graphs or bodies, the dimension, the edges, the properties, "
                    "the quantity or the box (in typical distances): run one sweep for each."
                )
    return parts


def _shape(tree):
    """What is compiled for: the structure, shapes, and edges that all graphs share."""
    leaves, structure = jax.tree.flatten(tree)
    edges = ()
    if isinstance(tree, Dataset) and tree.graphs.senders.ndim == 1:
        edges = tuple(np.asarray(x).tobytes() for x in tree.graphs[2:4])
    return structure, tuple(np.shape(leaf) for leaf in leaves), edges


def _together(parts):
    """The data sets as one, one after the other, and what is compiled in."""
    first = parts[0]

    def joined(name):
        datasets = [getattr(part, name) for part in parts]
        whole = jax.tree.map(lambda *x: jnp.concatenate(x), *datasets)
        if whole.graphs.senders.ndim == 1:
            graphs = datasets[0].graphs
            ends = dict(senders=graphs.senders, receivers=graphs.receivers)
            whole = dataclasses.replace(whole, graphs=whole.graphs._replace(**ends))
        return whole

    stars = jax.tree.map(lambda *x: jnp.stack(x), *(part.stars for part in parts))
    numbers = len(first.train), len(first.validation)
    fixed = _Fixed(first.recipe, first.batch_size, first.length, *numbers)
    return (joined("train"), joined("validation"), stars), fixed


def _lots(which, size):
    """Numbers of members in lots of one size; the last is filled up with its own."""
    for start in range(0, len(which), size):
        yield np.resize(which[start : start + size], size)


def _better_half(errors, which, goes_on):
    """Of the members of each data set that go on, those that err least."""
    kept = np.zeros(len(errors), bool)
    for data in np.unique(which):
        mine = np.flatnonzero(goes_on & (which == data))
        order = mine[np.argsort(errors[mine], kind="stable")]
        kept[order[: math.ceil(len(mine) / 2)]] = True
    return kept


def _size(prepared):
    """The validation error of a network that predicts nothing, user's unit."""
    target = np.abs(np.asarray(prepared.validation.target, np.float64))
    known = target_mask(prepared.validation)
    target = target if known is None else target * np.asarray(known)
    return float(np.sum(target)) / len(target) * prepared.scales.target

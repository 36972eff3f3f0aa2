"""From a sweep of networks to the law of each, in one table."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from tqdm import tqdm

from symjax_gn import learning
from symjax_gn.data.border import checked
from symjax_gn.data.checks import LARGEST_COUNT, check_choice, check_count
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.files import open_folder
from symjax_gn.data.folders import delete_files, own_folder
from symjax_gn.data.trajectories import Trajectory
from symjax_gn.data.units import measure_scales
from symjax_gn.laws.fronts import RegressionError
from symjax_gn.laws.keeping import RESULTS
from symjax_gn.networks.sweeping import Sweep, sweep
from symjax_gn.physics.systems import System, get_system
from symjax_gn.pipeline import SEARCHES, as_dataset, read_law, split_up
from symjax_gn.results import Discovery
from symjax_gn.settings import Settings, check_settings, make_engines

OUTPUTS = ("training/", "members/")
"""What `discover_all` writes to a folder."""

# What it keeps of each member.
_OF_MEMBERS = ["network.msgpack", "law.json", *(f"{SEARCHES}/{name}" for name in RESULTS)]
_OF_MEMBERS = [f"members/[0-9]*/{name}" for name in _OF_MEMBERS]

CRITERIA = ("law_error", "error")
"""What a table is sorted by: the held-out error of laws, or that of networks."""


class Survey(NamedTuple):
    """The networks of a sweep with their laws."""

    sweep: Sweep
    found: tuple[Discovery | str | None, ...]
    """Of each member: what was found; why nothing was; None: it was not looked at."""

    def table(self, by: str = "law_error") -> Any:
        """A pandas table with a row for each member: that of the sweep and its law.

        `law_error` is the held-out error of the law as a share of the mean target, and
        `certificate` says whether to believe it. Where the true law is known, `verdict` says how
        near it is, `form` whether it has the true form, and `recovered` whether both hold.

        Args:
            by: one of `CRITERIA`; the least comes first.
        """
        check_choice("criterion", by, CRITERIA)
        whole = self.sweep.table()
        rows = [_row(one) for one in self.found]
        for name in rows[0]:
            whole[name] = [rows[k][name] for k in whole.index]
        return whole.sort_values(by, kind="stable")


def _row(found):
    """What a table says of a law."""
    if not isinstance(found, Discovery):
        said = dict(certificate="", verdict="", form="", recovered=None)
        return dict(law_error=np.nan, **said, law=found or "")
    error = np.nan
    if found.law_error is not None:
        error = found.law_error[0] / found.law_error[1]
    judged = found.verdict
    return dict(
        law_error=error,
        certificate=found.certificate.says,
        verdict="" if judged is None else judged.says,
        form="" if judged is None else judged.form,
        recovered=None if judged is None else judged.recovered,
        law=found.text(),
    )


@checked
def discover_all(
    key: PRNGKeyArray,
    graphs: Any,
    members: Mapping[str, Sequence[float]],
    settings: Settings = Settings(),  # noqa: B008
    *,
    target: str | None = None,
    systems: Sequence[System | str] | System | str | None = None,
    jobs: int = 1,
    progress: bool = False,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **options: Any,
) -> Survey:
    """Train networks that differ by seed, hyperparameters or data set, and find each one's law.

    Main arguments:
        key: PRNG key of the splits, the trainings and the sampling.
        graphs: what `discover` takes; or a list of `Dataset` or `Trajectory` of one shape.
        members: columns `[member]`, see `sweep`.
        settings: all other choices.

    Other Arguments:
        target: for jraph graphs, the feature that is to be predicted.
        systems: the true law where it is known, or one for each data set; for verdicts.
        jobs: processes that look for laws side by side; -1 for one on each core, or on all of
            a cluster within `joblib.parallel_config(backend="dask")`, or "ray".
        progress: whether to show progress bars.
        folder: where states of training, and in `members` the network, the law and the results
            of searches of each, are saved.
        resume: go on from what a run which was ended has left in the folder.
        **options: of `sweep`: halve_at, at_once, mesh. Members that end early have no law.

    Raises:
        ValueError: the data, the members or the settings are wrong.

    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> quick = Settings(steps=20, width=8, depth=1, evaluations=2000, searches=1)
    >>> found = discover_all(key, run, sgn.grid(seed=[0, 1]), quick)
    >>> found.table()["certificate"].tolist()
    ['believe', 'believe']
    """
    check_settings(settings)
    if jobs != -1:
        check_count("jobs", jobs, most=LARGEST_COUNT)
    several = isinstance(graphs, Sequence) and all(
        isinstance(one, Dataset | Trajectory) for one in graphs
    )
    datasets = [as_dataset(one, target) for one in (graphs if several else [graphs])]
    alike = systems is None or isinstance(systems, System | str)
    each: Any = [systems] * len(datasets) if alike else systems
    truths = [get_system(x) if isinstance(x, str) else x for x in each]
    if len(truths) != len(datasets):
        raise ValueError(f"There are {len(datasets)} data sets and {len(truths)} systems.")
    keys = jax.random.split(key, 4)
    parts = [split_up(keys[0], dataset, settings) for dataset in datasets]
    trains, validations, _ = zip(*parts, strict=True)
    chosen = learning.network_options(settings, trains[0], measure_scales(trains[0]))
    # Where there are several processes, the first one alone keeps states.
    mine = folder if jax.process_index() == 0 else None
    with own_folder(mine, OUTPUTS) as place:
        if place is not None:
            options |= dict(folder=place / "training", resume=resume)
        swept = sweep(keys[1], trains, validations, members, **chosen, progress=progress, **options)
        if place is not None and not resume:
            delete_files(place, _OF_MEMBERS)
        found = _found(swept, parts, truths, keys, settings, jobs, progress, place)
    return Survey(swept, found)


def _found(swept, parts, truths, keys, settings, jobs, progress, folder):
    """What was found of each member, as in a `Survey`."""
    which = swept.members.get("data", np.zeros(len(swept.ended))).astype(int)
    whole = np.flatnonzero(swept.ended == swept.trained.history.step[:, -1]).tolist()
    rest = dict(keys=keys[2:], settings=settings)
    work = [
        dict(trained=swept.member(k), parts=parts[which[k]], system=truths[which[k]], **rest)
        | (dict(folder=open_folder(Path(folder) / "members" / str(k))) if folder else {})
        for k in whole
    ]
    # What data say is the same for all their networks.
    sets, first = np.unique(which[whole], return_index=True)
    told = dict(zip(sets, _each(_ask, [work[k] for k in first], jobs), strict=True))
    work = [one | dict(told=told[which[k]]) for k, one in zip(whole, work, strict=True)]
    laws = tqdm(_each(_law, work, jobs), desc="laws", total=len(work), disable=not progress)
    found: list[Discovery | str | None] = [None] * len(which)
    for k, law in zip(whole, laws, strict=True):
        found[k] = law
    return tuple(found)


def _each(find, work, jobs):
    """What is found of each piece of work, in order."""
    if jobs == 1 or len(work) < 2:
        return map(find, work)
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    backend: Any = get_active_backend()[0]
    # Ray's gives all results in the end.
    way = "generator" if backend.supports_return_generator else "list"
    return Parallel(n_jobs=jobs, return_as=way)(delayed(find)(one) for one in work)


def _ask(one):
    """What data alone say; None where that is nothing."""
    folder = one["folder"] / SEARCHES if "folder" in one else None
    engines = make_engines(one["settings"], 0, folder)
    try:
        return learning.find_terms(one["parts"], one["settings"], engines, folder)
    except (RegressionError, ValueError):
        return None


def _law(one):
    """The law of a network, or why there is none."""
    try:
        return read_law(**one)
    except (RegressionError, ValueError) as error:
        return str(error)

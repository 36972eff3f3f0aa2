"""Parts for training, validation and test."""

import jax
import numpy as np
import pytest

from symjax_gn.data.datasets import Dataset, take
from symjax_gn.data.graphs import complete_edges, stack_graphs
from symjax_gn.data.nodes import Nodes
from symjax_gn.data.splitting import split

KEY = jax.random.key(0)


def recordings(*sizes, timed=True):
    """Two bodies, one recording of each size; targets number all moments in order."""
    count = sum(sizes)
    place = np.random.default_rng(0).normal(size=(count, 2, 1))
    target = np.broadcast_to(1.0 + np.arange(count)[:, None, None], place.shape)
    graphs = stack_graphs(Nodes(place, None, {}), *complete_edges(2))
    time = np.concatenate([np.arange(float(size)) for size in sizes])
    group = np.repeat(np.arange(len(sizes)), sizes)
    return Dataset(graphs, target, None, group, time=time if timed else None)


def numbers(part):
    """The numbers of a part's moments."""
    return part.target[:, 0, 0].astype(int) - 1


@pytest.mark.parametrize("count", [5, 10, 60])
def test_equal_recordings_are_dealt_whole_by_one_permutation(count):
    data = recordings(*[3] * count)
    order = np.asarray(jax.random.permutation(KEY, np.arange(count)))
    ends = np.rint(np.cumsum([0.75, 0.1, 0.15]) * (count - 3)).astype(int) + np.arange(1, 4)
    for part, names in zip(split(KEY, data), np.split(order, ends[:2]), strict=True):
        np.testing.assert_array_equal(part.group, np.repeat(np.sort(names), 3))
        assert part.note == ""


SIZES = [
    (3000, 50, 50), (50, 50, 3000), (100, 100, 100), (40, 40, 40, 40), (70,) * 6, (70,) * 7,
    (70,) * 9, (1000,), (100,), (20,), (12,), (10,), (10, 10), (200, 7), (5, 5, 5),
    (1000, 1000) + (50,) * 40, (900,) + (30,) * 4, (80, 90, 100, 110, 120, 81, 91, 101, 111, 121),
]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes[:4])))
@pytest.mark.parametrize("seed", range(2))
def test_training_gets_most_moments_and_no_neighbours_leak(sizes, seed):
    data = recordings(*sizes)
    parts = split(jax.random.key(seed), data)
    share = [len(part) / sum(sizes) for part in parts]
    # A graph in a thousand does not matter.
    assert share[0] >= 0.6 - 1e-3
    # At least half of their 10% and 15%, but for what whole moments allow.
    assert np.all(np.array(share[1:]) >= [0.05, 0.075])
    found = np.concatenate([numbers(part) for part in parts])
    assert len(set(found)) == len(found)
    part_of = np.full(sum(sizes), -1)
    for k, part in enumerate(parts):
        part_of[numbers(part)] = k
        for name in np.unique(part.group):
            piece = numbers(take(part, part.group == name))
            # A group is one recording, or a piece of one without holes.
            assert len(set(data.group[piece])) == 1
            np.testing.assert_array_equal(np.sort(piece), np.min(piece) + np.arange(len(piece)))
    together = (data.group[1:] == data.group[:-1]) & (part_of[1:] >= 0) & (part_of[:-1] >= 0)
    assert np.all(part_of[1:][together] == part_of[:-1][together])
    groups = [set(part.group.tolist()) for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    left_out = sum(sizes) - len(found)
    assert bool(left_out) == bool(parts[0].note)
    if left_out:
        assert f"with {left_out} of {sum(sizes)} moments left out" in parts[2].note


def test_a_gap_is_a_twentieth_of_a_section():
    """A recording of 800 has 8 sections of 100: 5 moments are left out at each of 16 meetings."""
    parts = split(KEY, recordings(800))
    where = np.full(800, -1)
    for k, part in enumerate(parts):
        where[numbers(part)] = k
    holes = np.flatnonzero(np.diff(np.concatenate([[0], where < 0, [0]])))
    np.testing.assert_array_equal(holes[1::2] - holes[::2], 5)
    assert len(holes) == 2 * 16
    # Training, validation and test are in all of it.
    for k in range(3):
        assert all(np.any(where[100 * n : 100 * n + 200] == k) for n in range(7))


def test_the_order_of_graphs_does_not_matter():
    """Moments are put in order by their times, wherever they are."""
    data = recordings(60, 60)
    mixed = take(data, np.random.default_rng(1).permutation(120))
    for one, other in zip(split(KEY, data), split(KEY, mixed), strict=True):
        np.testing.assert_array_equal(numbers(one), numbers(other))


def test_groups_without_times_are_never_parted():
    parts = split(KEY, recordings(3000, 50, 50, timed=False))
    assert [len(part) for part in parts] == [3000, 50, 50]
    parts = split(KEY, recordings(20, 20, 20, timed=False))
    assert [len(part) for part in parts] == [20, 20, 20]
    with pytest.raises(ValueError, match="needs as many groups, got 2; .* or times"):
        split(KEY, recordings(20, 20, timed=False))


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.4), (1.5, -0.5), (), (0.5, np.nan), "half", 1.0, (0.5, "x")]
)
def test_fractions_that_are_none(fractions):
    with pytest.raises(ValueError, match="fractions must"):
        split(KEY, recordings(20), fractions)


def test_two_and_four_parts():
    assert [len(x) for x in split(KEY, recordings(100), (0.8, 0.2))] == [76, 18]
    assert all(len(x) > 5 for x in split(KEY, recordings(100), (0.4, 0.2, 0.2, 0.2)))


def test_recordings_that_are_too_short():
    with pytest.raises(ValueError, match="have 4 moments in all, too few to be cut into 3"):
        split(KEY, recordings(4))

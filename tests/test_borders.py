"""Odd values in the place of any argument that data go through: an answer, or one clear line."""

import jax
import numpy as np
import pytest

import symjax_gn as sg
from symjax_gn.data.blocks import block_graphs
from symjax_gn.data.datasets import Dataset
from symjax_gn.data.graphs import GraphsTuple
from symjax_gn.data.halos import catalogue, readers
from symjax_gn.data.names import check_property_names
from symjax_gn.data.nodes import check_nodes
from symjax_gn.data.soundness import check_dataset
from symjax_gn.data.stacking import from_jraph
from symjax_gn.data.trajectories import trajectory_from_arrays
from symjax_gn.data.units import measure_scales

KEY = jax.random.key(0)
PLACE = np.random.default_rng(0).normal(size=(5, 12, 3, 2))
RUN = trajectory_from_arrays(np.arange(12.0), PLACE, PLACE, PLACE, mass=np.ones(3))
DATA = sg.make_dataset(RUN)
ENDS = sg.complete_edges(3)
ONE = GraphsTuple(
    dict(position=PLACE[0, 0], mass=np.ones(3), acceleration=PLACE[0, 1]),
    None, *ENDS[::-1], None, np.array([3]), np.array([6]),
)  # fmt: skip
POINTS = sg.Nodes(PLACE[0, :, 0], None, {})
ODD = [
    None, 3, -1, 0, 2.5, np.nan, np.inf, True, 1j, 1e300, 10**30, "text", "", b"b", [], [1],
    (1, 2, 3), {}, {"a": 1}, [[1], [1, 2]], np.zeros(0), np.ones(3), np.ones((2, 2)),
    np.array("a"), np.array([1, 2, np.nan]), np.array([1j, 2]), object(), len, jax.numpy.ones(3),
    np.ma.array([1.0, 2, 3], mask=[0, 1, 0]),
]  # fmt: skip


def of_graphs(**options):
    return sg.dataset_from_graphs([ONE] * 3, **(dict(target="acceleration") | options))


def with_node_feature(name, value):
    return sg.dataset_from_graphs([ONE._replace(nodes=ONE.nodes | {name: value})], "acceleration")


def in_blocks(nodes=POINTS, target=PLACE[0, :, 1, 0], radius=1.0, **options):
    depth = sg.Quantity("depth")
    return block_graphs(nodes, target, radius, **(dict(quantity=depth, size=3) | options))


def halos(**fields):
    usual = dict(
        position=np.ones((3, 3)), velocity=np.ones((3, 3)), mass=np.ones(3), overdensity=None
    )
    return catalogue.Catalogue(**(usual | dict(box=10.0) | fields))


CALLS = {
    "complete_edges": sg.complete_edges,
    "radius_edges position": lambda v: sg.radius_edges(v, 1.0),
    "radius_edges radius": lambda v: sg.radius_edges(PLACE[0, 0], v),
    "radius_edges space": lambda v: sg.radius_edges(PLACE[0, 0], 0.1, v),
    "make_dataset": sg.make_dataset,
    "make_dataset senders": lambda v: sg.make_dataset(RUN, v, ENDS[1]),
    "make_dataset receivers": lambda v: sg.make_dataset(RUN, ENDS[0], v),
    "make_dataset cutoff": lambda v: sg.make_dataset(RUN, cutoff=v),
    "graphs": lambda v: sg.dataset_from_graphs(v, "acceleration"),
    "a graph": lambda v: sg.dataset_from_graphs([ONE, v], "acceleration"),
    "nodes": lambda v: from_jraph([ONE._replace(nodes=v)]),
    "split key": lambda v: sg.split(v, DATA),
    "split dataset": lambda v: sg.split(KEY, v),
    "split fractions": lambda v: sg.split(KEY, DATA, v),
    "Space": sg.Space,
    "Quantity": sg.Quantity,
    "level": lambda v: sg.Quantity("a", v),
    "weight": lambda v: sg.Quantity("a", weight=v),
    "a name": lambda v: check_property_names([v]),
    "properties": lambda v: check_nodes(sg.Nodes(None, None, v), "a test"),
    "measure_scales": measure_scales,
    "read_table": lambda v: readers.read_table(v, 1.0),
    "read_rockstar": readers.read_rockstar,
    "read_quijote": readers.read_quijote,
    "load_catalogue": catalogue.load_catalogue,
    "with_overdensity": lambda v: readers.with_overdensity(halos(), v),
}
CALLS |= {
    f"dataset_from_graphs {name}": lambda v, name=name: of_graphs(**{name: v})
    for name in ("target", "quantity", "mask", "group", "time", "space")
}
CALLS |= {
    f"node feature {name}": lambda v, name=name: with_node_feature(name, v)
    for name in ("position", "velocity", "mass", "acceleration", "spin")
}
CALLS |= {
    f"graph {name}": lambda v, name=name: from_jraph([ONE._replace(**{name: v})])
    for name in ("senders", "receivers", "edges", "globals", "n_node", "n_edge")
}
CALLS |= {
    f"Dataset {name}": lambda v, name=name: check_dataset(
        Dataset(**(vars(DATA) | {name: v})), "given"
    )
    for name in ("graphs", "target", "mask", "group", "quantity", "space", "time")
}
CALLS |= {
    f"block_graphs {name}": lambda v, name=name: in_blocks(**{name: v})
    for name in ("nodes", "target", "radius", "quantity", "space", "group", "receivers", "size")
}
CALLS |= {
    f"Catalogue {name}": lambda v, name=name: halos(**{name: v})
    for name in ("position", "velocity", "mass", "overdensity", "box")
}


@pytest.mark.parametrize("name", CALLS)
def test_any_value_gives_an_answer_or_one_clear_line(name):
    for value in ODD:
        said = "There is an answer."
        try:
            CALLS[name](value)
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
        assert "\n" not in said and 15 < len(said) < 600, f"{value!r}: {said}"

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from symjax_gn.networks.saving import load_network, save_network
from symjax_gn.networks.strategies import make_model
from symjax_gn.networks.training import fit


@pytest.mark.parametrize("fixture", ["trained", "hamiltonian"])
def test_a_loaded_network_predicts_the_same(request, fixture, tmp_path, spring_parts):
    network = request.getfixturevalue(fixture)
    path = tmp_path / "network.msgpack"
    save_network(path, network)
    loaded = load_network(path)
    graphs = spring_parts[2].graphs
    np.testing.assert_array_equal(loaded.predict(graphs), network.predict(graphs))
    assert loaded.model == network.model
    assert loaded.strategy == network.strategy
    for ours, theirs in zip(jax.tree.leaves(loaded), jax.tree.leaves(network), strict=True):
        if hasattr(ours, "shape"):
            np.testing.assert_array_equal(ours, theirs)


def test_learned_properties_are_kept(tmp_path, spring_parts):
    train, validation = (
        dataclasses.replace(
            part,
            graphs=part.graphs._replace(
                nodes=part.nodes._replace(properties={"charge": part.nodes.charge})
            ),
        )
        for part in spring_parts[:2]
    )
    found = fit(
        jax.random.key(0),
        train,
        validation,
        steps=20,
        intervals=1,
        batch_size=8,
        learn=("mass",),
        model=None,
    )
    save_network(tmp_path / "network.msgpack", found)
    loaded = load_network(tmp_path / "network.msgpack")
    np.testing.assert_array_equal(loaded.learned["mass"], found.learned["mass"])
    assert np.all(found.learned["mass"] != 1)


def test_an_activation_without_a_name(tmp_path, spring_parts, trained):
    model = make_model("bottleneck", spring_parts[0], activation=lambda x: jnp.maximum(x, 0.1))
    with pytest.raises(ValueError, match="has no name in flax"):
        save_network(tmp_path / "network.msgpack", trained._replace(model=model))
    assert not (tmp_path / "network.msgpack").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"\x00" * 100,
        serialization.msgpack_serialize({"format": "other"}),
        serialization.msgpack_serialize([1, 2]),
    ],
)
def test_files_that_are_no_networks(tmp_path, data):
    path = tmp_path / "network.msgpack"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is no network file"):
        load_network(path)


def test_a_truncated_file_and_another_version(tmp_path, trained):
    path = tmp_path / "network.msgpack"
    save_network(path, trained)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no network file, or damaged"):
        load_network(path)
    path.write_bytes(serialization.msgpack_serialize({"format": "symjax_gn network", "version": 7}))
    with pytest.raises(ValueError, match="has version 7 of network files"):
        load_network(path)
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path / "none")


@pytest.mark.parametrize("part", ["model", "params", "mask", "scales", "strategy", "history"])
def test_a_file_that_lacks_a_part(tmp_path, trained, part):
    path = tmp_path / "network.msgpack"
    save_network(path, trained)
    contents = serialization.msgpack_restore(path.read_bytes())
    del contents[part]
    path.write_bytes(serialization.msgpack_serialize(contents))
    with pytest.raises(ValueError, match=f"is no whole network file: KeyError\\('{part}'\\)"):
        load_network(path)

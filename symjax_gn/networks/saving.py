"""Trained networks to and from files: one file, no pickle, written in one stroke."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import serialization

from symjax_gn.data.border import checked
from symjax_gn.data.files import in_one_stroke
from symjax_gn.data.space import Space
from symjax_gn.data.units import Scales
from symjax_gn.networks.graphnet import GraphNet
from symjax_gn.networks.hamiltonian import FlatHGN
from symjax_gn.networks.layers import Properties
from symjax_gn.networks.training import History, Trained

_FORMAT = "symjax_gn network"
_VERSION = 1
_MODELS = {"GraphNet": GraphNet, "FlatHGN": FlatHGN}
_ACTIVATIONS = ("silu", "relu", "softplus", "tanh", "gelu", "elu", "sigmoid", "swish", "selu")

# What flax adds to the fields of a module.
_OF_FLAX = ("parent", "name")


@checked
def save_network(path: str | os.PathLike[str], trained: Trained) -> None:
    """Write a trained network with all that is needed to use it.

    An interruption leaves the old file or the new one.

    Raises:
        ValueError: it is no trained network, or its activation is none that has a name in
            flax.

    >>> import jax, tempfile
    >>> import symjax_gn as sgn
    >>> key = jax.random.key(0)
    >>> run = sgn.simulate(key, sgn.SYSTEMS["spring"], num_simulations=5, num_outputs=20)
    >>> train, validation, test = sgn.split(key, sgn.make_dataset(run))
    >>> tiny = sgn.make_model("bottleneck", train, width=8, depth=1)
    >>> trained = sgn.fit(key, train, validation, model=tiny, steps=20)
    >>> path = os.path.join(tempfile.mkdtemp(), "network.msgpack")
    >>> save_network(path, trained)
    >>> again = load_network(path).predict(test.graphs)
    >>> bool((again == trained.predict(test.graphs)).all())
    True
    """
    contents = dict(
        format=_FORMAT,
        version=_VERSION,
        model=_describe(trained.model),
        params=trained.params,
        mask=np.asarray(trained.mask),
        scales=trained.scales._asdict(),
        strategy=trained.strategy,
        history=trained.history._asdict(),
        learned=trained.learned,
    )
    with in_one_stroke(path) as part:
        part.write_bytes(serialization.msgpack_serialize(_plain(contents)))


@checked
def load_network(path: str | os.PathLike[str]) -> Trained:
    """Read what `save_network` wrote.

    Raises:
        ValueError: the file is no network of this version, or damaged.
        FileNotFoundError: there is no such file.

    See `save_network`.
    """
    data = Path(path).read_bytes()
    try:
        contents: Any = serialization.msgpack_restore(data)
    except Exception as error:  # the decoder raises whatever damaged bytes lead to
        raise ValueError(f"{path} is no network file, or damaged ({error}).") from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise ValueError(f"{path} is no network file: write one with save_network.")
    if contents.get("version") != _VERSION:
        raise ValueError(
            f"{path} has version {contents.get('version')} of network files; this release reads "
            f"version {_VERSION}."
        )
    try:
        return Trained(
            model=_build(contents["model"]),
            params=contents["params"],
            mask=jnp.asarray(contents["mask"]),
            scales=Scales(**contents["scales"]),
            strategy=contents["strategy"],
            history=History(**contents["history"]),
            learned=contents["learned"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no whole network file: {error!r}.") from error


def _describe(model) -> dict[str, Any]:
    """The class and attributes of a network in plain values."""
    fields = [f.name for f in dataclasses.fields(model) if f.name not in _OF_FLAX]
    values = {name: getattr(model, name) for name in fields}
    activation = values["activation"]
    known = [name for name in _ACTIVATIONS if getattr(nn, name) is activation]
    if not known:
        raise ValueError(
            f"The activation {activation!r} has no name in flax that a file could keep; use one "
            f"of {', '.join(_ACTIVATIONS)}."
        )
    values |= dict(
        activation=known[0],
        properties=values["properties"]._asdict(),
        space=values["space"].box,
    )
    return dict(kind=type(model).__name__, **values)


def _build(description) -> GraphNet | FlatHGN:
    values = dict(description)
    kind = values.pop("kind")
    properties = {name: tuple(x) for name, x in values["properties"].items()}
    box = values["space"]
    values |= dict(
        activation=getattr(nn, values["activation"]),
        properties=Properties(**properties),
        space=Space(None if box is None else tuple(box)),
    )
    return _MODELS[kind](**values)


def _plain(value: Any) -> Any:
    """Mappings, lists and arrays, which is what msgpack knows."""
    if isinstance(value, dict):
        return {str(name): _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return np.asarray(value) if hasattr(value, "shape") else value

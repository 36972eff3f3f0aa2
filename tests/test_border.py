"""What public functions are given is checked before anything runs."""

import inspect
import typing

import jax
import numpy as np
import pytest

import symjax_gn as sgn
from symjax_gn.data.border import fits
from symjax_gn.networks.members import grid
from symjax_gn.networks.sweeping import sweep
from symjax_gn.networks.training import fit
from tests.test_sweep import KEY, TINY, parts_of, tiny

NOTHING = object()

# Functions with types, and those of whose arguments anything may be.
FUNCTIONS = [name for name in sgn.__all__ if inspect.isfunction(getattr(sgn, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_object_that_is_nothing_is_refused(name):
    """For each argument whose type can be told: by its name, and not deep inside."""
    function = getattr(sgn, name)
    parameters = inspect.signature(function).parameters.values()
    for one in parameters:
        if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) or one.annotation is typing.Any:
            continue
        required = [
            x.name for x in parameters if x.default is x.empty and x.kind is not x.VAR_KEYWORD
        ]
        given = dict.fromkeys(required, NOTHING) | {one.name: NOTHING}
        with pytest.raises(ValueError, match="must be|must hold|Unknown"):
            function(**given)


LIMITS = {
    "learn as text": (dict(learn="mass"), "learn must be a list, got 'mass'"),
    "steps as text": (dict(steps="3"), "steps must be a whole number, got '3'"),
    "a rate as text": (dict(learning_rate="no"), "learning_rate must be a number"),
    "yes as text": (dict(prune="no"), "prune must be True or False or None, got 'no'"),
    "a callback": (dict(callback=3), "callback must be a function or None, got 3"),
    "an unknown name": (dict(learningrate=0.1), "Did you mean 'learning_rate'"),
    "too many steps": (dict(steps=10**30), "steps must be at most 2147483647"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("run", [fit, sweep])
def test_what_training_is_given(name, run):
    options, message = LIMITS[name]
    if run is sweep and "callback" in options:
        message = "Unknown argument of prepare 'callback'"
    members = (dict(seed=[0]),) if run is sweep else ()
    with pytest.raises(ValueError, match=message):
        run(KEY, *parts_of("spring")[:2], *members, **(dict(model=tiny()) | TINY | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(system="sprin"), "Did you mean 'spring'"),
        (dict(on_stage=3), "on_stage must be a function or None, got 3"),
        (dict(settings=sgn.Settings(time_limit=1e300)), "time_limit must be .* at most 1e"),
        (dict(settings=sgn.Settings(external_field="no")), "external_field must be True or False"),
        (dict(search_seed=2**32), "search_seed must be at most 4294967295"),
        (dict(target="z"), "A Dataset has its target: leave 'z' out"),
        (dict(sytem=None), "Did you mean 'system'"),
    ],
)
def test_what_discover_is_given(options, message):
    with pytest.raises(ValueError, match=message):
        sgn.discover(KEY, parts_of("spring")[0], **options)


def test_members_are_named_and_numbered_right():
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        grid(learningrate=[0.1])
    with pytest.raises(ValueError, match="steps is compiled into the program"):
        grid(steps=[1])
    for seed in (2**32, 2**33, 2**40):
        with pytest.raises(ValueError, match="seed must be at most 4294967295"):
            sweep(KEY, *parts_of("spring")[:2], dict(seed=[0, seed]), model=tiny(), **TINY)


def test_edges_are_given_or_made(spring_trajectory):
    ends = sgn.complete_edges(4)
    with pytest.raises(ValueError, match="or a cutoff, not both"):
        sgn.make_dataset(spring_trajectory, *ends, cutoff=1.0)


def test_types_are_told():
    for value, kind in [
        (np.int64(3), int), (3, float), (np.float32(3), float), (jax.numpy.ones(()), float),
        (range(3), typing.Any), (None, int | None), (["a"], tuple[str, ...]), (KEY, type(KEY)),
    ]:  # fmt: skip
        assert fits(value, kind)
    for value, kind in [(True, int), (1, bool), ("3", float), ("ab", tuple[str, ...]), (3.0, int)]:
        assert not fits(value, kind)


@pytest.mark.parametrize("strategy", ["pruning", "flathgn"])
def test_networks_are_the_same_with_64_bits(strategy):
    """They are float32; `JAX_ENABLE_X64=1` is what many physicists set."""

    def trained():
        train, validation, _ = parts_of("spring")
        model = sgn.make_model(strategy, train, width=8, depth=1)
        options = dict(strategy=strategy, steps=4, intervals=2, batch_size=4)
        return fit(KEY, train, validation, model=model, **options)

    plain = trained()
    with jax.enable_x64(True):
        wide = trained()
        guess = wide.predict(parts_of("spring")[2].graphs)
    jax.tree.map(np.testing.assert_array_equal, wide.params, plain.params)
    np.testing.assert_array_equal(guess, plain.predict(parts_of("spring")[2].graphs))

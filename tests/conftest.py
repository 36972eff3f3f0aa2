"""Small data that several tests share; everything is seeded."""

import os
from pathlib import Path

import jax
import pytest

from symjax_gn.data import building, splitting
from symjax_gn.networks import strategies, training
from symjax_gn.physics.simulation import simulate
from symjax_gn.physics.systems import SYSTEMS

# No test, nor a process that it starts, writes to the user's cache.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
jax.config.update("jax_enable_compilation_cache", False)

# Compiling is most of what tests cost, and what they compile they run a few times.
jax.config.update("jax_disable_most_optimizations", True)
# An unknown flag ends the process: these are known to the versions from 0.10 to 0.12.
_KNOWN = (0, 10) <= jax.version.__version_info__[:2] <= (0, 12)
_QUICK_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


# These stand for modules that tests import as they need them.
collect_ignore = ["stand_ins"]

# Each compiled program is mapped into memory in several pieces; Linux allows 65,530.
_MOST_MAPS = 20_000


def pytest_configure(config):
    """No test starts Julia, or lets PySR download it, but those that are there to.

    Quick tests compile in half the time, unless XLA_FLAGS is set, be it to nothing.
    """
    if "not julia" in config.option.markexpr:
        os.environ["PYTHON_JULIACALL_INIT"] = "no"
    if _KNOWN and "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", _QUICK_TO_COMPILE)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Programs that are compiled do not pile up from file to file."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_text().splitlines()) > _MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def optimised():
    """Long runs are compiled as users' are."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(scope="session")
def spring_trajectory():
    """Its solver is the quickest to compile; the adaptive one has tests of its own."""
    options = dict(num_simulations=60, num_outputs=20, dt=0.05, solver="midpoint")
    return simulate(jax.random.key(0), SYSTEMS["spring"], **options)


@pytest.fixture(scope="session")
def spring_dataset(spring_trajectory):
    return building.make_dataset(spring_trajectory)


@pytest.fixture(scope="session")
def spring_parts(spring_dataset):
    return splitting.split(jax.random.key(1), spring_dataset)


@pytest.fixture(scope="session")
def trained(spring_parts):
    """A network that has seen a little; good enough to look at, not to judge."""
    model = strategies.make_model("bottleneck", spring_parts[0], width=16, depth=2)
    return training.fit(
        jax.random.key(2), *spring_parts[:2], model=model, steps=400, batch_size=16, intervals=4
    )


@pytest.fixture(scope="session")
def hamiltonian(spring_parts):
    """A Hamiltonian network, trained as little."""
    sizes = dict(width=16, depth=2, dissipative=True)
    model = strategies.make_model("flathgn", spring_parts[0], **sizes)
    options = dict(steps=400, batch_size=16, intervals=4)
    return training.fit(
        jax.random.key(2), *spring_parts[:2], strategy="flathgn", model=model, **options
    )

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from symjax_gn.compiling import keep_compiled, seconds_compiling

# Compiles a program that takes more than a moment, and says how often one was found.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from symjax_gn.compiling import keep_compiled
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
keep_compiled(*([["cpu"]] if len(sys.argv) > 1 else []))
def many(x):
    for k in range(100):
        x = jnp.sin(x + k) @ x
    return x
jax.jit(many)(jnp.ones((3, 3))).block_until_ready()
print(found.count("/jax/compilation_cache/cache_hits"))
"""


def hits(folder, *words, **environment):
    environment = os.environ | dict(XDG_CACHE_HOME=str(folder), XLA_FLAGS="") | environment
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="where caches lie is for Linux here")
def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    on = dict(JAX_ENABLE_COMPILATION_CACHE="true")
    # By default nothing of a CPU is kept.
    assert hits(tmp_path, **on) == 0
    assert not (tmp_path / "symjax_gn").exists()
    assert hits(tmp_path, "cpu", **on) == 0
    assert len(list((tmp_path / "symjax_gn").glob("*many*"))) >= 1
    assert hits(tmp_path, "cpu", **on) >= 1
    # Elsewhere by JAX' own settings.
    own = str(tmp_path / "own")
    options = dict(JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", JAX_COMPILATION_CACHE_DIR=own)
    hits(tmp_path / "off", "cpu", **on, **options)
    assert os.listdir(own) and not (tmp_path / "off").exists()


def test_compiling_is_counted_once_for_each_shape():
    before = seconds_compiling()
    double = jax.jit(lambda x: 2.25 * x)
    double(jnp.ones(3)).block_until_ready()
    after = seconds_compiling()
    double(2 * jnp.ones(3)).block_until_ready()
    assert before < after
    keep_compiled()
    assert jax.config.values["jax_compilation_cache_dir"] is None

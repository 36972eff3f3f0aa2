"""Compiled programs: in 32 bits, kept between runs; how long they and other stages take."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

# What JAX reports of the time from a traced function to a program that can run.
_EVENTS = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

# Programs that took less to compile are not kept, in seconds; how much is kept, in bytes.
_WORTH_KEEPING, _MOST_KEPT = 0.1, 2**30


def in_32_bits(function: Callable[P, R]) -> Callable[P, R]:
    """A compiled function that computes in 32 bits also where JAX has 64 enabled.

    Networks are float32: `JAX_ENABLE_X64=1` changes nothing of them.

    >>> with jax.enable_x64(True):
    ...     in_32_bits(jax.jit(lambda x: x / 3))(1).dtype
    dtype('float32')
    """

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        with jax.enable_x64(False):
            return function(*args, **options)

    return run


class _Clock:
    """Seconds that this process has spent compiling."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _EVENTS:
            self.seconds += duration_secs


@functools.cache
def _clock() -> _Clock:
    return _Clock()


def seconds_compiling() -> float:
    """Seconds that this process has spent compiling since the first call, which gives 0.

    >>> before = seconds_compiling()
    >>> _ = jax.jit(lambda x: x + 17.5)(1.0)
    >>> seconds_compiling() > before
    True
    """
    return _clock().seconds


def keep_compiled(on: Sequence[str] = ("gpu", "tpu")) -> None:
    """Keep compiled programs in the user's cache folder, up to 1 GiB.

    A later run of the same shapes starts at once. JAX' own settings go before: a folder that
    is set already (JAX_COMPILATION_CACHE_DIR) stays, and with
    JAX_ENABLE_COMPILATION_CACHE=false nothing is kept.

    Args:
        on: platforms whose programs are kept. CPUs are none of them by default: of each of
            their programs that is read back XLA prints an error about the CPU's features.

    >>> keep_compiled()
    """
    known = jax.config.values
    unset = known["jax_compilation_cache_dir"] is None
    if unset and known["jax_enable_compilation_cache"] and jax.default_backend() in on:
        from platformdirs import user_cache_dir

        jax.config.update("jax_compilation_cache_dir", user_cache_dir("symjax_gn"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING)
        jax.config.update("jax_compilation_cache_max_size", _MOST_KEPT)


class Stopwatch:
    """Seconds of stages, and of compiling in all of them."""

    def __init__(self, on_stage: Callable[[str], None] | None = None):
        """Start; `on_stage` is called with the name of each stage that ends."""
        self.seconds: dict[str, float] = {}
        self._compiling = seconds_compiling()
        self._start = self._last = time.perf_counter()
        self._on_stage = on_stage

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self.seconds["total"] = now - self._start
        self.seconds["compile"] = seconds_compiling() - self._compiling
        self._last = now
        if self._on_stage is not None:
            self._on_stage(stage)

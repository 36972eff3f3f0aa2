"""What a GPU or TPU can do, in under eight minutes: one figure after the other, saved at once.

    python benchmarks/accelerator.py --out benchmarks/results/accelerator.json

In the order of importance, so that what a short loan allows is the most useful: how fast the
device multiplies matrices; 64 networks of the default size at once, in steps per second and as
a share of that; one network of the paper's size, beside PyTorch Geometric's where that is
installed; the effect of bf16 and TF32 products; memory against the bound; the networks of
table 1. `--small` is a trial of the script on a CPU.
"""

import argparse
import statistics
import sys
import time
import traceback

import jax
import jax.numpy as jnp
from _results import open_out, save
from table_one import LAWS, STRATEGIES
from training import springs, steps_here, steps_torch

import symjax_gn as sgn
from symjax_gn.data.datasets import take
from symjax_gn.networks.layers import PRODUCTS
from symjax_gn.networks.preparation import prepare
from symjax_gn.networks.steps import step

KEY = jax.random.key(0)
STEPS_OF_PAPER = 150_000


def available():
    """Precisions of products that this device has."""
    names = list(PRODUCTS)
    return names if jax.devices()[0].platform == "gpu" else [x for x in names if x != "tf32"]


def products(small):
    """Products per second of the device, by precision."""
    size = 256 if small else 8192
    x = jax.random.normal(KEY, (size, size), jnp.float32)
    found = {}
    for name in available():
        one = jax.jit(lambda a, b, name=name: PRODUCTS[name](a, b, (((1,), (0,)), ((), ()))))
        one(x, x).block_until_ready()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            one(x, x).block_until_ready()
            seconds.append(time.perf_counter() - start)
        found[name] = 2 * size**3 / statistics.median(seconds)
    return dict(value=found["float32"], unit="FLOP/s", rates=found)


def _rate(members, steps, precision="float32"):
    """Steps per second of all members together, without compilation, and the last errors."""
    train, validation = springs()
    model = sgn.make_model("bottleneck", train, precision=precision)
    seconds = []
    for count in (steps, 2 * steps):
        options: dict = dict(model=model, steps=count, intervals=2, at_once=members)
        sgn.sweep(KEY, train, validation, {"seed": range(members)}, **options)
        start = time.perf_counter()
        found = sgn.sweep(KEY, train, validation, {"seed": range(members)}, **options)
        seconds.append(time.perf_counter() - start)
    error = found.table()["error"]
    return members * steps / (seconds[1] - seconds[0]), float(error.median())


def many(small):
    """64 networks of the default size at once, and what share of the device they use."""
    members, steps = (2, 20) if small else (64, 1000)
    rate, _ = _rate(members, steps)
    train, validation = springs()
    ready = prepare(KEY, train, validation)
    state = ready.init(KEY)
    batch = take(ready.train, jnp.arange(ready.batch_size))
    cost = jax.jit(step, static_argnames="recipe").lower(state, batch, ready.recipe).compile()
    flops = float((cost.cost_analysis() or {}).get("flops", float("nan")))
    return dict(value=rate, unit="steps/s", members=members, flops_per_step=flops)


def one(small):
    """Steps per second of one network of the paper's size, here and in PyTorch Geometric."""
    steps = 20 if small else 1000
    row = dict(value=steps / steps_here(steps)["value"], unit="steps/s")
    try:
        row["torch"] = steps / steps_torch(steps)["value"]
    except ImportError as error:
        row["torch"] = f"not measured: {error}"
    return row


def precisions(small):
    """Steps per second and held-out errors by the precision of products."""
    members, steps = (2, 20) if small else (16, 2000)
    found = {name: _rate(members, steps, name) for name in available()}
    return dict(value=found["bf16"][0], unit="steps/s", rate_and_error=found)


def memory(small):
    """Largest memory of the device in use, beside the bound for what was trained."""
    members = 2 if small else 64
    train, validation = springs()
    bound, what = prepare(KEY, train, validation).bytes_needed()
    sgn.sweep(KEY, train, validation, {"seed": range(members)}, steps=20, at_once=members)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return dict(value=peak, unit="bytes", bound=bound * members, of=what, members=members)


def table_one(small):
    """Seconds for the networks of table 1 at the paper's number of steps, a strategy each."""
    steps = 20 if small else STEPS_OF_PAPER
    seconds, errors = {}, {}
    for dim in (2,) if small else (2, 3):
        systems = [sgn.SYSTEMS[name] for name in LAWS]
        data = [
            sgn.make_dataset(
                sgn.simulate(KEY, system, dim=dim, num_simulations=20 if small else 1000,
                             num_outputs=100, dt=5 * system.dt, max_failed=0.5)
            )
            for system in systems
        ]  # fmt: skip
        least = min(map(len, data))
        parts = [sgn.split(KEY, take(one, jnp.arange(least))) for one in data]
        for strategy in STRATEGIES[: 1 if small else None]:
            start = time.perf_counter()
            found = sgn.sweep(
                KEY, [x[0] for x in parts], [x[1] for x in parts], {"data": range(len(LAWS))},
                strategy=strategy, steps=steps, at_once=len(LAWS),
            )  # fmt: skip
            seconds[f"{strategy}-{dim}"] = time.perf_counter() - start
            errors[f"{strategy}-{dim}"] = found.table()["error"].sort_index().tolist()
    return dict(value=sum(seconds.values()), unit="s", steps=steps, seconds=seconds, errors=errors)


FIGURES = (products, many, one, precisions, memory, table_one)


def main():
    """Measure one figure after the other, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a trial of the script")
    parser.add_argument("--seconds", type=float, default=480, help="after which none begins")
    parser.add_argument("--out", help="JSON file; kept up to date after every figure")
    args = parser.parse_args()
    open_out(args.out)
    rows, start = [], time.perf_counter()
    print("| figure | value | s |\n|---|---|---|")
    for figure in FIGURES:
        begun = time.perf_counter()
        if begun - start > args.seconds:
            break
        row = dict(name=figure.__name__, small=args.small)
        try:
            row |= figure(args.small)
            said = f"{row['value']:.4g} {row['unit']}" if row["value"] is not None else "unknown"
        except Exception as error:  # the next figure may go well
            traceback.print_exc()
            row["error"] = said = f"{type(error).__name__}: {error}"
        row["seconds"] = time.perf_counter() - begun
        rows.append(row)
        save(args.out, rows)
        print(f"| {figure.__name__} | {said} | {row['seconds']:.0f} |", flush=True)
    sys.exit(any("error" in row for row in rows))


if __name__ == "__main__":
    main()

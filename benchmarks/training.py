"""A step of the paper's network here and in PyTorch Geometric, in turn; and the time to 0.263.

    python -m pip install -e ".[bench]"
    python benchmarks/training.py --out benchmarks/results/training.json

Both train on the same four-body springs: width 300, two hidden layers, 100 messages with an L1
penalty, batches of 64, Adam with one cycle, positions shown with random translations, data
loading included. Then the main job's network is trained until its validation error, summed
over bodies and components, mean over graphs, is 0.263: what the loop of the paper reached in
150,000 steps (`--goal`). The rival's time to it is its own seconds per step times these.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time

from _results import open_out, save

# Steps of the walkthrough of the paper's code, and where they led.
STEPS_OF_PAPER, GOAL = 150_000, 0.263
WIDTH, MESSAGES, BATCH, PENALTY, RATE = 300, 100, 64, 1e-2, 1e-3
WAYS = ("here", "torch", "goal")


def springs():
    """Training and validation graphs of four-body springs, as of the main job."""
    import jax

    import symjax_gn as sgn

    system = sgn.SYSTEMS["spring"]
    keys = jax.random.split(jax.random.key(0))
    paths = sgn.simulate(keys[0], system, num_outputs=100, dt=5 * system.dt)
    return sgn.split(keys[1], sgn.make_dataset(paths))[:2]


def steps_here(steps):
    """Seconds of training steps of the package, compiled before."""
    import jax

    import symjax_gn as sgn
    from symjax_gn.networks.strategies import NETWORKS

    train, validation = springs()
    model = sgn.make_model("l1", train, width=WIDTH, depth=2, **NETWORKS["paper"])
    options: dict = dict(strategy="l1", model=model, loss="absolute", prune=False, focus=1.0)
    options |= dict(optimizer="adam", learning_rate=RATE, weight_decay=1e-8)
    options |= dict(penalty_weight=PENALTY, batch_size=BATCH, steps=steps, intervals=1)
    for _ in range(2):
        start = time.perf_counter()
        trained = sgn.fit(jax.random.key(0), train, validation, **options)
        jax.block_until_ready(trained.params)
        seconds = time.perf_counter() - start
    return dict(value=seconds, unit="s", loss=float(trained.history.loss[-1]))


def steps_torch(steps):
    """Seconds of training steps in PyTorch Geometric."""
    import numpy as np
    import torch
    from torch import nn
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import MessagePassing

    def layers(inputs, outputs):
        sizes = (inputs, WIDTH, WIDTH)
        hidden = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(*itertools.chain(*hidden), nn.Linear(WIDTH, outputs))

    class Network(MessagePassing):
        def __init__(self, features, dim):
            super().__init__(aggr="add")
            self.edges = layers(2 * features, MESSAGES)
            self.nodes = layers(features + MESSAGES, dim)

        def forward(self, x, edge_index):
            return self.nodes(torch.cat([x, self.propagate(edge_index, x=x)], dim=1))

        def message(self, x_i, x_j):
            self.sent = self.edges(torch.cat([x_i, x_j], dim=1))
            return self.sent

    torch.manual_seed(0)
    train, _ = springs()
    nodes, dim = train.nodes, train.target.shape[-1]
    columns = [nodes.position, nodes.velocity]
    columns += [np.asarray(nodes.properties[name])[..., None] for name in ("charge", "mass")]
    x = np.concatenate([np.asarray(column) for column in columns], axis=-1).astype(np.float32)
    y = np.asarray(train.target, np.float32)
    edge_index = torch.tensor(np.stack([train.graphs.senders, train.graphs.receivers])).long()
    graphs = [
        Data(x=torch.from_numpy(a), y=torch.from_numpy(b), edge_index=edge_index)
        for a, b in zip(x, y, strict=True)
    ]
    loader = DataLoader(graphs, batch_size=BATCH, shuffle=True, drop_last=True)
    network = Network(x.shape[-1], dim)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, weight_decay=1e-8)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 10)

    def batches():
        while True:
            yield from loader

    source, losses = batches(), []
    for step in range(steps + 10):
        if step == 10:
            start = time.perf_counter()
        batch = next(source)
        shift = torch.zeros(1, x.shape[-1])
        shift[:, :dim] = 3 * torch.randn(1, dim)
        optimizer.zero_grad()
        error = torch.sum(torch.abs(network(batch.x + shift, batch.edge_index) - batch.y)) / BATCH
        penalty = torch.mean(torch.sum(torch.abs(network.sent), dim=1))
        (error + PENALTY * penalty).backward()
        optimizer.step()
        cycle.step()
        losses.append(error.item())
    return dict(value=time.perf_counter() - start, unit="s", loss=float(np.mean(losses[-50:])))


def to_goal(steps):
    """Seconds, with compilation, until the main job's network errs by no more than the goal."""
    import jax

    import symjax_gn as sgn

    train, validation = springs()
    start = time.perf_counter()
    reached: dict = {}

    def look(state, report):
        if report["validation_error"] <= GOAL:
            reached.update(report, seconds=time.perf_counter() - start)
        return bool(reached)

    sgn.fit(jax.random.key(0), train, validation, intervals=40, callback=look)
    return dict(value=reached.get("seconds"), unit="s", reached=reached, goal=GOAL)


def main():
    """Run the ways in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--here", metavar="WAY", choices=WAYS, help="one run, in this process")
    parser.add_argument("--out", help="JSON file; kept up to date after every run")
    args = parser.parse_args()
    if args.here:
        run = dict(zip(WAYS, (steps_here, steps_torch, to_goal), strict=True))[args.here]
        print(json.dumps(run(args.steps)))
        return
    open_out(args.out)
    rows = []
    for repeat in range(args.repeats):
        for way in WAYS:
            command = [sys.executable, __file__, "--here", way, "--steps", str(args.steps)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row = dict(name=f"{way}, run {repeat}", way=way, steps=args.steps, repeat=repeat)
            rows.append(row | json.loads(said.splitlines()[-1]))
            save(args.out, rows)
            print(f"{rows[-1]['name']}: {rows[-1]['value']:.1f} s", file=sys.stderr, flush=True)
    here, torch, goal = (
        statistics.median(row["value"] for row in rows if row["way"] == way) for way in WAYS
    )
    there = STEPS_OF_PAPER * torch / args.steps
    print("| | symjax_gn | PyTorch Geometric | ratio |")
    print("|---|---|---|---|")
    rates = args.steps / here, args.steps / torch
    print(f"| steps per second | {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.2f} |")
    print(f"| seconds to {GOAL} | {goal:.1f} | {there:.0f} (extrapolated) | {there / goal:.0f} |")


if __name__ == "__main__":
    main()

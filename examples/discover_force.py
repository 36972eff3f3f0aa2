"""From a simulated system, or measured trajectories, to the law of force.

    python examples/discover_force.py --system spring --dim 2 --n 4 --seed 0 --out spring-2
    python examples/discover_force.py --system examples/yukawa.py --out yukawa-2
    python examples/discover_force.py --data measured.npz --out mine

The command line of the package, `python -m symjax_gn`.
"""

from symjax_gn.command import main, parse
from symjax_gn.console import end_with

__all__ = ["main", "parse"]

if __name__ == "__main__":
    end_with(main())

"""From a simulated system, or measured trajectories, to its Hamiltonian.

    python examples/discover_potential.py --system charge --dim 2 --seed 0 --out charge-2
    python examples/discover_potential.py --system damped --dissipative --out damped-2

As `discover_force.py`, with energies in place of forces: a flat Hamiltonian graph network is
trained, the potential of a pair and the kinetic energy of a body are distilled from it, and
the distilled Hamiltonian is followed in time beside the network's and the true one.
"""

import functools

from symjax_gn import command
from symjax_gn.console import end_with

parse = functools.partial(command.parse, strategy="flathgn")
main = functools.partial(command.main, strategy="flathgn")

if __name__ == "__main__":
    end_with(main())

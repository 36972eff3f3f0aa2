"""From data of interacting bodies to the equation that governs them.

simulate -> make_dataset -> split -> fit -> record_messages -> distill -> judge -> report:
each arrow is a function in a module of its own; import from there, for instance
`from symjax_gn.simulate import simulate`.
"""

from importlib.metadata import version as _version

__version__ = _version("symjax_gn")

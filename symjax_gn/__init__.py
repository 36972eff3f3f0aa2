"""From data of interacting bodies to the equation that governs them.

simulate -> make_dataset -> split -> fit -> terms, or messages -> refit -> certify -> judge.
`__init__.pyi` lists the public names by floor; each is imported when it is first asked for.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__version__ = _version("symjax_gn")
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Terms that a force may have, those first that explain most of what others leave."""

from typing import Any

from symjax_gn.discovery.extensions import NOTHING, Extensions
from symjax_gn.discovery.ranking import rank_pairs
from symjax_gn.discovery.terms import (
    body_vectors,
    couplings,
    make_term,
    pair_vectors,
)
from symjax_gn.laws.expressions import complexity
from symjax_gn.laws.law import Fitted, Law, Term
from symjax_gn.laws.samples import Samples

# Terms of pairs that are compared after each ranking; the complexity of couplings that are
# compared whatever it says; couplings of terms of bodies.
_TRIED, _SIMPLE, _OWN = 24, 3, 24


class Candidates:
    """Terms that a force may have."""

    def __init__(self, seen: Samples, more: Extensions = NOTHING):
        """List what pairs and bodies may feel.

        Args:
            seen: what terms are ranked by.
            more: directions and couplings that a user adds.
        """
        self.seen = seen
        dim, nodes = seen.target.shape[1], seen.owners
        self._ranked: dict[Any, list[tuple[float, Term]]] = {}
        self.vectors = [*pair_vectors(seen.elements, dim), *more.directions]
        self.couplings = [*couplings(seen.elements, "ij"), *more.couplings]
        self._of_senders = [vector for vector in self.vectors if _of_sender(vector)]
        self.simple = [
            make_term(self.vectors[0], way)
            for way in self.couplings
            if complexity(way) <= _SIMPLE or way in more.couplings
        ]
        own = couplings(nodes, "i")[:_OWN]
        self.alone = [make_term(one, way) for one in body_vectors(nodes, dim) for way in own]

    def pairs(self, law: Law, fitted: Fitted | None) -> list[Term]:
        """Terms of pairs that may be added to a law.

        Args:
            law: terms that are there.
            fitted: the same with splines; None: what explains most by itself is wanted.
        """
        ranked = [one for _, one in self.ranked(fitted)]
        # What is simple is tried wherever it ranks, and so are other vectors beside those found:
        # a law's terms often share a coupling.
        shared = dict.fromkeys([self.couplings[0], *(one.coupling for one in law.message)])
        alike = [make_term(vector, way) for way in shared for vector in self._of_senders]
        tried = dict.fromkeys([*ranked[:_TRIED], *self.simple, *alike])
        return [term for term in tried if not _is_there(term, law.message)]

    def ranked(self, fitted: Fitted | None) -> list[tuple[float, Term]]:
        """Terms of pairs by what they explain of what is left, see `rank_pairs`."""
        key = None if fitted is None else fitted.law.structure
        if key not in self._ranked:
            self._ranked[key] = rank_pairs(self.seen, fitted, self.vectors, self.couplings)
        return self._ranked[key]

    def bodies(self, law: Law) -> list[Term]:
        """Terms of bodies that may be added to a law."""
        return [term for term in self.alone if not _is_there(term, law.update)]


def _is_there(term, terms):
    return any(blank(term) == blank(one) for one in terms)


def blank(term: Term) -> Any:
    """What tells a term from others, whatever its functions are."""
    return term._replace(factors=tuple(one.variable for one in term.factors))


def _of_sender(vector):
    """Whether a vector is not the same for all senders: such ones are left to bodies alone."""
    known = set().union(*(part.free_symbols for part in vector.along))
    return any(not str(symbol).endswith("_i") for symbol in known)

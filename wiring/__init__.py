"""Why differentiable architecture search wires networks as it does: costs, searches, records, evidence.

A companion to Xie, Hu et al., *Understanding the wiring evolution in differentiable neural architecture search*
(AISTATS 2021). Four wings, each of which uses only those before it: :mod:`wiring.supernet`, :mod:`wiring.costs`,
:mod:`wiring.search`, :mod:`wiring.evidence`. What a user types is here; ``__init__.pyi`` lists it, and each name is
imported when it is first used, so that the cost hooks load torch and nothing heavier.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

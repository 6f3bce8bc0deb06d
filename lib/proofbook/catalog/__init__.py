"""What can be validated: models, targets, suites and tolerances, read from ``params/``."""

from proofbook.catalog.catalog import Catalog, UnknownName, load_catalog
from proofbook.catalog.schema import Category, KnownFault, Model, Suite, Switched, Target, Timings, Tolerance, Weights

__all__ = [
    "Catalog",
    "Category",
    "KnownFault",
    "Model",
    "Suite",
    "Switched",
    "Target",
    "Timings",
    "Tolerance",
    "UnknownName",
    "Weights",
    "load_catalog",
]

"""The catalogue of faults, by the part of a model that is wrong."""

"""How a target executes a model."""

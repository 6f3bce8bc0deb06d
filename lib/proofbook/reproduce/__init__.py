"""A failing check as a small script in plain transformers and torch, proven to fail by itself."""

from proofbook.reproduce.reproduction import NoReproduction, Reproduction, reproduce

__all__ = ["NoReproduction", "Reproduction", "reproduce"]

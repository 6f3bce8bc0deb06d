"""A trial of a part of a model, for what can be validated where the whole lacks a package."""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from proofbook.catalog.schema import Part
from proofbook.checks.trial import Trial
from proofbook.subject.checkpoint import Loaded
from proofbook.subject.draw import library_blocks
from proofbook.subject.parts import build_part, part_inputs
from proofbook.subject.processors import align, build_processor
from proofbook.subject.shrink import tiny_config
from proofbook.subject.tasks.task import Encoded, Row

# what can be asked of any module, be it no model with a checkpoint, a configuration and an answer of its own
ASKED = (
    "finite",
    "deterministic",
    "ran-on-target",
    "matches-truth",
    "inputs-matter",
    "parameters-matter",
    "batch-matches-single",
)


class PartTrial(Trial):
    """One part of a model on one target, with tiny weights; its inputs are those of the model's own processor."""

    def __init__(self, whole: Trial, part: Part) -> None:
        spec = whole.spec.model_copy(update={"idle": part.idle})
        super().__init__(spec, whole.target, whole.weights, whole.seed, whole.tolerances)
        self.part = part

    @cached_property
    def config(self) -> Any:
        """The tiny configuration of the whole model."""
        config = tiny_config(self.spec)
        align(config, self.processor_of(config))
        return config

    def processor_of(self, config: Any) -> Any:
        """The model's processor, for a configuration."""
        with library_blocks(self.spec):
            return build_processor(self.spec, config)

    @cached_property
    def processor(self) -> Any:
        """The model's own processor."""
        return self.processor_of(self.config)

    def load(self, dtype: str = "", attention: str | None = None) -> Loaded:
        """The part, drawn from the seed; there is no checkpoint of it."""
        module: Any = build_part(self.spec, self.part, self.config, self.seed)
        return Loaded(module.to(getattr(torch, dtype or self.target.dtype)), (), (), ())

    def encode(self, rows: list[Row]) -> Encoded:
        """Raw examples as the part takes them."""
        made = self.task.encode(self.subject, rows)
        return replace(made, inputs=part_inputs(self.part, self.config, made.inputs), module="")

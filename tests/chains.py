"""The chain from raw rows to answers through a tiny model, for tests of tasks."""

import copy
from functools import cache, cached_property
from typing import Any

import torch

from proofbook.catalog import load_catalog
from proofbook.subject.draw import build_model
from proofbook.subject.processors import align, build_processor
from proofbook.subject.shrink import tiny_config
from proofbook.subject.tasks import Row, Subject, task_named


class Chain:
    """A tiny model with its task, its rows, and their encoding."""

    def __init__(self, name: str) -> None:
        spec = load_catalog().model(name)
        config = tiny_config(spec)
        processor = build_processor(spec, config)
        align(config, processor)
        self.model = build_model(spec, config, seed=0)
        self.task = task_named(spec.task)
        self.subject = Subject(config, processor, spec.tiny.inputs if spec.tiny else {})
        self.rows = self.task.rows(self.subject)
        self.encoded = self.task.encode(self.subject, self.rows)

    @torch.no_grad()
    def outputs(self, **changed: Any) -> Any:
        """What forward gives for the batch, with some of its inputs changed."""
        torch.manual_seed(0)
        return self.model.get_submodule(self.encoded.module)(**copy.deepcopy({**self.encoded.inputs, **changed}))

    @cached_property
    def answers(self) -> list[Any]:
        """The answer to each row."""
        return self.answers_to(self.rows)

    @torch.no_grad()
    def answers_to(self, rows: list[Row]) -> list[Any]:
        """The answers to other rows."""
        torch.manual_seed(0)
        return self.task.answer(self.subject, self.model, rows, self.task.encode(self.subject, rows))


@cache
def chain(name: str) -> Chain:
    """The chain of a tracked model, made once: tests must leave it as it is."""
    return Chain(name)

"""The tasks by name. A module of tasks is registered by its name in :data:`_MODULES`; each lists its ``TASKS``."""

from functools import cache
from importlib import import_module

from proofbook.catalog import UnknownName
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

__all__ = ["Encoded", "Row", "Subject", "Task", "task_named", "tasks"]

_MODULES = (
    *("text", "generation", "laid_out", "vision", "vision_text", "audio", "multimodal", "pipelines", "folding"),
    "generic",
)


@cache
def _by_name() -> dict[str, Task]:
    table: dict[str, Task] = {}
    for module in _MODULES:
        for task in import_module(f"{__name__}.{module}").TASKS:
            for name in task.names:
                if name in table:
                    raise ValueError(f"the task {name!r} is registered twice, by {table[name]!r} and {task!r}")
                table[name] = task
    return table


def task_named(name: str) -> Task:
    """The task of that name. Raises :class:`UnknownName`."""
    try:
        return _by_name()[name]
    except KeyError:
        raise UnknownName("task", name, _by_name()) from None


def tasks() -> list[Task]:
    """Every task, each once, in the order of registration."""
    return list(dict.fromkeys(_by_name().values()))

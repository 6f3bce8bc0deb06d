"""Tasks on text."""

from proofbook.subject.tasks.task import Task

TASKS: tuple[Task, ...] = ()

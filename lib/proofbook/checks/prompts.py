"""Do prompts with no picture, one, or several give what each gives by itself, and is each picture where it belongs?"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from proofbook.checks.compare import Comparison, compare, compare_all, errors_between
from proofbook.checks.composing import Composer, other, shown
from proofbook.checks.generation import (
    NEW,
    count_of,
    evidence_of_writing,
    likeliest,
    observed,
    plain_configuration,
)
from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import agree, call, eager, moved, rounding
from proofbook.checks.plain_decoding import agree_on_tokens, generated, texts
from proofbook.checks.registry import NotApplicable, Observation, check, evidence

"""Does a row's answer depend on the padding beside it?

On which side a batch may be padded follows from what the library says: the tokenizer's own side; the left for decoders
that generate, which then are given positions, as ``generate`` gives them; either for positions that are relative or
counted from the tokens themselves.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.caching import evidence_of_reading
from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import mixes_neighbours, parameters
from proofbook.checks.plain import agree, call, rounding
from proofbook.checks.plain_decoding import read_in_parts, unpadded

"""The noise floor: how far rounding to a dtype alone moves what a module gives."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.catalog import Tolerance
from proofbook.checks.compare import Errors, errors_between, largest_errors
from proofbook.checks.hidden import without_padding
from proofbook.checks.truth import floor_outputs, reference_model, rounded_truths, run_reference

# in how many ways values are rounded for a wider floor
ROUNDINGS = 3


class Floor:
    """What rounding does to one call of a module; padded positions are left out of all errors.

    One execution in the dtype says how far it may lie from truth; it alone may be near by luck, and float64 arithmetic
    with values rounded at random says how far they move in whatever order sums are taken.

    Args:
        module: the module, which rounds within as the target does.
        true: its true outputs, by path.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, Any],
        true: Mapping[str, Tensor],
        dtype: torch.dtype,
        tolerance: Tolerance,
    ) -> None:
        self._module, self._inputs, self._true = module, inputs, true
        self._dtype, self._tolerance = dtype, tolerance

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """What eager attention gives in the dtype on the CPU."""
        return floor_outputs(self._module, self._inputs, self._dtype)

    @cached_property
    def errors(self) -> dict[str, Errors]:
        """The noise floor: how far each floating output lies from truth."""
        found, true = (without_padding(one, self._inputs) for one in (self.outputs, self._true))
        return errors_between(found, true, self._tolerance)

    @cached_property
    def plain(self) -> dict[str, Tensor]:
        """The outputs in float64 of the module as it is now: what is wrong with it, if anything, is in them as well."""
        reference = reference_model(self._module, torch.float64)
        return without_padding(run_reference(reference, self._inputs, torch.float64), self._inputs)

    @cached_property
    def rounded(self) -> list[dict[str, Tensor]]:
        """Those outputs with weights and values rounded in some ways."""
        return list(islice(self.rounded_further(0), ROUNDINGS))

    def rounded_further(self, first: int = ROUNDINGS) -> Iterator[dict[str, Tensor]]:
        """The same in other ways, as many as are asked for."""
        found = rounded_truths(self._module, self._inputs, self._dtype, first)
        return (without_padding(one, self._inputs) for one in found)

    @cached_property
    def moved(self) -> dict[str, Errors]:
        """How far those roundings move each output: what the module makes of rounding, in whatever way it is
        computed."""
        return largest_errors(errors_between(one, self.plain, self._tolerance) for one in self.rounded)

    @cached_property
    def wider(self) -> dict[str, Errors]:
        """The noise floor over one execution and several roundings."""
        return largest_errors([self.errors, self.moved])

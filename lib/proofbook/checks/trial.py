"""What a check is given: one model, made ready on one target, with its inputs, its outputs and their truth."""

import hashlib
import inspect
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten_with_path

from proofbook.catalog import Model, Target, Tolerance, Weights
from proofbook.checks.compare import Comparison, Errors, compare_all, differing, largest_errors
from proofbook.checks.decoding import Decoder
from proofbook.checks.floor import Floor
from proofbook.checks.goal import Goal, Gradients
from proofbook.checks.hidden import without_padding
from proofbook.checks.localise import Execution
from proofbook.checks.registry import NotApplicable
from proofbook.checks.truth import CALL_SEED, Truth, reference_model, truth_of
from proofbook.checks.truths import Truths
from proofbook.compat import PreTrainedConfig
from proofbook.measure.latency import Latency, time_calls
from proofbook.measure.memory import peak_mb, reset_peak
from proofbook.runtimes import Refused, Runtime, Session, runtime_of
from proofbook.runtimes.products import reading_tf32
from proofbook.runtimes.quantised import holding, rounding_inputs
from proofbook.subject.checkpoint import Loaded, checkpoint_folder, load_model, load_processor
from proofbook.subject.tasks import task_named
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

# seconds spent on timed calls at most
TIMING_BUDGET_S = 1.0


class Trial:
    """One model on one target. Every attribute is made when it is first asked for, and kept.

    Nothing is hidden between them: to try another input, pass it to :meth:`run`; to try another model, to
    :meth:`run_with`.
    """

    def __init__(
        self,
        spec: Model,
        target: Target,
        weights: Weights,
        seed: int,
        tolerances: Mapping[str, Tolerance],
        local: str = "",
    ) -> None:
        self.spec = spec
        self.target = target
        self.weights = weights
        self.seed = seed
        self.tolerances = tolerances
        self.local = local
        # where truths are kept; nowhere unless somebody says so, as code may be changed by hand
        self.truths: Truths | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="proofbook-")

    @cached_property
    def folder(self) -> Path:
        """The checkpoint: written from the seed, given by a person, or downloaded."""
        return checkpoint_folder(self.spec, self.weights, self.seed, Path(self._scratch.name), self.local)

    @cached_property
    def loaded(self) -> Loaded:
        """The model as ``from_pretrained`` gives it, its weights as a target that runs it holds them."""
        return self._held(self.load())

    def load(self, dtype: str = "", attention: str | None = None) -> Loaded:
        """The model in floating point, of the target's dtype or another, and which keys went astray."""
        return load_model(self.spec, self.folder, getattr(torch, dtype or self.target.dtype), attention)

    @cached_property
    def load_s(self) -> float:
        """Seconds to load the checkpoint once more, the files being in the operating system's cache."""
        start = time.perf_counter()
        self.load()
        return time.perf_counter() - start

    @property
    def session(self) -> Session:
        """The model made ready on the target.

        Raises:
            NotApplicable: the target's runtime refused the model, which is for the check `prepared` to say.
        """
        if isinstance(self.prepared, Refused):
            raise NotApplicable(f"{self.target.runtime} has no graph of it: {self.prepared.cause}")
        return self.prepared

    @cached_property
    def prepared(self) -> Session | Refused:
        """The model made ready on the target, or why its runtime does not take it."""
        try:
            return self.runtime.prepare(self._called(self.loaded.model), self.examples, self.target)
        except Refused as refusal:
            return refusal

    @property
    def runtime(self) -> Runtime:
        """How the target executes models."""
        return runtime_of(self.target.runtime)

    @property
    def through(self) -> dict[str, Any]:
        """What the runtime's users write, a function, as evidence for scripts; empty where it has none."""
        plain = getattr(self.runtime, "plain", None)
        return {"through": plain} if plain else {}

    @property
    def examples(self) -> list[dict[str, Any]]:
        """The batch, and its first row encoded alone: sizes in which they differ are those that users vary."""
        if self.runtime.runs_module:
            return [self.inputs]
        return [self.inputs, self.encode(self.rows[:1]).inputs]

    def require_module(self) -> None:
        """Raises NotApplicable where the target does not run the module of torch itself."""
        if not self.runtime.runs_module:
            raise NotApplicable(f"asks the module of torch, of which {self.target.runtime} runs a graph")

    @property
    def tolerance(self) -> Tolerance:
        """How far outputs in the target's precision may lie from truth."""
        return self.tolerances[self.target.precision]

    @property
    def model(self) -> Any:
        """The model, on the target's device once it has run."""
        return self.loaded.model

    @property
    def config(self) -> Any:
        """The configuration of the model; that of a library other than transformers as one of its kind."""
        config = self.model.config
        return config if isinstance(config, PreTrainedConfig) else PreTrainedConfig.from_dict(dict(config))

    @cached_property
    def processor(self) -> Any:
        """What turns raw input into tensors: a tokenizer, an image processor, a feature extractor, or all of them."""
        return load_processor(self.spec, self.folder)

    @cached_property
    def task(self) -> Task:
        """The task through which the model is validated."""
        return task_named(self.spec.task)

    @cached_property
    def subject(self) -> Subject:
        """What the task works with."""
        return Subject(self.config, self.processor, self.spec.tiny.inputs if self.spec.tiny else {})

    @cached_property
    def rows(self) -> list[Row]:
        """The raw examples of the batch."""
        return self.task.rows(self.subject)

    @cached_property
    def encoded(self) -> Encoded:
        """The batch as the model takes it."""
        return self.encode(self.rows)

    def encode(self, rows: list[Row]) -> Encoded:
        """Raw examples as the model takes them on the target."""
        made = self.task.encode(self.subject, rows)
        return replace(made, inputs=self.cacheless(made.inputs, made.module))

    def cacheless(self, inputs: Mapping[str, Any], module: str = "") -> dict[str, Any]:
        """Inputs of a module of the model, for a graph without a cache: an object of Python that none returns."""
        forward = self.model.get_submodule(module).forward
        if self.runtime.runs_module or "use_cache" not in inspect.signature(forward).parameters:
            return dict(inputs)
        return {**inputs, "use_cache": False}

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of the forward call."""
        return self.encoded.inputs

    @cached_property
    def input_hash(self) -> str:
        """SHA-256 over every input tensor and its name, the first 16 digits."""
        digest = hashlib.sha256()
        for path, leaf in tree_flatten_with_path(self.inputs)[0]:
            value = (
                leaf.detach().cpu().contiguous().numpy().tobytes()
                if isinstance(leaf, torch.Tensor)
                else repr(leaf).encode()
            )
            digest.update(f"{path}".encode() + value)
        return digest.hexdigest()[:16]

    @cached_property
    def outputs(self) -> dict[str, torch.Tensor]:
        """Every output tensor of the batch on the target, by its path, on the CPU."""
        return self.run()

    @cached_property
    def truth(self) -> Truth:
        """What the outputs should be."""
        return (self.truths.truth_of if self.truths else truth_of)(self.standing, self.inputs)

    @cached_property
    def floor(self) -> Floor:
        """What rounding does to the batch."""
        return self.floor_of(self.standing, self.inputs, self.truth)

    def floor_of(self, module: nn.Module, inputs: Mapping[str, Any], truth: Truth | None = None) -> Floor:
        """What rounding does to another execution than the batch's, whose truth is computed unless it is at hand."""
        true = (truth or truth_of(module, inputs)).outputs
        return Floor(self.rough(module), inputs, true, getattr(torch, self.target.dtype), self.tolerance)

    @property
    def noise(self) -> dict[str, Errors]:
        """The noise floor of the batch."""
        return self.floor.errors

    @cached_property
    def goal(self) -> Goal:
        """A scalar made of all outputs, of which gradients are taken."""
        return Goal(self)

    @cached_property
    def true_gradients(self) -> Gradients:
        """The gradient of :attr:`goal` by each parameter in float64.

        Raises:
            NotApplicable: the model does not run in float64.
        """
        if not self.truth.exact:
            raise NotApplicable(f"gradients have no truth: outputs have one in {self.truth.rule}")
        return self.goal.gradients(reference_model(self.called, torch.float64), torch.float64)

    @cached_property
    def answers(self) -> list[Any]:
        """The answer to each row, as a user's pipeline gives it."""
        return self.answer()

    def answer(self) -> list[Any]:
        """The answer to each row once more, from the same seed."""
        with torch.no_grad():
            torch.manual_seed(CALL_SEED)
            placed = Encoded(**{**vars(self.encoded), "inputs": self.session.place(self.inputs)})
            return self.task.answer(self.subject, self.model, self.rows, placed)

    @cached_property
    def decoder(self) -> Decoder:
        """How the model decodes. Raises :class:`~proofbook.checks.registry.NotApplicable` for one that does not."""
        return Decoder.of(self)

    @cached_property
    def latency(self) -> Latency:
        """The time of forward calls, inputs already on the device."""
        session, placed = self.session, self.session.place(self.inputs)
        reset_peak(session.device)
        return time_calls(lambda: session.call(placed), session.synchronize, TIMING_BUDGET_S, session.device)

    @property
    def peak_mb(self) -> float:
        """The most memory taken so far, in MB."""
        return peak_mb(self.session.device)

    def compare_to_truth(self, outputs: Mapping[str, torch.Tensor] | None = None, note: str = "") -> list[Comparison]:
        """Every output of the batch, or of another execution of it, held against truth, padded positions left out.

        Attention weights are compared where the target returns them; of all implementations only eager does.
        """
        outputs = self.outputs if outputs is None else outputs
        true = {n: t for n, t in self.truth.outputs.items() if n in outputs or "attention" not in n}
        actual, expected = (without_padding(each, self.inputs) for each in (outputs, true))
        return self.agree(actual, expected, note, tolerance=self.tolerance)

    def agree(
        self,
        actual: Mapping[str, torch.Tensor],
        expected: Mapping[str, torch.Tensor],
        note: str = "",
        inputs: Mapping[str, Any] | None = None,
        tolerance: Tolerance | None = None,
    ) -> list[Comparison]:
        """Hold two executions on the target against each other that should give the same; both have every output named.

        Each rounds in its own way, so that the floor of the batch's outputs bounds what may lie between them: that of
        one rounding or, where it does not, of several, which also raise the bound where they move truth itself nearly
        that far. The names are those of outputs or, with other shapes, of parts
        of them.

        ``note`` follows their names; ``inputs`` are those of an execution that was not of the batch, whose own floor
        counts as well; ``tolerance`` is that of one execution, where the other is exact.
        """
        tolerance = tolerance or self.tolerance.of_two
        comparisons = compare_all(actual, expected, tolerance, self.noise)
        if self.truth.exact and any(not one.passed and math.isfinite(one.ratio) for one in comparisons):
            noise = self.floor.wider
            if inputs is not None:
                noise = largest_errors([noise, self.floor_of(self.standing, inputs).errors])
            comparisons = compare_all(actual, expected, tolerance, noise, self.floor.moved)
        return [replace(one, name=f"{one.name}{note}", output=one.name) for one in comparisons]

    @cached_property
    def draws_noise(self) -> list[str]:
        """The outputs that another seed changes: a forward call draws noise of its own."""
        return differing(self.outputs, self.run(seed=CALL_SEED + 1))

    def run(self, inputs: Mapping[str, Any] | None = None, seed: int = CALL_SEED) -> dict[str, torch.Tensor]:
        """Call the model on the target: with these inputs, or with the batch; noise that it draws starts at a seed."""
        torch.manual_seed(seed)
        return self.session.run(self.inputs if inputs is None else inputs)

    def run_with(self, model: nn.Module, inputs: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
        """Call another model on the target: with these inputs, or with the batch."""
        return self.run_module(self._called(model), inputs)

    def run_module(self, module: nn.Module, inputs: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor]:
        """Call any module on the target that takes these inputs, or the batch."""
        inputs = self.inputs if inputs is None else inputs
        session = self.runtime.prepare(module, [inputs], self.target)
        torch.manual_seed(CALL_SEED)
        try:
            return session.run(inputs)
        finally:
            session.release()

    def reload(self, dtype: str = "", attention: str | None = None) -> Any:
        """Another model of the checkpoint: in the target's dtype or another, with an implementation of attention."""
        return self._held(self.load(dtype, attention)).model

    def beside_truth(self) -> tuple[Execution, Execution]:
        """The call of the batch on the target, and the one that gives its truth."""
        reference = reference_model(self.standing, torch.float64)
        return Execution(self.called, self.inputs), Execution(reference, self.inputs)

    @property
    def called(self) -> nn.Module:
        """The module of the model whose forward the task calls."""
        return self._called(self.model)

    @cached_property
    def standing(self) -> nn.Module:
        """The module that truth and noise are of: what the task calls, its weights those that the target holds."""
        held = self.session.held() if self.target.weight_dtype and not self.runtime.runs_module else {}
        return holding(self.called, {path: one.values() for path, one in held.items()}) if held else self.called

    def rough(self, module: nn.Module) -> nn.Module:
        """A module that rounds the inputs of linear layers, or factors of products, where the target does so: what that
        changes is noise."""
        if self.target.product_dtype:
            return reading_tf32(module)
        return rounding_inputs(module, self.session.held()) if self.target.activation_dtype else module

    def in_dtype(self, dtype: str) -> "Trial":
        """The same checkpoint and inputs on the same device in another dtype."""
        target = self.target.model_copy(update={"dtype": dtype, "product_dtype": None})
        other = Trial(self.spec, target, self.weights, self.seed, self.tolerances, self.local)
        other.folder, other.encoded, other.rows, other.truths = self.folder, self.encoded, self.rows, self.truths
        return other

    def _held(self, loaded: Loaded) -> Loaded:
        if self.target.weight_dtype:
            self.runtime.quantise(loaded.model, self.target)
        return loaded

    def _called(self, model: nn.Module) -> nn.Module:
        """The module whose forward the task calls: the model itself unless the task names a part."""
        return model.get_submodule(self.encoded.module)

"""The shape of the YAML files in ``params/``: one pydantic model an entry, so that a wrong key or value is named."""

from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Reason = Annotated[str, StringConstraints(min_length=10)]


def _requirement(text: str) -> str:
    try:
        Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement: {error}") from None
    return text


# a library, and which of its releases: "transformers<5", "diffusers"
Need = Annotated[str, AfterValidator(_requirement)]


class Category(StrEnum):
    """One notebook and one file of ``params/models/`` each."""

    ENCODER_ONLY = "encoder-only"
    DECODER_ONLY = "decoder-only"
    ENCODER_DECODER = "encoder-decoder"
    VISION = "vision"
    VISION_TEXT = "vision-text"
    SPEECH = "speech"
    MULTIMODAL = "multimodal"
    OTHER = "other"  # time series, decisions, proteins: neither text nor pictures nor sound


class Weights(StrEnum):
    """Where the parameters of a case come from."""

    TINY = "tiny"  # random, seeded, from a shrunk configuration; no download
    LOCAL = "local"  # a folder with a checkpoint
    HUB = "hub"  # the checkpoint itself, through huggingface_hub and its cache


class Timings(StrEnum):
    """Among what the calls of a case are timed."""

    BESIDE = "beside"  # whatever else the batch runs
    ALONE = "alone"  # no other case of the batch computes meanwhile


class Entry(BaseModel):
    """Base of all entries: unknown keys are refused, and entries never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class KnownFault(Entry):
    """A fault that is expected to show, until it is mended or the date passes.

    While it shows, the check's verdict is ``xfail``; when it no longer shows, ``xpass``, but of one that shows only
    sometimes; after ``expires`` the entry has no effect any more.
    """

    # the name of a check, or `all`: whichever of them raise, as where the inputs can't be made
    check: str
    targets: tuple[Name, ...] | Literal["all"] = "all"
    # the releases that have it, where not all do: "transformers<5"
    needs: tuple[Need, ...] = ()
    # some faults stay within what is allowed in another draw of tiny weights, or hang on the processor
    shows: Literal["always", "sometimes"] = "always"
    reason: Reason
    issue: Annotated[str, StringConstraints(pattern=r"^https?://")]
    expires: date


def _one_for_each_check(given: object) -> object:
    if not isinstance(given, list | tuple):
        return given
    written = [one if isinstance(one, dict) and isinstance(one.get("check"), list) else {} for one in given]
    return [
        each
        for one, several in zip(given, written, strict=True)
        for each in ([{**several, "check": name} for name in several["check"]] if several else [one])
    ]


# where `check` names several, as one cause may show in more than one, it is a fault of each
KnownFaults = Annotated[tuple[KnownFault, ...], BeforeValidator(_one_for_each_check)]


class Idle(Entry):
    """Why something moves no output, and with which releases, where not with all; a reason alone will do."""

    reason: Reason
    needs: tuple[Need, ...] = ()
    # as of a known fault: what is always idle must not have influence
    shows: Literal["always", "sometimes"] = "always"


def _with_reason(given: object) -> object:
    return {"reason": given} if isinstance(given, str) else given


# patterns of names of inputs and parameters, and why they move nothing
Idles = dict[str, Annotated[Idle, BeforeValidator(_with_reason)]]


class Exception_(Entry):
    """What the general rule for tiny models gets wrong for one model, and why.

    ``config`` is laid over the shrunk configuration (nested mappings reach sub-configurations); ``tokenizer``
    and ``processor`` name a class of transformers where the automatic mapping has none or the wrong one;
    ``inputs`` is laid over the options of the model's task (see ``subject/tasks/``).
    """

    reason: Reason
    config: dict[str, Any] = {}
    tokenizer: str | None = None
    processor: dict[str, Any] = {}
    inputs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.config or self.tokenizer or self.processor or self.inputs):
            raise ValueError("an exception needs one of: config, tokenizer, processor, inputs")
        return self


class DerivedException(Exception_):
    """The same for an entry that discovery derived; ``entry`` is laid over its fields: ``config`` where the defaults of
    the configuration class make no model, ``class``, ``task``, ``needs`` or ``known_faults``."""

    model_type: str
    entry: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.entry or self.has_tiny):
            raise ValueError("an exception needs one of: entry, config, tokenizer, processor, inputs")
        return self

    @property
    def has_tiny(self) -> bool:
        """Whether it says anything of the tiny model."""
        return bool(self.config or self.tokenizer or self.processor or self.inputs)

    def applied(self, model: "Model") -> "Model":
        """The entry with this exception. Raises a pydantic ``ValidationError`` for fields that an entry hasn't."""
        fields = model.model_dump(by_alias=True, exclude_defaults=True) | self.entry
        return Model.model_validate(fields | ({"tiny": self} if self.has_tiny else {}))


class Part(Entry):
    """A module of a model that can be built and called without a package that the whole model needs.

    ``inputs`` says what each argument of its ``forward`` is: ``noise`` (batch × length × hidden size), ``positions``
    (batch × length), ``hidden`` (a mask, batch × 1 × 1 × length, true where padding is), or ``given``: what the
    processor makes under that name.
    """

    model_class: str = Field(alias="class")
    inputs: dict[str, Literal["noise", "positions", "hidden", "given"]]
    # as an entry's: arguments and parameters that move no output, and why
    idle: Idles = {}


class Parts(Entry):
    """What of a model is validated where a package of its ``needs`` is missing, and what then is not."""

    modules: tuple[Part, ...] = Field(min_length=1)
    left_out: Reason


class Model(Entry):
    """A tracked model: an architecture, the class and task it is validated through, and its checkpoint."""

    name: Name
    category: Category
    model_type: str
    model_class: str = Field(alias="class")
    task: str
    # empty where transformers' documentation names no checkpoint
    hub_id: str
    # how the checkpoint's configuration differs from the defaults of its configuration class
    config: dict[str, Any] = {}
    # other requirements than those of proofbook itself: "transformers<5", "diffusers", "detectron2"
    needs: tuple[Need, ...] = ()
    # what is validated where one of `needs` is missing; the case is blocked all the same
    parts: Parts | None = None
    # False for an entry beyond the tracked list, and for one that discovery derived
    tracked: bool = True
    # a folder for weights=local: a path, or package://IMPORT_NAME/PATH inside an installed package
    local: str | None = None
    # whether the checkpoint's own code may run: its class is then that of its `auto_map`, for real weights only
    trust_remote_code: bool = False
    tiny: Exception_ | None = None
    # inputs and parameters that this class takes and that move none of its outputs: patterns of names, and why
    idle: Idles = {}
    # why a forward call draws noise in evaluation mode, where it does by design
    noise: Reason | None = None
    known_faults: KnownFaults = ()


class Switched(Entry):
    """What shows only in variants: where a switch of the configuration is not set as in the model's entry.

    ``when`` gives values by dotted name, of the configuration or of any part of it: it holds of a variant that sets all
    of them so. ``idle`` and ``known_faults`` are then as an entry's.
    """

    name: Name
    when: dict[str, Any] = Field(min_length=1)
    # model types that have it; all of them where none is named
    types: tuple[str, ...] = ()
    idle: Idles = {}
    known_faults: KnownFaults = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.idle or self.known_faults):
            raise ValueError("what shows in variants needs one of: idle, known_faults")
        return self

    def concerns(self, model: Model) -> bool:
        """Whether it may show in variants of a model."""
        return not self.types or model.model_type in self.types


class Target(Entry):
    """A hardware target: device × runtime × dtype, and the dtypes of quantised weights and activations."""

    name: Name
    device: Literal["cpu", "cuda", "rocm", "mps", "xpu", "webgpu"]
    # the name of an entry point of the group `proofbook.runtimes`
    runtime: Name = "eager"
    # what is computed in, and held in where nothing else is said
    dtype: Literal["float32", "float16", "bfloat16"]
    # what linear layers hold their weights in, where that is no floating point
    weight_dtype: Literal["int8", "int4"] | None = None
    # how many inputs of an output share a scale; all of them unless it is said
    weight_group: Annotated[int, Field(gt=0)] | None = None
    # what the inputs of these layers are rounded to in each call, where they are
    activation_dtype: Literal["int8"] | None = None
    # what GPUs read the factors of products of matrices and of convolutions in, where it is not all of float32
    product_dtype: Literal["tf32"] | None = None
    # what the runtime is told, as it documents it
    options: dict[str, Any] = {}
    # kinds of fallback that do not fail a case, and why; all others do
    allows: dict[str, Reason] = {}
    # False for one that takes minutes a case: it runs when it is named
    default: bool = True
    description: str

    @model_validator(mode="after")
    def _quantises_weights(self) -> Self:
        if self.weight_dtype is None and (self.weight_group or self.activation_dtype):
            raise ValueError("weight_group and activation_dtype need a weight_dtype")
        return self

    @model_validator(mode="after")
    def _multiplies_float32(self) -> Self:
        if self.product_dtype and self.dtype != "float32":
            raise ValueError(f"product_dtype is how float32 is multiplied, and the dtype is {self.dtype}")
        return self

    @property
    def precision(self) -> str:
        """The dtype that bounds what an execution rounds: weights are held beforehand, and rounded by none."""
        return self.activation_dtype or self.product_dtype or self.dtype


class SuiteCase(Entry):
    """One line of a suite's ``cases``: a model, and the weights it runs with."""

    model: Name
    weights: Weights = Weights.TINY


class Suite(Entry):
    """A named set of cases: the cases of each model or category named, on every target asked for."""

    name: Name
    description: str
    cases: tuple[SuiteCase, ...] = ()
    categories: tuple[Category, ...] = ()
    # whether the categories hold, beside the tracked models, those that discovery derives
    discovered: bool = False
    # seconds a case may take before it is a timeout
    time_limit: float = Field(default=300, gt=0)
    # `alone` for figures to publish: it costs the time in which all others wait
    timings: Timings = Timings.BESIDE

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if not (self.cases or self.categories):
            raise ValueError("a suite needs cases or categories")
        return self


# bits of mantissa, or beside the sign
_MANTISSA = {"float64": 52, "float32": 23, "tf32": 10, "float16": 10, "bfloat16": 7, "int8": 7, "int4": 3}


class Tolerance(Entry):
    """How far a target's outputs in one dtype may lie from float64 truth.

    With ``eps`` the machine epsilon of the dtype (of integers, that of as many bits of mantissa as they have beside the
    sign), ``scale`` the RMS of the true output (of all of it, where a part is
    judged), and ``floor`` the error of eager attention in the same dtype on the CPU, the error allowed is
    ``clip(multiple * floor, smallest * eps * scale * m, largest * eps * scale * m * c)``, for the RMSE, the worst row
    and the worst element each by its own floor; more than the last, up to ``multiple`` times what rounding alone moves
    float64 truth, where that is less than the last. ``m`` is 1 for the RMSE, and ``sqrt(2 ln n)`` for the worst of n
    rows or elements: about where the largest of n normal errors of that size lies (extreme value theory). ``c`` is
    ``1000 ** (1 / n)`` for n elements, as the scale of few may be small by chance; it is 1 for many.
    """

    dtype: Literal["float64", "float32", "tf32", "float16", "bfloat16", "int8", "int4"]
    multiple: float = Field(gt=0)
    smallest: float = Field(gt=0)
    largest: float = Field(gt=0)
    # how many times the error allowed a change of an input or a parameter must move some output
    signal: float = Field(default=10, gt=0)
    reason: Reason

    @property
    def eps(self) -> float:
        """The distance of 1 from the next larger number."""
        return 2.0 ** -_MANTISSA[self.dtype]

    @property
    def of_two(self) -> Self:
        """That for two executions held against each other: ``multiple`` of integers is for one of them alone."""
        return self if "int" not in self.dtype else self.model_copy(update={"multiple": 2 * self.multiple})

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.largest < self.smallest:
            raise ValueError(f"largest ({self.largest}) is below smallest ({self.smallest})")
        return self

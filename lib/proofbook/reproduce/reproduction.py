"""From a finding to a script that fails by itself, or the reason why there is none."""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from proofbook.catalog import Weights
from proofbook.checks.plain import placed
from proofbook.checks.registry import Finding
from proofbook.checks.reproduction import limits, reproduction_of
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.reproduce.bundle import NotPlain
from proofbook.reproduce.host import Host
from proofbook.reproduce.script import LARGEST_FILE, Script, Subject, calls_the_model, has_rough_form, write_script
from proofbook.reproduce.values import NotWritable
from proofbook.runtimes.devices import torch_device
from proofbook.subject.draw import model_class
from proofbook.subject.shrink import tiny_config

# seconds that one execution of a script may take, and all of a case together
TIME_LIMIT, BUDGET = 60.0, 150.0


class NoReproduction(Exception):
    """No script fails by itself as the case did; the message says why."""


@dataclass(frozen=True)
class Reproduction:
    """A script that was run and failed as its check did."""

    check: str
    script: Script
    # the exception that ended it
    said: str
    # how the weights came about, in words
    weights: str

    def write(self, folder: Path, name: str) -> Path:
        """Write ``NAME.py`` into a folder, and ``NAME.safetensors`` where the script reads one; the script's path."""
        return _written(self.script, folder, name)


def _written(script: Script, folder: Path, name: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(script.text, encoding="utf-8")
    tensors = path.with_suffix(".safetensors")
    tensors.unlink(missing_ok=True)
    if script.tensors:
        tensors.write_bytes(save(dict(script.tensors)))
    return path


def reproduce(trial: Trial, findings: Sequence[Finding], name: str) -> Reproduction:
    """A script for the first of the findings for which one can be made.

    With weights and long inputs drawn by the script from the seed where that shows the fault, else with the very ones
    from a file beside it. Each script is run before it is offered.

    Args:
        trial: what was examined.
        findings: those that failed, those to be explained first at the front.
        name: that of the script's file, without ``.py``.

    Raises:
        NoReproduction: there is none.
    """
    if trial.weights is not Weights.TINY:
        raise NoReproduction("the weights are real ones, which no small script holds")
    if not trial.runtime.runs_module and not trial.through:
        raise NoReproduction(f"{trial.target.runtime} does not say in which lines its users run a model")
    if trial.target.weight_dtype:
        raise NoReproduction("no script of plain torch holds weights in integers")
    if trial.spec.trust_remote_code:
        raise NoReproduction("the model's code is not that of transformers")
    deadline = time.monotonic() + BUDGET
    try:
        subject = _subject(trial)
    except Exception as error:  # a model that can't even be described may raise anything
        raise NoReproduction(f"the model can't be described: {type(error).__name__}: {error}") from error
    reasons: dict[str, str] = {}
    with Host() as host:
        for finding in findings:
            about = _about(trial, finding)
            for attempt in _attempts(finding, subject):
                if time.monotonic() > deadline:
                    raise NoReproduction(f"{finding.check.name}: the time for trying was over. {_joined(reasons)}")
                outcome = _tried(host, subject, finding, attempt, about, name)
                if isinstance(outcome, Reproduction):
                    return outcome
                reasons[finding.check.name] = outcome
            reasons.setdefault(finding.check.name, "the check declares no reproduction")
    raise NoReproduction(_joined(reasons) or "nothing failed")


def _joined(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{check}: {reason}" for check, reason in reasons.items())


@dataclass(frozen=True)
class _Attempt:
    """A way to ask again: a question, values for its parameters, whether with the very weights, and whether roughly."""

    question: Callable[..., None]
    evidence: Mapping[str, Any]
    exact: bool
    rough: bool


def _attempts(finding: Finding, subject: Subject) -> Iterator[_Attempt]:
    """The ways to ask again, the simplest first: after an exception to build or call the model, then as the check
    declares, roughly where it can be; with weights drawn by the script, then with the very ones."""
    questions = [build if subject.weights is None else forward] if finding.traceback else []
    own = reproduction_of(finding.check.name, finding.evidence)
    if own is not None:
        questions.append(own)
    for exact in (False, True) if subject.weights is not None else (False,):
        for question in questions:
            if not finding.traceback and has_rough_form(question):
                yield _Attempt(question, finding.evidence, exact, rough=True)
            yield _Attempt(question, finding.evidence, exact, rough=False)


def forward(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """One forward call."""
    torch.manual_seed(CALL_SEED)  # for models that draw noise
    with torch.no_grad():
        model(**placed(model, inputs, dtype))


def build(whole: nn.Module) -> None:
    """The model is built."""


def _tried(
    host: Host, subject: Subject, finding: Finding, attempt: _Attempt, about: str, name: str
) -> Reproduction | str:
    """A script that was seen to fail as the finding says; else the reason why it is none."""
    question = attempt.question
    weighs = calls_the_model(question)
    if attempt.exact and weighs and (size := _size(subject)) > LARGEST_FILE:
        return f"its weights would be a file of {size / 1e6:.0f} MB"
    asked = f"{about}\n\nAsked: {(question.__doc__ or '').partition(chr(10))[0]}"
    try:
        script = write_script(subject, question, attempt.evidence, asked, name, attempt.exact, attempt.rough)
    except (NotPlain, NotWritable) as error:
        return f"{error}, which no script can hold"
    except LookupError as missing:
        return f"the check did not say what {missing} is"
    except Exception as error:  # of a configuration that can't be written down, whatever its class raises
        return f"writing its script raised {type(error).__name__}: {error}"
    with tempfile.TemporaryDirectory(prefix="proofbook-") as folder:
        said = _execute(host, _written(script, Path(folder), name))
    if not _shows(said, finding):
        return f"by itself the script {f'ended with {said}' if said else 'did not fail'}"
    weights = f"weights in {name}.safetensors" if attempt.exact else "weights drawn by the script"
    weights = weights if weighs else "none: it is about the processor alone"
    return Reproduction(finding.check.name, script, said, weights)


def _subject(trial: Trial) -> Subject:
    loaded = trial.__dict__.get("loaded")
    encoded = trial.__dict__.get("encoded")
    return Subject(
        kind=model_class(trial.spec) if loaded is None else type(loaded.model),
        config=tiny_config(trial.spec) if loaded is None else loaded.model.config,
        weights=None if loaded is None else loaded.model.state_dict(),
        inputs=encoded.inputs if encoded else {},
        module=encoded.module if encoded else "",
        dtype=trial.target.dtype,
        product_dtype=trial.target.product_dtype,
        device=torch_device(trial.target.device).type if loaded is not None else "cpu",
        tolerance=limits(trial.tolerance),
        seed=trial.seed,
    )


def _size(subject: Subject) -> int:
    return sum(value.numel() * value.element_size() for value in (subject.weights or {}).values())


def _about(trial: Trial, finding: Finding) -> str:
    verdict = "raises" if finding.traceback else "fails"
    figures = ", ".join(f"{word} {value}" for word in ("observed", "allowed") if (value := getattr(finding, word)))
    dtype = str(finding.evidence.get("dtype", trial.target.dtype)).removeprefix("torch.")
    place = f"{trial.spec.model_class} on {trial.target.device} in {dtype}"
    return "\n".join(filter(None, [f"{place}: {finding.check.name} {verdict}.", "", figures, finding.detail[:500]]))


def _execute(host: Host, script: Path) -> str:
    """Run a script; the exception that ended it, as Python prints it, or an empty string where it came to its end."""
    try:
        said = host.run(script, TIME_LIMIT)
    except TimeoutError as error:
        return f"TimeoutError: {error}"
    errors = [line for line in said.splitlines() if _EXCEPTION.match(line)]
    return errors[-1] if errors else said


_NUMBER = r"(?:0x[0-9a-f]+|-?\d[\d.]*(?:e[+-]?\d+)?)"
# a line such as `RuntimeError: …`, or of an exception without words
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(:\s|$)")


def _shows(said: str, finding: Finding) -> bool:
    """Whether a script ended as the finding says: with an assertion of ours, or with the same exception."""
    if not finding.traceback:
        return said.startswith("AssertionError: ") and "observed" in said and "allowed" in said
    ended = [_kind(line) for line in finding.traceback.splitlines() if _EXCEPTION.match(line)]
    return bool(said) and _kind(said) in ended[-1:]


def _kind(line: str) -> str:
    """An exception's line without numbers and addresses, which differ from run to run, be they one or several."""
    return re.sub(rf"(?:[\s,]*{_NUMBER})+[\s,]*", "#", line)

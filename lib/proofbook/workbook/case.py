"""The case: a trial whose findings are kept, shown in the notebook, and glued into it at the end."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from functools import cached_property, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec
from urllib.parse import quote

import transformers

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.known_faults import judged
from proofbook.checks.parts import ASKED, PartTrial
from proofbook.checks.registry import FAMILIES, Check, Finding, Question, chosen, examine, raised
from proofbook.checks.trial import Trial
from proofbook.checks.truths import Truths
from proofbook.environments import own_name
from proofbook.measure.grid import parse_grid
from proofbook.measure.sweep import Point, sweep
from proofbook.reproduce import NoReproduction, reproduce
from proofbook.subject.full_size import full_parameters
from proofbook.subject.variants import with_variant
from proofbook.verdict import Verdict, overall
from proofbook.workbook import rows
from proofbook.workbook.divergence import show_divergence, show_graph_divergence
from proofbook.workbook.html import Html, badge, block, code, escape, facts, folded
from proofbook.workbook.records import CaseRecord, CheckRecord, SweepRecord, case_id, reproduction_name, rerun_command
from proofbook.workbook.scraps import glue
from proofbook.workbook.showing import show_answers, show_findings, show_rows, show_tensors, truth_told
from proofbook.workbook.showing_timings import show_measured, show_points
from proofbook.workbook.surroundings import machine, versions
from proofbook.workbook.timings import Measured, measure, sampling_rate

P = ParamSpec("P")


class CaseFailed(AssertionError):
    """Raised by the last cell of a case that fell short; the message names the first check that did."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message alone, for the frames would be those of this module."""
        return [f"{type(self).__name__}: {self}"]


# the verdicts of findings that a script can show, and two executions
_FAILED = (Verdict.ERROR, Verdict.FAIL, Verdict.XFAIL)

Step = Callable[Concatenate["Case", P], Html]


def _step(method: Step[P]) -> Step[P]:
    """A step of the notebook: when it raises, the error is recorded and shown, and the notebook goes on."""

    @wraps(method)
    def shown(case: "Case", /, *args: P.args, **kwargs: P.kwargs) -> Html:
        if case.unloaded:
            return case.show_absence()
        start = time.perf_counter()
        try:
            return method(case, *args, **kwargs)
        except Exception as error:
            description = (method.__doc__ or "").partition("\n")[0]
            step = Question(method.__name__.replace("_", "-"), "notebook", description)
            finding = raised(step, error, time.perf_counter() - start)
            # why a model does not load is for the check `loads` to say
            return show_findings([case.record(finding) if "loaded" in case.__dict__ else finding])

    return shown


class Case(Trial):
    """One model on one target with one kind of weights, as a notebook examines it.

    Everything of a :class:`~proofbook.checks.trial.Trial` is here to be looked at and changed: ``case.model``,
    ``case.inputs``, ``case.outputs``, ``case.truth``, ``case.run(inputs)``.

    Args:
        model: a model of ``params/models/``.
        target: a target of ``params/targets.yaml``.
        weights: ``tiny``, ``local`` or ``hub``.
        folder: a checkpoint folder for ``local`` weights; empty for the one that the model's entry names.
        seed: draws the tiny weights.
        checks: ``all``, or names of checks or families, separated by commas.
        run: the run that this case belongs to; empty by hand.
        variant: switches of the tiny configuration to set otherwise: ``num_key_value_heads=1;attention_bias=true``.
        sweep: sizes of batches and lengths of texts at which calls are timed as well: ``batch=1,8;length=16,64``.

    Raises:
        UnknownName: no such model or target.
        ValueError: no such weights or checks, or variant or sweep is not written as one.
    """

    def __init__(
        self,
        model: str,
        target: str = "cpu",
        weights: str = "tiny",
        folder: str = "",
        seed: int = 0,
        checks: str = "all",
        run: str = "",
        variant: str = "",
        sweep: str = "",
    ) -> None:
        transformers.utils.logging.disable_progress_bar()  # a bar a load is all that a reader would see
        catalog = load_catalog()
        aim = catalog.target(target)
        spec = with_variant(catalog.model(model), variant, catalog.switched)
        super().__init__(spec, aim, Weights(weights), int(seed), catalog.tolerances, folder)
        self.run_name = run
        # by hand, code may be changed between two looks at it
        self.truths = Truths() if run else None
        self.chosen = chosen(checks)
        self.environment = own_name()
        self.variant = variant
        self.grid, self.sweep = parse_grid(sweep), sweep
        self.id = case_id(model, target, self.weights, self.environment, variant)
        self.findings: dict[str, Finding] = {}
        # the file name of the script that `show_reproduction` wrote
        self.reproduction = ""
        # when it began, by the clock of `time.perf_counter`
        self.began = time.perf_counter()

    @property
    def rerun(self) -> str:
        """The command that opens this case for debugging."""
        coordinates = (self.spec.name, self.target.name, self.weights, self.seed, self.environment)
        return rerun_command(*coordinates, self.variant, self.sweep)

    @property
    def verdict(self) -> Verdict:
        """The verdict so far."""
        return overall(finding.verdict for finding in self.findings.values())

    @property
    def reason(self) -> str:
        """The first finding that decides the verdict, in words; empty when all is well."""
        if self.verdict in (Verdict.PASS, Verdict.NOT_RUN):
            return ""
        first = next(one for one in self.findings.values() if one.verdict is self.verdict)
        return f"{first.check.name}: {first.detail or first.observed or ''}".removesuffix(": ")

    @property
    def _failed(self) -> list[Finding]:
        """What a script can show, and two executions, in the order of the verdicts."""
        failed = [one for one in self.findings.values() if one.verdict in _FAILED]
        return sorted(failed, key=lambda one: list(Verdict).index(one.verdict))

    @_step
    def show_model(self) -> Html:
        """The model: its class, its size here and in full, its configuration and modules."""
        model = self.loaded.model
        here = sum(parameter.numel() for parameter in model.parameters())
        full = full_parameters(self.spec)
        size = facts(
            [
                ("class", code(type(model).__name__)),
                ("checkpoint", f"{self.spec.hub_id}, {full:,} parameters" if full else self.spec.hub_id),
                ("weights here", f"{self.weights}, {here:,} parameters, {self._dtypes}"),
                ("attention", getattr(self.config, "_attn_implementation", None) or "the model's own"),
            ]
        )
        return (
            size
            + folded("configuration", block(self.config.to_json_string()))
            + folded("modules", block(_shortened(str(model))))
        )

    @_step
    def show_inputs(self) -> Html:
        """The raw input, and the tensors that the processor makes of it."""
        processor = facts([("processor", code(type(self.processor).__name__)), ("task", self.spec.task)])
        return show_rows(self.rows) + processor + show_tensors(self.inputs)

    @_step
    def show_outputs(self) -> Html:
        """The outputs of one forward call on the target."""
        return show_tensors(self.outputs)

    @_step
    def show_answers(self) -> Html:
        """The answers, as a user's pipeline gives them; random weights answer nonsense."""
        return show_answers(self.rows, self.answers, sampling_rate(self.config))

    @_step
    def show_timings(self) -> Html:
        """Load, first call, percentiles, generation, throughput, operations and peak memory, with a plot."""
        return show_measured(self.measured)

    @cached_property
    def measured(self) -> Measured:
        """How fast and how big it is."""
        return measure(self)

    @_step
    def show_sweep(self) -> Html:
        """Forward calls at the sizes of batches and lengths of texts that the parameter ``sweep`` asks for."""
        return show_points(self.points, self.task.unit)

    @cached_property
    def points(self) -> list[Point]:
        """The points of the sweep that was asked for."""
        return sweep(self.task, self.subject, self.rows, self.encoded, self.session, self.grid)

    @_step
    def show_divergence(self) -> Html:
        """Where the error comes from, when a comparison failed: the first module that adds one of its own."""
        if not self.runtime.runs_module:
            return self._show_graph_divergence()
        failed = next((one for one in self._failed if one.executions), None)
        if failed is None or failed.executions is None:
            said = "No comparison of two executions failed."
            return Html(f"<p>{said}</p>", said)
        try:
            return show_divergence(failed.check.name, *failed.executions(), self.tolerance)
        except Exception as error:  # what a model raises when it is called once more; that it fails is known
            cause = f"{type(error).__name__}: {error}"
            said = f"The two executions of {failed.check.name} can't be followed: {cause}"
            return Html(f"<p>{escape(said)}</p>", said)

    def _show_graph_divergence(self) -> Html:
        """The same of a graph, whose modules are none: its operations, as far as the runtime shows their values."""
        failed = next((one for one in self._failed if one.comparisons), None)
        trace = self.session.trace(self.inputs) if failed else None
        if failed is None or trace is None:
            said = (
                "No comparison failed." if failed is None else f"{self.target.runtime} shows no values within a graph."
            )
            return Html(f"<p>{said}</p>", said)
        return show_graph_divergence(failed.check.name, trace, self.inputs, self.tolerance)

    def show_reproduction(self) -> Html:
        """A script in plain transformers that fails as the case did, written to the working directory."""
        failed = self._failed
        if not failed:
            return Html("<p>Nothing failed.</p>", "Nothing failed.")
        name = reproduction_name(self.id)
        try:
            found = reproduce(self, failed, name)
            script = found.write(Path.cwd(), name)
        except NoReproduction as reason:
            said = f"No small script shows it: {reason}"
            return Html(f"<p>{escape(said)}</p>", said)
        except Exception as error:  # what was found must not be lost for the want of a script
            said = f"A script could not be made of it: {type(error).__name__}: {error}"
            return Html(f"<p>{escape(said)}</p>", said)
        self.reproduction = script.name
        link = Html(f'<a href="{escape(quote(script.name))}">{escape(script.name)}</a>', script.name)
        about = facts(
            [("script", link), ("of", found.check), ("weights", found.weights), ("ends with", code(found.said))]
        )
        return about + folded("the script", block(found.script.text))

    def check(self, family: str) -> Html:
        """Ask the checks of one family that were chosen, record what they find, and show it."""
        if family not in FAMILIES:
            raise ValueError(f"unknown family of checks {family!r}; known: {', '.join(FAMILIES)}")
        found = self._ask(check for check in self.chosen if check.family == family)
        return show_findings(found) if found else Html("<p>None chosen.</p>", "None chosen.")

    def check_others(self) -> Html:
        """Ask the chosen checks that no cell has asked so far, record what they find, and show those that apply."""
        found = self._ask(check for check in self.chosen if check.name not in self.findings)
        shown = [one for one in found if one.verdict is not Verdict.SKIP]
        said = f"{len(found) - len(shown)} more do not apply."
        return (show_findings(shown) if shown else Html("")) + Html(f"<p>{said}</p>", said)

    def _ask(self, checks: Iterable[Check]) -> list[Finding]:
        asked = list(checks)
        found = [self.record(self._examine(check)) for check in asked]
        for part in self.parts:
            found += [self.record(_of_part(examine(check, part), part)) for check in asked if check.name in ASKED]
        return found

    def record(self, finding: Finding) -> Finding:
        """Keep a finding, in the light of the faults that the model's entry knows of."""
        finding = judged(finding, self.spec.known_faults, self.target.name, date.today())
        self.findings[finding.check.name] = finding
        return finding

    def finish(self) -> Html:
        """Glue the records into the notebook, then show the verdict.

        Raises:
            CaseFailed: the case fell short.
        """
        glue(self.case_record(), self.check_records(), self.sweep_records())
        if self.verdict.fell_short:
            raise CaseFailed(f"{self.id}: {self.verdict}: {self.reason}\n\nDebug it: {self.rerun}")
        return self.show_verdict()

    def show_verdict(self) -> Html:
        """The verdict, and all that it takes to come back to it."""
        record = self.case_record()
        return facts(
            [
                ("verdict", badge(record.verdict)),
                ("reason", record.reason),
                ("checks", f"{record.checks}, {record.failed} fell short"),
                ("seed", record.seed),
                ("inputs", f"SHA-256 {record.input_hash}"),
                *truth_told(self.__dict__.get("truth")),
                ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
                ("rerun", code(record.rerun)),
            ]
        )

    def case_record(self) -> CaseRecord:
        """The row of this case in the ledger; what was not observed is None."""
        return rows.case_record(self)

    def check_records(self) -> list[CheckRecord]:
        """The rows of this case's checks."""
        return rows.check_records(self)

    def sweep_records(self) -> list[SweepRecord]:
        """The rows of its sweep; none where none was made."""
        return rows.sweep_records(self)

    def _repr_html_(self) -> str:
        return self._header().html

    def __repr__(self) -> str:
        return self._header().text

    @property
    def _dtypes(self) -> str:
        weights = self.target.weight_dtype
        return f"{self.target.dtype}, weights of linear layers in {weights}" if weights else self.target.dtype

    def _header(self) -> Html:
        device = f"{self.target.device}, {self.target.runtime}, {self._dtypes}"
        return facts(
            [
                ("case", code(self.id)),
                ("model", f"{self.spec.name}: {self.spec.model_class} ({self.spec.model_type}), {self.spec.task}"),
                ("target", f"{self.target.name}: {device}"),
                ("weights", f"{self.weights}, seed {self.seed}"),
                *([("variant", code(self.variant))] if self.variant else []),
                ("machine", machine()),
                ("environment", self.environment),
                ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
                ("rerun", code(self.rerun)),
            ]
        )

    def show_absence(self) -> Html:
        """That there is no model, and what of it is validated all the same."""
        said = "The model did not load."
        shown = Html(f"<p>{said}</p>", said)
        if not self.parts or self.spec.parts is None:
            return shown
        modules = ", ".join(part.model_class for part in self.spec.parts.modules)
        first = self.parts[0]
        inputs = facts([("processor", code(type(first.processor).__name__)), ("task", self.spec.task)])
        return (
            shown
            + facts([("validated all the same", f"{modules}"), ("not validated", self.spec.parts.left_out)])
            + folded("what the processor makes", show_rows(first.rows) + inputs + show_tensors(first.inputs))
        )

    @cached_property
    def parts(self) -> list[PartTrial]:
        """The parts that are validated where a package is missing; none where the model loads, or has no such parts."""
        why = self.unloaded
        missing = why is not None and why.verdict is Verdict.BLOCKED and why.observed in self.spec.needs
        if not missing or self.spec.parts is None or self.weights is not Weights.TINY:
            return []
        return [PartTrial(self, part) for part in self.spec.parts.modules]

    @property
    def unloaded(self) -> Finding | None:
        """What the check ``loads`` found, if there is no model for it."""
        loads = self.findings.get("loads")
        return loads if loads and "loaded" not in self.__dict__ else None

    def _examine(self, check: Check) -> Finding:
        why = self.unloaded
        if why is None or check.name == "loads":
            return examine(check, self)
        if why.verdict is Verdict.BLOCKED:
            return Finding(check, Verdict.BLOCKED, 0.0, observed=why.observed, detail=why.detail)
        known = why.verdict is Verdict.XFAIL
        return Finding(check, Verdict.SKIP if known else Verdict.NOT_RUN, 0.0, detail="the model did not load")


def _of_part(finding: Finding, part: PartTrial) -> Finding:
    """The finding under a name of its own: ``matches-truth of LayoutLMv2Encoder``."""
    asked = finding.check
    name = f"{asked.name} of {part.part.model_class}"
    return replace(finding, check=Question(name, asked.family, asked.description))


def _shortened(text: str, lines: int = 120) -> str:
    parts = text.splitlines()
    return "\n".join(parts if len(parts) <= lines else [*parts[:lines], f"… {len(parts) - lines} more lines"])

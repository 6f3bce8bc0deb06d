"""Why an exporter, a converter or a compiler stopped, as a short cause that groups like refusals."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from proofbook.runtimes.runtime import Refused
from proofbook.verdict import Blocked

# causes, and patterns of what tools say of them; what a pattern catches is the operator
_OPERATOR = "unsupported operator"
_SAYS = (
    (_OPERATOR, r"No ONNX function found for <OpOverload\(op='(?P<what>[\w.]+)"),
    (_OPERATOR, r"No conversion rule (?:found )?for operations?:?\s*(?P<what>[\w:.]+)"),
    (_OPERATOR, r"(?:Missing (?:out variant|kernel)|not implemented for|Could not run) '?(?P<what>aten[:.]+[\w.]+)"),
    (_OPERATOR, r"(?m:^)(?:-- )?(?P<what>[\w:.]+) with a message:"),
    (_OPERATOR, r"Operator torch\._ops\.(?P<what>[\w.]+) is not in Core ATen"),
    (_OPERATOR, r"Could not find an implementation for (?P<what>[\w.]+)\("),
    ("data-dependent shape", r"GuardOnDataDependent|data.dependent (?:expression|value|shape)|unbacked symint"),
    ("data-dependent control flow", r"[Dd]ynamic control flow|control flow .*not supported"),
    ("a size that can't stay open", r"Constraints violated|specialized it to be a constant|marked .* as dynamic but"),
    ("one tensor as two outputs", r"Tensor name is not a number"),
    ("an object that no graph holds", r"returned non-Tensor|[Uu]nsupported (?:input )?type"),
    ("no overload for the arguments of", r"Cannot find a compatible OpOverload for (?P<what>[\w.:]+)"),
    ("a view that strides do not allow", r"Cannot view a tensor with shape"),
    ("a module that its own forward changes", r"_apply\(\): Couldn't swap|Cannot swap t1"),
    (_OPERATOR, r"(?s)(?:MissingOperator|LoweringException).*?target: (?P<what>[\w.:]+)"),
    ("C++ code that does not compile", r"CppCompileError"),
    ("more graphs than torch makes of a frame", r"recompile limit exceeded"),
    ("a browser that ended", r"^BrowserFailed"),
    ("out of memory", r"out of memory|std::bad_alloc|MemoryError"),
)
_ANSI = re.compile(r"\x1b?\[\d+m")
LONGEST = 300


def refused(stage: str, error: BaseException) -> Refused:
    """The refusal that an exception of a step amounts to; its causes, the innermost first, are read as well."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    for one in reversed(chain):
        said = f"{type(one).__name__}: {_ANSI.sub('', str(one))}"
        for cause, pattern in _SAYS:
            match = re.search(pattern, said)
            if match:
                what = match.groupdict().get("what", "").removesuffix(".default")
                return Refused(stage, f"{cause} {what}" if what else cause, _line(said, match.start()))
    innermost = chain[-1]
    said = f"{type(innermost).__name__}: {_ANSI.sub('', str(innermost))}"
    return Refused(stage, type(innermost).__name__, _line(said, 0))


@contextmanager
def refusing(stage: str) -> Iterator[None]:
    """Whatever a step raises is a refusal of that stage, unless it says so itself, or that something is missing."""
    try:
        yield
    except (Blocked, Refused):
        raise
    except Exception as error:  # each tool raises its own
        raise refused(stage, error) from error


def _line(said: str, at: int) -> str:
    """The line of a message that stands at a place."""
    start = said.rfind("\n", 0, at) + 1
    return said[start:].strip().partition("\n")[0][:LONGEST]

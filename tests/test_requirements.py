"""A package that is missing is named as pip calls it, however the library puts it."""

import pytest

from proofbook.subject.requirements import missing_package


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("X requires the Torchvision library but it was not found in your environment. Check out", "torchvision"),
        ("X requires the Beautiful Soup library but it was not found. `pip install beautifulsoup4`.", "beautifulsoup4"),
        ("X requires the scikit-learn library but it was not found: pip install -U scikit-learn", "scikit-learn"),
        ("You need to install g2p-en to use FastSpeech2ConformerTokenizer. See https://pypi.org/", "g2p-en"),
        ("Package `num2words` is required to run it. Install it with `pip install num2words`.", "num2words"),
        ("Korean forced alignment requires the `soynlp` package.", "soynlp"),
        ("Pandas is required for the TAPAS tokenizer.", "pandas"),
        ("Pycocotools is not installed in your environment.", "pycocotools"),
        ("X requires soundfile and soxr. You can install them with pip: `pip install transformers[audio]`.", None),
        ("nothing that helps", None),
    ],
)
def test_the_package_is_named_as_pip_calls_it(said: str, name: str | None) -> None:
    assert missing_package(ImportError(said)) == name


def test_a_module_that_is_named_before_the_explanation_counts() -> None:
    error = ImportError("nothing that helps")
    error.__context__ = ModuleNotFoundError("No module named 'rjieba'", name="rjieba")
    assert missing_package(error) == "rjieba"

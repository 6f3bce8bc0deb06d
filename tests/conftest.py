"""What holds for all tests: settings, and the command line run within them."""

import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

from proofbook.cli import main

# no hub is ever asked: what a test needs is made, or comes from a package
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a machine that is busy must not fail a property
settings.register_profile("proofbook", deadline=None, max_examples=50)
settings.load_profile("proofbook")


@pytest.fixture
def proofbook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process; its exit status and all that it said."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["proofbook", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call

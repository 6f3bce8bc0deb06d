"""Settings that hold for all tests."""

import os

from hypothesis import settings

# no hub is ever asked: what a test needs is made, or comes from a package
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a machine that is busy must not fail a property
settings.register_profile("proofbook", deadline=None, max_examples=50)
settings.load_profile("proofbook")

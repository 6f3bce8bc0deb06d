"""proofbook: a Jupyter workbook that proves which Hugging Face models work on which hardware.

The packages form one line, each importing only from those before it:
catalog → subject → runtimes → measure → checks → workbook → batch → report → cli.
"""

__version__ = "0.1.0"

"""``proofbook debug``."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from proofbook.batch.debug import find_case, write_debug_notebook
from proofbook.batch.kernels import kernel_environment
from proofbook.batch.machine import MachineryFailed, threads
from proofbook.catalog import Weights, load_catalog
from proofbook.cli.console import console, root, shown
from proofbook.cli.errors import WrongUsage
from proofbook.environments import jupyter_path
from proofbook.verdict import Blocked

# seconds that JupyterLab may take to start
STARTUP = 120


def debug_case(
    named: str,
    target: str | None,
    weights: Weights | None,
    folder: Path | None,
    seed: int | None,
    browser: bool,
    environment: str | None = None,
    variant: str | None = None,
    sweep: str | None = None,
) -> int:
    """Write the case's notebook, open JupyterLab on it and stay until it ends; the exit status."""
    workbook = root()
    catalog = load_catalog(workbook / "params")
    try:
        case = find_case(
            catalog,
            named,
            target=target,
            weights=weights,
            seed=seed,
            folder=folder,
            environment=environment,
            variant=variant,
            sweep=sweep,
        )
    except Blocked as missing:  # the environment
        raise WrongUsage(str(missing)) from None
    notebook = write_debug_notebook(case, workbook / "notebooks", workbook / "outputs" / "debug")
    out = console()
    out.print(f"notebook: {shown(notebook)}", highlight=False, soft_wrap=True)
    if find_spec("jupyterlab") is None:
        raise WrongUsage("JupyterLab is not installed here. Get it with `pip install jupyterlab`")
    server = subprocess.Popen(
        [*(sys.executable, "-m", "jupyterlab"), *_options(workbook, browser), str(notebook)],
        env={**os.environ, **kernel_environment(threads(case.weights)), **jupyter_path()},
    )
    # a debugger that is told to end takes JupyterLab and its kernels along
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        address = _address(server, notebook.relative_to(workbook))
        out.print(f"JupyterLab: {address}\nCtrl-C ends it.", highlight=False, soft_wrap=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def _options(workbook: Path, browser: bool) -> list[str]:
    options = [f"--ServerApp.root_dir={workbook}", "--ServerApp.answer_yes=True", "--log-level=WARN"]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # in a container there is often no other user
    return options


def _address(server: "subprocess.Popen[bytes]", notebook: Path) -> str:
    """The address of the notebook, token included, once the server has written down its own."""
    from jupyter_server.serverapp import list_running_servers

    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and server.poll() is None:
        for info in list_running_servers():
            if info["pid"] == server.pid:
                return f"{info['url']}lab/tree/{quote(notebook.as_posix())}?token={info['token']}"
        time.sleep(0.2)
    raise MachineryFailed("JupyterLab did not start; its own messages are above")

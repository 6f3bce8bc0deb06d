"""The kernel provisioner ``proofbook-warm``: kernels that find torch and transformers imported.

It is what jupyter_client offers as its extension point, so that papermill, nbclient and JupyterLab use it for any
kernelspec that names it, such as ``proofbook-warm``. Where no process can be forked, a cold kernel starts instead, and
the provisioner logs why.
"""

import asyncio
import atexit
import os
from functools import cache
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from traitlets import Bool, Instance, Unicode, default

from proofbook.batch.keeper import kept
from proofbook.batch.parents import Cold, Parents


class WarmProvisioner(LocalProvisioner):  # type: ignore[misc]
    """Starts kernels by forking a warm parent, else as jupyter_client does."""

    parents = Instance(Parents, help="Where to fork.")
    keeps = Bool(False, help="Whether a cold kernel gets a keeper.").tag(config=True)
    cold = Unicode(help="Why the kernel is cold; empty if it is warm.")

    @default("parents")
    def _shared_parents(self) -> Parents:
        return _of_this_process()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """As the base class does it."""
        folder, files = str(kwargs.get("cwd") or Path.cwd()), (kwargs.get("stdout"), kwargs.get("stderr"))
        try:
            # in a thread: the first kernel waits for the imports of its parent, and a server has other things to do
            self.process = await asyncio.to_thread(
                self.parents.fork, cmd, folder, kwargs.get("env") or os.environ, files
            )
        except Cold as cause:
            self.cold = str(cause)
            self.log.warning("a cold kernel starts: %s", cause)
            return await super().launch_kernel(kept(cmd) if self.keeps else cmd, **kwargs)
        self.pid = self.pgid = self.process.pid
        self.cwd = folder
        return self.connection_info


@cache
def _of_this_process() -> Parents:
    """The parents of kernels that no batch has asked for; they end with this process."""
    parents = Parents()
    atexit.register(parents.close)
    return parents

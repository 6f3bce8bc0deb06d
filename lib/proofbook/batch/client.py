"""How a batch speaks with its kernels: as jupyter_client does, but for how it learns that one is ready."""

import math
import time
from queue import Empty

from jupyter_client.asynchronous import AsyncKernelClient

# seconds for a reply, and for what is published with it
REPLY, PUBLISHED = 1.0, 0.2


class Client(AsyncKernelClient):  # type: ignore[misc]
    """A client that takes a kernel for ready as soon as it has answered, and was seen to publish that it is idle again.

    jupyter_client then waits for 0.2 s of silence, so as to leave nothing behind that came before. What is published
    comes in order: nothing can come before a word that has been read.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel can be asked, and what it publishes arrives.

        Raises:
            RuntimeError: it died, or ``timeout`` seconds are over.
        """
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while not await self._is_ready():
            if not await self.is_alive():
                raise RuntimeError("the kernel died before it was ready")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the kernel was not ready within {timeout:g} s")

    async def _is_ready(self) -> bool:
        question = self.kernel_info()
        try:
            while (await self.get_shell_msg(timeout=REPLY))["parent_header"].get("msg_id") != question:
                continue  # to a question that was given up
            while True:
                told = await self.get_iopub_msg(timeout=PUBLISHED)
                if told["parent_header"].get("msg_id") == question and told["content"].get("execution_state") == "idle":
                    return True
        except Empty:
            return False

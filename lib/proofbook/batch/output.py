"""How much a notebook keeps of what its cells print and show, whatever they do."""

from typing import Any

from proofbook.workbook.scraps import MEDIA_TYPE

# characters of printed text, of everything shown, and of an error, that one notebook keeps: it has to stay readable
TEXT, SHOWN, ERROR = 256_000, 8_000_000, 64_000


class Budget:
    """What is left of it, while the messages of a kernel come in."""

    def __init__(self) -> None:
        self._text, self._shown = TEXT, SHOWN
        self._dropped = 0

    def spend(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """A message of the kernel's as far as there is room for it; None if there is none."""
        content, kind = message["content"], message["msg_type"]
        match kind:
            case "stream":
                text, self._text = self._cut(content["text"], self._text)
                return {**message, "content": {**content, "text": text}} if text else None
            case "display_data" | "execute_result" if MEDIA_TYPE not in content["data"]:
                size = sum(len(str(data)) for data in content["data"].values())
                if size > self._shown:
                    self._dropped += size
                    return None
                self._shown -= size
            case "error":
                value, _ = self._cut(content["evalue"], ERROR)
                trace, left = [], ERROR
                for line in content["traceback"]:
                    part, left = self._cut(line, left)
                    trace.append(part)
                return {**message, "content": {**content, "evalue": value, "traceback": trace}}
        return message

    def dropped(self) -> str:
        """What to say of that which there was no room for since this was last asked; empty if there was for all."""
        dropped, self._dropped = self._dropped, 0
        return (
            f"… {dropped / 1e6:.2f} MB or more of output were dropped: a notebook keeps {_limits()}\n"
            if dropped
            else ""
        )

    def _cut(self, text: str, left: int) -> tuple[str, int]:
        """As much of a text as there is room for, and the room left."""
        self._dropped += max(len(text) - left, 0)
        return text[:left], max(left - len(text), 0)


def _limits() -> str:
    return f"{TEXT / 1e3:g} kB of text and {SHOWN / 1e6:g} MB of all that is shown"

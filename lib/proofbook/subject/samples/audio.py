"""Short recordings of speech in three languages, with what is said in them. Their origin: ``data/README.md``."""

import wave
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import gcd
from typing import Any

import numpy as np
from scipy.signal import resample_poly

Samples = np.ndarray[Any, np.dtype[np.float32]]

# file, language, what is said
_CLIPS = (
    ("speech-en.wav", "en", "A small test of speech"),
    ("speech-de.wav", "de", "Heute scheint die Sonne"),
    ("speech-fr.wav", "fr", "Il fait beau ce matin"),
)


@dataclass(frozen=True)
class Recording:
    """Mono speech: float32 samples in -1..1, ``rate`` of them a second, and the words spoken."""

    samples: Samples
    rate: int
    text: str
    language: str

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


def recordings(rate: int | None = None) -> list[Recording]:
    """The recordings, all of different length (1.0 to 1.4 s), at ``rate`` samples a second (their own: 16000)."""
    clips = [_read(*clip) for clip in _CLIPS]
    return [Recording(resample(c.samples, c.rate, rate or c.rate), rate or c.rate, c.text, c.language) for c in clips]


def resample(samples: Samples, rate: int, to: int) -> Samples:
    """The same sound at another rate: ``ceil(len(samples) * to / rate)`` samples, by polyphase filtering."""
    if rate == to:
        return samples.copy()
    common = gcd(rate, to)
    return np.asarray(resample_poly(samples, to // common, rate // common), dtype=np.float32)


@cache
def _read(file: str, language: str, text: str) -> Recording:
    path = resources.files(__package__) / "data" / file
    with path.open("rb") as stream, wave.open(stream) as clip:
        if (clip.getsampwidth(), clip.getnchannels()) != (2, 1):
            raise ValueError(f"{file}: must be 16-bit mono")
        pulses = np.frombuffer(clip.readframes(clip.getnframes()), dtype="<i2")
        return Recording((pulses / 32768).astype(np.float32), clip.getframerate(), text, language)

"""What feature extractors make of sound, by the formulas that they document, in NumPy and any precision.

The formulas: the short-time Fourier transform and the mel scales of Slaney's Auditory Toolbox, of HTK and of Kaldi
(fbank, cepstral mean and variance normalisation). A formula belongs to a class of extractors, which states it in its
docstring and the names of its parameters; :data:`FORMULAS` has those that are known.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.fft import rfft

Array = np.ndarray[Any, np.dtype[Any]]
Formula = Callable[[Any, Array], Array]

# by how much the variance of a waveform is raised before it divides
_VARIANCE = 1e-7


def standardised(extractor: Any, samples: Array) -> Array:
    """Samples with zero mean and unit variance, where the extractor normalises."""
    if not extractor.do_normalize:
        return samples
    return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + samples.dtype.type(_VARIANCE)))


def raw(_extractor: Any, samples: Array) -> Array:
    """The samples themselves, one channel: channels × samples."""
    return samples[None]


def whisper(extractor: Any, samples: Array) -> Array:
    """Log-mel power in a window of fixed length, at most 80 dB below its peak: mel bins × frames, in -1..1 or so."""
    window = np.zeros(extractor.n_samples, samples.dtype)
    window[: len(samples)] = samples[: extractor.n_samples]
    power = _centred(window, extractor.n_fft, extractor.hop_length)[:-1]
    bank = mel_bank("slaney", extractor.n_fft, extractor.feature_size, extractor.sampling_rate, 0, 8000, unit_area=True)
    decades = np.log10(np.maximum(power @ bank.astype(samples.dtype), 1e-10)).T
    return np.asarray((np.maximum(decades, decades.max() - 8) + 4) / 4)


def clap(extractor: Any, samples: Array) -> Array:
    """Log-mel power in decibels, the sound repeated to a window of fixed length: 1 × frames × mel bins."""
    longest = extractor.nb_max_samples
    if len(samples) > longest or extractor.truncation == "fusion" or extractor.padding != "repeatpad":
        raise LookupError("cuts at random, or views of several lengths")
    repeated = np.tile(samples, longest // len(samples))
    repeated = np.pad(repeated, (0, longest - len(repeated)))
    fft, bins = extractor.fft_window_size, extractor.feature_size
    low, high = extractor.frequency_min, extractor.frequency_max
    bank = mel_bank("slaney", fft, bins, extractor.sampling_rate, low, high, unit_area=True)
    power = _centred(repeated, fft, extractor.hop_length)
    return np.asarray(10 * np.log10(np.maximum(power @ bank.astype(samples.dtype), 1e-10))[None])


def clvp(extractor: Any, samples: Array) -> Array:
    """Natural logarithm of mel power, on HTK's scale with Slaney's normalisation: mel bins × frames."""
    bank = mel_bank("htk", extractor.n_fft, extractor.feature_size, extractor.sampling_rate, 0, 8000, unit_area=True)
    power = _centred(samples, extractor.n_fft, extractor.hop_length)
    logs = np.log(np.maximum(power @ bank.astype(samples.dtype), 1e-5)).T
    norms = extractor.mel_norms
    return np.asarray(logs if norms is None else logs / np.asarray(norms, samples.dtype)[:, None])


def speecht5(extractor: Any, samples: Array) -> Array:
    """Decades of mel magnitude, what a decoder of speech learns to write: frames × mel bins."""
    size = extractor.win_length * extractor.sampling_rate // 1000
    hop = extractor.hop_length * extractor.sampling_rate // 1000
    low, high = extractor.fmin, extractor.fmax
    bank = mel_bank("slaney", size, extractor.num_mel_bins, extractor.sampling_rate, low, high, unit_area=True)
    magnitude = np.sqrt(_centred(samples, size, hop))
    return np.asarray(np.log10(np.maximum(magnitude @ bank.astype(samples.dtype), extractor.mel_floor)))


def speech_to_text(extractor: Any, samples: Array) -> Array:
    """Kaldi's filter bank, each bin with zero mean and unit variance over the utterance: frames × mel bins."""
    features = kaldi_bank(samples, extractor.num_mel_bins, extractor.sampling_rate)
    if extractor.do_ceptral_normalize and extractor.normalize_means:
        features = features - features.mean(0)
    if extractor.do_ceptral_normalize and extractor.normalize_vars:
        features = features / features.std(0)
    return features


def kaldi_bank(samples: Array, bins: int, rate: int) -> Array:
    """Kaldi's fbank of samples in -1..1, without dither: frames of 25 ms every 10 ms × mel bins, natural logarithms.

    Each frame of 16-bit samples loses its mean, is pre-emphasised by 0.97 and windowed by Povey's window.
    """
    size, hop, fft = rate * 25 // 1000, rate // 100, 512
    frames = _frames(samples * samples.dtype.type(2**15), size, hop)
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.85
    frames = (frames - samples.dtype.type(0.97) * before) * povey.astype(samples.dtype)
    power = np.abs(rfft(frames, fft, axis=1)) ** 2
    bank = mel_bank("kaldi", fft, bins, rate, 20, rate // 2, unit_area=False)
    floor = np.finfo(np.float32).eps
    return np.asarray(np.log(np.maximum(power @ bank.astype(samples.dtype), floor)))


def mel_bank(scale: str, fft: int, bins: int, rate: int, low: float, high: float, unit_area: bool) -> Array:
    """Triangular filters, evenly spaced on a mel scale: frequencies (``fft // 2 + 1``) × bins.

    Args:
        scale: ``slaney``, ``htk``, or ``kaldi``, whose triangles are straight on the mel scale and not in hertz.
        fft: samples of a Fourier transform.
        rate: samples a second.
        low: where the first triangle begins, in hertz; ``high``, where the last ends.
        unit_area: whether each is divided by half its width in hertz (Slaney), or is 1 at its peak.
    """
    to_mel, to_hertz = _SCALES[scale]
    edges = np.linspace(to_mel(np.float64(low)), to_mel(np.float64(high)), bins + 2)
    frequencies = np.arange(fft // 2 + 1) * rate / fft
    if scale == "kaldi":
        at, corners = to_mel(frequencies), edges
    else:
        at, corners = frequencies, to_hertz(edges)
    rise = (at[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - at[:, None]) / (corners[2:] - corners[1:-1])
    triangles = np.maximum(0, np.minimum(rise, fall))
    return np.asarray(triangles * 2 / (corners[2:] - corners[:-2]) if unit_area else triangles)


def _slaney(hertz: Any) -> Any:
    """Linear up to 1 kHz, 15 mel, and from there 27 mel for each factor of 6.4."""
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, 3 * hertz / 200, above)


def _slaney_hertz(mel: Any) -> Any:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


_SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "slaney": (_slaney, _slaney_hertz),
    "htk": (lambda hertz: 2595 * np.log10(1 + hertz / 700), lambda mel: 700 * (10 ** (mel / 2595) - 1)),
    "kaldi": (lambda hertz: 1127 * np.log1p(hertz / 700), lambda mel: 700 * np.expm1(mel / 1127)),
}


def _centred(samples: Array, size: int, hop: int) -> Array:
    """The power of a Hann-windowed Fourier transform of ``size`` samples around every ``hop``-th, mirrored at the ends:
    frames × frequencies."""
    frames = _frames(np.pad(samples, size // 2, mode="reflect"), size, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.asarray(np.abs(rfft(frames * hann.astype(samples.dtype), axis=1)) ** 2)


def _frames(samples: Array, size: int, hop: int) -> Array:
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


# those that pad the samples to the longest of a batch, and not what they make of them
PAD_SAMPLES = frozenset({"ClvpFeatureExtractor"})

FORMULAS: dict[str, Formula] = {
    "ClapFeatureExtractor": clap,
    "ClvpFeatureExtractor": clvp,
    "EncodecFeatureExtractor": raw,
    "DacFeatureExtractor": raw,
    "Speech2TextFeatureExtractor": speech_to_text,
    "SpeechT5FeatureExtractor": speecht5,
    "Wav2Vec2FeatureExtractor": standardised,
    "WhisperFeatureExtractor": whisper,
}

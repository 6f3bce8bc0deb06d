"""Tokenizers of each model's own class, trained on a small corpus of our own in place of a vocabulary to download."""

from proofbook.subject.tokenizers.alignment import align_text, decoding_start, target_language_id
from proofbook.subject.tokenizers.build import build_tokenizer, make_ready

__all__ = ["align_text", "build_tokenizer", "decoding_start", "make_ready", "target_language_id"]

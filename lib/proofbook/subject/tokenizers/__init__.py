"""Tokenizers of each model's own class, trained on a small corpus of our own in place of a vocabulary to download."""

from proofbook.subject.tokenizers.alignment import align_text, target_language_id
from proofbook.subject.tokenizers.build import build_tokenizer

__all__ = ["align_text", "build_tokenizer", "target_language_id"]

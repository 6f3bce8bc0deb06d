"""Translation into speech: what such a model's checkpoint says beside its weights, and the speech itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from proofbook.subject.samples import texts
from proofbook.subject.tasks.task import Subject
from proofbook.subject.tasks.tokens import tokenizer_of

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel


def speak(
    subject: Subject, model: "PreTrainedModel", inputs: Mapping[str, torch.Tensor], new_tokens: int
) -> "list[np.ndarray[Any, Any]]":
    """The translation of each row as sound: samples in -1..1, as long as the row's own, at the model's rate."""
    language = tokenizer_of(subject).tgt_lang.strip("_")
    name_languages(subject, model, language)
    sound, lengths = model.generate(**inputs, tgt_lang=language, max_new_tokens=new_tokens, do_sample=False)
    return [samples[: int(length)].float().cpu().numpy() for samples, length in zip(sound, lengths, strict=True)]


def name_languages(subject: Subject, model: "PreTrainedModel", language: str) -> None:
    """Give ``model.generation_config`` what a checkpoint has there, for one language, where it has none: the codes of
    the language for each of the model's parts, and the characters of which the tokens are made."""
    tokenizer, config = tokenizer_of(subject), model.config
    tokens = {str(number): token for token, number in tokenizer.get_vocab().items()}
    characters = sorted({character for line in texts.corpus() for character in line})
    known = {
        "text_decoder_lang_to_code_id": {language: tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)},
        "t2u_lang_code_to_id": {language: config.t2u_vocab_size - 1},
        "vocoder_lang_code_to_id": {language: 0},
        "id_to_text": tokens,
        # the first are special: padding, unknown, begin and end
        "char_to_id": {character: 4 + number for number, character in enumerate(characters)},
    }
    for name, value in known.items():
        if not hasattr(model.generation_config, name):
            setattr(model.generation_config, name, value)

"""A configuration's token ids, made those of its tokenizer, each in the role that it has in the real checkpoints."""

import re

from transformers import PreTrainedTokenizerBase

from proofbook.compat import PreTrainedConfig, usual_of
from proofbook.subject.tokenizers.choice import size_fields, text_first

_ROLES = ("pad", "bos", "eos", "unk", "sep", "cls", "mask", "question")
_NAMED = re.compile(rf"({'|'.join(_ROLES)})_(?:token_id|token_index|index)")
# what stands in for a role that a tokenizer does not have: a BERT begins with [CLS] and ends with [SEP]
_STAND_INS = {"bos": ("cls", "eos", "sep"), "eos": ("sep",), "cls": ("bos",), "sep": ("eos",)}
# the ids that generation takes from the configuration, and that have a role of another name
_GENERATION = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
# where decoding starts, in a tokenizer that has a token for just that
_START = "<|startoftranscript|>"


def align_text(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the token ids of a configuration, and of the parts of it that read text, to those of a tokenizer, in place.

    ``bos_token_id``, ``mask_index`` and the like are what their names say, None where the tokenizer has no such token.
    The token that decoding starts with, or is forced to begin or end with, is the one whose id it equals in the
    defaults of the architecture's class: the padding for Marian, the end of a sentence for BART; without a default, it
    starts with the target language's code or the padding. A vocabulary larger than the tokenizer's, or of no size
    stated, gets the tokenizer's size.
    """
    parts = text_first(config)
    named = [part for name, part in parts.items() if "text" in name]
    if "vocab_size" in vars(config) or not named:
        _align(config, tokenizer)
    # where none is named after text, as in an encoder-decoder of two language models, all may read it
    own = vars(config).get("vocab_size")
    for part in named or parts.values():
        # a part with a vocabulary unlike that of the whole reads something else, as proteins
        if named or own is None or vars(part).get("vocab_size", own) == own:
            align_text(part, tokenizer)


def _align(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    usual = usual_of(type(config))
    for name in list(vars(config)):
        if match := _NAMED.fullmatch(name):
            # a role that the architecture leaves open gets no stand-in
            is_open = getattr(usual, name, None) is None
            setattr(config, name, _token_id(tokenizer, match[1], stand_ins=not is_open))
    for name in _GENERATION:
        default = getattr(usual, name, None)
        if default is not None:
            setattr(config, name, _token_id(tokenizer, _role_of(default, usual)))
    _align_size(config, tokenizer)
    if getattr(config, "is_encoder_decoder", False):
        _align_start(config, usual, tokenizer)


def _align_start(config: PreTrainedConfig, usual: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if _START in tokenizer.get_vocab():
        config.decoder_start_token_id = tokenizer.convert_tokens_to_ids(_START)
    elif getattr(usual, "decoder_start_token_id", None) is None:
        decoder = getattr(usual, "decoder", None)
        begins = getattr(decoder, "bos_token_id", None) is not None  # a decoder with a start of its own
        config.decoder_start_token_id = _token_id(tokenizer, "bos") if begins else _open_start(tokenizer)


def decoding_start(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token that decoding starts with: the configuration's, else the one that it leaves open."""
    start = getattr(config, "decoder_start_token_id", None)
    return _open_start(tokenizer) if start is None else start


def _open_start(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Where the architecture states no start: the target language, else the padding, as in T5."""
    language = target_language_id(tokenizer)
    return tokenizer.pad_token_id if language is None else language


def _align_size(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """No more tokens than the tokenizer has, so that every token which the model may write can be read."""
    if not tokenizer.vocab_files_names:
        return  # it works on bytes or characters, and the model counts in its own way
    ids = [*tokenizer.get_vocab().values(), *getattr(tokenizer, "lang_code_to_id", {}).values()]
    size = max(ids) + 1
    for name in vars(config).keys() & size_fields(config):
        setattr(config, name, min(getattr(config, name) or size, size))


def _role_of(token_id: int, usual: PreTrainedConfig) -> str:
    """The role of that id in the defaults of a class; ``eos`` where no other has it."""
    roles = ("eos", "pad", "bos", "sep", "cls")
    return next((role for role in roles if getattr(usual, f"{role}_token_id", None) == token_id), "eos")


def _token_id(tokenizer: PreTrainedTokenizerBase, role: str, stand_ins: bool = True) -> int | None:
    for name in (role, *(_STAND_INS.get(role, ()) if stand_ins else ())):
        token_id = getattr(tokenizer, f"{name}_token_id", None)
        if isinstance(token_id, int):
            return token_id
    return None


def target_language_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the code of the tokenizer's target language; None where it has no languages."""
    code = getattr(tokenizer, "tgt_lang", None)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in (f"__{code}__", code)] if code else []
    return next((token_id for token_id in ids if token_id != tokenizer.unk_token_id), None)

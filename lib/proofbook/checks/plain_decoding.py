"""Plain decoding, for scripts as ``plain.py`` is: a prompt read in parts behind a cache, and what generate writes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, StaticCache

from proofbook.checks.plain import allowances, placed
from proofbook.checks.streams import rows_of
from proofbook.checks.truth import CALL_SEED


def read_part(
    model: nn.Module,
    prompt: Mapping[str, Any],
    start: int,
    stop: int,
    dtype: torch.dtype,
    reading: Mapping[str, Any],
    kept: Any = None,
) -> Any:
    """Call a model on the tokens from ``start`` to before ``stop`` of a prompt, behind the cache of those before.

    Args:
        reading: by ``streamed``, which arguments have an entry a token and in which dimension; by ``again``, what is
            given to every call and not only to the first; by ``mask``, the argument of that name, and by ``masked``,
            whether the first call and later ones are given it; by ``cache``, the argument that takes the cache; by
            ``switch``, the one that turns it on.
        kept: the cache, or None, with which the class makes its own.
    """
    streamed = reading["streamed"]
    given = {
        name: value.narrow(streamed[name], start, stop - start) if name in streamed else value
        for name, value in prompt.items()
        if not start or name in streamed or name in reading["again"]
    }
    given.pop(reading["mask"], None)
    if reading["masked"][1 if start else 0]:  # of all that was read so far
        given[reading["mask"]] = prompt[reading["mask"]][:, :stop]
    more = {} if kept is None else {reading["cache"]: kept}
    return model(**placed(model, given, dtype), **dict.fromkeys(reading["switch"], True), **more)


def read_in_parts(
    model: nn.Module,
    prompt: Mapping[str, Any],
    sizes: list[int],
    dtype: torch.dtype,
    reading: Mapping[str, Any],
    kept: Any = None,
) -> Tensor:
    """The scores of a prompt read in parts of these sizes, each behind the cache of those before."""
    parts, start, length = list[Tensor](), 0, prompt[reading["tokens"]].shape[1]
    for size in sizes:
        stop = min(start + size, length)
        if stop > start:
            outputs = read_part(model, prompt, start, stop, dtype, reading, kept)
            parts.append(outputs.logits.cpu())
            start, kept = stop, getattr(outputs, reading["cache"])
    return torch.cat(parts, dim=1)


def empty_cache(kind: str, model: Any, room: int, second: bool) -> Any:
    """An empty cache of a kind, for a decoder that may be second to an encoder; one of fixed size has some room."""
    config = model.config.get_text_config(decoder=True)
    more: dict[str, Any] = {"offloading": True} if "offloaded" in kind else {}
    if "static" in kind:
        return StaticCache(config=config, max_cache_len=room, **more)
    # one that knows no configuration keeps everything
    made = DynamicCache() if kind == "dynamic without a configuration" else DynamicCache(config=config, **more)
    # of what an encoder gave a decoder reads all, whatever windows its own tokens have
    return EncoderDecoderCache(made, DynamicCache()) if second else made


def generated(
    model: Any,
    prompt: Mapping[str, Any],
    dtype: torch.dtype,
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> Any:
    """What ``generate`` gives by a configuration and by arguments of its own, with the scores that it went by."""
    model.generation_config = GenerationConfig(**configuration)
    torch.manual_seed(CALL_SEED)
    asked = {**generation, "output_logits": True, "output_scores": True, "return_dict_in_generate": True}
    return model.generate(**placed(model, prompt, dtype), **asked)


def texts(
    prompt: Mapping[str, Any], sequences: Tensor, new: int, reading: Mapping[str, Any]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Arguments of forward calls over what was generated, the last token left out: some of the rows, and theirs.

    Args:
        sequences: rows × tokens, the last ``new`` of them written; several rows of each of the prompt's with beams.
        reading: by ``tokens``, the argument that takes them; by ``streamed``, which arguments have an entry a token and
            in which dimension; by ``apart``, whether rows can be read one by one; by ``mask``, the argument that tells
            the padding, without which rows are then read; by ``switch``, the argument that turns a cache on.
    """
    every = list(range(len(sequences)))
    times = len(every) // len(next(value for value in prompt.values() if isinstance(value, Tensor)))
    for rows in [[row] for row in every] if reading["apart"] else [every]:
        text = rows_of(prompt, torch.tensor(rows) // times) if reading["apart"] else dict(prompt)
        for name in reading["streamed"].keys() & text.keys():  # whatever goes with the tokens goes on as it ends
            dim = reading["streamed"][name]
            last = text[name].narrow(dim, text[name].shape[dim] - 1, 1)
            text[name] = torch.cat([text[name], last.repeat_interleave(new - 1, dim)], dim)
        text[reading["tokens"]] = sequences[rows, :-1]
        if reading["apart"]:
            text = unpadded(text, reading)
        yield rows, {**text, **dict.fromkeys(reading["switch"], False)}


def likeliest_of(
    scores: Tensor,
    tokens: Tensor,
    generation: Mapping[str, Any],
    tolerance: Mapping[str, float],
    noise: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> None:
    """Assert that each token is among the likeliest, those that lie within the error allowed of them included.

    Args:
        scores: rows × tokens × vocabulary.
        tokens: rows × tokens.
        generation: how they were written: among how many (``top_k``), and which never (``suppress_tokens``).
        noise: as the references of ``agree``.
    """
    among, margin = generation.get("top_k", 1), 2 * allowances("logits", scores, tolerance, noise)[-1]
    scores = scores.index_fill(-1, torch.tensor(generation.get("suppress_tokens", []), dtype=torch.long), -torch.inf)
    least = scores.topk(among).values[..., -1] - margin
    unlikely = int((scores.gather(-1, tokens[..., None])[..., 0] < least).sum())
    assert not unlikely, f"observed {unlikely} tokens that are not among the {among} likeliest, allowed 0"


def unpadded(text: Mapping[str, Any], reading: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of one row without its padding."""
    mask, streamed = reading["mask"], reading["streamed"]
    if mask not in streamed:
        return dict(text)
    seen = text[mask][0].nonzero().flatten()
    return {**text, **{name: text[name].index_select(dim, seen) for name, dim in streamed.items()}}

"""Relations between the numbers of one configuration that the maps of single numbers can't keep by themselves.

Each takes the fields as they were, with their stacks already cut to the layers that stay, and the fields as mapped,
which it corrects in place.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proofbook.subject.shrink_rules import Role, width


@dataclass(frozen=True)
class Fields:
    """The fields of one configuration: as they were, what each means, and as they become."""

    old: Mapping[str, Any]
    roles: Mapping[str, Role]
    new: dict[str, Any]
    # the library's common name of a field, by the name that this configuration gives it
    common: Mapping[str, str]

    def named(self, common: str, *others: str) -> str | None:
        """The field of that common name, or the first of the others that is one number."""
        own = [name for name in self.old if self.common.get(name, name) == common]
        return next((name for name in (*own, *others) if type(self.old.get(name)) is int), None)

    def numbers(self, role: Role) -> list[str]:
        """The fields of a role that are one positive number."""
        return [n for n, v in self.old.items() if self.roles[n] is role and type(v) is int and v > 0]

    @property
    def hidden(self) -> str | None:
        return self.named("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "encoder_hidden_size", "hidden_dim")


def each(value: Any, change: Callable[[int], int]) -> Any:
    """A number, or the numbers of nested lists, changed where they are positive."""
    if isinstance(value, (list, tuple)):
        return type(value)(each(item, change) for item in value)
    return change(value) if type(value) is int and value > 0 else value


def grouped_heads(fields: Fields) -> None:
    """Where several query heads share a key and value head, they still do."""
    queries = fields.numbers(Role.HEADS)
    for name in queries:
        if _shared(name) and (query := _query_of(name, queries)):
            small, large = fields.old[name], fields.old[query]
            if 1 < small < large and fields.new[name] >= fields.new[query] > 1:
                fields.new[name] = fields.new[query] // 2


def _shared(name: str) -> bool:
    return "key" in name or "kv" in name


def _query_of(name: str, queries: list[str]) -> str | None:
    """The field that counts the heads which share those of ``name``."""
    if "key_heads" in name:
        return name.replace("key", "value") if name.replace("key", "value") in queries else None
    alike = (name.replace(part, whole) for part in ("key_value", "kv") for whole in ("attention", "query"))
    usual = ("num_attention_heads", "num_heads", "n_heads", "n_head")
    return next((query for query in (*alike, *usual) if query in queries and query != name), None)


_FILLER = {"num", "n", "d", "head", "heads", "dim", "size", "attention", "hidden", "headdim"}


def _subject(name: str) -> frozenset[str]:
    """What a field is about: its words without those that all such fields have."""
    return frozenset(name.split("_")) - _FILLER


def head_dims(fields: Fields) -> None:
    """Heads × the width of a head keeps its relation to the width that it fills."""
    counts = {_subject(name): name for name in reversed(fields.numbers(Role.HEADS))}
    for name in fields.numbers(Role.HEAD_DIM):
        count = counts.get(_subject(name))
        if count is None:
            continue
        filled = fields.old[name] * fields.old[count]
        equal = [k for role in (Role.WIDTH, Role.INNER) for k in fields.numbers(role) if fields.old[k] == filled]
        hidden = fields.hidden
        if hidden in equal or (not equal and hidden is None):
            equal = [hidden] if hidden else []
        if equal:
            fields.new[name] = max(2, fields.new[equal[0]] // fields.new[count])
        elif hidden:
            ratio = filled / fields.old[hidden]
            if not (ratio.is_integer() or (1 / ratio).is_integer()):
                ratio = 2.0 if ratio > 1 else 0.5
            fields.new[name] = max(2, int(fields.new[hidden] * ratio) // fields.new[count])


def inner_widths(fields: Fields) -> None:
    """The inner width of a feed-forward block is one to four times the hidden width, as it was."""
    hidden = fields.hidden

    def inner(n: int) -> int:
        if hidden is None:
            return width(n)
        return int(fields.new[hidden] * min(4, max(1, round(n / fields.old[hidden]))))

    for name, value in fields.old.items():
        if fields.roles[name] is Role.INNER and name != hidden:
            fields.new[name] = each(value, inner)


def base_widths(fields: Fields, most: int = 256) -> None:
    """A width that doubles with every stage stays small where there are many of them."""
    doublings = max(
        (len(v) for k, v in fields.old.items() if k.endswith("ratios") and isinstance(v, (list, tuple))), default=0
    )
    for name in fields.numbers(Role.BASE):
        fields.new[name] = min(fields.new[name], max(2, most >> doublings))


def sums(fields: Fields) -> None:
    """A list of widths that fills another width still does."""
    whole = {fields.old[name]: name for name in reversed(fields.numbers(Role.WIDTH))}
    if fields.hidden:
        whole[fields.old[fields.hidden]] = fields.hidden
    for name, value in fields.old.items():
        parts = value if isinstance(value, (list, tuple)) and all(type(n) is int for n in value) else ()
        if fields.roles[name] is Role.WIDTH and len(parts) > 1 and sum(parts) in whole:
            fields.new[name] = type(parts)(apportion(list(parts), fields.new[whole[sum(parts)]]))


def apportion(parts: list[int], total: int) -> list[int]:
    """Whole numbers in the proportions of ``parts`` that sum to ``total``, at least one each; ``total`` has to have
    as many."""
    small = [max(1, n * total // sum(parts)) for n in parts]
    while excess := sum(small) - total:  # the largest gives, one by one, or takes all that is left
        small[small.index(max(small))] -= 1 if excess > 0 else excess
    return small


def position_features(fields: Fields) -> None:
    """Half of a width encodes the vertical position, half the horizontal one."""
    half = fields.old.get("num_pos_feats")
    whole = [name for name in fields.numbers(Role.WIDTH) if half and fields.old[name] == 2 * half]
    if whole:
        fields.new["num_pos_feats"] = fields.new[whole[0]] // 2


def joined_heads(fields: Fields) -> None:
    """A head that joins a part with positions to one without is as wide as both (DeepSeek-AI, 2024, multi-head latent
    attention)."""
    parts = ("qk_nope_head_dim", "qk_rope_head_dim")
    whole = fields.old.get("qk_head_dim")
    if type(whole) is int and whole == sum(fields.old.get(part) or 0 for part in parts):
        fields.new["qk_head_dim"] = sum(fields.new[part] for part in parts)


def merged_windows(fields: Fields) -> None:
    """A window measured in pixels, where patches are merged, holds two merged patches a side."""
    merged, patch = fields.old.get("spatial_merge_size"), fields.old.get("patch_size")
    window = fields.old.get("window_size")
    if type(merged) is int and type(patch) is int and type(window) is int and window % (merged * patch) == 0:
        fields.new["window_size"] = min(window, 2 * merged * patch)


def experts(fields: Fields) -> None:
    """Fewer experts are chosen than there are, and a group of them is chosen before its members."""
    for name in fields.numbers(Role.EXPERT_GROUPS):
        fields.new[name] = min(2, fields.old[name]) if "top" not in name else 1


def offsets(fields: Fields) -> None:
    """The layer of a period that is of the other kind lies within the shorter period."""
    for name in fields.old:
        period = name.replace("_offset", "_period")
        if name != period and type(fields.old.get(period)) is int:
            fields.new[name] = min(fields.old[name], fields.new[period] - 1)


def rotary(fields: Fields) -> None:
    """Rotary embeddings: as much of a head is rotated, sections fill it, and scaling starts within the positions."""
    head = _head_widths(fields)
    for name, value in fields.old.items():
        if "rope" in name and isinstance(value, dict):
            fields.new[name] = _rope(value, fields, head)
        elif name in ("rotary_dim",) and type(value) is int and head:
            fields.new[name] = max(2, 2 * round(value * head[1] / head[0] / 2))
        elif name in ("partial_rotary_factor", "rotary_pct", "rope_pct") and isinstance(value, float) and value < 1:
            fields.new[name] = _rotated(value, head)


def _rotated(share: float, head: tuple[int, int] | None) -> float:
    """The share of a head that is rotated: as it was where that is two pairs or more, else half of it."""
    rotated = share * head[1] if head else 0
    return share if rotated >= 4 and rotated % 2 == 0 else 0.5


def _head_widths(fields: Fields) -> tuple[int, int] | None:
    if (name := fields.named("head_dim")) is not None:
        return fields.old[name], fields.new[name]
    count, hidden = fields.named("num_attention_heads", "num_heads", "n_heads"), fields.hidden
    if count is None or hidden is None or not fields.old[count]:
        return None
    return fields.old[hidden] // fields.old[count], fields.new[hidden] // fields.new[count]


def _rope(rope: dict[str, Any], fields: Fields, head: tuple[int, int] | None) -> dict[str, Any]:
    if any(isinstance(value, dict) for value in rope.values()):  # one by type of layer
        return {k: _rope(v, fields, head) if isinstance(v, dict) else v for k, v in rope.items()}
    new = dict(rope)
    rotated = rope.get("partial_rotary_factor") or 1.0
    if rotated < 1:
        new["partial_rotary_factor"] = _rotated(rotated, head)
    pairs = None if head is None else int(head[1] * new.get("partial_rotary_factor", 1.0)) // 2
    for key, value in rope.items():
        if isinstance(value, (list, tuple)) and pairs:
            if key.endswith("_factor"):
                new[key] = [value[index * len(value) // pairs] for index in range(pairs)]
            elif "section" in key and head:
                new[key] = apportion(list(value), max(len(value), round(sum(value) / (head[0] * rotated) * 2 * pairs)))
    positions = fields.named("max_position_embeddings")
    if (original := rope.get("original_max_position_embeddings")) and positions:
        ratio = fields.old[positions] / original
        new["original_max_position_embeddings"] = max(8, int(fields.new[positions] / max(1.0, ratio)))
    return new


def attention_scale(fields: Fields) -> None:
    """A scale of attention that follows from the width of a head, as its inverse or the root of it, still does."""
    head = _head_widths(fields)
    if head is None:
        return
    scalar = fields.old.get("query_pre_attn_scalar")
    if isinstance(scalar, (int, float)):
        fields.new["query_pre_attn_scalar"] = type(scalar)(scalar * head[1] / head[0])
    if isinstance(multiplier := fields.old.get("attention_multiplier"), float):
        for power in (-1.0, -0.5):
            if math.isclose(multiplier, head[0] ** power, rel_tol=0.01):
                fields.new["attention_multiplier"] = head[1] ** power


def pixel_windows(fields: Fields) -> None:
    """Windows of patches are smaller than the grid of the first stage and no larger than that of the last; they
    divide it, or need padding, as they did."""
    image, patch, window = (fields.named(name) for name in ("image_size", "patch_size", "window_size"))
    if image is None or patch is None or window is None or not fields.old[window]:
        return
    halvings = len(fields.old.get("depths") or [0]) - 1
    before, after = (numbers[image] // numbers[patch] >> halvings for numbers in (fields.old, fields.new))
    if halvings:
        fields.new[window] = max(2, min(fields.new[window], after))
    else:
        fields.new[window] = 2 if before % fields.old[window] == 0 else 3


def labels(fields: Fields, most: int = 10) -> None:
    """At most so many classes; names for those that a class counts and does not name."""
    names, count = fields.old.get("id2label"), fields.old.get("num_labels")
    if names is None and type(count) is int:
        names = {index: f"LABEL_{index}" for index in range(count)}
        fields.new["num_labels"] = min(count, most)
    if isinstance(names, dict) and len(names) > most:
        fields.new["id2label"] = dict(list(names.items())[:most])
        fields.new["label2id"] = {label: index for index, label in fields.new["id2label"].items()}


RELATIONS: tuple[Callable[[Fields], None], ...] = (
    grouped_heads,
    head_dims,
    inner_widths,
    base_widths,
    sums,
    position_features,
    joined_heads,
    pixel_windows,
    experts,
    offsets,
    rotary,
    attention_scale,
    pixel_windows,
    merged_windows,
    labels,
)

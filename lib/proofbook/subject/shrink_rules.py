"""What a number in a configuration means, read from its name, and the smaller number that can stand for it.

Every map is monotone and the same across a whole configuration tree, so that what was equal stays equal: a tower's
output width still fits the projector that reads it. Widths map to powers of two, so that what divides still divides.
"""

import re
from collections.abc import Callable
from enum import Enum, auto


class Role(Enum):
    """What a number counts or measures."""

    KEEP = auto()  # kernels, strides, rates, channels of the raw signal: the architecture itself
    LAYERS = auto()  # layers of a stack
    STAGES = auto()  # a list of layers by stage
    HEADS = auto()
    CHOOSERS = auto()  # heads that choose which tokens are attended to: rectified, few would often tie at zero
    HEAD_DIM = auto()
    INNER = auto()  # the inner width of a feed-forward block
    WIDTH = auto()
    BASE = auto()  # the width of the first of several stages, each twice as wide
    GROUPED = auto()  # the same, where the norms of all stages have 32 groups
    CHANNELS = auto()  # of a spectrum, where there are not too many
    VOCABULARY = auto()
    TOKEN = auto()  # the id of a token
    POSITIONS = auto()
    WINDOW = auto()  # a neighbourhood of tokens
    PIXEL_WINDOW = auto()  # a neighbourhood of patches
    PERIOD = auto()  # every n-th layer is of another kind
    LEADING = auto()  # the first n layers are of another kind
    EXPERTS = auto()
    TOP_K = auto()
    EXPERT_GROUPS = auto()
    GROUPS = auto()
    QUERIES = auto()  # learned queries, latents
    FRAMES = auto()
    PIXELS = auto()  # the side of an image
    GRID = auto()  # the side of a grid of patches, in proportion to the image's
    PATCHES = auto()  # a count of patches, in proportion to the image's area
    BUDGET = auto()  # the most patches of an image that has no size of its own
    CODEBOOKS = auto()
    UNIT = auto()  # a multiplier of widths or depths: 1


# the first expression that matches a whole name decides; before all others those of names that look like another role's
_NAMES: tuple[tuple[Role, tuple[str, ...]], ...] = (
    (Role.KEEP, (".*_(layer|hook)_ids", "patch_embed_hidden_size")),
    (Role.TOKEN, (".*_ids?", ".*_token_index", ".*_tokens")),
    (Role.WIDTH, (".*hidden_channels",)),
    (Role.UNIT, ("(width|depth)_(coefficient|multiplier)", "ngram", "num_res_blocks", "channel_multiplier")),
    (Role.UNIT, ("depth_mult",)),
    (Role.KEEP, ("num_(feat_extract|conv)_layers", "num_stages", "num_encoder_blocks", ".*block_configs")),
    (Role.KEEP, ("(.*_)?(kernel|stride|padding|dilation|ratio|factor|rate)(s|_.*)?", "resblock_.*", "hop_length")),
    (
        Role.KEEP,
        (
            "(num|audio|input|image)_channels",
            "n_mels",
            "mel_dim",
            ".*_bins",
            "feature_projection_input_dim",
            ".*spectrogram.*",
            ".*bucket.*",
        ),
    ),
    (Role.KEEP, (".*(type|char|modality)_vocab_sizes?", "max_(2d|rel).*", "segment_means_seq_len", "num_landmarks")),
    (Role.STAGES, ("depths", "block_sizes", "blocks_per_stage", "stage_num_blocks", "num_block_repeats")),
    (Role.STAGES, (".*numb_of_layers",)),
    (
        Role.VOCABULARY,
        (".*vocab(_size.*|ulary_size)?", ".*codebook_size", "num_(embeddings|clusters|(bpe|wordpiece)_labels)"),
    ),
    (
        Role.TOP_K,
        (".*experts_per_tok(en)?", "moe_top_?k", "moe_k", "num_selected_experts", "top_k_experts", "num_topk"),
    ),
    (Role.KEEP, (".*shared_experts?",)),
    (Role.EXPERTS, ("((num|n|moe_num)_)?((local|routed)_)?experts", ".*num_experts", "zero_expert_num")),
    (Role.EXPERT_GROUPS, ("n_group", "num_expert_group", "topk_group", "n_expert_groups?")),
    (Role.GROUPS, (".*_groups", ".*ngroups", "num_windows")),
    (Role.WINDOW, (".*(sliding_window|attention_window|attention_chunk)(_size)?", "local_(attention|radius)")),
    (Role.WINDOW, (".*attn_chunk_length", "((global|index)_)?block_size", "index_(topk|kpool)")),
    (Role.PIXEL_WINDOW, ("window_size(_per_stage)?",)),
    (Role.PERIOD, (".*_every_n_layers", ".*_(interval|period|frequency)", ".*window_pattern", ".*sparse_step")),
    (Role.PERIOD, (".*layer_(freq|step)",)),
    (Role.LEADING, ("first_k_dense_replace", "num_kv_shared_layers", "num_dense_layers", "moe_layer_start_index")),
    (Role.LEADING, ("num_(first|last)_.*layers", "max_window_layers")),
    (Role.POSITIONS, (".*max_position_embeddings", "n_positions", ".*max_.*positions", "max_(en|de)coder_position.*")),
    (Role.POSITIONS, (".*max_seq_len", ".*seq_len", ".*context_length", "n_ctx", "(model_)?max_length", "mem_len")),
    (Role.POSITIONS, ("max_text_len(gth)?", "max_ep_len")),
    (Role.QUERIES, (".*(num|n)_queries.*", "num_query_tokens", ".*n(um)?_latents.*", "num_detection_tokens")),
    (Role.QUERIES, ("num_prompts", "num_global_tokens", ".*num_proposals", "latent_query_num")),
    (Role.FRAMES, ("num_(image_|stacked_)?frames", "frames_per_clip")),
    (Role.PIXELS, (".*(image|img)_size", "resolution", "crop_size", "spec_size")),
    (Role.GRID, ("image_embedding_size", "image_grid_pinpoints", "low_res_mask_size", ".*feature_sizes")),
    (Role.GRID, (".*rope_feat_sizes", "posemb_grid_size")),
    (
        Role.PATCHES,
        ("num_patches", "mm_tokens_per_image", "image_seq_length", "num_(image_tokens|position_embeddings)"),
    ),
    (Role.BUDGET, ("max_num_patches",)),
    (Role.CODEBOOKS, ("(num|n)_codebooks", "num_quantizers", "num_code_groups")),
    (Role.HEAD_DIM, ("(.*_)?head_(dim|size)", "(.*_)?dim_head", "d_kv", "(.*_)?d_head", "kv_channels", ".*_headdim")),
    (Role.CHOOSERS, ("index(er)?_n_heads",)),
    (Role.HEADS, ("(.*_)?(num|n)_(.*_)?heads?(_per_.*)?", "(.*_)?heads", "n_head")),
    (Role.INNER, (".*intermediate_(size|dim).*", ".*(ffn|mlp)_dim", ".*ffn_hidden_size", "d_ff", "dff", "dim_ff")),
    (Role.INNER, (".*feed_?forward(_.*)?(_size|_dim)", ".*dim_feedforward", "n_inner", "d_inner", ".*linear_units")),
    (Role.LAYERS, ("(.*_)?layers", "(.*_)?depth", "n_layer", "num_blocks", "num_layers.*", ".*_layers_per.*")),
    (Role.GROUPED, ("base_channels",)),
    (Role.BASE, ("num_filters", "initial_filters")),
    (Role.CHANNELS, ("feature_size", "(model_)?in(put)?_dim", "input_feat.*")),
    (Role.KEEP, (".*(patch|chunk|batch|state|merge|group|frame|train)_size", ".*crop")),
    (Role.WIDTH, (".*_sizes?", ".*_dims?", ".*_dimension", ".*_(width|rank|units|filters)", ".*channels?", "d_model")),
    (
        Role.WIDTH,
        (
            ".*(hidden|embed)_(size|dim).*",
            "dim",
            "n_embd",
            "d_latents",
            ".*d_ssm",
            ".*channel_list",
            ".*inplanes",
            "out_features",
            "bottleneck_features",
        ),
    ),
    (Role.WIDTH, ("(out|bottleneck)_features",)),
)
_RULES = tuple((re.compile("|".join(expressions)), role) for role, expressions in _NAMES)


def role_of(name: str) -> Role:
    """What the attribute of that name counts or measures; ``KEEP`` where the name does not say."""
    return next((role for expression, role in _RULES if expression.fullmatch(name)), Role.KEEP)


def width(n: int) -> int:
    """A width: a power of two from 8 to 64; up to 8 as it is."""
    return _step(n, (8, n), (32, 8), (128, 16), (1024, 32), beyond=64)


def head_dim(n: int) -> int:
    """The width of one attention head."""
    return _step(n, (8, n), (64, 8), beyond=16)


def heads(n: int) -> int:
    """Attention heads: the power of two below, at most 4."""
    return _step(n, (1, n), (3, 2), beyond=4)


def _step(n: int, *steps: tuple[int, int], beyond: int) -> int:
    return next((small for limit, small in steps if n <= limit), beyond)


def token(n: int, size: int, small: int) -> int:
    """The id of a token in a vocabulary shrunk from ``size`` to ``small``: it keeps its distance from the nearer end,
    or its order among its neighbours where it lies far from both."""
    if n >= size:
        return small + (n - size) % 64
    if n < small // 2 or small >= size:
        return n
    return small - (size - n) if size - n <= small // 2 else small // 4 + n % (small // 2)


def at_most(limit: int) -> Callable[[int], int]:
    """The map that leaves numbers up to a limit."""
    return lambda n: min(n, limit)


MAPS: dict[Role, Callable[[int], int]] = {
    Role.WIDTH: width,
    Role.BASE: at_most(8),
    Role.GROUPED: at_most(32),
    Role.CHANNELS: lambda n: n if n <= 128 else width(n),
    Role.HEADS: heads,
    Role.CHOOSERS: at_most(16),
    Role.HEAD_DIM: head_dim,
    Role.VOCABULARY: at_most(1024),
    Role.POSITIONS: at_most(512),
    Role.WINDOW: at_most(8),
    Role.PIXEL_WINDOW: at_most(4),
    Role.PERIOD: at_most(2),
    Role.EXPERTS: at_most(4),
    Role.TOP_K: at_most(2),
    Role.GROUPS: lambda n: _step(n, (1, n), (3, 2), beyond=4),
    Role.QUERIES: at_most(8),
    Role.FRAMES: at_most(4),
    Role.BUDGET: at_most(64),
    Role.CODEBOOKS: at_most(8),
    Role.UNIT: at_most(1),
}

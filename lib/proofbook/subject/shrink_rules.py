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
    HEAD_DIM = auto()
    INNER = auto()  # the inner width of a feed-forward block
    WIDTH = auto()
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
    CODEBOOKS = auto()
    UNIT = auto()  # a multiplier of widths or depths: 1


# the first expression that a name matches from its beginning to its end decides
_NAMES: tuple[tuple[str, Role], ...] = (
    (r".*_layer_ids|.*_hook_ids", Role.KEEP),
    (r".*_(id|ids|token_index|tokens)|.*_stream_(b|e)os_id", Role.TOKEN),
    (r"(width|depth)_(coefficient|multiplier)|ngram", Role.UNIT),
    (r"num_(feat_extract|conv)_layers|num_(stages|encoder_blocks)|resblock_.*|.*block_configs", Role.KEEP),
    (r".*(kernel|stride|padding|dilation|ratio|factor|rate|num_mel|mel_dim|hop_length|_in_channels_raw).*", Role.KEEP),
    (r"(num|audio|input|image)_channels|num_mel_bins|n_mels|.*mel_bins|.*spectrogram.*", Role.KEEP),
    (r".*(type|char|modality)_vocab_size(s)?|max_(2d|rel).*|.*_bins|.*buckets|.*bucket.*|segment_means_seq_len|num_landmarks", Role.KEEP),
    (r"depths?_per.*|depths|block_sizes|blocks_per_stage|stage_num_blocks|num_block_repeats|.*numb_of_layers", Role.STAGES),
    (r".*(vocab_size|vocab|vocabulary_size|codebook_size|num_embeddings|num_clusters|vocab_sizes)", Role.VOCABULARY),
    (r".*(experts_per_tok(en)?|moe_top_?k|moe_k|num_selected_experts|index_topk|top_k_experts|num_topk)", Role.TOP_K),
    (r".*(shared_experts?|zero_expert_num)", Role.KEEP),
    (r"(num|n|moe_num)_(local_|routed_)?experts|num_(routed_|local_)?experts|moe_num_experts|.*num_experts", Role.EXPERTS),
    (r"n_group|num_expert_group|topk_group|n_expert_groups?", Role.EXPERT_GROUPS),
    (r"(num_groups|.*_groups|n_groups|.*ngroups)", Role.GROUPS),
    (r".*(sliding_window|attention_window|sliding_window_size|attention_chunk_size|attention_window_size)", Role.WINDOW),
    (r"local_attention|local_radius|.*attn_chunk_length|global_block_size|block_size|index_block_size", Role.WINDOW),
    (r"window_size(_per_stage)?", Role.PIXEL_WINDOW),
    (r".*(_every_n_layers|_interval|window_pattern|_period|sparse_step|_frequency|layer_freq|_layer_step)", Role.PERIOD),
    (r"first_k_dense_replace|num_kv_shared_layers|num_dense_layers|moe_layer_start_index|num_(first|last)_.*layers|max_window_layers", Role.LEADING),
    (r".*(max_position_embeddings|n_positions|max_.*positions|max_seq_len|context_length|n_ctx|seq_len)", Role.POSITIONS),
    (r"(model_)?max_length|max_text_len(gth)?|max_ep_len|max_encoder_position.*|max_decoder_position.*|mem_len", Role.POSITIONS),
    (r".*(num|n)_queries.*|num_query_tokens|.*num_latents.*|num_detection_tokens|.*n_latents|num_prompts|num_global_tokens",
     Role.QUERIES),
    (r"two_stage_num_proposals|num_proposals|latent_query_num", Role.QUERIES),
    (r"num_(image_)?frames|frames_per_clip|num_stacked_frames", Role.FRAMES),
    (r".*(image_size|img_size)|resolution|crop_size|spec_size", Role.PIXELS),
    (r"image_embedding_size|image_grid_pinpoints|low_res_mask_size|.*feature_sizes|.*rope_feat_sizes|posemb_grid_size", Role.GRID),
    (r"num_patches|mm_tokens_per_image|image_seq_length|num_image_tokens|num_position_embeddings", Role.PATCHES),
    (r"(num|n)_codebooks|num_quantizers|num_code_groups", Role.CODEBOOKS),
    (r".*_per_layer_(heads|num)", Role.HEADS),
    (r"(.*_)?head_dim|dim_head|.*_dim_head|d_kv|(.*_)?d_head|kv_channels|.*head_size|.*_headdim|.*(nope|rope|v)_head_dim",
     Role.HEAD_DIM),
    (r"(.*_)?(num|n)_(.*_)?heads?(_per_.*)?|(.*_)?(attention_|attn_)?heads|n_head|.*heads_per_stage|.*kv_heads", Role.HEADS),
    (r".*(intermediate_size|ffn_dim|ffn_hidden_size|mlp_dim|d_ff|dff|dim_ff|dim_feedforward|n_inner|linear_units).*",
     Role.INNER),
    (r"d_inner|.*feedforward_dim|.*feed_forward.*size|.*intermediate_dim", Role.INNER),
    (r".*(num|n)?_?(hidden_|encoder_|decoder_)?layers|depth|n_layer|num_blocks|.*_depth|num_layers.*|.*_layers_per.*",
     Role.LAYERS),
    (r"feature_size|(model_)?in(put)?_dim|input_feat.*", Role.CHANNELS),
    (r".*(patch_size|chunk_size|_batch_size|state_size|crop|merge_size|group_size|frame_size|kv_size|train_size)", Role.KEEP),
    (r".*(_size|_sizes|_dim|_dims|d_model|channels|_units|n_embd|_filters|_width|_rank|d_latents|_size_.*|channel_size)",
     Role.WIDTH),
    (r"dim|lru_width|.*hidden_size.*|.*embed_dim.*|.*_emb_size|number_output_channels|.*inplanes|d_state|.*_channel",
     Role.WIDTH),
)  # fmt: skip
_RULES = tuple((re.compile(expression), role) for expression, role in _NAMES)


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
    Role.CHANNELS: lambda n: n if n <= 128 else width(n),
    Role.HEADS: heads,
    Role.HEAD_DIM: head_dim,
    Role.VOCABULARY: at_most(1024),
    Role.POSITIONS: at_most(512),
    Role.WINDOW: at_most(8),
    Role.PIXEL_WINDOW: at_most(4),
    Role.PERIOD: at_most(2),
    Role.LEADING: at_most(1),
    Role.EXPERTS: at_most(4),
    Role.TOP_K: at_most(2),
    Role.GROUPS: lambda n: _step(n, (1, n), (3, 2), beyond=4),
    Role.QUERIES: at_most(8),
    Role.FRAMES: at_most(4),
    Role.CODEBOOKS: at_most(8),
    Role.UNIT: at_most(1),
}

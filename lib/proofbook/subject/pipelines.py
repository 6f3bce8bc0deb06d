"""Pipelines of diffusers: several models behind one call, of which the denoiser is the one that is validated.

A pipeline stands where other models have a processor: it turns raw text into the denoiser's inputs, and what the
denoiser makes into an answer. Its folder holds each component in one of its own, the denoiser's in ``unet``.
"""

from pathlib import Path
from typing import Any

import torch

from proofbook.catalog import Model, load_catalog
from proofbook.subject.draw import build_model, draw_parameters, library_blocks, seeded
from proofbook.subject.processors import align, build_processor, part_of
from proofbook.subject.requirements import check_needs
from proofbook.subject.shrink import tiny_config

# of a text, in tokens
LONGEST = 64


def is_pipeline(spec: Model) -> bool:
    """Whether an entry's class is a pipeline of diffusers rather than a model of transformers."""
    return spec.model_class.endswith("Pipeline")


def write_tiny_pipeline(spec: Model, seed: int, folder: Path) -> Path:
    """Draw every component of a tiny AudioLDM2 from a seed, and write them to a folder.

    The text encoders, their tokenizers and the language model are those of the tiny models of their own types.
    """
    diffusers = _library(spec)
    with library_blocks(spec):
        from transformers import GPT2LMHeadModel, SpeechT5HifiGan, SpeechT5HifiGanConfig, T5EncoderModel

    clap, clap_processor = _tiny("clap", seed)
    t5, t5_tokenizer = _tiny("t5", seed)
    gpt2, _ = _tiny("gpt2", seed)
    gpt2.config.max_new_tokens = 8  # as the checkpoint's configuration says
    with seeded(seed):
        encoder, language = T5EncoderModel(t5.config), GPT2LMHeadModel(gpt2.config)
        width, text = gpt2.config.n_embd, t5.config.d_model
        drawn = {
            "text_encoder_2": encoder,
            "language_model": language,
            "projection_model": diffusers.AudioLDM2ProjectionModel(clap.config.projection_dim, text, width),
            "unet": diffusers.AudioLDM2UNet2DConditionModel(
                block_out_channels=(32, 64),
                layers_per_block=1,
                norm_num_groups=8,
                attention_head_dim=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                # in each block one attention within the sound, one to what is written, one to the text
                cross_attention_dim=((None, width, text),) * 2,
            ),
            "vae": diffusers.AutoencoderKL(
                in_channels=1,
                out_channels=1,
                latent_channels=4,
                block_out_channels=(16, 32),
                norm_num_groups=8,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
            ),
            "vocoder": SpeechT5HifiGan(
                SpeechT5HifiGanConfig(
                    model_in_dim=16,
                    upsample_initial_channel=32,
                    upsample_rates=[4, 4],
                    upsample_kernel_sizes=[8, 8],
                    resblock_kernel_sizes=[3, 7],
                    resblock_dilation_sizes=[[1, 3, 5]] * 2,
                    normalize_before=False,
                )
            ),
        }
    for module in drawn.values():
        draw_parameters(module.eval(), seed)
    tokenizers = [part_of(clap_processor, "tokenizer"), part_of(t5_tokenizer, "tokenizer")]
    for tokenizer in tokenizers:
        tokenizer.model_max_length = LONGEST
    getattr(diffusers, spec.model_class)(
        text_encoder=clap,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        feature_extractor=part_of(clap_processor, "feature_extractor"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        **drawn,
    ).save_pretrained(folder)
    return folder


def _library(spec: Model) -> Any:
    """diffusers, without bars and without advice. Raises :class:`~proofbook.verdict.Blocked`."""
    check_needs(spec)
    with library_blocks(spec):
        import diffusers
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _tiny(name: str, seed: int) -> tuple[Any, Any]:
    """The tiny model of a tracked entry, and its processor."""
    spec = load_catalog().model(name)
    config = tiny_config(spec)
    processor = build_processor(spec, config)
    align(config, processor)
    return build_model(spec, config, seed), processor


def load_pipeline(spec: Model, folder: Path) -> Any:
    """The whole pipeline of a folder, in float32 on the CPU, silent."""
    pipeline = getattr(_library(spec), spec.model_class).from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_denoiser(spec: Model, folder: Path, dtype: torch.dtype | str) -> tuple[Any, dict[str, Any]]:
    """The denoiser of a pipeline's folder, or of one of its own, and the names of parameters that went astray."""
    own = folder / "unet" if (folder / "unet").is_dir() else folder
    model, astray = _library(spec).AudioLDM2UNet2DConditionModel.from_pretrained(
        own, local_files_only=True, output_loading_info=True, torch_dtype=dtype
    )
    return model, astray

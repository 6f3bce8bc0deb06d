"""Tasks of diffusion pipelines, whose model removes noise step by step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

if TYPE_CHECKING:
    import numpy as np

# of how many steps an answer is made, and how long it is
STEPS, SECONDS = 2, 0.04


class TextToAudioDiffusion(Task):
    """A sound from its description. The forward call is one step of the denoiser, from noise of its own a row."""

    names = ("text-to-audio-diffusion",)
    unit = "steps"

    _PROMPTS = ("A hammer hits a wooden surface", "Rain on the roof of an old car, far away", "A dog barks at the gate")

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=prompt) for prompt in self._PROMPTS]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        pipeline = subject.processor
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            texts, mask, written = pipeline.encode_prompt([row.text for row in rows], torch.device("cpu"), 1, False)
        channels, width = pipeline.unet.config.in_channels, pipeline.vocoder.config.model_in_dim
        latents = (len(rows), channels, 8, width // pipeline.vae_scale_factor)
        longest = int(mask.sum(-1).max())
        inputs = {
            "sample": torch.randn(latents, generator=torch.Generator().manual_seed(0)),
            "timestep": torch.tensor([1, 401, 801]),
            "encoder_hidden_states": written,
            # the pipeline pads to the tokenizer's limit: what no row reads is left out
            "encoder_hidden_states_1": texts[:, :longest],
            "encoder_attention_mask_1": mask[:, :longest],
        }
        return Encoded(inputs, len(rows))

    def answer(
        self, subject: Subject, model: Any, rows: Sequence[Row], encoded: Encoded
    ) -> list["np.ndarray[Any, Any]"]:
        pipeline = type(subject.processor)(**{**subject.processor.components, "unet": model}).to(
            model.device, model.dtype
        )
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline([row.text for row in rows], num_inference_steps=STEPS, audio_length_in_s=SECONDS)
        return list(made.audios)


TASKS: tuple[Task, ...] = (TextToAudioDiffusion(),)

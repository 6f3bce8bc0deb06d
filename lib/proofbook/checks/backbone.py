"""Does the architecture's backbone give the feature maps that its configuration says?"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoBackbone
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from proofbook.checks.against import against_truth
from proofbook.checks.compare import Comparison
from proofbook.checks.images import pictures
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.subject.draw import draw_parameters, seeded


@check
def feature_maps(trial: Trial) -> Observation:
    """Each stage of the backbone gives a map of the width it says, right by float64, asked for alone or with others."""
    if trial.config.model_type not in MODEL_FOR_BACKBONE_MAPPING_NAMES:
        raise NotApplicable("the architecture has no backbone class")
    inputs = {"pixel_values": pictures(trial)[:1]}
    # the stem gives no map in some of them
    stages = [name for name in trial.config.stage_names if name != "stem"]
    backbone = _backbone(trial, stages)
    comparisons, outputs = against_truth(trial, backbone, inputs)
    maps = [one for name, one in outputs.items() if name.startswith("feature_maps.")]
    comparisons.append(_documented(stages, backbone.channels, maps))
    at, name = len(stages) // 2, "feature_maps.0"
    alone = trial.run_module(_backbone(trial, [stages[at]]), inputs)
    comparisons += trial.agree({name: alone[name]}, {name: maps[at]}, f", {stages[at]} alone")
    return Observation.of(comparisons, f"1 in each of {len(stages)} stages", ", ".join(stages))


def _backbone(trial: Trial, stages: list[str]) -> Any:
    """The backbone that the configuration makes, which gives the maps of some stages, drawn from the seed."""
    config = copy.deepcopy(trial.config)
    config.out_features = stages
    with seeded(trial.seed):
        backbone = AutoBackbone.from_config(config)
    draw_parameters(backbone, trial.seed)
    return backbone.to(getattr(torch, trial.target.dtype)).eval()


def _documented(stages: list[str], channels: list[int], maps: list[Tensor]) -> Comparison:
    """Whether there is a map a stage, pictures × channels × height × width, none larger than the one before."""
    shapes = [tuple(one.shape) for one in maps]
    wrong = []
    if len(shapes) != len(stages):
        wrong.append(f"{len(shapes)} maps for {len(stages)} stages")
    if [shape[1] for shape in shapes] != list(channels):
        wrong.append(f"maps of {shapes}, should have {channels} channels")
    if any(len(shape) != 4 for shape in shapes):
        wrong.append(f"maps of {shapes}, should have four dimensions")
    return Comparison("shapes of feature maps", shapes[0] if shapes else (), not wrong, "; ".join(wrong))

"""Does the architecture's backbone give the feature maps that its configuration says?"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoBackbone
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

from proofbook.checks.against import against_truth
from proofbook.checks.compare import Comparison
from proofbook.checks.images import pictures
from proofbook.checks.plain import agree, call, draw_widely, eager
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
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
    shapes = _documented(stages, backbone.channels, maps, layout_of(trial.config))
    comparisons.append(shapes)
    at, name = len(stages) // 2, "feature_maps.0"
    if shapes.passed:
        alone = trial.run_module(_backbone(trial, [stages[at]]), inputs)
        comparisons += trial.agree({name: alone[name]}, {name: maps[at]}, f", {stages[at]} alone")
    seen = Observation.of(comparisons, f"1 in each of {len(stages)} stages", ", ".join(stages))
    more = {"alone": at} if shapes.passed else {}
    return replace(seen, evidence={"picture": inputs["pixel_values"], "stages": stages, **more})


@reproduces(feature_maps)
def maps_are_right(
    whole: Any, dtype: torch.dtype, tolerance: Mapping[str, float], picture: Tensor, stages: list[str], alone: int
) -> None:
    """Each stage of the backbone gives a map that is right by float64, asked for alone or with others."""
    backbone, given = backbone_of(whole, stages, dtype), {"pixel_values": picture}
    maps, true = call(backbone, given, dtype), eager(backbone, given, torch.float64)
    noise = eager(backbone, given, dtype), true
    agree(maps, {name: true[name] for name in maps}, tolerance, noise)
    one, weights = backbone_of(whole, [stages[alone]], dtype), backbone.state_dict()
    one.load_state_dict({name: weights[name] for name in one.state_dict()})
    name = f"feature_maps.{alone}"
    agree({name: call(one, given, dtype)["feature_maps.0"]}, {name: maps[name]}, tolerance, noise)


@reproduces(feature_maps)
def maps_have_the_shape_of_their_stages(whole: Any, dtype: torch.dtype, picture: Tensor, stages: list[str]) -> None:
    """Each stage of the backbone gives a map of as many channels as it says, in the documented layout."""
    backbone, layout = backbone_of(whole, stages, dtype), layout_of(whole.config)
    with torch.no_grad():
        maps = backbone(picture.to(whole.device, dtype)).feature_maps
    assert len(maps) == len(stages), f"observed {len(maps)} maps, allowed {len(stages)}"
    for stage, channels, one in zip(stages, backbone.channels, maps, strict=True):
        shape = tuple(one.shape)
        assert len(shape) == len(layout) and shape[layout.index("channels")] == channels, (
            f"map of {stage}: observed {shape}, allowed {' × '.join(layout)} with {channels} channels"
        )


def layout_of(config: Any) -> list[str]:
    """The dimensions of a feature map; some classes leave the tokens of the last layer as they are where told to."""
    maps = getattr(config, "reshape_hidden_states", True)
    return ["pictures", "channels", "height", "width"] if maps else ["pictures", "tokens", "channels"]


def backbone_of(model: Any, stages: list[str], dtype: torch.dtype) -> Any:
    """The backbone that the configuration of a model makes, which gives the maps of some stages."""
    config = copy.deepcopy(model.config)
    config.out_features = stages
    backbone = AutoBackbone.from_config(config).eval()
    draw_widely(backbone)
    return backbone.to(model.device, dtype)


def _backbone(trial: Trial, stages: list[str]) -> Any:
    """The backbone that the configuration makes, which gives the maps of some stages, drawn from the seed."""
    config = copy.deepcopy(trial.config)
    config.out_features = stages
    with seeded(trial.seed):
        backbone = AutoBackbone.from_config(config)
    draw_parameters(backbone, trial.seed)
    return backbone.to(getattr(torch, trial.target.dtype)).eval()


def _documented(stages: list[str], channels: list[int], maps: list[Tensor], layout: list[str]) -> Comparison:
    """Whether there is a map a stage, with the dimensions and the channels that are documented."""
    shapes = [tuple(one.shape) for one in maps]
    wrong = []
    if len(shapes) != len(stages):
        wrong.append(f"{len(shapes)} maps for {len(stages)} stages")
    if any(len(shape) != len(layout) for shape in shapes):
        wrong.append(f"maps of {shapes}, should be {' × '.join(layout)}")
    elif [shape[layout.index("channels")] for shape in shapes] != list(channels):
        wrong.append(f"maps of {shapes}, should have {channels} channels")
    return Comparison("shapes of feature maps", shapes[0] if shapes else (), not wrong, "; ".join(wrong))

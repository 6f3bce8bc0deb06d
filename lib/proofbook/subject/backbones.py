"""Backbones of timm that transformers has as a network of its own."""

import copy
import re

from transformers import ResNetConfig

from proofbook.compat import PreTrainedConfig

# depth: (layers by stage, kind of block, widths by stage), of He et al., 2015, table 1
_RESNETS = {
    18: ([2, 2, 2, 2], "basic", [64, 128, 256, 512]),
    34: ([3, 4, 6, 3], "basic", [64, 128, 256, 512]),
    50: ([3, 4, 6, 3], "bottleneck", [256, 512, 1024, 2048]),
    101: ([3, 4, 23, 3], "bottleneck", [256, 512, 1024, 2048]),
}
# what DETR and its kin read of a ResNet, unless they say otherwise
_LAST_STAGES = (1, 2, 3, 4)


def with_own_backbones(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy in which each ResNet of timm is the library's own ResNet: the same network, needing no other package."""
    config = copy.deepcopy(config)
    for name, part in list(vars(config).items()):
        if isinstance(part, PreTrainedConfig):
            own = _own_resnet(part) if part.model_type == "timm_backbone" else None
            setattr(config, name, own or with_own_backbones(part))
    if getattr(config, "use_timm_backbone", False) and config.backbone_config is None:
        own = _own_resnet(config)  # 4 names a backbone without a configuration of its own
        if own is not None:
            config.use_timm_backbone, config.backbone, config.backbone_config = False, None, own
            config.backbone_kwargs, config.use_pretrained_backbone = {}, False
    return config


def _own_resnet(backbone: PreTrainedConfig) -> ResNetConfig | None:
    found = re.match(r"resnet(\d+)(\.|$)", backbone.backbone or "")
    if found is None or int(found[1]) not in _RESNETS:
        return None
    depths, block, widths = _RESNETS[int(found[1])]
    return ResNetConfig(
        depths=depths,
        layer_type=block,
        hidden_sizes=widths,
        num_channels=getattr(backbone, "num_channels", 3),
        out_indices=list(getattr(backbone, "out_indices", _LAST_STAGES)),
    )

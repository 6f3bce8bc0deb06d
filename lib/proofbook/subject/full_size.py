"""How large the checkpoint is: the real configuration built on the meta device, where tensors have no storage."""

import torch

from proofbook.catalog import Model
from proofbook.compat import no_init_weights
from proofbook.subject.backbones import with_own_backbones
from proofbook.subject.draw import library_blocks, model_class
from proofbook.subject.pipelines import is_pipeline
from proofbook.subject.shrink import full_config


def full_parameters(spec: Model) -> int | None:
    """The parameters of the entry's class in the checkpoint's configuration, tied ones counted once; None for a class
    that the checkpoint brings itself, and for one whose making reads values, which the meta device has none of.

    Raises:
        Blocked: the installed libraries can't build it.
    """
    if spec.trust_remote_code or is_pipeline(spec):
        return None
    kind = model_class(spec)
    try:
        with library_blocks(spec), torch.device("meta"), no_init_weights():
            model = kind(with_own_backbones(full_config(spec)))
            model.tie_weights()
    except RuntimeError as error:
        if "meta tensor" in str(error):
            return None
        raise
    return int(sum(parameter.numel() for parameter in model.parameters()))

"""Tasks of models that fold proteins."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.utils._pytree import register_dataclass

from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# residues by their letters; of the same ones in other orders, so that all have as many atoms and need no padding
PROTEINS = ("MKTAYIAGEF", "FEGAIYATKM", "AYMKGTFIEA")
# steps of the diffusion that places the atoms
STEPS = 2


class ProteinFolding(Task):
    """Coordinates of each atom of a protein from its sequence of residues, as the text of a PDB file."""

    names = ("protein-folding",)
    unit = "residues"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=protein) for protein in PROTEINS]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        from transformers.models.esmfold2.modeling_esmfold2 import EsmFold2AtomInputs

        made = _joined([_features(row) for row in rows])
        atoms = {each.name: made.pop(each.name) for each in fields(_walked(EsmFold2AtomInputs))}
        del made["distogram_atom_idx"]  # which the confidence head reads, behind the forward call
        _align(made)
        return Encoded({**made, "atom_inputs": EsmFold2AtomInputs(**atoms)}, sum(len(row.text or "") for row in rows))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        from transformers.models.esmfold2.protein_utils import output_to_pdb

        found = []
        for row in rows:
            features = {name: one.to(model.device) for name, one in _features(row).items()}
            folded = model.fold(**features, num_diffusion_samples=1, num_sampling_steps=STEPS)
            found.append(output_to_pdb(folded, features))
        return found


def _features(row: Row) -> dict[str, torch.Tensor]:
    from transformers.models.esmfold2.protein_utils import prepare_protein_features

    return dict(prepare_protein_features(row.text or ""))


def _joined(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _align(features: Mapping[str, torch.Tensor]) -> None:
    """Fill in what a sequence by itself has none of: bonds beside those of the chain, and an alignment's deletions."""
    generator = torch.Generator().manual_seed(0)
    for name in ("deletion_value", "deletion_mean"):
        features[name].copy_(torch.rand(features[name].shape, generator=generator))
    bonds = features["token_bonds"]
    bonds.copy_(torch.rand(bonds.shape, generator=generator) < 0.5)


@cache
def _walked(kind: type) -> type:
    """A dataclass of tensors, made known to torch so that they are placed and compared as those of other inputs."""
    register_dataclass(kind)
    return kind


TASKS: tuple[Task, ...] = (ProteinFolding(),)

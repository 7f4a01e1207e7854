"""From a trained run to arrays: the only step of an analysis that needs the model."""

from collections.abc import Callable

import torch

from workbench.collect.generator_evidence import draw_samples, generator_evidence, previewer
from workbench.collect.images import load_images, to_uint8, tokenizer_run, versions
from workbench.collect.tokenizer_evidence import tokenizer_evidence
from workbench.features import get_feature_extractor
from workbench.storage.evidence import Evidence
from workbench.storage.run import Run
from workbench.tokenizers.base import Tokenizer

__all__ = ["collect", "draw_samples", "load_images", "previewer", "to_uint8", "versions"]


def collect(
    run: Run,
    *,
    step: int | None = None,
    limit: int = 2000,
    seed: int = 0,
    guidance: float = 2.0,
    feature_extractor: str = "hog",
    prefixes: bool = True,
    tick: Callable[[int, int], None] | None = None,
) -> Evidence:
    """Write and return the evidence of a run at a step (None: the last): of a tokenizer what it does to at most
    `limit` held-out images, of a generator as many samples as that, at most 64 a class, with classifier-free guidance.
    `feature_extractor` names the network whose features compare sets of images; without `prefixes` a tokenizer's first
    tokens are not decoded alone, which a token budget shows. `tick` hears done and total.
    """
    step = run.steps[-1] if step is None and run.steps else step
    run.checkpoint(step)
    model = run.load(step).to("cuda" if torch.cuda.is_available() else "cpu")
    source = run if isinstance(model, Tokenizer) else tokenizer_run(run)
    teacher = get_feature_extractor(
        feature_extractor, channels=source.config["settings"]["channels"]
    )
    with torch.no_grad():
        if isinstance(model, Tokenizer):
            found = tokenizer_evidence(
                run, step, model, teacher, limit=limit, seed=seed, prefixes=prefixes, tick=tick
            )
        else:
            found = generator_evidence(
                run, model, teacher, limit=limit, seed=seed, guidance=guidance, tick=tick
            )
    found["provenance"] |= {
        "run": run.name,
        "step": step,
        "class": run.config["class"],
        "seed": seed,
    }
    found["provenance"] |= {
        "feature_extractor": teacher.name,
        "settings": run.config["settings"],
        "versions": versions(),
    }
    found["provenance"] |= {"training": run.config.get("training", {})}
    Evidence(**found).save(run.folder / "evidence" / f"step-{step:06d}")
    return run.evidence(step)

"""The errors of an adaptive tokenizer with fixed numbers of tokens."""

import numpy as np

from workbench.collect.batches import ImageBatch
from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.tokenizers.base import SupportsErrorTarget, Tokenizer

MAX_BUDGETS = 32  # each is an encoding and a decoding of all images


@collector("tokenizer", provides=["budgets", "budget_l1"], over="images")
def fixed_budgets(model: Tokenizer, batch: ImageBatch, context: CollectContext) -> Arrays:
    """Encode with fixed numbers of tokens, and measure the errors."""
    if not isinstance(model, SupportsErrorTarget):
        raise NotApplicable(f"{type(model).__name__} cannot encode with a number of tokens.")
    if not model.budgets:
        raise NotApplicable(f"{type(model).__name__} does not state the numbers of tokens.")
    budgets = select_budgets(model.budgets)
    errors = []
    for budget in budgets:
        decoded = model.decode(model.encode(batch.images, budget=budget)).clamp(-1, 1)
        difference = (decoded - batch.images) / 2
        errors.append(difference.abs().mean(dim=(1, 2, 3)).cpu().numpy())
    return {"budgets": np.array(budgets, np.int32), "budget_l1": np.stack(errors)}


def select_budgets(budgets: tuple[int, ...]) -> list[int]:
    """Return at most `MAX_BUDGETS` of the numbers of tokens, at equal distances.

    Examples
    --------
    >>> select_budgets((1, 2, 3))
    [1, 2, 3]
    """
    count = min(len(budgets), MAX_BUDGETS)
    indices = np.linspace(0, len(budgets) - 1, count).round().astype(int)
    return [budgets[index] for index in indices]

"""The errors of an adaptive tokenizer with fixed numbers of tokens."""

import numpy as np

from workbench.collect.collectors.base import Arrays, CollectContext, collector
from workbench.core.errors import NotApplicable
from workbench.data import ImageSet
from workbench.tokenizers.base import SupportsErrorTarget, Tokenizer

MAX_BUDGETS = 32  # each is an encoding and a decoding of all images


@collector("tokenizer", provides=["budgets", "budget_l1"])
def fixed_budgets(model: Tokenizer, images: ImageSet, context: CollectContext) -> Arrays:
    """Encode with fixed numbers of tokens, and measure the errors."""
    if not isinstance(model, SupportsErrorTarget):
        raise NotApplicable(f"{type(model).__name__} cannot encode with a number of tokens.")
    if not model.budgets:
        raise NotApplicable(f"{type(model).__name__} does not state the numbers of tokens.")
    budgets = select_budgets(model.budgets)
    rows = []
    for _, batch in context.batches(images):
        columns = []
        for budget in budgets:
            decoded = model.decode(model.encode(batch, budget=budget)).clamp(-1, 1)
            errors = ((decoded - batch) / 2).abs().mean(dim=(1, 2, 3))
            columns.append(errors.cpu().numpy())
        rows.append(np.stack(columns))
    return {
        "budgets": np.array(budgets, np.int32),
        "budget_l1": np.concatenate(rows, axis=1),
    }


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

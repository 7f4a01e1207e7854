"""Verdicts of `codebook_usage` against the truth, for synthetic codebooks of known sources.

Each book is a sample of tokens from a known distribution over codes. `python -m
benchmarks.codebook_verdicts` writes the table of verdicts to docs/concepts/codebook-verdicts.md;
the same seed gives the same table.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.analysis.codebook.usage import VERDICTS, codebook_stats

PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "codebook-verdicts.md"
BOOKS_PER_SOURCE = 100
SEED = 0
SIZES = (256, 512, 1024, 4096)
SHAPES = ("uniform", "Zipf 0.7", "Zipf 1", "log-normal 1", "log-normal 1.5")
Random = np.random.Generator


@dataclass(frozen=True)
class Source:
    """A kind of codebook, and the verdicts that are right for it."""

    name: str
    expected: tuple[str, ...]
    # Fraction of the codes that can be selected, and tokens per code: from and to.
    alive: tuple[float, float]
    tokens_per_code: tuple[float, float]
    # Fraction of the tokens that fall on any code of the book, whether alive or not.
    stray: float = 0.0


SOURCES = (
    Source(
        name="collapsed: 1 to 45 % of the codes alive",
        expected=("collapsed",),
        alive=(0.01, 0.45),
        tokens_per_code=(2, 100),
    ),
    Source(
        name="collapsed, and few tokens",
        expected=("collapsed", "under-sampled"),
        alive=(0.01, 0.45),
        tokens_per_code=(0.1, 1),
    ),
    Source(
        name="collapsed, and 0.5 % of the tokens on any code",
        expected=("collapsed", "uneven"),
        alive=(0.01, 0.3),
        tokens_per_code=(5, 100),
        stray=0.005,
    ),
    Source(
        name="half dead: 55 to 70 % of the codes alive",
        expected=("borderline",),
        alive=(0.55, 0.7),
        tokens_per_code=(10, 100),
    ),
    Source(
        name="healthy: all codes alive",
        expected=("healthy",),
        alive=(1, 1),
        tokens_per_code=(6, 100),
    ),
    Source(
        name="healthy, and few tokens",
        expected=("under-sampled",),
        alive=(1, 1),
        tokens_per_code=(0.05, 2),
    ),
)


def frequencies(shape: str, alive: int, random: Random) -> np.ndarray:
    """Return the probability of each code that is alive, float (alive,)."""
    name, _, parameter = shape.partition(" ")
    makers: dict[str, Callable[[], np.ndarray]] = {
        "uniform": lambda: np.ones(alive),
        "Zipf": lambda: np.arange(1.0, alive + 1) ** -float(parameter),
        "log-normal": lambda: np.exp(float(parameter) * random.normal(size=alive)),
    }
    weights = makers[name]()
    return weights / weights.sum()


def book(source: Source, random: Random) -> np.ndarray:
    """Return the counts of one book of a source, int (codebook_size,)."""
    size = int(random.choice(SIZES))
    alive = max(1, round(size * random.uniform(*source.alive)))
    tokens_per_code = np.exp(random.uniform(*np.log(source.tokens_per_code)))
    probability = np.zeros(size)
    probability[:alive] = frequencies(str(random.choice(SHAPES)), alive, random)
    probability = (1 - source.stray) * probability + source.stray / size
    return random.multinomial(round(size * tokens_per_code), probability)


def verdicts(source: Source, books: int, seed: int) -> Counter[str]:
    """Return how many books of a source get each verdict."""
    random = np.random.default_rng([seed, SOURCES.index(source)])
    return Counter(codebook_stats(book(source, random)).verdict for _ in range(books))


def num_right(source: Source, counts: Counter[str]) -> int:
    """Return how many of the verdicts are right."""
    return sum(counts[verdict] for verdict in source.expected)


def has_dead_codes(source: Source) -> bool:
    """Return whether some codes of a source are never selected, or only by stray tokens."""
    return source.alive[1] < 1


def page() -> str:
    """Return the page with the table of verdicts."""
    lines = [
        "# Verdicts on codebooks",
        "",
        "`codebook_usage` calls a codebook collapsed, borderline, uneven, under-sampled or healthy;"
        " its reference",
        "states the rule. This table counts its verdicts on synthetic codebooks whose source is"
        " known: uniform, Zipf",
        "(exponents 0.7 and 1) and log-normal (1 and 1.5) frequencies of the codes that are alive,"
        " 256 to 4,096 codes.",
        "It is written by `python -m benchmarks.codebook_verdicts`.",
        "",
        f"| source | tokens per code | {' | '.join(VERDICTS)} | right |",
        "| --- | --- |" + " --- |" * (len(VERDICTS) + 1),
    ]
    right = 0
    healthy = 0
    for source in SOURCES:
        counts = verdicts(source, BOOKS_PER_SOURCE, SEED)
        right += num_right(source, counts)
        if has_dead_codes(source):
            healthy += counts["healthy"]
        cells = []
        for verdict in VERDICTS:
            is_expected = verdict in source.expected
            cells.append(f"**{counts[verdict]}**" if is_expected else str(counts[verdict]))
        low, high = source.tokens_per_code
        lines.append(
            f"| {source.name} | {low:g} to {high:g} | {' | '.join(cells)} |"
            f" {num_right(source, counts)} of {BOOKS_PER_SOURCE} |"
        )
    total = BOOKS_PER_SOURCE * len(SOURCES)
    lines += [
        "",
        f"Right verdicts, in bold: {right} of {total} ({100 * right / total:.1f} %). Collapsed or"
        f" half-dead codebooks that are called healthy: {healthy}.",
        "",
        "A collapsed codebook with few tokens cannot always be distinguished from a skewed source"
        " with rare codes, so",
        "that *under-sampled* is right there, too. If stray tokens reach every code, all codes are"
        " reachable, and the",
        "right verdict is *uneven*.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))

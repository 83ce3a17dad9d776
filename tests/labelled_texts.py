"""Small generated labelled texts: one set that words tell apart, one that only the order of words does."""

import random
from pathlib import Path

COLOURS, BEASTS = ("red", "blue", "green", "grey"), ("cat", "dog", "owl", "fox", "hen", "ant")


def lexical_rows(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """The beast of a sentence is its label, but one in ten is mislabelled."""
    dice = random.Random(seed)
    rows = []
    for number in range(n):
        beast = dice.choice(BEASTS[:3])
        label = dice.choice(BEASTS[:3]) if dice.random() < 0.1 else beast
        rows.append((label, f"the {dice.choice(COLOURS)} {beast} sat on mat {number}"))
    return rows


def ordered_rows(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Two beasts with words between them; which of the two comes first in the alphabet decides, by order alone."""
    dice = random.Random(seed)
    rows = []
    for _ in range(n):
        first, second = dice.sample(BEASTS, 2)
        between = " ".join(dice.choice(COLOURS) for _ in range(dice.randint(2, 5)))
        before = " ".join(dice.choice(COLOURS) for _ in range(dice.randint(4, 7)))
        rows.append(("up" if first < second else "down", f"{before} {first} {between} {second} {before}"))
    return rows


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    return path

"""Draw docs/scaling-law.png: `steepest law` on a table made by a published law with a third of a percent of noise.

python dev/draw_law.py [TABLE]    (also writes the table there)
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from steepest.cli.main import main
from steepest.scaling import BESIROGLU

PAGE = Path(__file__).parent.parent / "docs" / "scaling-law.png"


def write_table(path: Path) -> None:
    """Nine budgets, seven sizes around the best of each, as IsoFLOP studies have them."""
    dice = np.random.default_rng(0)
    rows = ["parameters,tokens,loss"]
    for compute in np.geomspace(1e18, 1e21, 9):
        for n in BESIROGLU.optimal(float(compute))[0] * np.geomspace(0.25, 4, 7):
            loss = float(BESIROGLU(n, compute / 6 / n)) * (1 + 0.003 * dice.normal())
            rows.append(f"{n:.0f},{compute / 6 / n:.0f},{loss:.4f}")
    path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        table = Path(sys.argv[1] if len(sys.argv) > 1 else f"{folder}/runs.csv")
        write_table(table)
        sys.argv = ["steepest", "law", str(table), "--at", "70B,1.4T", "--png", str(PAGE)]
        main()

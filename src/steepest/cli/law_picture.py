"""The picture of a scaling law: loss against parameters, data and compute, and the best split of compute."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.errors import StorageError

if TYPE_CHECKING:
    from steepest.scaling import BayesLaw, Reading

INK, SOFT, LINE = "#1b2733", "#66727f", "#0b6e99"
BESTS = {"n": "#0b6e99", "d": "#c1542b"}
AHEAD = 30.0  # times the largest compute that the frontier is drawn
LINES = 5


def draw_law(path: Path, law: "BayesLaw", said: "Reading", loss: str) -> None:
    """Draw four panels and write them as PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titleweight": "bold",
        "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.linewidth": 0.8, "legend.frameon": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(10.5, 7.6), layout="constrained", dpi=150)
        (by_size, by_data), (by_compute, split) = figure.subplots(2, 2)
        unit = loss.replace("_", " ")
        _terms(figure, by_size, law, "n", unit)
        _terms(figure, by_data, law, "d", unit)
        _compute(by_compute, law, unit)
        _split(split, law)
        figure.suptitle(
            f"{len(law.points)} runs: alpha {said.alpha.median:.2f} ({said.alpha.low:.2f} to {said.alpha.high:.2f}), "
            f"beta {said.beta.median:.2f} ({said.beta.low:.2f} to {said.beta.high:.2f}), best N ~ C^"
            f"{said.size_exponent.median:.2f}",
            x=0.01, ha="left", fontsize=11, color=INK,
        )  # fmt: skip
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise StorageError(f"{path}: cannot write the picture: {error}") from None


def _terms(figure: Any, axes: Any, law: "BayesLaw", along: str, unit: str) -> None:
    """Loss against N with lines of equal D, or the other way round."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    points = law.points
    x, other = (points.n, points.d) if along == "n" else (points.d, points.n)
    low, high = float(other.min()), float(other.max())
    norm = LogNorm(low / 1.05, high * 1.05)
    colors = "viridis_r" if along == "n" else "plasma_r"
    mapped = ScalarMappable(norm, colors)
    reach = np.geomspace(x.min() / 1.5, x.max() * 1.5, 100)
    for value in np.geomspace(low, high, LINES):
        n, d = (reach, value) if along == "n" else (value, reach)
        seen = np.abs(np.log(other / value)) <= np.log(high / low) / (LINES - 1)
        inside = (reach >= x[seen].min() / 1.5) & (reach <= x[seen].max() * 1.5) if seen.any() else reach > 0
        expected = law.expected(n, d)[inside]
        axes.plot(reach[inside], expected, color=mapped.to_rgba(value), linewidth=1.1, alpha=0.9, zorder=1)
    axes.scatter(
        x, points.loss, c=other, norm=norm, cmap=colors, s=16, edgecolor="white", linewidth=0.4, zorder=2
    )
    bar = figure.colorbar(mapped, ax=axes, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("tokens" if along == "n" else "parameters")
    name = "parameters" if along == "n" else "tokens"
    axes.set(title=f"Loss against {name}", xlabel=name, ylabel=unit)
    _log(axes, points.loss)


def _compute(axes: Any, law: "BayesLaw", unit: str) -> None:
    """Every run, and the least loss that the law expects of a compute, with its 80 % interval beyond the data."""
    points = law.points
    top = float(points.compute.max())
    reach = np.geomspace(float(points.compute.min()), top * AHEAD, 36)
    best = [law.optimal(float(c)) for c in reach]
    told = [law.predict(n, d) for n, d in best]
    axes.axvspan(top, top * AHEAD, color="#f3f1ec", zorder=0, linewidth=0)
    axes.fill_between(reach, [one.low80 for one in told], [one.high80 for one in told], color=LINE, alpha=0.2,
                      linewidth=0, label="80% interval of one run")  # fmt: skip
    axes.plot(reach, [one.median for one in told], color=LINE, linewidth=1.6, label="best split, predicted")
    axes.scatter(points.compute, points.loss, s=16, color=INK, edgecolor="white", linewidth=0.4, zorder=3)
    axes.set(title="Loss against compute", xlabel="compute, 6 N D  (FLOPs)", ylabel=unit)
    axes.margins(x=0.02)
    _log(axes, np.append(points.loss, told[-1].low80))
    axes.text(
        top * 1.15,
        0.98,
        "beyond the data",
        color=SOFT,
        fontsize=8,
        va="top",
        transform=axes.get_xaxis_transform(),
    )
    axes.legend(loc="lower left", fontsize=8)


def _split(axes: Any, law: "BayesLaw") -> None:
    """Best N and D against compute, beside the splits of two papers drawn through the middle of the data."""
    from steepest.scaling import HOFFMANN
    from steepest.scaling.laws import FLOPS, KAPLAN_COMPUTE_EXPONENT

    points = law.points
    low, top = float(points.compute.min()), float(points.compute.max())
    reach = np.geomspace(low, top * AHEAD, 25)
    best = np.array([law.optimal(float(c)) for c in reach])
    axes.axvspan(top, top * AHEAD, color="#f3f1ec", zorder=0, linewidth=0)
    axes.plot(reach, best[:, 0], color=BESTS["n"], linewidth=1.8, label="best N, parameters")
    axes.plot(reach, best[:, 1], color=BESTS["d"], linewidth=1.8, label="best D, tokens")
    middle = float(np.sqrt(low * top))
    anchor = law.optimal(middle)[0]
    chinchilla = HOFFMANN.beta / (HOFFMANN.alpha + HOFFMANN.beta)
    for exponent, dashes, name in (
        (chinchilla, (4, 2), f"Chinchilla's split, N ~ C^{chinchilla:.2f}"),
        (KAPLAN_COMPUTE_EXPONENT, (1, 2), f"Kaplan's split, N ~ C^{KAPLAN_COMPUTE_EXPONENT}"),
    ):
        n = anchor * (reach / middle) ** exponent
        axes.plot(reach, n, color=BESTS["n"], linewidth=1, dashes=dashes, alpha=0.8)
        axes.plot(reach, reach / FLOPS / n, color=BESTS["d"], linewidth=1, dashes=dashes, alpha=0.8)
        axes.plot([], [], color=SOFT, linewidth=1, dashes=dashes, label=name)
    axes.set(title="Best parameters and tokens", xlabel="compute, 6 N D  (FLOPs)", xscale="log", yscale="log")
    axes.margins(x=0.02)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(loc="upper left", fontsize=8)


def _log(axes: Any, losses: Any) -> None:
    """Both axes logarithmic, with plain numbers on the loss."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    low, high = float(np.min(losses)) * 0.985, float(np.quantile(losses, 0.995)) * 1.03
    axes.set_ylim(low, high)
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    step = next((one for one in steps if (high - low) / one <= 8), 5.0)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.25, linewidth=0.5)

"""The long tail of a corpus: its labels by frequency, the bins that two edges make of them, and an ideal law beside."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..corpora import BIN_NAMES, Corpus, label_bins
from ..trace import Trace
from .drawing import line, listed, log_axis, mark, panels, picture
from .picture import Picture
from .style import BINS, INK, Look

LAW = Look(INK, "longdash", "cross")
POINTS = 300  # of a line
CLOSE = 0.35  # of the axis: two edges nearer than that have no room for words, in half a page


def long_tail(source: Corpus | Trace, edges: tuple[float, float] = (0.5, 0.8), zipf: float | None = None) -> Picture:
    """Training documents of each label by rank, on logarithmic axes, with head, torso and tail at `edges`.

    With `zipf` also the ideal law of that exponent, the frequency of rank r in proportion to r^-zipf, over as many
    labels and assignments as there are; what leaves the picture is not drawn. Raises ValueError for what has no labels,
    for edges that do not rise within (0, 1), for a negative exponent, and for a law over fewer than two labels.
    """
    if not hasattr(source, "label_frequency"):  # the explorer brings what it has read of one, once
        raise ValueError(f"give a corpus or a trace; got {type(source).__name__}")
    names, frequency = source.label_names, np.asarray(source.label_frequency)
    of_label = label_bins(frequency, edges).of_label
    order = np.argsort(-frequency, kind="stable")
    order = order[frequency[order] > 0]
    figure = panels("How few labels hold most of the assignments?", ["training documents"],
                    title_text="labels by frequency (rank)", **log_axis(np.array([1, len(order)])))
    figure.update_layout(yaxis=log_axis(frequency))
    rows, said, marks, end = [], [], [], 0
    for i, name in enumerate(BIN_NAMES):
        start, end = end, end + int((of_label[order] == i).sum())
        if start and end > start:
            marks.append((start + 0.5, f"{100 * edges[i - 1]:g} %"))
        ranks = np.unique(np.geomspace(start + 1, max(end, start + 1), POINTS).round().astype(int))[:end - start]
        drawn = order[ranks - 1]
        line(figure, ranks, frequency[drawn], f"{name} ({end - start:,} labels)", BINS[name], width=3)
        rows.append(pd.DataFrame({"rank": ranks, "label": [names[i] for i in drawn],
                                  "training documents": frequency[drawn], "bin": name}))
        share = 100 * frequency[order[start:end]].sum() / max(frequency.sum(), 1)
        said.append(f"the {end - start:,} {name} labels hold {share:.0f} %")
    for (x, text), (after, _) in zip(marks, [*marks[1:], (np.inf, "")], strict=True):
        near = np.log10(after / x) < CLOSE * np.log10(len(order))  # then there is no room for more than the number
        mark(figure, x, text if near else f"{text} of<br>assignments")
    unseen = len(frequency) - len(order)
    caption = (f"Of the {frequency.sum():,} assignments {listed(said)}; half of the {len(frequency):,} labels have at "
               f"most {int(np.median(frequency)):,} training documents"
               + (f", and {unseen:,} have none and are not drawn" if unseen else "") + ".")
    if zipf is not None:
        caption += " " + _draw_law(figure, frequency[order], zipf, edges[0], int((of_label == 0).sum()))
    return picture(figure, caption, pd.concat(rows, ignore_index=True))


def zipf_fit(frequency: np.ndarray) -> tuple[float, float]:
    """The exponent of the Zipf law that fits frequencies [L] best, and how well: R^2.

    Least squares of log frequency on log rank over all labels that occur; every rank counts the same, so the many ranks
    of the tail weigh most. Raises ValueError for fewer than two labels that occur.
    """
    used = np.sort(frequency[frequency > 0])[::-1].astype(float)
    if len(used) < 2:
        raise ValueError(f"a law needs two labels that occur; got {len(used)}")
    x, y = np.log(np.arange(1, len(used) + 1)), np.log(used)
    slope, start = np.polyfit(x, y, 1)
    spread = ((y - y.mean()) ** 2).sum()
    left = ((y - slope * x - start) ** 2).sum()
    return max(0.0, -float(slope)), 1.0 - float(left / spread) if spread > 1e-9 else 1.0


def _draw_law(figure, used: np.ndarray, zipf: float, edge: float, head: int) -> str:
    """Draw the ideal law over the frequencies `used`, falling; returns its head, and the fit, in words."""
    if not zipf >= 0:
        raise ValueError(f"a Zipf exponent is 0 or more; got {zipf}")
    exponent, fitted = zipf_fit(used)
    share = np.arange(1, len(used) + 1) ** -float(zipf)
    share /= share.sum()
    low, high = 0.5 * used.min(), 2 * used.max()
    ranks = np.unique(np.geomspace(1, len(used), POINTS).round().astype(int))
    law = used.sum() * share[ranks - 1]
    inside = (law >= low) & (law <= high)  # a static picture has no edge that would cut the rest off
    line(figure, ranks[inside], law[inside], f"Zipf law, exponent {zipf:.2f}", LAW)
    figure.update_layout(yaxis_range=np.log10([low, high]))
    needed = 1 + int((np.cumsum(share)[:-1] < edge).sum())
    return (f"Under the ideal law of exponent {zipf:.2f} the first {head:,} labels would hold "
            f"{100 * share[:head].sum():.0f} % of the assignments (here {100 * used[:head].sum() / used.sum():.0f} %), "
            f"and {needed:,} would make up a head of {100 * edge:g} %. The exponent that fits this corpus is "
            f"{exponent:.2f} (R² {fitted:.2f}): least squares of log documents on log rank, each of the "
            f"{len(used):,} ranks counting the same.")

"""Every figure: a pure function from traces (or a corpus) to a `Picture`, with nothing in it but what was recorded.

Functions that compare take traces one by one, as a list, or as a dict of names; a name may hold several runs (seeds).
All raise ValueError, in words, where a trace did not record what the figure needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from .. import memory
from ..corpora import BIN_NAMES, Corpus, LabelBins, label_bins
from ..trace import Trace
from .drawing import (
    NO_GRADIENT,
    Run,
    Traces,
    having,
    line,
    listed,
    log_axis,
    log_if_wide,
    mark,
    mark_cutoffs,
    panels,
    percent,
    picture,
    plain,
    runs_of,
    smoothed,
    table_of,
)
from .picture import Picture
from .style import ALL_LABELS, BINS, DENSE, METHODS, RUNS, looks_of

CELLS = 128  # rows and columns of a raster: more, and a browser takes its time
GIB = 1 << 30


# --- the corpus ---------------------------------------------------------------------------------------------------


def long_tail(source: Corpus | Trace, edges: tuple[float, float] = (0.5, 0.8)) -> Picture:
    """Training documents of each label by rank, on logarithmic axes, with head, torso and tail at `edges`."""
    names, frequency = source.label_names, np.asarray(source.label_frequency)
    of_label = label_bins(frequency, edges).of_label
    order = np.argsort(-frequency, kind="stable")
    order = order[frequency[order] > 0]
    figure = panels("A few labels hold most of the assignments", ["training documents"],
                    title_text="labels by frequency (rank)", **log_axis(np.array([1, len(order)])))
    figure.update_layout(yaxis=log_axis(frequency))
    rows, said, end = [], [], 0
    for i, name in enumerate(BIN_NAMES):
        start, end = end, end + int((of_label[order] == i).sum())
        if end == start:
            continue
        if start:
            mark(figure, start + 0.5, f"{100 * edges[i - 1]:g} % of<br>assignments")
        ranks = np.unique(np.geomspace(start + 1, end, 300).round().astype(int))
        drawn = order[ranks - 1]
        line(figure, ranks, frequency[drawn], f"{name} ({end - start:,} labels)", BINS[name], width=3)
        rows.append(pd.DataFrame({"rank": ranks, "label": [names[i] for i in drawn],
                                  "training documents": frequency[drawn], "bin": name}))
        share = 100 * frequency[order[start:end]].sum() / frequency.sum()
        said.append(f"the {end - start:,} {name} labels hold {share:.0f} %")
    unseen = len(frequency) - len(order)
    caption = (f"Of the {frequency.sum():,} assignments {listed(said)}; half of the {len(frequency):,} labels have at "
               f"most {int(np.median(frequency)):,} training documents"
               + (f", and {unseen:,} have none and are not drawn" if unseen else "") + ".")
    return picture(figure, caption, pd.concat(rows, ignore_index=True))


# --- over the steps -----------------------------------------------------------------------------------------------


def loss(*traces: Traces, smooth: int | None = None) -> Picture:
    """The main loss of each step (thin) and its running median over `smooth` steps (bold).

    Where a run has the auxiliary objective: its loss and its weight as well.
    """
    runs = having(runs_of(*traces), "main", "the main loss")
    helped = [run for run in runs if len(run.trace.history("auxiliary")[0])]
    titles = ["main loss", "auxiliary loss", "its weight"][:3 if helped else 1]
    figure = panels("Does the loss go down?", titles, [0.56, 0.26, 0.18] if helped else None)
    said = smoothed(figure, runs, "main", smooth)
    log_if_wide(figure)
    if helped:
        smoothed(figure, helped, "auxiliary", smooth, row=2)
    for run in helped:
        line(figure, *run.trace.history("aux_weight"), run.name, run.look, row=3, group=run.group, legend=False)
    return picture(figure, f"Main loss, {said}{mark_cutoffs(figure, helped)}.")


def gradient_norm(*traces: Traces, smooth: int | None = None) -> Picture:
    """Norm of the gradient that reaches the encoder, a line a run; a vertical line where the auxiliary objective ends.

    Runs whose encoder has no parameters are left out.
    """
    runs = having(runs_of(*traces), "grad", NO_GRADIENT, np.any)
    figure = panels("How much gradient reaches the encoder?", ["gradient norm"])
    said = smoothed(figure, runs, "grad", smooth)
    log_if_wide(figure)
    return picture(figure, f"Gradient norm of the encoder, {said}{mark_cutoffs(figure, runs)}.")


def gradient_by_block(trace: Trace, smooth: int | None = None) -> Picture:
    """Norm of the gradient of each block of the encoder, from input to output."""
    run, = having(runs_of(trace), "grad", NO_GRADIENT, np.any)
    blocks = [name.removeprefix("grad/") for name in trace.events["step"][0] if name.startswith("grad/")]
    figure = panels("Which block of the encoder gets the gradient?", ["gradient norm"])
    drawn = [Run(name, trace, look, name) for name, look in looks_of(blocks).items()]
    said = smoothed(figure, drawn, "grad/{}", smooth)
    log_if_wide(figure)
    return picture(figure, f"Gradient norm by block of the encoder, {said}{mark_cutoffs(figure, [run])}.")


def precision(trace: Trace) -> Picture:
    """P@1 with the part that each bin adds to it, and recall@5 of each bin: two panels over one axis of steps."""
    having(runs_of(trace), "P@1", "an evaluation on the test split")
    figure = panels("Which labels does P@1 come from, and which are found?", ["P@1, its parts (%)", "recall@5 (%)"])
    steps, total = trace.history("P@1")
    line(figure, steps, total, "all labels", ALL_LABELS, width=5)
    parts, found = [], []
    for name, look in BINS.items():
        for row, metric, said in ((1, "P@1", parts), (2, "recall@5", found)):
            at, values = trace.history(f"{metric}/{name}")
            line(figure, at, values, name, look, row=row, group=name, legend=row == 1)
            said.append(f"{name} {percent(values[-1])}")
    return picture(figure, f"After {steps[-1]:,} steps P@1 is {percent(total[-1])}, the sum of {listed(parts)}; of its "
                           f"own assignments the top five find {listed(found)}.")


def per_bin(trace: Trace, metric: str = "recall@5") -> Picture:
    """A metric of head, torso and tail labels over the steps: "recall@5", "P@1", any with a value per bin."""
    having(runs_of(trace), "P@1", "an evaluation on the test split")
    known = sorted({k.split("/")[0] for k in trace.metrics() if "/" in k})
    if metric not in known:
        raise ValueError(f"{metric!r} has no values per bin; choose one of {', '.join(known)}")
    figure = panels(f"{metric} of head, torso and tail labels", [f"{metric} (%)"])
    said = []
    for name, look in BINS.items():
        steps, values = trace.history(f"{metric}/{name}")
        line(figure, steps, values, name, look)
        said.append(f"{percent(values[-1])} for {name} labels")
    return picture(figure, f"After {steps[-1]:,} steps {metric} is {listed(said)}.")


# --- connectivity -------------------------------------------------------------------------------------------------


def churn(trace: Trace) -> Picture:
    """The share of connections that each rewire replaces, for all labels and by bin."""
    fan_in, of_label = _first_indices(trace).shape[1], trace.bins().of_label
    if len(trace.frames) < 2:
        raise ValueError(f"this run was never rewired (rewire_interval={trace.recipe.rewire_interval}, "
                         f"{trace.steps:,} steps): there is no churn to draw")
    slots = fan_in * np.bincount(of_label, minlength=3)
    replaced = np.array([np.bincount(of_label[trace.changed(frame) // fan_in], minlength=3)
                         for frame in range(1, len(trace.frames))])
    steps = np.array(trace.frames[1:])
    figure = panels("How many connections does each rewire replace?", ["replaced connections (%)"])
    total = 100 * replaced.sum(1) / slots.sum()
    line(figure, steps, total, "all labels", ALL_LABELS, width=5)
    for i, name in enumerate(BIN_NAMES):
        if slots[i]:
            line(figure, steps, 100 * replaced[:, i] / slots[i], name, BINS[name])
    by_bin = listed(f"{n:,} in {name}" for n, name in zip(replaced.sum(0), BIN_NAMES, strict=True))
    return picture(figure, f"{len(steps):,} rewires replaced {replaced.sum():,} connections ({by_bin}): "
                           f"{percent(total[0])} of all at step {steps[0]:,}, {percent(total[-1])} at step "
                           f"{steps[-1]:,}.")


def connectivity(trace: Trace, frame: int = -1, value: str = "connections") -> Picture:
    """Who is connected to what: labels by frequency (top: most frequent) by features, in at most 128 x 128 cells.

    The three bins take the same height. `value` is "connections", the share of a cell's possible connections that
    exist, or "replaced", the share of its connections that are not those of the start. `frame` counts `trace.frames`.
    """
    if value not in ("connections", "replaced"):
        raise ValueError(f"value={value!r}; choose 'connections' or 'replaced'")
    first, now = _first_indices(trace), trace.connectivity(frame)
    frame %= len(trace.frames)
    (n_labels, fan_in), n_features, step = now.shape, trace.width, trace.frames[frame]
    rows = _raster_rows(trace.bins())
    size, columns = rows.labels.map(len).to_numpy(), min(CELLS, n_features)
    row_of = np.empty(n_labels, np.int64)
    row_of[np.concatenate(list(rows.labels))] = np.repeat(np.arange(len(rows)), size)
    column_of = np.arange(n_features) * columns // n_features
    cell = row_of[:, None] * columns + column_of[now]
    count, moved = (np.bincount(c.ravel(), minlength=len(rows) * columns).reshape(-1, columns)
                    for c in (cell, cell[now != first]))
    born = np.bincount(row_of[trace.changed(frame) // fan_in], minlength=len(rows))
    if value == "connections":
        title, what = f"Which features do labels read at step {step:,}?", "share of possible connections (%)"
        z = 100 * count / np.outer(size, np.bincount(column_of))
        top = float(max(np.quantile(z[z > 0], 0.9), 200 * fan_in / n_features))
        bar = dict(tickvals=[0, top / 2, top],
                   ticktext=["0", f"{top / 2:.3g}", f"{top:.3g}" + " or<br>more" * bool(z.max() > top)])
    else:
        title, what = f"Which connections are new at step {step:,}?", "share not there at the start (%)"
        z = 100 * np.divide(moved, count, where=count > 0, out=np.full(count.shape, np.nan))
        top, bar = 100.0, {}

    figure = panels(title, [""], title_text="feature (input of the output layer)", showgrid=False)
    figure.add_heatmap(
        z=z.astype(np.float32), x=np.arange(columns + 1) * n_features / columns,
        y=np.append(rows.top, rows.bottom.iloc[-1]), colorscale="Cividis", zmin=0, zmax=top,
        colorbar=bar | dict(title=dict(text=what, side="right"), outlinewidth=0), name=what,
        customdata=np.repeat(rows["first"].to_numpy(np.int32)[:, None], columns, axis=1),
        hovertemplate="labels from rank %{customdata:,d}, feature %{x:.0f}<br>%{z:.3g} %<extra></extra>")
    bands, said = [], []
    for name, part in rows.groupby("bin", sort=False):
        low, high, labels, new = part.top.min(), part.bottom.max(), size[part.index].sum(), born[part.index].sum()
        bands.append(((low + high) / 2, f"<b>{name}</b><br>{labels:,} labels" + f"<br>{new:,} born here" * bool(frame)))
        said.append(f"{new:,} of {labels * fan_in:,} in {name}" if frame else f"{labels * fan_in:,} in {name}")
        figure.add_shape(type="rect", xref="paper", x0=-0.012, x1=-0.004, y0=low + 0.01, y1=high - 0.01,
                         fillcolor=BINS[name].color, line_width=0)
    figure.update_yaxes(range=[float(rows.bottom.max()), 0], tickvals=[at for at, _ in bands], showline=False,
                        ticktext=[text for _, text in bands], showgrid=False, ticks="", ticklabelstandoff=14)
    figure.update_layout(hovermode="closest", height=520)
    caption = (f"At step {step:,} {percent(100 * moved.sum() / count.sum())} of the {count.sum():,} connections were "
               f"not there at the start; this rewire gave birth to {listed(said)}." if frame else
               f"At the start there are {count.sum():,} connections, {fan_in} for each label: {listed(said)}.")
    table = pd.DataFrame({
        "labels by frequency": [f"{a:,}-{b:,}" for a, b in zip(rows["first"], rows["last"], strict=True)],
        "bin": rows.bin, "connections": count.sum(1), "not there at the start": moved.sum(1), "born here": born})
    return picture(figure, caption, table,
                   f"Raster of {len(rows)} rows of labels, most frequent first, by {columns} columns of features; "
                   f"colour is the {what}, from {np.nanmin(z):.3g} to {np.nanmax(z):.3g}.")


def in_degree(trace: Trace, frame: int = -1) -> Picture:
    """How many labels read each feature, most read first: at the start and at a frame."""
    first, now, n_features = _first_indices(trace), trace.connectivity(frame), trace.width
    ranks = np.unique(np.linspace(1, n_features, min(n_features, 1000)).round().astype(int))
    figure = panels("Do labels crowd onto some features?", ["labels reading it"],
                    title_text="features, most read first (rank)")
    said = []
    for indices, name, look in ((first, "at the start", DENSE), (now, f"at step {trace.frames[frame]:,}", RUNS[0])):
        degree = np.sort(np.bincount(indices.ravel().astype(np.int64), minlength=n_features))[::-1]
        line(figure, ranks, degree[ranks - 1], name, look, width=3)
        said.append(f"{name} the most read has {degree[0]:,} and {(degree == 0).sum():,} have none")
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"A feature is read by {now.size / n_features:.1f} labels on average; of "
                           f"{n_features:,} features, {'; '.join(said)}.", table_of(figure, "rank"))


# --- side by side -------------------------------------------------------------------------------------------------


def compare(traces: Traces, metrics: Sequence[str] = ("P@1", "PSP@5", "recall@5/head", "recall@5/torso",
                                                      "recall@5/tail")) -> Picture:
    """The last evaluation of each method, a panel a metric; several runs of one name give a mean and a min-max span."""
    groups: dict[str, list[dict[str, float]]] = {}
    for run in having(runs_of(traces), "P@1", "an evaluation on the test split"):
        groups.setdefault(run.group, []).append(run.trace.metrics())
    rows = []
    for metric in metrics:
        for name, found in groups.items():
            if metric not in found[0]:
                raise ValueError(f"{metric!r} was not recorded; there is {', '.join(found[0])}")
            values = np.array([m[metric] for m in found])
            rows.append((metric, name, values.mean(), values.min(), values.max(), len(values)))
    table = pd.DataFrame(rows, columns=["metric", "method", "mean", "min", "max", "runs"])
    several, names = int(table.runs.max()) > 1, list(groups)
    figure = panels("What does each method get right after training?", [""])
    figure.update_layout(hovermode="closest", height=150 + 42 * len(names), margin_b=76)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.7], ticks="")
    best = []
    for i, metric in enumerate(metrics):
        part = table[table.metric == metric].set_index("method")
        top, axis = float(part["max"].max()), str(i + 1) if i else ""
        top = top if top > 0 else 1.0
        figure.update_layout({f"xaxis{axis}": dict(
            domain=[i / len(metrics), (i + 0.86) / len(metrics)], anchor="y", nticks=4, range=[-0.08 * top, 1.2 * top],
            unifiedhovertitle=None, title=dict(text=f"{metric.replace('/', '<br>')} (%)", font_size=14))})
        for name, look in looks_of(names).items():
            mean, low, high = part.loc[name, ["mean", "min", "max"]]
            figure.add_scatter(
                x=[mean], y=[names.index(name)], xaxis=f"x{axis}", name=name, showlegend=False, mode="markers+text",
                marker=dict(color=look.color, symbol=look.symbol, size=12), text=[plain(mean)], cliponaxis=False,
                textposition="top center", hovertemplate=f"{metric} %{{x:.2f}} %",
                error_x=dict(array=[high - mean], arrayminus=[mean - low], thickness=2, width=6) if several else None)
        most = part["mean"].max()
        winners = part.index[part["mean"].map(plain) == plain(most)]
        who = "all" if len(winners) == len(part) > 1 else listed(winners)
        best.append(f"{metric} {percent(most)} for {who}")
    spread = f"means of up to {table.runs.max()} runs, with bars from the least to the greatest"
    return picture(figure, f"Best of {len(names)} method{'s' * (len(names) > 1)}: {'; '.join(best)} "
                           f"({spread if several else 'one run each'}).",
                   table if several else table[["metric", "method", "mean"]].rename(columns={"mean": "percent"}),
                   f"Dots, one for each of {listed(names)}, in each of the panels {listed(metrics)}.")


def memory_ledger(sizes: Mapping[str, int], width: int = 768, fan_in: int = 128, moments: int = 2) -> Picture:
    """Predicted memory of a dense, a sparse and a bottleneck output layer: `sizes` maps names to numbers of labels.

    Weights, gradients, optimizer moments (2: Adam) and indices; dots, as on a logarithmic axis a bar's length means
    nothing. The bottleneck has the width whose memory comes closest to the sparse layer's. See `xmc_explore.memory`.
    """
    if not sizes:
        raise ValueError("sizes is empty; give {name: number of labels}")
    rows = []
    for name, n in sizes.items():
        rank = memory.bottleneck_width(width, n, fan_in)
        for kind, size in (("dense", width), ("sparse", fan_in), ("bottleneck", rank)):
            taken = memory.predicted(kind, width, n, size, moments=moments)
            rows.append((name, n, kind, size, taken, taken / GIB))
    table = pd.DataFrame(rows, columns=["size", "labels", "output layer", "weights a label", "bytes", "GiB"])
    figure = panels(f"Memory to train an output layer on {width:,} features", [""],
                    title_text="weights, gradients, moments, indices (GiB, log scale)", **log_axis(table["GiB"]))
    figure.update_layout(hovermode="closest", height=170 + 84 * len(sizes))
    figure.update_yaxes(tickvals=list(range(len(sizes))), range=[len(sizes) - 0.5, -0.5], ticks="", showgrid=False,
                        ticktext=[f"<b>{name}</b><br>{n:,} labels" for name, n in sizes.items()])
    for i, (kind, look) in enumerate({"dense": DENSE, "sparse": RUNS[0], "bottleneck": METHODS["bottleneck"]}.items()):
        part = table[table["output layer"] == kind]
        figure.add_scatter(x=part["GiB"], y=np.arange(len(part)) + 0.28 * (i - 1), name=kind, mode="markers+text",
                           marker=dict(color=look.color, symbol=look.symbol, size=12), cliponaxis=False,
                           text=[f"{v:.3g} GiB" for v in part["GiB"]], textposition="middle right",
                           hovertemplate=f"{kind} %{{x:.4g}} GiB<extra></extra>")
    low, high = np.log10(table["GiB"].min()), np.log10(table["GiB"].max())
    figure.update_xaxes(range=[low - 0.1, high + 0.28 + 0.18 * (high - low)])
    dense, sparse, bottleneck = table[table.labels == max(sizes.values())].iloc[:3].itertuples(index=False)
    return picture(figure, f"With {dense.labels:,} labels a dense output layer takes {dense.GiB:.3g} GiB and one with "
                           f"{fan_in} connections a label {sparse.GiB:.3g} GiB, {dense.bytes / sparse.bytes:.1f} times "
                           f"less; a bottleneck of that memory is {bottleneck[3]} wide.",
                   table, f"Dots on a logarithmic axis of GiB: {listed(f'{r[0]} {r[2]} {r[5]:.3g}' for r in rows)}.")


# --- what a trace holds -------------------------------------------------------------------------------------------


def _first_indices(trace: Trace) -> np.ndarray:
    if trace.frames:
        return trace.connectivity(0)
    if trace.recipe.output != "sparse":
        raise ValueError(f"the output layer of this run is {trace.recipe.output}: every label reads every feature, so "
                         "there is no connectivity to draw; use a run with output='sparse'")
    raise ValueError("this run was stopped before its connectivity was recorded")


def _raster_rows(bins: LabelBins) -> pd.DataFrame:
    """Labels by frequency in rows: each bin one unit high, in at most a third of `CELLS` rows of equal size."""
    order = np.argsort(-bins.frequency, kind="stable")
    rows, start, band = [], 0, 0
    for i, name in enumerate(BIN_NAMES):
        labels = order[bins.of_label[order] == i]
        parts = np.array_split(labels, min(len(labels), CELLS // 3)) if len(labels) else []
        for j, part in enumerate(parts):
            rows.append({"bin": name, "labels": part, "first": start + 1, "last": start + len(part),
                         "top": band + j / len(parts), "bottom": band + (j + 1) / len(parts)})
            start += len(part)
        band += bool(parts)
    return pd.DataFrame(rows)

"""Every figure: a pure function from traces (or a corpus) to a `Picture`, with nothing in it but what was recorded.

Functions that compare take traces one by one, as a list, or as a dict of names; a name may hold several runs (seeds).
All raise ValueError, in words, where a trace did not record what the figure needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .. import memory
from ..corpora import BIN_NAMES, Corpus, label_bins
from ..recipe import Recipe
from ..trace import Trace
from .picture import Picture
from .style import ALL_LABELS, AUXILIARY, BINS, DENSE, INK, METHODS, RUNS, TEMPLATE, Look, looks_of

STEP = "training step"
POINTS = 4000  # of one line: a longer run is drawn at evenly spaced steps
CELLS = 128  # rows and columns of a raster: more, and a browser takes its time
GIB = 1 << 30
MARK = Look(INK, "dash", "circle")  # of a vertical line

Traces = Trace | Sequence[Trace] | Mapping[str, Trace | Sequence[Trace]]


# --- the corpus ---------------------------------------------------------------------------------------------------


def long_tail(source: Corpus | Trace, edges: tuple[float, float] = (0.5, 0.8)) -> Picture:
    """Training documents of each label by rank, on logarithmic axes, with head, torso and tail at `edges`."""
    names, frequency = source.label_names, np.asarray(source.label_frequency)
    bins = label_bins(frequency, edges)
    order = np.argsort(-frequency, kind="stable")
    order = order[frequency[order] > 0]
    figure = _panels("A few labels hold most of the assignments", ["training documents of a label"],
                     x=dict(title_text="labels by frequency (rank)", type="log"))
    figure.update_yaxes(type="log")
    rows, said, end = [], [], 0
    for name in BIN_NAMES:
        start, end = end, end + int((bins.of_label[order] == BIN_NAMES.index(name)).sum())
        if end == start:
            continue
        if start:
            _mark(figure, start + 0.5, f"{bins.edges[BIN_NAMES.index(name) - 1]:.0%}")
        ranks = np.unique(np.geomspace(start + 1, end, 300).round().astype(int))
        drawn = order[ranks - 1]
        _line(figure, ranks, frequency[drawn], f"{name} ({end - start:,} labels)", BINS[name], width=3)
        rows.append(pd.DataFrame({"rank": ranks, "label": [names[i] for i in drawn],
                                  "training documents": frequency[drawn], "bin": name}))
        said.append(f"the {end - start:,} {name} labels hold {frequency[order[start:end]].sum() / frequency.sum():.0%}")
    unseen = len(frequency) - len(order)
    caption = (f"{_sentence(said)} of the {frequency.sum():,} assignments; half of the {len(frequency):,} labels have "
               f"at most {int(np.median(frequency)):,} training documents"
               + (f", and {unseen:,} have none and are not drawn" if unseen else "") + ".")
    return _picture(figure, caption, pd.concat(rows, ignore_index=True))


# --- over the steps -----------------------------------------------------------------------------------------------


def loss(*traces: Traces, smooth: int | None = None) -> Picture:
    """The main loss of each step (thin) and its running median over `smooth` steps (bold).

    Where a run has the auxiliary objective: its loss and its weight as well.
    """
    runs = _with(_runs(*traces), "main", "the main loss")
    helped = [run for run in runs if len(run.trace.history("auxiliary")[0])]
    titles = ["main loss", "auxiliary loss", "its weight"][:3 if helped else 1]
    figure = _panels("Does the loss go down?", titles, heights=[0.56, 0.26, 0.18][:len(titles)])
    said = [_smoothed(figure, run, "main", smooth) for run in runs]
    _log_if_wide(figure, "main")
    for run in helped:
        _smoothed(figure, run, "auxiliary", smooth, row=2)
        steps, weight = run.trace.history("aux_weight")
        _line(figure, steps, weight, f"{run.name} weight", run.look, row=3, group=run.name, legend=False)
    cutoffs = _mark_cutoffs(figure, helped)
    return _picture(figure, f"Main loss, {_median_of(runs, smooth)}, from the first step to the last: "
                            f"{_and(said)}{cutoffs}.")


def gradient_norm(*traces: Traces, smooth: int | None = None) -> Picture:
    """Norm of the gradient that reaches the encoder, a line a run; a vertical line where the auxiliary objective ends.

    Runs whose encoder has no parameters are left out.
    """
    runs = _with(_runs(*traces), "grad", "a gradient in the encoder (encoder='features' has no parameters)",
                 lambda values: values.any())
    figure = _panels("How much gradient reaches the encoder?", ["gradient norm of the encoder"])
    said = [_smoothed(figure, run, "grad", smooth) for run in runs]
    _log_if_wide(figure, "grad")
    cutoffs = _mark_cutoffs(figure, runs)
    return _picture(figure, f"Gradient norm of the encoder, {_median_of(runs, smooth)}, from the first step to the "
                            f"last: {_and(said)}{cutoffs}.")


def gradient_by_block(trace: Trace, smooth: int | None = None) -> Picture:
    """Norm of the gradient of each block of the encoder, from input to output, as a running median."""
    run, = _with(_runs(trace), "grad", "a gradient in the encoder (encoder='features' has no parameters)",
                 lambda values: values.any())
    blocks = [name for name in trace.events["step"][0] if name.startswith("grad/")]
    figure = _panels("Which block of the encoder gets the gradient?", ["gradient norm of a block"])
    shades = looks_of(name.removeprefix("grad/") for name in blocks)
    said = [_smoothed(figure, _Run(name, trace, look), f"grad/{name}", smooth) for name, look in shades.items()]
    _log_if_wide(figure, "grad")
    _mark_cutoffs(figure, [run])
    return _picture(figure, f"Gradient norm by block, {_median_of([run], smooth)}, from the first step to the last: "
                            f"{_and(said)}.")


def precision(trace: Trace) -> Picture:
    """P@1 with the part that each bin adds to it, and recall@5 of each bin: two panels over one axis of steps."""
    run, = _with(_runs(trace), "P@1", "an evaluation on the test split")
    figure = _panels("Which labels does P@1 come from, and which are found?", ["P@1 and its parts (%)", "recall@5 (%)"])
    steps, total = trace.history("P@1")
    _line(figure, steps, total, "all labels", ALL_LABELS, width=3)
    parts, found = [], []
    for name, look in BINS.items():
        for row, metric, said in ((1, "P@1", parts), (2, "recall@5", found)):
            at, values = trace.history(f"{metric}/{name}")
            _line(figure, at, values, name, look, row=row, group=name, legend=row == 1)
            said.append(f"{_percent(values[-1])} {name}")
    return _picture(figure, f"After {steps[-1]:,} steps P@1 is {_percent(total[-1])}, to which the bins add "
                            f"{_and(parts)}; of the bins' own assignments the top five hold {_and(found)}.")


def per_bin(trace: Trace, metric: str = "recall@5") -> Picture:
    """A metric of head, torso and tail labels over the steps: "recall@5", "P@1", any with a value per bin."""
    _with(_runs(trace), "P@1", "an evaluation on the test split")
    known = sorted({k.split("/")[0] for k in trace.metrics() if "/" in k})
    if metric not in known:
        raise ValueError(f"{metric!r} has no values per bin; choose one of {', '.join(known)}")
    figure = _panels(f"{metric} of head, torso and tail labels", [f"{metric} (%)"])
    said = []
    for name, look in BINS.items():
        steps, values = trace.history(f"{metric}/{name}")
        _line(figure, steps, values, name, look)
        said.append(f"{_percent(values[-1])} for {name} labels")
    return _picture(figure, f"After {steps[-1]:,} steps {metric} is {_and(said)}.")


# --- connectivity -------------------------------------------------------------------------------------------------


def churn(trace: Trace) -> Picture:
    """The share of connections that each rewire replaces, for all labels and by bin."""
    fan_in, bins = _first_indices(trace).shape[1], trace.bins()
    if len(trace.frames) < 2:
        raise ValueError(f"this run was never rewired (rewire_interval={trace.recipe.rewire_interval}, "
                         f"{trace.steps:,} steps): there is no churn to draw")
    size = np.bincount(bins.of_label, minlength=3)
    replaced = np.array([np.bincount(bins.of_label[trace.changed(f) // fan_in], minlength=3)
                         for f in range(1, len(trace.frames))])
    steps = np.array(trace.frames[1:])
    figure = _panels("How many connections does each rewire replace?", ["replaced connections (%)"])
    total = 100 * replaced.sum(1) / (size.sum() * fan_in)
    _line(figure, steps, total, "all labels", ALL_LABELS, width=3)
    for i, name in enumerate(BIN_NAMES):
        if size[i]:
            _line(figure, steps, 100 * replaced[:, i] / (size[i] * fan_in), name, BINS[name])
    return _picture(figure, f"{len(steps):,} rewires replaced {replaced.sum():,} connections in all, "
                            f"{_percent(total[0])} of them at step {steps[0]:,} and {_percent(total[-1])} at step "
                            f"{steps[-1]:,}; bin by bin "
                            f"{_and(f'{n:,} in {name}' for n, name in zip(replaced.sum(0), BIN_NAMES, strict=True))}.")


def connectivity(trace: Trace, frame: int = -1, value: str = "replaced") -> Picture:
    """Who is connected to what: labels by frequency (top: most frequent) by features, in at most 128 x 128 cells.

    The three bins take a third of the height each. `value` is "replaced", the share of a cell's connections that are
    not those of the start, or "connections", the share of all possible ones that exist. `frame` counts `trace.frames`.
    """
    if value not in ("replaced", "connections"):
        raise ValueError(f"value={value!r}; choose 'replaced' or 'connections'")
    first = _first_indices(trace)
    now = trace.connectivity(frame)
    (n_labels, fan_in), frame = now.shape, frame % len(trace.frames)
    n_features, bins = _n_features(trace), trace.bins()
    rows = _raster_rows(bins)
    columns = min(CELLS, n_features)
    row_of = np.empty(n_labels, np.int64)
    for i, row in rows.iterrows():
        row_of[row.labels] = i
    column_of = np.arange(n_features) * columns // n_features
    cell = row_of[:, None] * columns + column_of[now]
    shape = (len(rows), columns)
    count = np.bincount(cell.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    moved = np.bincount(cell[now != first], minlength=shape[0] * shape[1]).reshape(shape)
    born = np.bincount(row_of[trace.changed(frame) // fan_in], minlength=shape[0])
    size = rows.labels.map(len).to_numpy()
    with np.errstate(invalid="ignore"):
        z = 100 * (moved / count if value == "replaced" else count / np.outer(size, np.bincount(column_of)))
    what = {"replaced": "connections that are new since the start (%)",
            "connections": "existing share of possible connections (%)"}[value]
    step = trace.frames[frame]
    table = pd.DataFrame({
        "labels by frequency": [f"{a:,}-{b:,}" for a, b in zip(rows["first"], rows["last"], strict=True)],
        "bin": rows.bin, "connections": count.sum(1), "new since the start": moved.sum(1), "born here": born})

    figure = _panels(f"{'Which connections are new' if value == 'replaced' else 'Who is connected to what'}, "
                     f"step {step:,}", [""], x=dict(title_text="feature (input of the output layer)", showgrid=False))
    figure.add_heatmap(
        z=z.astype(np.float32), x=np.arange(columns + 1) * n_features / columns,
        y=np.append(rows.top, rows.bottom.iloc[-1]), colorscale="Cividis", zmin=0,
        zmax=100 if value == "replaced" else float(z.max()),
        colorbar=dict(title=dict(text=what, side="right"), outlinewidth=0), name=what,
        customdata=np.repeat(rows["first"].to_numpy(np.int32)[:, None], columns, axis=1),
        hovertemplate="labels from rank %{customdata:,d}, feature %{x:.0f}<br>%{z:.2f} %<extra></extra>")
    bands, said = [], []
    for name, part in rows.groupby("bin", sort=False):
        top, bottom, new = part.top.iloc[0], part.bottom.iloc[-1], born[part.index].sum()
        slots = size[part.index].sum() * fan_in
        bands.append(((top + bottom) / 2, f"<b>{name}</b><br>{size[part.index].sum():,} labels"
                                          + (f"<br>{new:,} born here" if frame else "")))
        said.append(f"{new:,} of {slots:,} in {name}" if frame else f"{slots:,} in {name}")
        figure.add_shape(type="rect", xref="paper", x0=-0.012, x1=-0.004, y0=top + 0.01, y1=bottom - 0.01,
                         fillcolor=BINS[name].color, line_width=0)
    figure.update_yaxes(range=[float(rows.bottom.max()), 0], tickvals=[at for at, _ in bands], showline=False,
                        ticktext=[text for _, text in bands], showgrid=False, ticks="", ticklabelstandoff=14)
    figure.update_layout(hovermode="closest", height=520)
    caption = (f"At step {step:,} {_percent(100 * moved.sum() / count.sum())} of the {count.sum():,} connections are "
               f"not those of the start; the rewire of this step gave birth to {_and(said)}." if frame else
               f"At the start there are {count.sum():,} connections, {fan_in} for each label: {_and(said)}.")
    alt = (f"Raster of {len(rows)} rows of labels, most frequent first, by {columns} columns of features; colour is "
           f"the share of {what.replace(' (%)', '')}, {np.nanmin(z):.3g} to {np.nanmax(z):.3g} %.")
    return _picture(figure, caption, table, alt)


def in_degree(trace: Trace, frame: int = -1) -> Picture:
    """How many labels read each feature, most read first: at the start and at a frame."""
    first, now, n_features = _first_indices(trace), trace.connectivity(frame), _n_features(trace)
    ranks = np.unique(np.linspace(1, n_features, min(n_features, 1000)).round().astype(int))
    step = trace.frames[frame]
    figure = _panels("Do labels crowd onto some features?", ["labels that read the feature"],
                     x=dict(title_text="features, most read first (rank)"))
    said = []
    for indices, name, look in ((first, "at the start", DENSE), (now, f"at step {step:,}", RUNS[0])):
        degree = np.sort(np.bincount(indices.ravel().astype(np.int64), minlength=n_features))[::-1]
        _line(figure, ranks, degree[ranks - 1], name, look, width=3)
        said.append(f"{name} the most read of {n_features:,} features is read by {degree[0]:,} labels and "
                    f"{int((degree == 0).sum()):,} by none")
    figure.update_yaxes(rangemode="tozero")
    caption = _sentence(said, join="; ") + f"; the mean is {now.size / n_features:.1f}."
    return _picture(figure, caption, _table(figure, "rank"))


# --- side by side -------------------------------------------------------------------------------------------------


def compare(traces: Traces, metrics: Sequence[str] = ("P@1", "PSP@5", "recall@5/head", "recall@5/torso",
                                                      "recall@5/tail"), split: str = "test") -> Picture:
    """The last evaluation of each method, a panel a metric; several runs of one name give a mean and a min-max span."""
    groups: dict[str, list[dict[str, float]]] = {}
    for run in _runs(traces):
        if run.trace.events["eval"]:
            groups.setdefault(run.group, []).append(run.trace.metrics(split))
    if not groups:
        raise ValueError("none of these runs was evaluated before it ended: train longer, or set eval_interval")
    names = list(groups)
    rows = []
    for metric in metrics:
        for name, found in groups.items():
            if metric not in found[0]:
                raise ValueError(f"{metric!r} was not recorded; there is {', '.join(found[0])}")
            values = np.array([m[metric] for m in found])
            rows.append((metric, name, values.mean(), values.min(), values.max(), len(values)))
    table = pd.DataFrame(rows, columns=["metric", "method", "mean", "min", "max", "runs"])
    several = int(table.runs.max()) > 1
    figure = _panels("What each method gets right after training", [""])
    figure.update_layout(hovermode="closest", showlegend=False, height=150 + 42 * len(names), margin_b=76, margin_t=64)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.7], ticks="")
    wide, gap = 1 / len(metrics), 0.03 if len(metrics) > 1 else 0
    for i, metric in enumerate(metrics):
        axis = "" if i == 0 else str(i + 1)
        part = table[table.metric == metric]
        figure.update_layout({f"xaxis{axis}": dict(
            domain=[i * wide, (i + 1) * wide - gap], anchor="y", nticks=4,
            range=[0, max(1.15 * float(np.nan_to_num(part["max"]).max()), 0.01)],
            title=dict(text=f"{metric.replace('/', '<br>')} (%)", font_size=14))})
        for name, look in looks_of(names).items():
            mean, low, high = part[part.method == name][["mean", "min", "max"]].to_numpy()[0]
            figure.add_scatter(
                x=[mean], y=[names.index(name)], xaxis=f"x{axis}", name=name, mode="markers+text",
                marker=dict(color=look.color, symbol=look.symbol, size=12), text=[_plain(mean)],
                textposition="top center", cliponaxis=False, hovertemplate=f"{metric} %{{x:.2f}} %",
                error_x=dict(array=[high - mean], arrayminus=[mean - low], thickness=2, width=6) if several else None)
    best = []
    for metric in metrics:
        part = table[table.metric == metric].dropna(subset="mean")
        if len(part):
            top = part.loc[part["mean"].idxmax()]
            best.append(f"{metric} {_percent(top['mean'])} for {top['method']}")
    spread = f" (dots are means of up to {int(table.runs.max())} runs, bars span their minimum and maximum)"
    return _picture(figure, f"Best of {len(names)} method{'s' * (len(names) > 1)}: {_and(best)}"
                            f"{spread if several else ' (one run each)'}.",
                    table if several else table[["metric", "method", "mean"]].rename(columns={"mean": "percent"}),
                    "Dots, one for each method in each of the panels " + ", ".join(metrics) + ".")


def memory_ledger(sizes: Mapping[str, int], width: int = 768, fan_in: int = 128, moments: int = 2) -> Picture:
    """Predicted memory of a dense, a sparse and a bottleneck output layer: `sizes` maps names to numbers of labels.

    Weights, gradients, optimizer moments (2: Adam) and indices; dots, as on a logarithmic axis a bar's length means
    nothing. The bottleneck has the width whose memory comes closest to the sparse layer's. See `xmc_explore.memory`.
    """
    if not sizes:
        raise ValueError("sizes is empty; give {name: number of labels}")
    kinds = {"dense": DENSE, "sparse": METHODS["SET"], "bottleneck": METHODS["bottleneck"]}
    figure = _panels(f"Memory of the output layer in training, {width:,} features", [""],
                     x=dict(title_text="weights, gradients, moments, indices (GiB, log scale)", type="log"))
    figure.update_layout(hovermode="closest", height=170 + 84 * len(sizes))
    ticks = [f"{name}<br>{n:,} labels" for name, n in sizes.items()]
    figure.update_yaxes(tickvals=list(range(len(sizes))), ticktext=ticks, range=[len(sizes) - 0.5, -0.5], ticks="",
                        showgrid=False)
    rows = []
    for name, n in sizes.items():
        ranks = {"dense": 0, "sparse": fan_in, "bottleneck": memory.bottleneck_width(width, n, fan_in)}
        for kind, size in ranks.items():
            taken = memory.predicted(kind, width, n, size, moments=moments)
            rows.append((name, n, kind, size or width, taken, taken / GIB))
    table = pd.DataFrame(rows, columns=["size", "labels", "output layer", "connections or width", "bytes", "GiB"])
    for i, (kind, look) in enumerate(kinds.items()):
        part = table[table["output layer"] == kind]
        figure.add_scatter(x=part["GiB"], y=np.arange(len(part)) + 0.28 * (i - 1), name=kind, mode="markers+text",
                           marker=dict(color=look.color, symbol=look.symbol, size=12), cliponaxis=False,
                           text=[f"{v:.3g} GiB" for v in part["GiB"]], textposition="middle right",
                           hovertemplate=f"{kind} %{{x:.4g}} GiB<extra></extra>")
    low, high = np.log10(table["GiB"].min()), np.log10(table["GiB"].max())
    figure.update_xaxes(range=[low - 0.1, high + 0.1 + 0.18 * (high - low + 1)])
    largest = table[table.labels == max(sizes.values())].set_index("output layer")
    return _picture(figure, f"With {max(sizes.values()):,} labels a dense output layer takes "
                            f"{largest.GiB['dense']:.3g} GiB and one with {fan_in} connections a label "
                            f"{largest.GiB['sparse']:.3g} GiB, {largest.GiB['dense'] / largest.GiB['sparse']:.1f} "
                            f"times less; a bottleneck of the same memory is "
                            f"{int(largest['connections or width']['bottleneck'])} wide.",
                    table, f"Dots on a logarithmic axis of GiB for {_and(sizes)}, dense, sparse and bottleneck.")


# --- runs ---------------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    name: str
    trace: Trace
    look: Look
    group: str = ""  # runs of one group share a name in the legend


def method_of(recipe: Recipe) -> str:
    """What the method of a recipe is called: "dense", "bottleneck", "static", "SET", "RigL", with what is added."""
    name = recipe.output
    if name == "sparse":
        name = {"random": "SET", "gradient": "RigL"}[recipe.growth_mode] if recipe.rewires else "static"
    return name + " + intermediate" * bool(recipe.intermediate) + " + auxiliary" * bool(recipe.aux_weight)


def _runs(*traces: Traces) -> list[_Run]:
    """Every run with its name and look: names are given (a dict) or those of the methods."""
    named: dict[str, list[Trace]] = {}
    for item in traces:
        if isinstance(item, Mapping):
            named |= {str(k): list(v) if isinstance(v, Sequence) else [v] for k, v in item.items()}
            continue
        for trace in item if isinstance(item, Sequence) else [item]:
            name = method_of(trace.recipe) if isinstance(trace, Trace) else ""
            number = 1 + sum(k.split(" #")[0] == name for k in named)
            named[name if number == 1 else f"{name} #{number}"] = [trace]
    found = [t for group in named.values() for t in group]
    if not found or not all(isinstance(t, Trace) for t in found):
        raise ValueError("give traces: one, a list, or a dict of names; got "
                         + (", ".join(type(t).__name__ for t in found) or "none"))
    looks = looks_of(named)
    return [_Run(name if len(group) == 1 else f"{name}, seed {t.recipe.seed}", t, looks[name], name)
            for name, group in named.items() for t in group]


def _with(runs: list[_Run], quantity: str, words: str, test: Callable[[np.ndarray], Any] = len) -> list[_Run]:
    """The runs that recorded a quantity. Raises ValueError saying what is missing if none did."""
    kept = []
    for run in runs:
        try:
            kept += [run] if test(run.trace.history(quantity)[1]) else []
        except KeyError:
            continue
    if not kept:
        said = _and(f"{run.name} ({run.trace.status}, {run.trace.steps:,} steps)" for run in runs)
        raise ValueError(f"nothing to draw: {words} was not recorded in {said}")
    return kept


def _first_indices(trace: Trace) -> np.ndarray:
    if not trace.frames:
        kind = trace.recipe.output
        raise ValueError(f"the output layer of this run is {kind}: every label reads every feature, so there is no "
                         "connectivity to draw; use a run with output='sparse'" if kind != "sparse" else
                         "this run was stopped before its connectivity was recorded")
    return trace.connectivity(0)


def _n_features(trace: Trace) -> int:
    """Width of what the output layer reads; where the recipe does not say, up to the last feature that is read."""
    recipe = trace.recipe
    known = recipe.intermediate or (recipe.hidden if recipe.encoder == "bag" else 0)
    return known or 1 + max(int(trace.connectivity(frame).max()) for frame in (0, -1))


def _raster_rows(bins: Any) -> pd.DataFrame:
    """Labels by frequency in rows: each bin one unit high, in at most a third of `CELLS` rows of equal size."""
    order = np.argsort(-bins.frequency, kind="stable")
    rows, start = [], 0
    for i, name in enumerate(BIN_NAMES):
        labels = order[bins.of_label[order] == i]
        parts = np.array_split(labels, min(len(labels), CELLS // 3)) if len(labels) else []
        band = len({row["bin"] for row in rows})
        for j, part in enumerate(parts):
            rows.append({"bin": name, "labels": part, "first": start + 1, "last": start + len(part),
                         "top": band + j / len(parts), "bottom": band + (j + 1) / len(parts)})
            start += len(part)
    return pd.DataFrame(rows)


# --- drawing ------------------------------------------------------------------------------------------------------


def _panels(title: str, y_titles: Sequence[str], heights: Sequence[float] | None = None,
            x: dict[str, Any] | None = None) -> go.Figure:
    """An empty figure of panels one above the other. They share one x axis, so that one hover reads all of them."""
    n, gap = len(y_titles), 0.05
    heights = heights or [1 / n] * n
    layout: dict[str, Any] = dict(template=TEMPLATE, title_text=title, height=(400, 540, 620)[n - 1])
    top = 1.0
    for i, (text, height) in enumerate(zip(y_titles, heights, strict=True)):
        bottom = 0.0 if i == n - 1 else top - height * (1 - gap * (n - 1))
        layout[f"yaxis{i + 1 if i else ''}"] = dict(title_text=text, domain=[bottom, top], hoverformat=".4~g")
        top = bottom - gap
    steps = dict(title_text=STEP, hoverformat=",d", rangemode="tozero", unifiedhovertitle_text=STEP + " %{x}")
    return go.Figure(layout=layout | {"xaxis": (x or steps) | {"anchor": f"y{n if n > 1 else ''}"}})


def _line(figure: go.Figure, x: np.ndarray, y: np.ndarray, name: str, look: Look, *, row: int = 1, width: float = 2,
          group: str | None = None, legend: bool = True, faint: bool = False) -> None:
    """One line; its dash and a few markers say what its colour says. A faint one is behind another and has no hover."""
    thin = slice(None) if len(x) <= POINTS else np.linspace(0, len(x) - 1, POINTS).astype(int)
    figure.add_scatter(
        x=x[thin], y=y[thin], name=name, yaxis=f"y{row if row > 1 else ''}", legendgroup=group or name,
        showlegend=legend and not faint, line=dict(color=look.color, dash=look.dash, width=1 if faint else width),
        mode="lines" if faint else "lines+markers", opacity=0.35 if faint else 1, connectgaps=True,
        marker=dict(symbol=look.symbol, size=8, maxdisplayed=12), hoverinfo="skip" if faint else None)


def _smoothed(figure: go.Figure, run: _Run, quantity: str, smooth: int | None, row: int = 1) -> str:
    """A quantity of each step, thin, and its running median, bold; returns "name a to b" of the latter."""
    steps, values = run.trace.history(quantity)
    window = _window(run, smooth)
    middle = pd.Series(values).rolling(window, center=True, min_periods=1).median().to_numpy()
    group = run.group or run.name
    if window > 1:
        _line(figure, steps, values, f"{run.name} each step", run.look, row=row, group=group, faint=True)
    first = row == 1 and group not in {t.name for t in figure.data if t.showlegend}
    _line(figure, steps, middle, group if first else run.name, run.look, row=row, width=3, group=group, legend=first)
    return f"{run.name} {_number(middle[0])} to {_number(middle[-1])}"


def _window(run: _Run, smooth: int | None) -> int:
    return max(1, smooth if smooth is not None else run.trace.steps // 40)


def _median_of(runs: list[_Run], smooth: int | None) -> str:
    windows = sorted({_window(run, smooth) for run in runs})
    return f"running median over {_and(map(str, windows))} steps" if windows[-1] > 1 else "step by step"


def _log_if_wide(figure: go.Figure, quantity: str) -> None:
    """A logarithmic axis where the bold lines of the first panel span more than a factor of 20."""
    drawn = [t.y for t in figure.data if t.yaxis in (None, "y") and t.hoverinfo != "skip"]
    y = np.concatenate(drawn)
    y = y[y > 0]
    if len(y) and y.max() > 20 * y.min():
        figure.update_layout(yaxis=dict(type="log", title_text=figure.layout.yaxis.title.text + " (log scale)"))


def _mark_cutoffs(figure: go.Figure, runs: list[_Run]) -> str:
    """A vertical line at the last step with an auxiliary objective, if the run went on; returns it in words."""
    said = {}
    for run in runs:
        steps, weight = run.trace.history("aux_weight")
        if weight.any() and (last := int(steps[np.flatnonzero(weight)[-1]])) < steps[-1]:
            said.setdefault(last, []).append(run.name)
    for step in said:
        _mark(figure, step, "auxiliary ends", AUXILIARY)
    return "".join(f"; the auxiliary objective of {_and(names)} ends at step {step:,}" for step, names in said.items())


def _mark(figure: go.Figure, x: float, text: str, look: Look = MARK) -> None:
    """A vertical line through every panel with a word at its top."""
    log = figure.layout.xaxis.type == "log"
    figure.add_shape(type="line", x0=x, x1=x, yref="paper", y0=0, y1=1,
                     line=dict(color=look.color, dash=look.dash, width=1.5))
    figure.add_annotation(x=np.log10(x) if log else x, yref="paper", y=1, text=text, showarrow=False, xanchor="left",
                          yanchor="top", xshift=4, font_color=INK)


# --- words and tables ---------------------------------------------------------------------------------------------


def _picture(figure: go.Figure, caption: str, table: pd.DataFrame | None = None, alt: str | None = None) -> Picture:
    title = figure.layout.title.text
    shown = {t.name for t in figure.data if t.type == "scatter" and t.showlegend is not False}
    if len(shown) > 4:  # beside the panels, where it cannot grow into the title
        figure.update_layout(legend=dict(orientation="v", x=1.01, y=1, yanchor="top"), margin_t=64)
    elif len(shown) < 2:
        figure.update_layout(margin_t=64)
    return Picture(figure, caption, _table(figure, STEP) if table is None else table,
                   f"{title}{'' if title.endswith('?') else '.'} {alt or _describe(figure)}")


def _table(figure: go.Figure, index: str) -> pd.DataFrame:
    """What the lines of a figure draw, one column a line."""
    many = len(list(figure.select_yaxes())) > 1
    columns = {}
    for t in figure.data:
        panel = figure.layout["yaxis" + (t.yaxis or "y")[1:]].title.text
        columns[f"{panel}: {t.name}" if many else t.name] = pd.Series(t.y, index=t.x)
    return pd.concat(columns, axis=1).rename_axis(index).reset_index()


def _describe(figure: go.Figure) -> str:
    """The kind of figure, its axes, and each line with how it looks and where it runs, for whoever cannot see it."""
    said = []
    for t in figure.data:
        y = np.asarray(t.y, dtype=float)
        y = y[np.isfinite(y)]
        if t.hoverinfo != "skip" and len(y):
            said.append(f"{t.name} ({t.line.dash} line, {t.marker.symbol}) from {_number(y[0])} to {_number(y[-1])}, "
                        f"lowest {_number(y.min())}, highest {_number(y.max())}")
    x = np.concatenate([t.x for t in figure.data])
    panels = [axis.title.text for axis in figure.select_yaxes()]
    return (f"Line chart of {_and(panels)} over {figure.layout.xaxis.title.text}, {x.min():,} to {x.max():,}: "
            + "; ".join(said) + ".")


def _and(parts: Any) -> str:
    """ "a", "a and b", "a, b and c"."""
    *rest, last = parts
    return f"{', '.join(rest)} and {last}" if rest else last


def _sentence(parts: Sequence[str], join: str = ", ") -> str:
    text = join.join(parts)
    return text[0].upper() + text[1:]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _plain(value: float) -> str:
    return "no value" if np.isnan(value) else f"{value:.1f}"


def _percent(value: float) -> str:
    return "no value" if np.isnan(value) else f"{value:.1f} %"

"""Figures of connections: who reads what, and how that is born, lives and dies. See `figures` for what they share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from plotly.colors import sample_colorscale

from .. import probes
from ..corpora import BIN_NAMES, Corpus, LabelBins
from ..trace import Trace
from .drawing import level, line, listed, log_axis, number, panels, percent, picture, runs_of, table_of
from .picture import Picture
from .style import ALL_LABELS, BINS, DENSE, RUNS

CELLS = 128  # rows and columns of a raster: more, and a browser takes its time
FRAMES = 60  # at most so many are looked at where each costs something
ABOVE_THE_GROUND = sample_colorscale("Cividis", np.linspace(0.25, 1, 9))  # where cells may be empty, on a dark page
GROUPS = 45  # of labels of like frequency


# --- who reads what ------------------------------------------------------------------------------------------------


def churn(trace: Trace) -> Picture:
    """The share of connections that each rewire replaces, for all labels and by bin."""
    fan_in, of_label = _rewired(trace).shape[1], _of_label(trace)
    slots = fan_in * np.bincount(of_label[of_label >= 0], minlength=3)
    replaced = np.array([np.bincount(of_label[trace.changed(frame) // fan_in], minlength=3)
                         for frame in range(1, len(trace.frames))])
    steps = np.array(trace.frames[1:])
    figure = panels("How many connections does each rewire replace?", ["replaced connections (%)"])
    total = 100 * replaced.sum(1) / slots.sum()
    line(figure, steps, total, "all labels", ALL_LABELS, width=5)
    for i, name in enumerate(BIN_NAMES):
        if slots[i]:
            line(figure, steps, 100 * replaced[:, i] / slots[i], name, BINS[name])
    figure.update_yaxes(rangemode="tozero")
    by_bin = listed(f"{n:,} in {name}" for n, name in zip(replaced.sum(0), BIN_NAMES, strict=True))
    rewires = f"{len(steps):,} rewire{'s' * (len(steps) > 1)}"
    last = f", {percent(total[-1])} at step {steps[-1]:,}" if len(steps) > 1 else ""
    return picture(figure, f"{rewires} replaced {replaced.sum():,} connections ({by_bin}): {percent(total[0])} of all "
                           f"at step {steps[0]:,}{last}.")


def connectivity(trace: Trace, frame: int = -1, value: str = "connections") -> Picture:
    """Who is connected to what: labels by frequency (top: most frequent) by features, in at most 128 x 128 cells.

    The three bins take the same height. `value` is "connections", the share of a cell's possible connections that
    exist; "replaced", the share of its connections that are not those of the start; "born" or "died", how many of its
    connections the rewire at this frame has grown or dropped. `frame` counts `trace.frames`.
    """
    if value not in ("connections", "replaced", "born", "died"):
        raise ValueError(f"value={value!r}; choose 'connections', 'replaced', 'born' or 'died'")
    first, now = _first_indices(trace), trace.connectivity(frame)
    frame %= len(trace.frames)
    (n_labels, fan_in), n_features, step = now.shape, trace.width, trace.frames[frame]
    rows = _raster_rows(trace.bins())
    size, columns = rows.labels.map(len).to_numpy(), min(CELLS, n_features)
    row_of = np.empty(n_labels, np.int64)
    row_of[np.concatenate(list(rows.labels))] = np.repeat(np.arange(len(rows)), size)
    column_of = np.arange(n_features) * columns // n_features
    cell = row_of[:, None] * columns + column_of[now]
    there, slots = now >= 0, trace.changed(frame)  # labels of a dense head read everything: they are not drawn

    def counted(cells: np.ndarray) -> np.ndarray:
        return np.bincount(cells.ravel(), minlength=len(rows) * columns).reshape(-1, columns)

    count, moved = counted(cell[there]), counted(cell[there & (now != first)])
    born = np.bincount(row_of[slots // fan_in], minlength=len(rows))
    unit, scale = "%", "Cividis"
    if value == "connections":
        title, what = f"Which features do labels read at step {step:,}?", "share of possible connections (%)"
        z = 100 * count / np.outer(size, np.bincount(column_of))
        top = float(max(np.quantile(z[z > 0], 0.9), 200 * fan_in / n_features))
        bar = dict(tickvals=[0, top / 2, top],
                   ticktext=["0", f"{top / 2:.3g}", f"{top:.3g}" + " or<br>more" * bool(z.max() > top)])
    elif value == "replaced":
        title, what = f"Which connections were replaced by step {step:,}?", "share not there at the start (%)"
        z = 100 * np.divide(moved, count, where=count > 0, out=np.full(count.shape, np.nan))
        top, bar, scale = 100.0, {}, ABOVE_THE_GROUND
    elif not frame:
        raise ValueError(f"at the start nothing has {value}: choose a frame from 1 to {len(trace.frames) - 1}")
    else:
        title = f"Which connections {'were born' if value == 'born' else 'died'} at step {step:,}?"
        what = f"connections {value}" if value == "born" else "connections that died"
        then = now if value == "born" else trace.connectivity(frame - 1)
        z = counted((row_of[:, None] * columns + column_of[then]).ravel()[slots]).astype(float)
        top, unit = float(max(z.max(), 1)), value
        ticks = list(range(int(top) + 1)) if top <= 5 else [0, top / 2, top]
        bar = dict(tickvals=ticks, ticktext=[f"{v:g}" for v in ticks])

    figure = panels(title, [""], title_text="feature (input of the output layer)", showgrid=False)
    figure.add_heatmap(
        z=z.astype(np.float32), x=np.arange(columns + 1) * n_features / columns,
        y=np.append(rows.top, rows.bottom.iloc[-1]), colorscale=scale, zmin=0, zmax=top,
        colorbar=bar | dict(title=dict(text=what, side="right"), outlinewidth=0), name=what,
        customdata=np.repeat(rows["first"].to_numpy(np.int32)[:, None], columns, axis=1),
        hovertemplate="labels from rank %{customdata:,d}, feature %{x:.0f}<br>%{z:.3g} " + unit + "<extra></extra>")
    bands, said, since = [], [], []
    for name, part in rows.groupby("bin", sort=False):
        low, high, labels, new = part.top.min(), part.bottom.max(), size[part.index].sum(), born[part.index].sum()
        gone = percent(100 * moved[part.index].sum() / max(count[part.index].sum(), 1))
        third = {"connections": "", "replaced": f"<br>{gone} replaced"}.get(value, f"<br>{new:,} born here")
        bands.append(((low + high) / 2, f"<b>{name}</b><br>{labels:,} labels{third}"))
        said.append(f"{new:,} of {labels * fan_in:,} in {name}" if frame else f"{labels * fan_in:,} in {name}")
        since.append(f"{gone} in {name}")
        figure.add_shape(type="rect", xref="paper", x0=-0.012, x1=-0.004, y0=low + 0.01, y1=high - 0.01,
                         fillcolor=BINS[name].color, line_width=0)
    figure.update_yaxes(range=[float(rows.bottom.max()), 0], tickvals=[at for at, _ in bands], showline=False,
                        ticktext=[text for _, text in bands], showgrid=False, ticks="", ticklabelstandoff=14)
    figure.update_layout(hovermode="closest", height=520)
    if value in ("born", "died"):
        caption = f"The rewire at step {step:,} replaced {listed(said)}."
    elif frame:
        caption = (f"At step {step:,}, {percent(100 * moved.sum() / count.sum())} of the {count.sum():,} connections "
                   f"were not there at the start: {listed(since)}.")
    else:
        caption = f"At the start there are {count.sum():,} connections, {fan_in} for each label: {listed(said)}."
    table = pd.DataFrame({
        "labels by frequency": [f"{a:,}" + f"\N{EN DASH}{b:,}" * (a != b)
                                for a, b in zip(rows["first"], rows["last"], strict=True)],
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
        degree = np.sort(probes.in_degree(indices, n_features))[::-1]
        line(figure, ranks, degree[ranks - 1], name, look, width=3)
        said.append(f"{name} the most read has {degree[0]:,} and {(degree == 0).sum():,} have none")
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"A feature is read by {(now >= 0).sum() / n_features:.1f} labels on average; of "
                           f"{n_features:,} features, {'; '.join(said)}.", table_of(figure, "rank"))


def gather(trace: Trace, tile: int = 0, block: int = 32, frame: int = -1) -> Picture:
    """What a kernel reads for one tile of `block` labels: a dot a connection.

    Below, how many labels of the whole layer read each feature, with a dot at those of the tile. Labels stand in the
    order of the corpus, as a kernel has them. `frame` counts `trace.frames`. Raises ValueError for a tile that is not
    there.
    """
    _first_indices(trace)  # says why there are none
    indices, width = trace.connectivity(frame), trace.width
    tiles = -(-len(indices) // block)
    if not 0 <= tile < tiles:
        raise ValueError(f"tile={tile}: {len(indices):,} labels make tiles 0 to {tiles - 1} of {block}")
    rows = indices[tile * block:(tile + 1) * block]
    features = np.unique(rows)
    degree = probes.in_degree(indices, width)
    figure = panels(f"What one program reads: labels {tile * block} to {tile * block + len(rows) - 1}",
                    ["label", "labels reading it"], [0.6, 0.4], title_text="feature", range=[-1, width])
    label = tile * block + np.repeat(np.arange(len(rows)), rows.shape[1])
    figure.add_scatter(x=rows.ravel(), y=label, name="a connection", mode="markers", showlegend=False,
                       marker=dict(color=RUNS[0].color, symbol="circle", size=6), line_dash="solid",
                       hovertemplate="label %{y} reads feature %{x}<extra></extra>")
    line(figure, np.arange(width), degree, "all labels", DENSE, row=2, width=1)
    figure.data[-1].mode = "lines"
    figure.add_scatter(x=features, y=degree[features], yaxis="y2", name="features of this tile", mode="markers",
                       showlegend=False, line_dash="solid",
                       marker=dict(color=RUNS[0].color, symbol="circle", size=6),
                       hovertemplate="feature %{x}: %{y} labels<extra></extra>")
    figure.update_layout(hovermode="closest", yaxis_range=[label.max() + 0.7, label.min() - 0.7],
                         yaxis2_rangemode="tozero")
    names = trace.label_names
    table = pd.DataFrame({"label": [names[tile * block + i] for i in range(len(rows))],
                          "reads": [" ".join(map(str, sorted(row))) for row in rows]})
    apart = np.abs(np.diff(np.sort(rows, 1))).mean()
    return picture(figure, f"The {len(rows)} labels of this tile ask for {rows.size} features, {len(features)} of the "
                           f"{width} different ones; the neighbours in a row lie {apart:.0f} apart on average, and a "
                           f"feature is read by {degree.min()} to {degree.max()} labels of the {len(indices):,} "
                           f"({rows.shape[1] * len(indices) / width:.1f} on average).", table,
                   f"Dots, label by feature, scattered without a pattern: {rows.size} connections of {len(rows)} "
                   f"labels; below, how many labels read each of {width} features, {degree.min()} to {degree.max()}.")


# --- how connections are born, live and die ------------------------------------------------------------------------


def churn_by_frequency(trace: Trace) -> Picture:
    """How often the slots of a label were replaced in the whole run, by how often it occurs in training.

    A dot is the mean over labels of like frequency, in at most 45 groups of labels; rare labels are many.
    """
    fan_in = _rewired(trace).shape[1]
    moved = probes.replaced(trace.store) / fan_in
    of_label, frequency = _of_label(trace), trace.label_frequency
    figure = panels("Do connections of rare labels move more often?", ["replacements a slot"],
                    title_text="training documents of the label (log scale)", hoverformat=",.0f",
                    **log_axis(frequency.astype(float)))
    rows, said = [], []
    for i, name in enumerate(BIN_NAMES):
        labels = np.flatnonzero((of_label == i) & (frequency > 0))
        if not len(labels):
            continue
        labels = labels[np.argsort(-frequency[labels], kind="stable")]
        parts = np.array_split(labels, min(len(labels), GROUPS // 3))
        here = [(frequency[p].mean(), moved[p].mean()) for p in parts]
        line(figure, *np.array(here).T, name, BINS[name], width=2)
        rows += [(name, len(p), f, m) for p, (f, m) in zip(parts, here, strict=True)]
        said.append(f"{name} {number(moved[labels].mean())}")
    table = pd.DataFrame(rows, columns=["bin", "labels", "training documents (mean)", "replacements a slot"])
    all_of = number(moved[of_label >= 0].mean())
    return picture(figure, f"In {len(trace.frames) - 1:,} rewires a slot was replaced {all_of} times on "
                           f"average: {listed(said)}.", table)


def survival(trace: Trace, grown: bool = True) -> Picture:
    """The share of connections still alive at an age, by bin (Kaplan-Meier, see `probes.survival`).

    Those that rewires have grown, or with `grown=False` the first ones too, which start with weights and not at zero.
    """
    _rewired(trace)
    lives = probes.lives(trace.store)
    curves = probes.survival(lives, trace.frames[-1], _of_label(trace), grown)
    figure = panels("How long does a connection live?", ["still alive (%)"], title_text="age (training steps)",
                    hoverformat=",d", rangemode="tozero")
    alike: dict[tuple[str, str], list[str]] = {}  # what is said of bins, and of which
    for name, (ages, share) in curves.items():
        line(figure, ages, 100 * share, name, BINS[name], width=3)
        below = np.flatnonzero(share < 0.5)
        words = (("half", f"die within {ages[below[0]]:,} steps") if len(below) else
                 (percent(100 * share[-1]), f"outlive {ages[-1]:,} steps"))
        alike.setdefault(words, []).append(name)
    said = [f"{many} of those in {listed(names)} {fate}" for (many, fate), names in alike.items()]
    figure.update_yaxes(rangemode="tozero")
    which = "that rewires have grown" if grown else "in all, the first ones included"
    mine = lives.born > 0 if grown else np.ones(len(lives.born), bool)
    deaths = (lives.died[mine] >= 0).sum()
    return picture(figure, f"Of {mine.sum():,} connections {which}, {deaths:,} were seen to die: {listed(said)}.",
                   table_of(figure, "age (steps)"))


def age(trace: Trace) -> Picture:
    """Mean age of the connections of each bin after each rewire; it would grow with the steps if none were replaced."""
    _rewired(trace)
    steps, found = np.array(trace.frames), probes.ages(trace.store, _of_label(trace))
    figure = panels("How old are the connections?", ["mean age (steps)"])
    line(figure, steps, steps.astype(float), "if none were replaced", DENSE)
    said = []
    for name, values in found.items():
        if np.isfinite(values[-1]):
            line(figure, steps, values, name, BINS[name], width=3)
            said.append(f"{name} {number(values[-1])}")
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"At step {steps[-1]:,}, after the last rewire, a connection is on average this many steps "
                           f"old: {listed(said)}.")


def exploration(trace: Trace) -> Picture:
    """Exploration rate: the share of all label-feature connections that existed at any time so far, by bin (ITOP)."""
    first, of_label, steps = _rewired(trace), _of_label(trace), np.array(trace.frames)
    found = probes.explored(trace.store, trace.width, of_label)
    grown = sum(len(trace.changed(i)) for i in range(len(steps)))
    figure = panels("How much of the dense matrix was ever tried?", ["connections ever tried (%)"])
    size = np.bincount(of_label[of_label >= 0], minlength=3)
    total = sum(n * found[name] for n, name in zip(size, BIN_NAMES, strict=True) if n) / size.sum()
    line(figure, steps, 100 * total, "all labels", ALL_LABELS, width=5)
    again, said = 1 - (total[-1] - total[0]) * size.sum() * trace.width / max(grown, 1), []
    for i, (name, values) in enumerate(found.items()):
        if (of_label == i).any():
            line(figure, steps, 100 * values, name, BINS[name], width=3)
            said.append(f"{name} {percent(100 * values[-1])}")
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"Of the connections from its labels to {trace.width:,} features each bin has tried, by "
                           f"step {steps[-1]:,}: {listed(said)}; at the start it was "
                           f"{percent(100 * first.shape[1] / trace.width)}, and {percent(100 * again)} of what was "
                           f"grown had been tried before.")


def planted_support(trace: Trace) -> Picture:
    """Of the features that truly decide a label, the share it is connected to, by bin (planted corpus only).

    Recorded where the output layer reads the corpus's features themselves: encoder="features", no intermediate layer.
    """
    fan_in = _rewired(trace).shape[1]
    if not any("found/" in key for key in trace.events["rewire"][0]):
        raise ValueError("what truly decides a label was not known to this run: it is for the corpus 'planted' with "
                         "encoder='features' and intermediate=0")
    figure = panels("Does rewiring find what decides a label?", ["true features found (%)"])
    chance, said = 100 * fan_in / trace.width, []
    for name, look in BINS.items():
        if f"found/{name}" in trace.events["rewire"][0]:
            steps, values = trace.history(f"found/{name}")
            line(figure, np.append(0, steps), np.append(chance, 100 * values), name, look, width=3)
            said.append(f"{name} {percent(100 * values[-1])}")
    level(figure, chance, "by chance")
    figure.update_yaxes(rangemode="tozero")
    return picture(figure, f"After {steps[-1]:,} steps the labels read, of the features that decide them: "
                           f"{listed(said)}; by chance it would be {percent(chance)}.")


def in_degree_drift(trace: Trace) -> Picture:
    """Do labels come to prefer some features? The spread of in-degrees, and their correlation with the first ones.

    The spread is the standard deviation over features of the number of labels reading each, in units of that of a fair
    draw, sqrt(L p (1 - p)) with p = K / D: 1 means that no feature is preferred.
    """
    fan_in, of_label, width = _rewired(trace).shape[1], _of_label(trace), trace.width
    frames = _thinned(len(trace.frames))
    steps = np.array(trace.frames)[frames]
    degree = np.stack([probes.in_degree(trace.frame(i).indices, width, of_label) for i in frames])  # [frames, bins, D]
    degree = np.concatenate([degree.sum(1, keepdims=True), degree], axis=1).astype(float)
    figure = panels("Do labels come to prefer some features?", ["spread<br>(1 = a fair draw)",
                                                                "correlation<br>with start"])
    p, said = fan_in / width, []
    for i, (name, look) in enumerate({"all labels": ALL_LABELS, **BINS}.items()):
        labels = degree[0, i].sum() / fan_in
        if not labels:
            continue
        spread = degree[:, i].std(1) / max(np.sqrt(labels * p * (1 - p)), 1e-9)
        line(figure, steps, spread, name, look, width=5 if i == 0 else 2)
        centred = degree[:, i] - degree[:, i].mean(1, keepdims=True)
        norm = np.linalg.norm(centred, axis=1)
        line(figure, steps, centred @ centred[0] / np.maximum(norm * norm[0], 1e-9), name, look, row=2, group=name,
             width=5 if i == 0 else 2, legend=False)
        said.append(f"{name} {spread[0]:.2f} to {spread[-1]:.2f}")
    level(figure, 1, "")
    return picture(figure, f"Spread of the number of labels that read a feature, from the first step to step "
                           f"{steps[-1]:,}, 1 being a fair draw: {listed(said)}.")


def magnitudes(trace: Trace, frame: int = -1) -> Picture:
    """The weights of each bin from the largest to the smallest, as recorded last before a frame (logarithmic)."""
    _first_indices(trace)
    now = trace.frame(frame)
    if now.weight is None:
        raise ValueError("this run recorded no weights: it was recorded by an earlier version, or its layer is larger "
                         "than what is recorded of weights")
    figure = panels("How large are the weights of head and tail?", ["|weight| (log scale)"],
                    title_text="share of the bin's connections, largest first (%)", hoverformat=".3~g")
    said, of_label = [], _of_label(trace)
    for name, values in probes.magnitude_spectrum(now.weight, of_label).items():
        line(figure, np.linspace(0, 100, len(values)), np.where(values > 0, values, np.nan), name, BINS[name], width=3)
        said.append(f"{name} {number(np.median(values))}")
    drawn = np.concatenate([t.y for t in figure.data])
    figure.update_layout(yaxis=log_axis(drawn[np.isfinite(drawn)]))
    return picture(figure, f"Median |weight| of the connections at step {now.weight_step:,}: {listed(said)}; "
                           f"{percent(100 * (now.weight[of_label >= 0] == 0).mean())} of all are zero and not drawn.",
                   table_of(figure, "share (%)"))


def overlap(trace: Trace, corpus: Corpus, pairs: int = 1000) -> Picture:
    """Do labels that go together read the same features? Mean Jaccard index of what they read, at each rewire.

    Of each bin the `pairs` pairs that go together most (see `probes.related_pairs`), in the bin of their rarer label,
    and the same labels with their partners shuffled. Raises ValueError for another corpus than the trace's.
    """
    runs_of(trace)
    if not isinstance(corpus, Corpus):
        raise ValueError(f"give the trace and its corpus; got {type(corpus).__name__} for the corpus")
    if corpus.fingerprint != trace.header["corpus"]["fingerprint"]:
        raise ValueError(f"this trace is of corpus {trace.header['corpus']['name']!r} with fingerprint "
                         f"{trace.header['corpus']['fingerprint']}, not of {corpus.name!r} with {corpus.fingerprint}")
    fan_in, of_label = _rewired(trace).shape[1], _of_label(trace)
    related = probes.related_pairs(corpus.train.labels, n=len(of_label)**2)
    related = related[(of_label[related] >= 0).all(1)]
    rarer = of_label[related].max(1)
    groups = {name: related[rarer == i][:pairs] for i, name in enumerate(BIN_NAMES)}
    groups = {name: found for name, found in groups.items() if len(found)}
    if not groups:
        raise ValueError("no two labels of this corpus stand on three documents together")
    groups["put together by chance"] = probes.shuffled_pairs(np.concatenate(list(groups.values())))
    frames = _thinned(len(trace.frames))
    found = {name: np.empty(len(frames)) for name in groups}
    for at, number_ in enumerate(frames):
        indices = trace.frame(number_).indices
        for name, chosen in groups.items():
            found[name][at] = 100 * probes.overlap(indices, chosen).mean()
    steps = np.array(trace.frames)[frames]
    figure = panels("Do labels that go together read the same features?", ["features in common<br>(Jaccard, %)"])
    for name, values in found.items():
        line(figure, steps, values, name, BINS.get(name, ALL_LABELS), width=3)
    level(figure, 100 * probes.fair_overlap(trace.width, fan_in), "fair draws")
    figure.update_yaxes(rangemode="tozero")
    said = [f"{name} {found[name][0]:.2f} to {found[name][-1]:.2f} % ({len(groups[name]):,} pairs)" for name in found]
    return picture(figure, f"What two labels read, features in common over features of either, from the first step to "
                           f"step {steps[-1]:,}: {listed(said)}.")


# --- what a trace holds -------------------------------------------------------------------------------------------


def _first_indices(trace: Trace) -> np.ndarray:
    runs_of(trace)  # refuses what is no trace
    if trace.frames:
        return trace.connectivity(0)
    if trace.recipe.output != "sparse":
        raise ValueError(f"the output layer of this run is {trace.recipe.output}: every label reads every feature, so "
                         "there is no connectivity to draw; use a run with output='sparse'")
    raise ValueError("this run has no connectivity to draw: "
                     + ("; ".join(trace.notes) or "it was stopped before any was recorded"))


def _rewired(trace: Trace) -> np.ndarray:
    """The first indices [L, K] of a run that was rewired since."""
    first = _first_indices(trace)
    if len(trace.frames) < 2:
        raise ValueError(f"this run was never rewired (rewire_interval={trace.recipe.rewire_interval}, "
                         f"{trace.steps:,} steps): there is no change to draw")
    return first


def _of_label(trace: Trace) -> np.ndarray:
    """The bin of each label [L] as in `trace.bins()`, and -1 for labels of a dense head: they have no connections."""
    return np.where(_first_indices(trace)[:, 0] >= 0, trace.bins().of_label, -1)


def _thinned(n: int) -> np.ndarray:
    """At most `FRAMES` of n frames, evenly spaced, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, FRAMES)).astype(int))


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

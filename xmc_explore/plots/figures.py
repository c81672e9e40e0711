"""Figures of training: pure functions from traces to a `Picture`, nothing in it but what was recorded.

Functions that compare take traces one by one, as a list, or as a dict of names; a name may hold several runs (seeds).
All raise ValueError, in words, where a trace did not record what the figure needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..trace import Trace
from .drawing import (
    NO_GRADIENT,
    NO_PROBE,
    Run,
    Traces,
    having,
    level,
    line,
    listed,
    log_if_wide,
    mark_cutoffs,
    method_of,
    panels,
    percent,
    picture,
    plain,
    runs_of,
    smoothed,
)
from .picture import Picture
from .style import ALL_LABELS, AUXILIARY, BINS, DENSE, RUNS, looks_of

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


def gradient_budget(trace: Trace, smooth: int | None = None) -> Picture:
    """Who pushes the encoder: what head, torso and tail labels and the auxiliary head add to its gradient.

    Above, each part's share of the whole gradient g, <g_part, g> / |g|^2: the shares sum to 1. Below, the norm of each
    part. `smooth` is the window of the running median in probes. See `probes.GradientProbes`.
    """
    run, = having(runs_of(trace), "budget/norm/head", NO_PROBE.format("the gradient budget", "budget"))
    parts = dict(BINS)
    if trace.history("budget/norm/auxiliary")[1].any():
        parts["auxiliary"] = AUXILIARY
    drawn = [Run(name, trace, look, name) for name, look in parts.items()]
    figure = panels("Who pushes the encoder?", ["share", "norm"])
    said = smoothed(figure, drawn, "budget/share/{}", smooth, unit="probes")
    smoothed(figure, drawn, "budget/norm/{}", smooth, row=2, unit="probes")
    level(figure, 0, "")
    return picture(figure, f"Share of the encoder's gradient, {said}{mark_cutoffs(figure, [run])}.")


def dense_twin(*traces: Traces, smooth: int | None = None) -> Picture:
    """Does the encoder hear what a dense layer would tell it? Cosine and ratio of norms with a `probes.DenseTwin`.

    Where a run has the auxiliary objective, a second line has its part in the gradient too. Below, where it was probed,
    the signal-to-noise ratio of the whole gradient over micro-batches; documents with nothing in common give 1/3.
    """
    runs = having(runs_of(*traces), "twin/cosine", NO_PROBE.format("the dense twin", "twin"))
    noisy = having(runs, "snr", "") if any("snr" in e for run in runs for e in run.trace.events["probe"][:1]) else []
    helped = [run for run in runs if run.trace.history("aux_weight")[1].any()]
    used = {(run.look.dash, run.look.symbol) for run in runs}
    free = iter([look for look in (*RUNS[::-1], DENSE, *BINS.values()) if (look.dash, look.symbol) not in used])
    looks = {group: replace(next(free), color=AUXILIARY.color) for group in dict.fromkeys(r.group for r in helped)}
    titles = ["cosine", "ratio of norms", "signal / noise"][:3 if noisy else 2]
    figure = panels("Does the encoder hear what a dense layer would say?", titles)
    said = smoothed(figure, runs, "twin/cosine", smooth, unit="probes")
    for run in helped:
        steps, cosine = run.trace.history("twin/cosine_total")
        at, weight = run.trace.history("aux_weight")
        on = np.isin(steps, at[weight > 0])
        first = run is next(r for r in helped if r.group == run.group)
        name = f"{run.group if first else run.name}, whole gradient"
        line(figure, steps[on], cosine[on], name, looks[run.group], group=f"{run.group} helped", legend=first)
    smoothed(figure, runs, "twin/norm_ratio", smooth, row=2, unit="probes")
    level(figure, 1, "", row=2)
    if noisy:
        smoothed(figure, noisy, "snr", smooth, row=3, unit="probes")
        log_if_wide(figure, row=3)
        level(figure, 1 / 3, "nothing in<br>common", row=3)
    return picture(figure, f"Cosine of the encoder's gradient with what a dense twin of the output layer would send, "
                           f"{said}{mark_cutoffs(figure, runs)}.")


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


def learning(trace: Trace, k: int = 1, smooth: int | None = None) -> Picture:
    """P@k and PSP@k with the part that each bin adds, and the main loss: three panels over one axis of steps."""
    run, = having(runs_of(trace), "main", "the main loss")
    having([run], f"PSP@{k}/head", f"an evaluation with PSP@{k} by bin")
    figure = panels("What does the run learn, and of which labels?", [f"P@{k} (%)", f"PSP@{k} (%)", "main loss"],
                    [0.35, 0.35, 0.3])
    said = []
    for row, metric in ((1, f"P@{k}"), (2, f"PSP@{k}")):
        steps, total = trace.history(metric)
        line(figure, steps, total, "all labels", ALL_LABELS, row=row, width=5, group="all labels", legend=row == 1)
        parts = []
        for name, look in BINS.items():
            _, values = trace.history(f"{metric}/{name}")
            line(figure, steps, values, name, look, row=row, group=name, legend=row == 1)
            parts.append(f"{name} {percent(values[-1])}")
        said.append(f"{metric} is {percent(total[-1])}, the sum of {listed(parts)}")
    smoothed(figure, [run._replace(name="all labels", group="all labels", look=ALL_LABELS)], "main", smooth, row=3)
    log_if_wide(figure, row=3)
    return picture(figure, f"After {steps[-1]:,} steps {'; '.join(said)}.")


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
        quoted = [f'"{name}"' if "," in name else name for name in winners]
        who = "all" if len(winners) == len(part) > 1 else listed(quoted)
        best.append(f"{metric} {percent(most)} for {who}")
    spread = f"means of up to {table.runs.max()} runs, with bars from the least to the greatest"
    return picture(figure, f"Best of {len(names)} method{'s' * (len(names) > 1)}: {'; '.join(best)} "
                           f"({spread if several else 'one run each'}).",
                   table if several else table[["metric", "method", "mean"]].rename(columns={"mean": "percent"}),
                   f"Dots, one for each of {listed(names)}, in each of the panels {listed(metrics)}.")


def by_sparsity(traces: Traces, metric: str = "P@1") -> Picture:
    """A metric of the last evaluation against the share of connections kept, K / D: a line a method, a dot a fan-in.

    `traces` are runs with several fan-ins, a list (grouped by their methods) or a dict of names to lists; several seeds
    of one fan-in give a mean and a min-max span. A dense run is a level line. Raises ValueError for a bottleneck.
    """
    groups: dict[str, list[Trace]] = {}
    for run in having(runs_of(traces), metric, f"{metric} on the test split"):
        name = run.group if isinstance(traces, Mapping) else method_of(run.trace.recipe)
        groups.setdefault(name, []).append(run.trace)
    rows = []
    for name, found in groups.items():
        for trace in found:
            kind = trace.recipe.output
            if kind == "bottleneck":
                raise ValueError(f"{name} is a bottleneck: it has no fan-in to draw it at; leave it out")
            fan_in = trace.width if kind == "dense" else trace.recipe.fan_in
            rows.append((name, kind, fan_in, 100 * fan_in / trace.width, trace.metrics()[metric]))
    runs = pd.DataFrame(rows, columns=["method", "output", "fan-in", "kept (%)", metric])
    table = runs.groupby(["method", "output", "fan-in", "kept (%)"], sort=False)[metric].agg(
        ["mean", "min", "max", "count"]).reset_index()
    sparse = table[table.output == "sparse"]
    if sparse.empty:
        raise ValueError("none of these runs is sparse: give runs with output='sparse' and several fan-ins")
    several, said = bool((table["count"] > 1).any()), []
    kept = np.sort(sparse["kept (%)"].unique())
    figure = panels(f"{metric} against sparsity", [f"{metric} (%)"], title_text="connections kept, K / D (log scale)",
                    type="log", tickvals=kept, ticktext=[f"{v:.3g} %" for v in kept], hoverformat=".3~g")
    for name, look in looks_of(groups).items():
        part = table[table.method == name].sort_values("kept (%)")
        x, mean = (part["kept (%)"], part["mean"]) if part.output.iloc[0] == "sparse" else (
            kept[[0, -1]], part["mean"].repeat(2))
        line(figure, np.asarray(x), np.asarray(mean), name, look, width=3)
        if several:
            n = len(x) // len(part)
            figure.data[-1].error_y = dict(array=(part["max"] - part["mean"]).repeat(n), width=6, thickness=2,
                                           arrayminus=(part["mean"] - part["min"]).repeat(n))
        ends = list(dict.fromkeys(map(percent, mean.iloc[[0, -1]])))
        said.append(f"{name} {' with the fewest connections to '.join(ends)}" + " with the most" * (len(ends) > 1))
    figure.update_layout(hovermode="closest")
    spread = f"; means of up to {table['count'].max()} runs, with bars from the least to the greatest" * several
    return picture(figure, f"{metric} after training: {'; '.join(said)}{spread}.", table.drop(columns="output"))

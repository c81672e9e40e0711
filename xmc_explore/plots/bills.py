"""The memory of an output layer in pictures: by kind, method and part, and step by step while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .. import memory
from ..trace import Trace
from .drawing import line, listed, log_axis, method_of, number, panels, picture, runs_of
from .picture import Picture
from .style import AUXILIARY, DENSE, INK, METHODS, RUNS

GIB, MIB = 1 << 30, 1 << 20
PARTS = {"weights": RUNS[0], "indices": RUNS[3], "mask": AUXILIARY, "gradients": RUNS[4], "moments": RUNS[2],
         "logits": RUNS[1]}
BY_METHOD = {
    "dense": DENSE, "masked": replace(DENSE, symbol="diamond"), "bottleneck": METHODS["bottleneck"], "Renee": RUNS[1],
    "ELMO bfloat16": RUNS[4], "ELMO float8": replace(RUNS[4], symbol="triangle-up"), "HASTE": RUNS[2],
    "fixed fan-in, int16": RUNS[0], "fixed fan-in, no logits": replace(RUNS[0], symbol="star")}
SHOWN = ("LF-AmazonTitles-131K", "Amazon-670K", "LF-AmazonTitles-1.3M", "Amazon-3M", "LF-Paper2Keywords-8.6M")


def memory_by_method(sizes: Mapping[str, int] | None = None, width: int = 768, **options: Any) -> Picture:
    """Predicted memory of the output layer of each published method on data sets: `memory.ledger`, all parts together.

    `sizes` maps names to numbers of labels, by default five of the paper's data sets and its successors'; `options` are
    those of `memory.ledger` (`fan_in`, `batch`, `haste`, `chunks`). The table has what the authors print beside it.
    Raises ValueError for no sizes.
    """
    sizes = _some({name: memory.DATASETS[name] for name in SHOWN} if sizes is None else sizes)
    entries = pd.DataFrame(memory.ledger(sizes, width, **options))
    table = (entries[entries["method"].isin(list(BY_METHOD))].groupby(["dataset", "method"], sort=False)
             .agg(bytes=("bytes", "sum"), published=("published_gib", "first")).reset_index())
    table["GiB"] = table["bytes"] / GIB
    figure = _bands(f"The output layer's memory in training, {width:,} features", sizes, table["GiB"],
                    "GiB, log scale", height=150 + 104 * len(sizes))
    for i, (name, look) in enumerate(BY_METHOD.items()):
        gib = table[table["method"] == name]["GiB"].to_numpy()
        figure.add_scatter(x=gib, y=np.arange(len(gib)) + 0.09 * (i - (len(BY_METHOD) - 1) / 2), name=name,
                           mode="markers", marker=dict(color=look.color, symbol=look.symbol, size=11),
                           hovertemplate=f"{name} %{{x:.3g}} GiB<extra></extra>")
    largest = "Amazon-3M" if "Amazon-3M" in sizes else max(sizes, key=sizes.get)
    gib = table[table["dataset"] == largest].set_index("method")["GiB"]
    less = "less" if gib["ELMO bfloat16"] < gib["fixed fan-in, int16"] else "more"
    return picture(figure, f"On {largest} a dense layer with Adam takes {gib['dense']:.3g} GiB and fixed fan-in with "
                           f"Adam {gib['fixed fan-in, int16']:.3g} GiB; a dense layer of weights in bfloat16 alone "
                           f"(ELMO) takes {less}, {gib['ELMO bfloat16']:.3g} GiB, and fixed fan-in without logits, "
                           f"gradients and moments {gib['fixed fan-in, no logits']:.3g} GiB.",
                   table.rename(columns={"published": "published, whole process (GiB)"}),
                   "Dots on a logarithmic axis of GiB: "
                   + listed(f"{r.dataset} {r.method} {r.GiB:.3g}" for r in table.itertuples()) + ".")


def memory_ledger(sizes: Mapping[str, int], width: int = 768, fan_in: int = 128, moments: int = 2) -> Picture:
    """Predicted memory of a dense, a sparse and a bottleneck output layer: `sizes` maps names to numbers of labels.

    Weights, gradients, optimizer moments (2: Adam) and indices; dots, as on a logarithmic axis a bar's length means
    nothing. The bottleneck has the width whose memory comes closest to the sparse layer's. See `xmc_explore.memory`.
    """
    rows = []
    for name, n in _some(sizes).items():
        rank = memory.bottleneck_width(width, n, fan_in)
        for kind, size in (("dense", width), ("sparse", fan_in), ("bottleneck", rank)):
            taken = memory.predicted(kind, width, n, size, moments=moments)
            rows.append((name, n, kind, size, taken, taken / GIB))
    table = pd.DataFrame(rows, columns=["size", "labels", "output layer", "weights a label", "bytes", "GiB"])
    figure = _bands(f"Memory to train an output layer on {width:,} features", sizes, table["GiB"],
                    "weights, gradients, moments, indices (GiB, log scale)", height=170 + 84 * len(sizes))
    for i, (kind, look) in enumerate({"dense": DENSE, "sparse": RUNS[0], "bottleneck": METHODS["bottleneck"]}.items()):
        part = table[table["output layer"] == kind]
        figure.add_scatter(x=part["GiB"], y=np.arange(len(part)) + 0.28 * (i - 1), name=kind, mode="markers+text",
                           marker=dict(color=look.color, symbol=look.symbol, size=12), cliponaxis=False,
                           text=[f"\N{NO-BREAK SPACE}{v:.3g} GiB" for v in part["GiB"]], textposition="middle right",
                           hovertemplate=f"{kind} %{{x:.4g}} GiB<extra></extra>")
    low, high = np.log10(table["GiB"].min()), np.log10(table["GiB"].max())
    figure.update_xaxes(range=[low - 0.1, high + 0.28 + 0.18 * (high - low)])
    dense, sparse, bottleneck = table[table.labels == max(sizes.values())].iloc[:3].itertuples(index=False)
    return picture(figure, f"With {dense.labels:,} labels a dense output layer takes {dense.GiB:.3g} GiB and one with "
                           f"{fan_in} connections a label {sparse.GiB:.3g} GiB, {dense.bytes / sparse.bytes:.1f} times "
                           f"less; a bottleneck of that memory is {bottleneck[3]} wide.",
                   table, f"Dots on a logarithmic axis of GiB: {listed(f'{r[0]} {r[2]} {r[5]:.3g}' for r in rows)}.")


def _some(sizes: Mapping[str, int]) -> Mapping[str, int]:
    if not sizes:
        raise ValueError("sizes is empty; give {name: number of labels}")
    return sizes


def _bands(title: str, sizes: Mapping[str, int], gib: pd.Series, unit: str, height: int) -> go.Figure:
    """An empty figure with a band for each size over a logarithmic axis."""
    figure = panels(title, [""], title_text=unit, **log_axis(gib))
    figure.update_layout(hovermode="closest", height=height)
    figure.update_yaxes(tickvals=list(range(len(sizes))), range=[len(sizes) - 0.5, -0.5], ticks="", showgrid=False,
                        ticktext=[f"<b>{name}</b><br>{n:,} labels" for name, n in sizes.items()])
    return figure


def memory_by_part(dataset: str = "Amazon-3M", width: int = 768, **options: Any) -> Picture:
    """Where the bytes go: a bar for each method of `memory.ledger` on one data set, a piece for each part.

    Pieces stand in the order of the legend, each with its mark; biases count as weights. `options` are those of
    `memory.ledger`. Raises KeyError for a data set that `memory.DATASETS` does not have.
    """
    if dataset not in memory.DATASETS:
        raise KeyError(f"no data set is called {dataset!r}; choose one of {', '.join(memory.DATASETS)}")
    n_labels = memory.DATASETS[dataset]
    entries = pd.DataFrame(memory.ledger({dataset: n_labels}, width, **options))
    entries["part"] = entries["part"].replace({"biases": "weights"})
    parts = entries.pivot_table(index="method", columns="part", values="bytes", aggfunc="sum", sort=False) / GIB
    parts = parts[list(PARTS)].fillna(0)
    figure = _bars(f"Where the bytes go: {dataset}, {n_labels:,} labels", parts, "GiB")
    dense, sparse, elmo = (parts.loc[name] for name in ("dense", "fixed fan-in, int16", "ELMO bfloat16"))
    return picture(figure, f"Of the {dense.sum():.3g} GiB of the dense layer {dense['weights']:.3g} are weights, and "
                           f"{dense['gradients'] + dense['moments']:.3g} their gradients and moments; fixed fan-in has "
                           f"{sparse.sum():.3g} GiB, of which logits are {sparse['logits']:.3g}, and ELMO in bfloat16 "
                           f"{elmo.sum():.3g}, of which weights are {elmo['weights']:.3g}.",
                   *_in_words(parts, "GiB"))


def memory_of_run(trace: Trace) -> Picture:
    """Where the bytes of a recorded run's sparse output layer went, and those of its dense twin: a piece a part.

    Both by `memory.parts`, with the sizes, the batch and the optimizer of the run; the caption has what the run itself
    measured, without logits, after its first step. Raises ValueError for a run whose output layer is not a sparse one
    of single labels, trained with an optimizer and logits.
    """
    runs_of(trace)  # refuses what is no trace
    recipe, n_labels = trace.recipe, len(trace.label_frequency)
    if (recipe.output, recipe.output_update, recipe.logits, recipe.group_size) != ("sparse", "optimizer", "plain", 1) \
            or recipe.head_share or recipe.output_dtype != "float32":
        raise ValueError(f"this bill is one of a sparse layer of single labels in float32, trained with an optimizer "
                         f"and logits; the run is {method_of(recipe)}, output_update={recipe.output_update!r}, "
                         f"logits={recipe.logits!r}")
    moments = int(recipe.momentum > 0) if recipe.output_optimizer == "sgd" else 2
    logits = 2 * recipe.batch_size * n_labels * memory.BYTES
    rows = {"its dense twin": memory.parts("dense", trace.width, n_labels, moments=moments),
            "as recorded": memory.parts("sparse", trace.width, n_labels, recipe.fan_in, moments=moments,
                                        transposed=trace.header.get("device") == "cuda")}  # where Triton runs it
    rows = {name: {**taken, "weights": taken["weights"] + taken["biases"], "mask": 0, "logits": logits}
            for name, taken in rows.items()}
    parts = pd.DataFrame(rows).T[list(PARTS)].rename_axis("method") / MIB
    dense, sparse = (parts.loc[name].drop("logits").sum() for name in rows)
    found = trace.events["step"][0]["output_bytes"]
    figure = _bars(f"What a recorded layer takes in training: {n_labels:,} labels, {trace.width} features", parts,
                   "MiB")
    return picture(figure, f"Without logits the recorded layer, {recipe.fan_in} connections a label, takes "
                           f"{sparse:.3g} MiB by the ledger ({sparse * MIB:,.0f} bytes predicted, {found:,} measured "
                           f"in the run) and its dense twin {dense:.3g} MiB, {dense / sparse:.0f} times as much; the "
                           f"logits of {recipe.batch_size} documents and their gradients take {logits / MIB:.2g} MiB "
                           f"in both.",
                   *_in_words(parts, "MiB"))


def _in_words(parts: pd.DataFrame, unit: str) -> tuple[pd.DataFrame, str]:
    """The table and the description of bars."""
    total = parts.sum(axis=1)
    return (parts.assign(total=total).round(3).reset_index(),
            f"Bars of {unit}: " + listed(f"{name} {v:.3g}" for name, v in total.items()) + ".")


def _bars(title: str, parts: pd.DataFrame, unit: str) -> go.Figure:
    """A bar a row, a piece a part, in a unit."""
    total, at = parts.sum(axis=1), np.arange(len(parts))
    figure = panels(title, [""], title_text=unit, range=[0, 1.25 * total.max()])  # and its number behind it
    figure.update_layout(hovermode="closest", height=max(140 + 38 * len(parts), 340))  # the legend needs its room
    figure.update_yaxes(tickvals=at, ticktext=list(parts.index), range=[len(parts) - 0.5, -0.5], ticks="",
                        showgrid=False)
    start = np.zeros(len(parts))
    for part, look in PARTS.items():
        size = parts[part].to_numpy()
        there = size > 0
        if not there.any():
            continue
        # A line answers to the mouse at its points alone, so a bar has them all along, and is told wherever it is met.
        along = [np.append(np.linspace(a, a + s, 2 + int(s / (0.02 * total.max()))), np.nan)
                 for a, s in zip(start[there], size[there], strict=True)]
        points = [len(x) for x in along]
        told = f"{part} %{{customdata:.3g}} {unit}<extra></extra>"
        figure.add_scatter(x=np.concatenate(along), y=np.repeat(at[there], points), name=f"{part}, bar", mode="lines",
                           customdata=np.repeat(size[there], points), hovertemplate=told, showlegend=False,
                           legendgroup=part, line=dict(color=look.color, dash="solid", width=9))
        seen = there & (size > 0.04 * total.max())  # on a smaller piece the mark would hide the next
        figure.add_scatter(x=np.where(seen, start + size / 2, np.nan), y=at, name=part, mode="markers",
                           legendgroup=part, customdata=size,  # without a mark it is in the legend all the same
                           marker=dict(color=look.color, symbol=look.symbol, size=15,
                                       line=dict(color="#ffffff", width=1.5)),  # it lies on its own colour
                           hovertemplate=told)
        start += size
    figure.add_scatter(x=total, y=at, name="total", mode="text", textposition="middle right", showlegend=False,
                       text=[f"\N{NO-BREAK SPACE}{v:.3g} {unit}" for v in total], hoverinfo="skip",
                       marker=dict(color=INK, symbol="circle"))
    return figure


def steps_and_memory(seconds: Sequence[float], resident: Sequence[int], limits: Mapping[str, int],
                     title: str = "Step by step") -> Picture:
    """Seconds of each step and bytes resident after it, beside `limits`, bytes that stand still (name -> bytes).

    The first step, which compiles, is drawn like the others and left out of the median of the caption.
    """
    steps = np.arange(1, len(seconds) + 1)
    values = np.array([*resident, *limits.values()]) / GIB
    figure = panels(title, ["seconds a step", "GiB (log scale)"], title_text="step", range=[0.5, len(steps) + 0.5])
    figure.update_layout(yaxis_rangemode="tozero", yaxis2=log_axis(values) | {"title_text": "GiB (log scale)"},
                         margin_t=116)  # where it is narrow the legend has two lines
    line(figure, steps, np.asarray(seconds, dtype=float), "a step", RUNS[0])
    line(figure, steps, np.asarray(resident) / GIB, "this process", RUNS[1], row=2)
    for (name, size), look in zip(limits.items(), (DENSE, *RUNS[2:]), strict=False):
        line(figure, steps, np.full(len(steps), size / GIB), name, look, row=2)
    middle = np.median(seconds[1:] if len(seconds) > 1 else seconds)
    said = listed(f"{name} {number(size / GIB)} GiB" for name, size in limits.items())
    return picture(figure, f"{middle:.2f} s a step (median, without the first), {max(resident) / GIB:.2f} GiB in the "
                           f"whole process at its highest; {said}.")

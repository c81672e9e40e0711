"""The race: every peer computes the same layer, and a row says what it is a row of."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import grouped, layer, layer_figures, machine
from xmc_explore import memory, race
from xmc_explore.layers import fixed_fan_in

SHAPE = race.Shape(batch=3, width=17, n_labels=29, fan_in=5)
SPARSE = ("torch CSR", "embedding_bag", "naive gather")


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_peer_is_the_same_layer_with_the_same_gradients(name):
    peer = race.PEERS[name].build(SHAPE, torch.device("cpu"))
    x = torch.randn(3, 17, requires_grad=True)
    grad = torch.randn(3, 29)
    ours = fixed_fan_in(x, peer.weight, peer.indices, peer.bias)
    theirs = peer(x)
    torch.testing.assert_close(theirs, ours)
    wanted = (x, peer.weight, peer.bias)
    for a, b in zip(torch.autograd.grad(theirs, wanted, grad), torch.autograd.grad(ours, wanted, grad), strict=True):
        torch.testing.assert_close(a, b)


def test_a_masked_dense_layer_has_the_asked_for_connections():
    peer = race.MaskedDense(SHAPE, torch.device("cpu"))
    assert (peer.mask.sum(1) == 5).all()
    x = torch.randn(2, 17)
    torch.testing.assert_close(peer(x), x @ (peer.linear.weight * peer.mask).t() + peer.linear.bias)


def test_a_bottleneck_has_as_many_multiply_adds():
    shape = race.Shape(32, 768, 131_072, 32)
    first, last = race.PEERS["bottleneck, equal FLOPs"].build(shape, torch.device("meta"))
    own = shape.batch * (first.weight.numel() + last.weight.numel())
    assert own == pytest.approx(shape.multiply_adds, rel=0.03)


def test_rows_have_medians_ratios_and_bytes():
    rows = pd.DataFrame(race.race([SHAPE], repeats=3, progress=False))
    assert len(rows) == len(race.PEERS) * len(race.KINDS)
    timed = rows.dropna(subset=["median ms"])
    assert (timed["median ms"] > 0).all() and (timed["repeats"] == 3).all()
    assert (timed["low ms"] <= timed["median ms"]).all() and (timed["median ms"] <= timed["high ms"]).all()
    dense = timed[timed["peer"] == "nn.Linear"]
    assert np.allclose(dense["times nn.Linear"], 1)
    held = timed[(timed["kind"] == "step with Adam") & (timed["peer"] == "FixedFanIn")]["held MiB"].item() * 2**20
    assert held == 29 * (3 * 4 * (5 + 1) + 2 * 5)  # weights, biases and two moments of each; int16 indices
    assert set(rows[rows["median ms"].isna()]["note"]) == {"forward only", "step with Adam only"}
    steps = timed[timed["kind"] == "step with Adam"].set_index("peer")["held MiB"] * 2**20
    assert steps["FixedFanIn, in place"] == held
    assert steps["dense bfloat16, in place"] == 29 * (2 * 17 + 4)  # weights in bfloat16, biases in float32, no more


def test_the_bar_counts_turns_of_peers(monkeypatch):
    shown = []

    class Bar(race.tqdm):
        def update(self, n=1):
            super().update(n)
            shown.append(self.n)

    monkeypatch.setattr(race, "tqdm", Bar)
    race.race([SHAPE, SHAPE], ["FixedFanIn", "nn.Linear"], repeats=1)
    assert sorted({*shown}) == list(range(1, 9))


def test_what_does_not_fit_is_said_and_not_run(monkeypatch):
    class Memory:
        available = race.RESERVE + 100_000

    monkeypatch.setattr(race.psutil, "virtual_memory", lambda: Memory)
    rows = race.race([SHAPE._replace(n_labels=1000)], ["FixedFanIn", "nn.Linear"], kinds=["forward"], repeats=1,
                     progress=False)
    notes = {row["peer"]: row.get("note", "ran") for row in rows}
    assert "not run: a step needs about" in notes["nn.Linear"]


def test_peers_that_do_not_fit_together_take_turns_in_groups(monkeypatch):
    need = {name: race.PEERS[name].bytes_needed(SHAPE) for name in ("FixedFanIn", "nn.Linear", "masked dense")}

    class Memory:
        available = race.RESERVE + need["FixedFanIn"] + need["masked dense"] + 1

    monkeypatch.setattr(race.psutil, "virtual_memory", lambda: Memory)
    groups = race._groups(SHAPE, list(need), torch.device("cpu"))
    assert [group for group, _ in groups] == [["FixedFanIn", "nn.Linear"], ["FixedFanIn", "masked dense"]]
    groups = race._groups(SHAPE, ["masked dense", "FixedFanIn", "nn.Linear"], torch.device("cpu"))
    assert [group for group, _ in groups] == [["FixedFanIn", "nn.Linear"], ["FixedFanIn", "masked dense"]]


def test_ratios_are_of_turns_taken_together_and_a_peer_has_one_row(monkeypatch):
    """FixedFanIn takes 1 s in the first group and 3 s in the second, where nn.Linear is not."""
    monkeypatch.setattr(race, "_groups", lambda shape, names, device: [
        (["FixedFanIn", "nn.Linear"], {}), (["FixedFanIn", "masked dense"], {}), (["FixedFanIn", "torch CSR"], {})])
    built = []
    make = race._Contestant.__init__
    monkeypatch.setattr(race._Contestant, "__init__", lambda self, peer, *rest: (
        built.append(peer.name), make(self, peer, *rest))[1])
    monkeypatch.setattr(race._Contestant, "_timed", lambda self, work: {
        "FixedFanIn": 2.0 * built.count("FixedFanIn") - 1, "nn.Linear": 8.0}.get(self.peer.name, 6.0))
    rows = race.race([SHAPE], kinds=["forward"], repeats=3, progress=False)
    assert [row["peer"] for row in rows] == ["FixedFanIn", "nn.Linear", "masked dense", "torch CSR"]
    assert [row["median ms"] for row in rows] == [1000, 8000, 6000, 6000]
    assert [row.get("times nn.Linear") for row in rows] == [8, 1, None, None]
    assert [row["times FixedFanIn"] for row in rows] == [1, 1 / 8, 3 / 6, 5 / 6]


def test_slow_peers_get_one_turn_and_no_larger_shape(monkeypatch):
    took = {"nn.Linear": 3.0}
    monkeypatch.setattr(race._Contestant, "_timed", lambda self, work: took.get(self.peer.name, 0.5))
    small = race.Shape(2, 16, 100, 4)
    shapes = [small, small._replace(n_labels=200), small._replace(batch=1, n_labels=300)]
    rows = pd.DataFrame(race.race(shapes, ["FixedFanIn", "nn.Linear"], kinds=["forward"], repeats=4, patience=2,
                                  progress=False)).set_index(["peer", "n_labels"])
    assert list(rows.loc["FixedFanIn", "repeats"]) == [4, 4, 4] and rows.loc["FixedFanIn", "note"].isna().all()
    assert rows.loc[("nn.Linear", 100), "repeats"] == 1 and "longer than 2 s" in rows.loc[("nn.Linear", 100), "note"]
    note = rows.loc[("nn.Linear", 200), "note"]
    assert note == "not run: forward took 3.0 s at batch=2, width=16, n_labels=100, fan_in=4"
    assert rows.loc[("nn.Linear", 300), "repeats"] == 1  # smaller in one size: it may be faster


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'nn.Linaer' is not one of"):
        race.race([SHAPE], ["nn.Linaer"])
    with pytest.raises(ValueError, match="'backwards' is not one of 'forward'"):
        race.race([SHAPE], kinds=["backwards"])


def rows_of(shape, peer, ms, kinds=race.KINDS, **more):
    """Rows as a race gives them, all kinds in the same time; dense and FixedFanIn take what their multiply-adds say."""
    dense, ours = (shape.batch * shape.n_labels * cost * 1e-6 for cost in (shape.width, shape.fan_in))
    return [{**shape._asdict(), "peer": peer, "kind": kind, "median ms": ms, "low ms": 0.9 * ms, "high ms": 1.2 * ms,
             "repeats": 3.0, "times nn.Linear": dense / ms, "times FixedFanIn": ours / ms, "held MiB": 1.0,
             "peak MiB": 1.0, **more} for kind in kinds]


def target_rows():
    """FixedFanIn is as efficient as the dense layer, torch CSR takes four times as long; in place, half as long."""
    found = []
    for shape in {*layer.target(), *layer.growth()}:
        for peer, cost in (("FixedFanIn", shape.fan_in), ("nn.Linear", shape.width), ("torch CSR", 4 * shape.fan_in)):
            found += rows_of(shape, peer, shape.batch * shape.n_labels * cost * 1e-6)
        found += rows_of(shape, layer.IN_PLACE, shape.batch * shape.n_labels * shape.fan_in * 5e-7, [race.STEP],
                         repeats=5.0)
    return found


def test_slopes_and_targets_are_read_off_the_rows():
    rows = pd.DataFrame(target_rows())
    slopes = layer.slopes(rows).set_index(["peer", "kind", "over"])["slope"]
    for field, dense in (("n_labels", 1), ("fan_in", 0), ("batch", 1)):
        assert slopes["FixedFanIn", "step with Adam", field] == pytest.approx(1)
        assert slopes["nn.Linear", "step with Adam", field] == pytest.approx(dense, abs=1e-6)
    table = layer.targets(rows)
    assert len(table) == 12
    assert set(table["forward + gradients, of D/K"]) == {"1.00"} and set(table["times torch CSR"]) == {"4.0"}
    assert set(table["step with Adam in place, of D/K"]) == {"2.00"}
    assert set(table["step with torch's Adam, of D/K"]) == {"1.00"}  # the slower one is not hidden
    assert set(table["turns"]) == {"3 to 5"}
    first = table[(table["B"] == 32) & (table["D"] == 384) & (table["K"] == 32)].iloc[0]
    assert first["forward + gradients, ms"] == "134.2 (120.8-161.1)"  # with its quartiles


def test_a_peer_that_took_turns_twice_counts_once():
    """As in a file of before, where FixedFanIn had a row for each group of peers."""
    shape = layer.target()[0]
    again = rows_of(shape, "FixedFanIn", 1e6, **{"times nn.Linear": float("nan")})
    rows, twice = (pd.DataFrame(found) for found in (target_rows(), [*target_rows(), *again]))
    assert layer.targets(twice).equals(layer.targets(rows)) and layer.slopes(twice).equals(layer.slopes(rows))
    assert layer.beside(twice, race.STEP).equals(layer.beside(rows, race.STEP))
    assert layer.against_ledger(twice).equals(layer.against_ledger(rows))


def test_a_file_of_before_has_its_ratio_to_the_layer_filled_in(tmp_path):
    path, rows = tmp_path / "before.csv", pd.DataFrame(target_rows())
    rows.drop(columns=layer.AGAINST).to_csv(path, index=False)
    assert np.allclose(layer.read(path)[layer.AGAINST], rows[layer.AGAINST])


def test_times_stand_beside_each_other_with_quartiles_and_turns():
    rows = pd.DataFrame(target_rows())
    table = layer.beside(rows, race.STEP).set_index(layer.SIZES)
    shape = layer.CENTRE
    ours = shape.batch * shape.n_labels * shape.fan_in * 1e-6
    assert table.loc[tuple(shape), "FixedFanIn"] == f"{ours:.1f} ({0.9 * ours:.1f}-{1.2 * ours:.1f})"
    assert set(table["turns"]) == {"3 to 5"} and set(layer.beside(rows, "forward")["turns"]) == {"3"}
    assert "turns" not in layer.beside(rows, race.STEP, "peak MiB")  # that is measured once


def test_pictures_say_which_peer_they_speak_of():
    rows = pd.DataFrame(target_rows())
    found = layer_figures.figures(rows)
    assert found["growth"].caption.startswith("FixedFanIn, in place: ")
    assert "step with Adam in place 2.00 and step with torch's Adam 1.00" in found["speed"].caption
    found = layer_figures.figures(rows[rows["peer"] != layer.IN_PLACE])
    assert found["growth"].caption.startswith("FixedFanIn: ")


def test_bytes_a_label_are_within_a_tenth_of_the_ledger():
    names = list(layer.LEDGER)
    rows = pd.DataFrame(race.race([SHAPE._replace(n_labels=500)], names, kinds=[race.STEP], repeats=1, progress=False))
    table = layer.against_ledger(rows)
    assert set(table["peer"]) == set(names)
    assert table["measured / predicted"].between(0.9, 1.1).all()


def test_the_transposed_index_of_triton_is_predicted_for_the_layer_that_keeps_it():
    rows = pd.DataFrame([{**SHAPE._asdict(), "peer": name, "kind": race.STEP, "median ms": 1.0, "held MiB": 1.0}
                         for name in layer.LEDGER])
    without, there = (layer.against_ledger(rows, transposed).set_index("peer") for transposed in (False, True))
    more = (there["predicted"] - without["predicted"]) * SHAPE.n_labels
    index = memory.transposed_bytes(SHAPE.width, SHAPE.n_labels * SHAPE.fan_in)
    assert more["FixedFanIn"] == pytest.approx(index, abs=0.1 * SHAPE.n_labels)
    assert not more.drop("FixedFanIn").any()


def test_a_report_is_made_of_the_file_and_what_is_added_later_stays_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layer, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    small = {"n_labels": (20, 40, 60), "fan_in": (2, 3, 4), "batch": (1, 2, 4)}
    monkeypatch.setattr(layer, "CENTRE", race.Shape(2, 17, 40, 3))
    monkeypatch.setattr(layer, "GROWTH", small)
    monkeypatch.setattr(layer, "target", lambda: [race.Shape(b, 17, 40, 3) for b in (2, 4)])

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["layer", "--repeats", "1", *arguments])
        layer.main()
        return pd.read_csv(tmp_path / "layer_cpu.csv"), (tmp_path / "layer_cpu.md").read_text()

    first, text = run("--only", "FixedFanIn", "--only", "nn.Linear")
    assert "## What it has to reach" in text and "(layer_cpu_speed.svg)" in text and "(layer_cpu_growth.svg)" in text
    assert (tmp_path / "layer_cpu_growth.svg").read_text().startswith("<svg")
    rows, text = run("--only", "FixedFanIn, in place", "--only", "nn.Linear", "--add")
    assert rows.iloc[:len(first)].equals(first.reindex(columns=rows.columns).astype(rows.dtypes))
    assert set(rows.iloc[len(first):]["peer"]) == {"FixedFanIn, in place"}
    assert rows.iloc[len(first):]["times nn.Linear"].notna().any()
    assert "- added later: FixedFanIn, in place (python -m benchmarks.layer" in text
    kept, again = run("--report")
    assert kept.equals(rows) and again == text
    assert "## Gradient of x, ms" in text and "| turns |" in text
    one = ["--shape", "4,17,40,3", "--only", "FixedFanIn", "--only", "torch CSR", "--replace", "torch CSR"]
    added, text = run(*one)
    mine = added["peer"] == "torch CSR"
    assert added[~mine].equals(rows) and set(added[mine]["batch"]) == {4}
    assert added[mine]["times FixedFanIn"].gt(0).all()
    monkeypatch.setattr(race._Contestant, "_timed", lambda self, work: 7.0)
    replaced, again = run(*one)
    assert len(replaced) == len(added) and (replaced[replaced["peer"] == "torch CSR"]["median ms"] == 7000).all()
    assert replaced[replaced["peer"] != "torch CSR"].equals(rows)
    assert again.count("- added later: torch CSR (python -m benchmarks.layer --device cpu --repeats 1 --seconds 40 "
                       '--shape 4,17,40,3 --only "FixedFanIn" --only "torch CSR" --replace "torch CSR"; proc') == 2
    capsys.readouterr()


def test_the_machine_says_the_versions_of_what_is_measured_and_what_measures_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = machine.conditions("python -m benchmarks.layer --device cuda")
    assert said["GPU"] == "none: not measured on a GPU; `python -m benchmarks.layer --device cuda` does it there"
    assert machine.conditions()["GPU"] == "none: not measured on a GPU"
    names = re.findall(r"(\w+) \d", said["versions"])
    assert set(names) - {"triton"} == {"torch", "numba", "numpy", "scipy"}
    assert ("triton" in names) == (find_spec("triton") is not None)


def test_groups_say_by_which_command_and_beside_what_they_were_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grouped, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(race._Contestant, "_timed", lambda self, work: 2.0 if "Grouped" in self.peer.name else 6.0)
    monkeypatch.setattr("sys.argv", ["grouped", "--labels", "40", "--repeats", "3"])
    grouped.main()
    text = (tmp_path / "grouped_cpu.md").read_text()
    assert "- command: python -m benchmarks.grouped --labels 40 --repeats 3 --device cpu" in text
    assert "`python -m benchmarks.grouped --device cuda` does it there" in text and "median ms of 3 to 3 turns" in text
    assert "| 32 | 768 | 40 | 32 | forward | 6000.0 | 2000.0 | 6000.0 |  |  | 3.0 | 3.0 |  |" in text
    assert "step with Adam | 6000.0 | 2000.0 | 6000.0 | 6000.0 | 2000.0 | 3.0 | 3.0 | 3.0 |" in text
    capsys.readouterr()


def test_what_grows_is_drawn_only_where_sizes_were_varied():
    rows = pd.DataFrame([row for shape in layer.target() for peer in ("FixedFanIn", "nn.Linear")
                         for row in rows_of(shape, peer, 1.0)])
    assert set(layer_figures.figures(rows)) == {"speed"}


def test_every_peer_that_trains_has_a_look():
    assert set(layer_figures.LOOKS) == {name for name, peer in race.PEERS.items() if peer.trains}

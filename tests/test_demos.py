"""The demonstration of many labels, with few: what it says is what it did."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xmc_explore as xe


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 1), ("adam", 3)])
def test_a_small_head_learns_and_its_bytes_are_counted(optimizer, copies):
    found = xe.demos.three_million_labels(9, optimizer, n_labels=3001, width=64, fan_in=8, batch=16, progress=False)
    assert len(found.seconds) == 8 and min(found.seconds) > 0
    assert set(found.losses) == {0, 8} and found.losses[8] < found.losses[0]
    assert found.layer_bytes == 3001 * (copies * 4 * (8 + 1) + 2 * 8)
    assert found.dense_bytes == 3001 * 65 * 16
    assert found.resident > found.layer_bytes
    assert "3,001 labels, every one scored" in str(found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_small_head_learns_on_a_gpu():
    found = xe.demos.three_million_labels(9, "adam", n_labels=3001, width=64, fan_in=8, batch=16, device="cuda",
                                          progress=False)
    assert found.losses[8] < found.losses[0] and found.resident > found.layer_bytes and "held on cuda" in str(found)


def test_a_device_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="device='cudaa' cannot be used here"):
        xe.demos.three_million_labels(2, n_labels=31, width=6, fan_in=2, device="cudaa")


def test_bytes_a_label_are_those_of_the_ledger():
    found = xe.demos.three_million_labels(2, "adam", n_labels=3001, width=64, fan_in=8, batch=4, progress=False)
    predicted = xe.memory.predicted("sparse", 64, 3001, 8) - 3001 * 9 * 4  # no gradient is kept
    assert found.layer_bytes == pytest.approx(predicted, rel=0.1)


def test_whoever_watches_sees_each_step(capsys):
    seen = []
    found = xe.demos.three_million_labels(3, n_labels=3001, width=64, fan_in=8, batch=4,
                                          watch=lambda *state: seen.append((len(state[0]), len(state[1]), state[4])))
    assert seen == [(1, 1, False), (2, 2, False), (3, 3, True)] and len(found.memory) == 3
    assert found.resident == max(found.memory)
    shown = capsys.readouterr().err
    assert "3,001 labels" in shown and " MiB" in shown


def test_the_live_picture_is_the_one_of_what_was_measured():
    watch = xe.StepPicture()
    found = xe.demos.three_million_labels(3, n_labels=3001, width=64, fan_in=8, batch=4, progress=False, watch=watch)
    table = watch.picture.table
    assert np.allclose(table["this process, GiB"], np.array(found.memory) / 2**30)
    assert table["a step"].tolist()[1:] == found.seconds
    ledger = xe.memory.predicted("sparse", 64, 3001, 8, moments=0, gradients=False)
    assert np.allclose(table["this layer, by the ledger, GiB"], ledger / 2**30)
    assert ledger == found.layer_bytes
    named = {line.name.split(",")[0]: line.line.color for line in watch.picture.figure.data if line.showlegend}
    assert named["a step"] != named["this process"]  # both are in the legend, and not as one line
    assert watch.picture.svg().startswith("<svg")


@pytest.mark.parametrize("options", [{"optimizer": "rmsprop"}, {"steps": 1}])
def test_what_cannot_be_is_said(options):
    with pytest.raises(ValueError, match="choose one of 'sgd', 'adam'|at least 2"):
        xe.demos.three_million_labels(**options)
    assert torch.is_grad_enabled()

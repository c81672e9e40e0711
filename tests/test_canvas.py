"""The connectivity canvas on the kernel's side: what is sent, in which order, how much, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from canvas_reader import Reader, by_feature, from_few_bits, unpack
from frames_for_tests import drawn, zipf_bins
from hypothesis import given, settings
from hypothesis import strategies as st

from xmc_explore.corpora import label_bins
from xmc_explore.frames import Frame, FrameStore
from xmc_explore.widgets import canvas as module
from xmc_explore.widgets.canvas import ConnectivityCanvas, caption_of, history, scores_of
from xmc_explore.widgets.message import in_few_bits

L, K, D = 60, 4, 40
NAMES = [f"label {i}" for i in range(L)]


def shown(store=None, bins=None, frame=0, panel="line", **options):
    store, bins = store or drawn(L, K, D, 6), bins or zipf_bins(L)
    canvas = ConnectivityCanvas(panel=panel)
    canvas.begin(store, bins, [f"label {i}" for i in range(len(bins.of_label))], D, **options)
    canvas.show(frame)
    return canvas, Reader(canvas), store


def agrees(reader, frame, features=D):
    indices, born = by_feature(frame.indices[reader.labels], frame.born[reader.labels])
    np.testing.assert_array_equal(reader.indices, indices)
    np.testing.assert_array_equal(reader.births, born)
    assert (reader.head["number"], reader.head["step"], reader.head["width"]) == (frame.number, frame.step, features)


@given(st.lists(st.integers(0, 6), max_size=8))
@settings(max_examples=25)
def test_any_way_through_the_frames_shows_each_as_it_was(way):
    canvas, reader, store = shown()
    for number in way:
        canvas.show(number)
        agrees(reader, store.seek(number))
        assert canvas.frame == number and canvas.frames == 7


def test_the_next_frame_is_sent_as_a_difference():
    store = drawn(1000, 32, 300, 3)
    canvas = ConnectivityCanvas()
    canvas.begin(store, zipf_bins(1000), ["x"] * 1000, 300)
    canvas.show(0)
    whole = len(canvas.picture)
    canvas.show(1)
    n = len(store.changed(1))
    assert len(canvas.picture) < 2 * n + 1000 < whole
    before = canvas.picture
    canvas.show(1)
    assert len(canvas.picture) < 1000 and canvas.picture != before  # nothing changed but the number of the message


def test_any_frame_of_a_large_layer_is_sent_in_a_byte_and_a_half_a_slot():
    store = drawn(1000, 32, 768, 40)
    canvas = ConnectivityCanvas()
    canvas.begin(store, zipf_bins(1000), ["x"] * 1000, 768)
    canvas.show(0)
    reader = Reader(canvas)
    for number in (40, 3, 20):
        canvas.show(number)
        assert len(canvas.picture) < 1.5 * 32_000
        agrees(reader, store.seek(number), 768)


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 20), max_size=40))
def test_numbers_in_few_bits_come_back(values):
    values = np.array(values, np.uint32) % 2**20
    bits, data = in_few_bits(values)
    np.testing.assert_array_equal(from_few_bits(data, bits, len(values)), values)


def test_numbers_in_few_bits_are_short():
    rng = np.random.default_rng(0)
    geometric = rng.geometric(0.05, 10_000) - 1  # entropy: 5.74 bits each
    assert len(in_few_bits(geometric)[1]) < 10_000 * 6.4 / 8
    assert len(in_few_bits(rng.integers(0, 1000, 10_000))[1]) < 10_000 * 10.1 / 8
    assert in_few_bits(np.zeros(800, int)) == (1, bytes(100))


def test_a_message_that_was_lost_is_made_good():
    canvas, reader, store = shown()
    with canvas.hold_sync():
        canvas.show(1)
    reader.seq = -5  # as if it had never come
    canvas.show(2)
    agrees(reader, store.seek(2))


def test_the_arrow_keys_of_the_browser_move_the_frame():
    canvas, reader, store = shown()
    canvas.set_state({"frame": 4})
    agrees(reader, store.seek(4))
    assert canvas.caption == caption_of(store.seek(4), zipf_bins(L))
    canvas.set_state({"frame": 400})
    agrees(reader, store.seek(6))


def test_the_caption_counts_what_moved():
    store, bins = drawn(L, K, D, 2), zipf_bins(L)
    assert caption_of(store.seek(0), bins) == f"At the start: each of {L} labels reads {K} features drawn at random."
    slots = store.changed(2)
    shares = ", ".join(f"{name} {100 * np.isin(slots // K, bins.labels(name)).mean() * len(slots) / n:.1f} %"
                       for name in bins.names if (n := K * len(bins.labels(name))))
    assert caption_of(store.seek(2), bins) == (
        f"Rewire at step 200: {len(slots)} of {L * K} connections moved; {shares}.")


def test_labels_of_a_dense_head_are_not_counted_in_the_caption():
    store, bins = drawn(L, K, D, 1), zipf_bins(L)
    store._frames[0]["groups"] = np.arange(L)  # each its own row, but for a dense head
    store._frames[0]["groups"][:2] = -1
    assert caption_of(store.seek(0), bins) == (f"At the start: each of {L - 2} labels reads {K} features drawn at "
                                               "random; 2 of the dense head read every one.")
    slots = store.changed(1)
    parts = {name: bins.labels(name)[bins.labels(name) >= 2] for name in bins.names}
    shares = ", ".join(f"{name} {100 * np.isin(slots // K, labels).sum() / (K * len(labels)):.1f} %"
                       for name, labels in parts.items() if len(labels))
    assert (slots // K).min() >= 2
    assert caption_of(store.seek(1), bins) == (
        f"Rewire at step 100: {len(slots)} of {(L - 2) * K} connections moved; {shares}.")


# --- order


def test_rows_stand_by_bin_and_then_by_frequency():
    rng = np.random.default_rng(0)
    bins = label_bins(rng.permutation(zipf_bins(L).frequency))
    _, reader, _ = shown(bins=bins)
    assert (np.diff(bins.of_label[reader.labels]) >= 0).all() and (np.diff(bins.frequency[reader.labels]) <= 0).all()
    assert sorted(reader.labels) == list(range(L)) and reader.columns.tolist() == list(range(D))


def test_in_degree_puts_what_most_read_to_the_left_and_on_top():
    canvas, reader, store = shown(frame=3)
    canvas.order = "in-degree"
    indices = store.seek(3).indices
    in_degree = np.bincount(indices.reshape(-1), minlength=D)
    assert (np.diff(in_degree[np.argsort(reader.columns)]) <= 0).all()
    mean = in_degree[indices].mean(1)[reader.labels]
    of_bin = zipf_bins(L).of_label[reader.labels]
    assert all((np.diff(mean[of_bin == b]) <= 1e-12).all() for b in range(3))
    agrees(reader, store.seek(3))
    before = reader.labels.copy()
    canvas.show(5)
    np.testing.assert_array_equal(reader.labels, before)  # a row stays where it is, so that it can be followed


def test_cluster_brings_labels_together_that_read_the_same():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, L)
    indices = (group[:, None] * (D // 2) + np.argsort(rng.random((L, D // 2)), 1)[:, :K]).astype(np.int16)
    bins = label_bins(np.r_[np.full(10, 100), np.ones(50, int)])
    canvas, reader, _ = shown(FrameStore([{"step": 0, "indices": indices}]), bins)
    canvas.order = "cluster"
    for b in range(3):
        switches = np.abs(np.diff(group[reader.labels][bins.of_label[reader.labels] == b])).sum()
        assert switches <= 1
    halves = np.argsort(reader.columns) // (D // 2)
    assert np.abs(np.diff(halves)).sum() == 1


def test_known_clusters_are_what_cluster_goes_by():
    clusters = np.arange(L) % 3
    canvas, reader, _ = shown(clusters=clusters)
    canvas.order = "cluster"
    of_bin = zipf_bins(L).of_label[reader.labels]
    assert all((np.diff(clusters[reader.labels][of_bin == b]) >= 0).all() for b in range(3))


# --- colour


def test_weights_are_sent_where_they_were_recorded():
    store = drawn(L, K, D, 2)
    weight = np.random.default_rng(1).integers(-127, 128, (L, K)).astype(np.int8)
    store._frames[1] |= {"weight": weight, "scale": np.full(L, 0.01, np.float32)}
    canvas, reader, _ = shown(store, frame=2)
    assert "weight" not in reader.head
    canvas.color = "weight"
    frame = store.seek(2)
    sent = unpack(canvas.picture)
    assert sent["weight_step"] == 100
    np.testing.assert_allclose(reader.weight * sent["largest"],
                               by_feature(frame.indices[reader.labels], frame.weight[reader.labels])[1],
                               atol=sent["largest"] / 254 + 1e-9)
    canvas.show(1)  # recorded at the same step, and not yet 0 where the next rewire grew a connection
    frame = store.seek(1)
    np.testing.assert_allclose(reader.weight * sent["largest"],
                               by_feature(frame.indices[reader.labels], frame.weight[reader.labels])[1],
                               atol=sent["largest"] / 254 + 1e-9)
    canvas.show(0)
    assert "weight_step" not in unpack(canvas.picture)


def test_deaths_are_sent_where_they_are_coloured():
    canvas, reader, store = shown(frame=2)
    canvas.color = "change"
    sent = unpack(canvas.picture)
    slots = store.changed(2)
    died = set(zip((slots // K).tolist(), store.seek(1).indices.reshape(-1)[slots].tolist(), strict=True))
    labels = reader.labels[np.cumsum(sent["dead_rows"])].tolist()
    assert set(zip(labels, sent["dead_features"].tolist(), strict=True)) == died
    canvas.show(0)
    assert "dead_rows" not in unpack(canvas.picture)


def test_a_difference_takes_the_order_that_was_chosen():
    a, b = drawn(L, K, D, 3), drawn(L, K, D, 3, seed=1)
    canvas = ConnectivityCanvas(order="in-degree")
    canvas.begin(a, zipf_bins(L), NAMES, D)
    canvas.show_difference(a.seek(3), b.seek(3))
    reader, indices = Reader(canvas), a.seek(3).indices
    mean = np.bincount(indices.reshape(-1), minlength=D)[indices].mean(1)[reader.labels]
    of_bin = zipf_bins(L).of_label[reader.labels]
    assert all((np.diff(mean[of_bin == b]) <= 1e-12).all() for b in range(3))


def test_the_difference_of_two_runs():
    a, b = drawn(L, K, D, 3), drawn(L, K, D, 3, seed=1)
    canvas, reader, _ = shown(a)
    canvas.show_difference(a.seek(3), b.seek(3), ("left", "right"))
    in_a, in_b = np.zeros((2, L, D), bool)
    in_a[np.arange(L)[:, None], a.seek(3).indices] = in_b[np.arange(L)[:, None], b.seek(3).indices] = True
    found = np.zeros((L, D), int)
    features, values = reader.features.reshape(L, -1), reader.values.reshape(L, -1)
    for row, label in enumerate(reader.labels):
        for feature, value in zip(features[row], values[row], strict=True):
            if feature < D:
                assert value and not found[label, feature]
                found[label, feature] = value
    np.testing.assert_array_equal(found, in_a + 2 * in_b)
    assert reader.head["pair"] == ["left", "right"]
    assert f"only in left {100 * (in_a & ~in_b).sum() / (in_a | in_b).sum():.1f} %" in canvas.caption
    canvas.show(3)
    agrees(reader, a.seek(3))


def test_runs_of_different_corpora_have_no_difference():
    canvas, _, store = shown()
    with pytest.raises(ValueError, match="60 labels beside 50"):
        canvas.show_difference(store.seek(0), drawn(50, K, D, 1).seek(0))


# --- many labels


def test_of_very_many_labels_some_rows_are_sent_and_those_in_sight_on_demand(monkeypatch):
    monkeypatch.setattr(module, "MOST_SLOTS", 24 * K)
    canvas, reader, store = shown()
    assert len(reader.labels) <= 24 and len(canvas.names) == len(reader.labels)
    bins = zipf_bins(L)
    assert {0, 1, 2} <= set(bins.of_label[reader.labels].tolist())
    agrees(reader, store.seek(0))
    canvas.set_state({"window": [40, 50]})
    assert set(range(40, 50)) <= set(reader.places.tolist()) and len(reader.labels) <= 24 + 10
    canvas.show(3)
    agrees(reader, store.seek(3))
    hidden = next(label for label in range(L) if label not in reader.labels)
    canvas.set_state({"pinned": hidden})
    assert hidden in reader.labels


def test_steps_beyond_two_bytes():
    store = drawn(L, K, D, 2)
    for number, step in ((1, 300_000), (2, 300_128)):
        store._frames[number]["step"] = step
    canvas, reader, _ = shown(store, frame=2)
    agrees(reader, store.seek(2))


def test_a_label_of_a_dense_head_reads_no_single_feature():
    indices = np.tile(np.arange(K, dtype=np.int32), (L, 1))
    indices[0] = -1
    frame = Frame(0, 0, indices, np.zeros_like(indices))
    canvas = ConnectivityCanvas()
    canvas.begin((L, K), zipf_bins(L), NAMES, D)
    canvas.show(frame)
    reader = Reader(canvas)
    assert (reader.indices[list(reader.labels).index(0)] >= D).all()
    for order in ("cluster", "in-degree"):
        canvas.order = order
        assert sorted(reader.labels) == list(range(L))


# --- pinned, scores, bad input


def test_the_history_of_a_pinned_label():
    canvas, _, store = shown(panel="side")
    canvas.set_state({"pinned": 7})
    sent = unpack(canvas.history)
    assert (sent["label"], sent["frames"]) == (7, 7)
    expected = np.array([store.seek(i).indices[7] for i in range(7)])
    np.testing.assert_array_equal(sent["features"].reshape(7, K), expected)
    np.testing.assert_array_equal(history(store, 7), expected)
    store._frames.append({"step": 700, "slots": np.array([7 * K], np.int32), "new": np.array([D - 1], np.int16)})
    canvas.show(7)  # the run goes on, and the history with it
    sent = unpack(canvas.history)
    np.testing.assert_array_equal(sent["features"].reshape(8, K), [*expected, store.seek(7).indices[7]])
    canvas.set_state({"pinned": -1})
    assert canvas.history == b""


def test_where_there_is_no_room_for_a_history_none_is_sent(monkeypatch):
    monkeypatch.setattr(module, "history", lambda *_: pytest.fail("it was computed"))
    canvas, _, _ = shown()
    canvas.set_state({"pinned": 7})
    canvas.show(3)
    assert canvas.history == b""


def test_a_pinned_label_stays_pinned_in_another_run_of_the_same_labels():
    canvas, reader, _ = shown(panel="side")
    canvas.set_state({"pinned": 7})
    other = drawn(L, K, D, 2, seed=1)
    canvas.begin(other, zipf_bins(L), list(NAMES), D)
    canvas.show(2)
    assert canvas.pinned == 7
    np.testing.assert_array_equal(unpack(canvas.history)["features"].reshape(3, K), history(other, 7))
    canvas.clear("being built")
    assert canvas.history == b""
    canvas.begin(other, zipf_bins(L), NAMES, D)
    assert canvas.pinned == 7 and unpack(canvas.history)["frames"] == 3
    canvas.begin(drawn(50, K, D, 1), zipf_bins(50), NAMES[:50], D)
    assert canvas.pinned == -1 and canvas.history == b""


def test_another_run_of_the_same_labels_is_one_message_without_their_names(monkeypatch):
    canvas, _, _ = shown()
    sent = []
    monkeypatch.setattr(type(canvas), "send_state", lambda self, key=None: sent.append(set(key)))
    with canvas.hold_sync():
        canvas.begin(drawn(L, K, D, 2, seed=1), zipf_bins(L), NAMES, D)
        canvas.show(2)
    (keys,) = sent
    assert "picture" in keys and not keys & {"names", "bands", "pinned"}


def test_scores_follow_the_order_of_the_rows():
    values = np.arange(L, dtype=float)
    values[3] = np.nan
    canvas, reader, _ = shown(scores={"P@5": values})
    expected = [None if label == 3 else float(label) for label in reader.labels]
    assert canvas.scores == {"P@5": expected}
    canvas.order = "in-degree"
    assert canvas.scores["P@5"] == [None if label == 3 else float(label) for label in reader.labels]
    canvas.score({"P@1": values / 3}, " at step 5")
    assert canvas.scores == {"P@1": [None if label == 3 else round(label / 3, 1) for label in reader.labels]}
    assert canvas.scored == " at step 5"


def test_scores_of_what_an_evaluation_counted():
    counts = {"assignments": np.array([2, 0, 5]), "predicted": np.array([4, 0, 0]), "hits": np.array([1, 0, 0])}
    found = scores_of({1: {}, 5: counts})
    np.testing.assert_array_equal(found["P@5"], [25, np.nan, np.nan])
    np.testing.assert_array_equal(found["recall@5"], [50, np.nan, 0])
    assert scores_of({}) == {}


@pytest.mark.parametrize(("wrong", "message"), [
    (dict(scores={"P@5": np.zeros(5)}), "scores of 'P@5': 5 for 60 labels"),
    (dict(clusters=np.zeros(9)), "clusters: 9 for 60 labels")])
def test_parts_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        shown(**wrong)


def test_clear_leaves_words_alone():
    canvas, _, _ = shown()
    canvas.clear("nothing to draw")
    assert (canvas.picture, canvas.bands, canvas.names, canvas.caption) == (b"", [], [], "nothing to draw")
    canvas.order = "cluster"
    canvas.set_state({"window": [0, 5], "pinned": 3})
    assert canvas.picture == b""

"""Any frame of a run equals what a plain replay gives, in whatever order they are sought, and while the run goes on."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmc_explore import frames
from xmc_explore.frames import KEY_EVERY, FrameStore


def recorded(n_rewires, n_labels=7, fan_in=3, n_features=50, seed=0, share=0.3, weights_every=0, dtype=np.int16):
    """Frames as a run records them: distinct features in a row, slots in order, steps 10 apart."""
    rng = np.random.default_rng(seed)
    now = np.stack([rng.permutation(n_features)[:fan_in] for _ in range(n_labels)]).astype(dtype)
    found = [{"step": 0, "indices": now.copy()}]
    for number in range(1, n_rewires + 1):
        slots = np.flatnonzero(rng.random(now.size) < share).astype(np.int32)
        for slot in slots:
            row = slot // fan_in
            now.flat[slot] = rng.choice(np.setdiff1d(np.arange(n_features), now[row]))
        found.append({"step": 10 * number, "slots": slots, "new": now.reshape(-1)[slots]})
    for frame in found[::weights_every] if weights_every else ():
        frame |= frames.quantise(rng.standard_normal((n_labels, fan_in)).astype(np.float32))
    return found


def replay(found, number):
    """(indices, born, weight, weight_step) at a frame, the plain way."""
    indices, born, weight, weight_step = found[0]["indices"].copy(), None, None, None
    born = np.zeros(indices.shape, int)
    for frame in found[:number + 1]:
        for slot, new in zip(frame.get("slots", ()), frame.get("new", ()), strict=True):
            indices.flat[slot], born.flat[slot] = new, frame["step"]
        if "weight" in frame:
            weight, weight_step = frame["weight"] * frame["scale"][:, None], frame["step"]
    if weight is not None:
        weight = np.where(born > weight_step, 0, weight)
    return indices, born, weight, weight_step


def same(frame, expected):
    indices, born, weight, weight_step = expected
    assert np.array_equal(frame.indices, indices) and np.array_equal(frame.born, born)
    assert frame.indices.dtype == indices.dtype and frame.born.dtype == np.int32
    assert frame.weight_step == weight_step and (frame.weight is None) == (weight is None)
    assert weight is None or np.array_equal(frame.weight, weight)


@given(n=st.integers(0, 3 * KEY_EVERY), seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
       weights_every=st.sampled_from([0, 1, 7]), data=st.data())
def test_seeking_equals_replaying_in_any_order(n, seed, share, weights_every, data):
    found = recorded(n, seed=seed, share=share, weights_every=weights_every)
    store = FrameStore(found)
    assert len(store) == n + 1 and store.steps == list(range(0, 10 * n + 1, 10))
    for number in data.draw(st.lists(st.integers(-n - 1, n), min_size=1, max_size=8)):
        frame = store.seek(number)
        assert (frame.number, frame.step) == (number % (n + 1), 10 * (number % (n + 1)))
        same(frame, replay(found, frame.number))
        assert np.array_equal(store.changed(number), found[number].get("slots", []))


def test_kept_states_stay_within_their_bytes(monkeypatch):
    found = recorded(5 * KEY_EVERY)
    size = found[0]["indices"].nbytes + found[0]["indices"].size * 4
    monkeypatch.setattr(frames, "KEY_BYTES", 2 * size)
    store = FrameStore(found)
    for number in (5 * KEY_EVERY, 3, 4 * KEY_EVERY + 1, 2 * KEY_EVERY, 0, -1):
        same(store.seek(number), replay(found, number % len(found)))
        assert len(store._keys) <= 2


def test_a_frame_is_not_written_to():
    store = FrameStore(recorded(20, weights_every=4))
    for number in (20, 0, 16, 16, 3):
        frame = store.seek(number)
        for array in (frame.indices, frame.born, frame.weight):
            assert not array.flags.writeable
    assert store._frames[0]["indices"].flags.writeable  # the writer's own array is left alone


def test_a_reader_follows_a_writer():
    found, growing, wrong = recorded(120, n_labels=40), [], []
    expected = [replay(found, i) for i in range(len(found))]
    done = threading.Event()

    def read():
        store, rng = FrameStore(growing), np.random.default_rng(0)
        while not done.is_set() or store.seek(-1).number < len(found) - 1:
            if len(store):
                frame = store.seek(int(rng.integers(len(store))))
                if not np.array_equal(frame.indices, expected[frame.number][0]):
                    wrong.append(frame.number)

    reader = threading.Thread(target=read)
    reader.start()
    for frame in found:
        growing.append(frame)
        threading.Event().wait(0.001)
    done.set()
    reader.join(30)
    assert not reader.is_alive() and wrong == []


def test_groups_are_expanded_to_labels():
    found = recorded(20, n_labels=3, weights_every=0)
    groups = np.array([0, 2, 2, 1, -1, 0])  # the fifth label has a dense head
    found[0]["groups"] = groups
    found[0] |= frames.quantise(np.ones((6, 3), np.float32))
    store = FrameStore(found)
    for number in (20, 5):
        indices, born, *_ = replay([{k: v for k, v in f.items() if k != "weight"} for f in found], number)
        frame = store.seek(number)
        assert frame.indices.shape == frame.born.shape == frame.weight.shape == (6, 3)
        for label, row in enumerate(groups):
            if row < 0:
                assert (frame.indices[label] == -1).all() and (frame.born[label] == 0).all()
            else:
                assert np.array_equal(frame.indices[label], indices[row])
                assert np.array_equal(frame.born[label], born[row])
        rows = store.seek(number, by_label=False)
        assert np.array_equal(rows.indices, indices) and np.array_equal(rows.born, born) and rows.weight is None
        moved = np.isin(np.arange(9), found[number]["slots"]).reshape(3, 3)
        expected = [3 * label + k for label, row in enumerate(groups) for k in range(3) if row >= 0 and moved[row, k]]
        assert store.changed(number).tolist() == expected
    assert np.array_equal(store.groups, groups) and FrameStore(recorded(1)).groups is None


def test_frames_that_are_not_there():
    with pytest.raises(IndexError, match="frame 4 of 4: this run recorded connectivity 4 times$"):
        FrameStore(recorded(3)).seek(4)
    with pytest.raises(TypeError, match="by its number, 0 to 3, or -1 for the last; got 1.5"):
        FrameStore(recorded(3)).seek(1.5)
    with pytest.raises(IndexError, match="its output layer is not sparse"):
        FrameStore([]).seek(-1)
    assert FrameStore([]).steps == [] and FrameStore([]).groups is None


@given(st.lists(st.integers(0, 70_000), unique=True, max_size=60), st.sampled_from([np.int16, np.int32]),
       st.randoms(use_true_random=False))
def test_what_is_packed_comes_back(slots, dtype, random):
    random.shuffle(slots)
    new = np.array([random.randrange(np.iinfo(dtype).max) for _ in slots], dtype)
    frame = frames.unpack(frames.pack({"step": 7, "slots": np.array(slots, np.int32), "new": new}))
    order = np.argsort(slots)
    assert frame["step"] == 7 and frame["slots"].dtype == np.int32 and frame["new"].dtype == dtype
    assert np.array_equal(frame["slots"], np.array(slots, np.int32)[order])
    assert np.array_equal(frame["new"], new[order])


def test_a_slot_is_not_replaced_twice():
    with pytest.raises(ValueError, match="cannot replace a slot twice"):
        frames.pack({"step": 1, "slots": np.array([3, 3]), "new": np.array([1, 2])})


def test_quantised_weights_are_as_near_as_they_say():
    weight = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32) * np.logspace(-6, 3, 50)[:, None]
    weight[3] = 0
    q = frames.quantise(weight)
    assert q["weight"].dtype == np.int8 and q["scale"].dtype == np.float32
    error = np.abs(q["weight"] * q["scale"][:, None] - weight).max(1)
    assert (error <= np.abs(weight).max(1) / 254 * 1.001).all()


@pytest.mark.parametrize("damage, words", [
    (lambda f: f.pop("new"), "it has no new"),
    (lambda f: f.update(new=f["new"][:-1]), "slots and .* new indices"),
    (lambda f: f.update(slots=f["slots"] + 20), "slots beyond the 21 of the layer"),
    (lambda f: f.update(weight=np.zeros((2, 3), np.int8)), r"weights of shape \[2, 3\] for 7 labels"),
])
def test_a_frame_that_cannot_follow_is_refused(damage, words):
    found = recorded(2, share=0.5)
    frames.check(found)
    damage(found[-1])
    with pytest.raises(ValueError, match=words):
        frames.check(found)

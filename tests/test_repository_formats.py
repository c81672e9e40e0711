"""Every format of the repository, read back by value; and every way a file can be wrong, named with its line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array, save_npz
from tqdm import tqdm

from xmc_explore.corpora import CorpusError, load_corpus, repository
from xmc_explore.corpora.repository import read_repository

# Three training and two test documents over L = 4 labels and D = 5 features; the second has neither label nor feature.
# The texts hold what splits a line too early in careless readers: a form feed, a line separator, a carriage return.
LABELS = {"train": [[2, 0], [], [3, 1, 0]], "test": [[1], [3, 2]]}
FEATURES = {"train": [{4: 1.25, 0: 0.5}, {}, {2: -1e-3, 1: 2.0}], "test": [{3: 1.0}, {0: 7.5, 4: 1e20}]}
TEXTS = {"train": ["naïve café", "", "one\u2028two\x0cthree"], "test": ["日本 a:b, c", "x\rfour"]}
NAMES = ["zero", "ein Ö", "two words", "drei"]
SHORT = {"train": "trn", "test": "tst"}


def dense(rows, n_columns):
    """Lists or dicts of indices as a dense array."""
    out = np.zeros((len(rows), n_columns), np.float32)
    for i, row in enumerate(rows):
        for j in row:
            out[i, j] = row[j] if isinstance(row, dict) else 1
    return out


def put(folder: Path, name: str, content: str | bytes, gz: bool = False) -> None:
    content = content.encode() if isinstance(content, str) else content
    (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)


def pairs(rows) -> str:
    return " ".join(f"{j}:{row[j] if isinstance(row, dict) else 1.0}" for row in [rows] for j in row)


def lines(rows) -> str:
    return "".join(row + "\n" for row in rows)


def old_rows(half, labels, features) -> list[str]:
    return [",".join(map(str, y)) + " " + pairs(x) for y, x in zip(labels[half], features[half], strict=True)]


def put_old(folder, gz=False, labels=LABELS, features=FEATURES, shape=(5, 4), names=("train.txt", "test.txt")):
    for half, name in zip(SHORT, names, strict=True):
        head = f"{len(labels[half])} {shape[0]} {shape[1]}"
        put(folder, name, lines([head, *old_rows(half, labels, features)]), gz)


def put_old_splits(folder, gz=False):
    rows = old_rows("train", LABELS, FEATURES) + old_rows("test", LABELS, FEATURES)
    put(folder, "Small_data.txt", lines(["5 5 4", *rows]), gz)
    put(folder, "small_trSplit.txt", "1 5\n2 4\n3 1\n", gz)  # its first column is LABELS, its second the reverse
    put(folder, "small_tstSplit.txt", "4 3\n5 2\n", gz)


def put_split(folder, gz=False, labels=LABELS, features=FEATURES, shape=(5, 4)):
    for half, short in SHORT.items():
        for what, rows, n_columns in (("Xf", features[half], shape[0]), ("Y", labels[half], shape[1])):
            put(folder, f"{short}_X_{what}.txt", lines([f"{len(rows)} {n_columns}", *map(pairs, rows)]), gz)


def put_renee(folder, gz=False):
    put_split(folder, gz)
    for half, short in SHORT.items():
        (folder / f"{short}_X_Xf.txt{'.gz' * gz}").unlink()
        put(folder, f"{short}_X.txt", lines(TEXTS[half]), gz)
    put(folder, "Y.txt", lines(NAMES), gz)


def put_raw(folder, gz=True, labels=LABELS, texts=TEXTS, names=NAMES):
    for half, short in SHORT.items():
        items = [{"uid": str(i), "title": text[:3], "content": text[3:], "target_ind": y, "target_rel": [1.0] * len(y)}
                 for i, (text, y) in enumerate(zip(texts[half], labels[half], strict=True))]
        put(folder, f"{short}.json", lines(map(json.dumps, items)), gz)
    if names is not None:
        put(folder, "lbl.json", lines(json.dumps({"uid": "u", "title": name}) for name in names), gz)


def put_text(folder, gz=False):
    for half in SHORT:
        put(folder, f"{half}_raw_texts.txt", lines(TEXTS[half]), gz)
        put(folder, f"{half}_labels.txt", lines(" ".join(f"label\u00a0{j}" for j in y) for y in LABELS[half]), gz)


def put_pecos(folder, gz=False):
    for half, short in SHORT.items():
        save_npz(folder / f"X.{short}.npz", csr_array(dense(FEATURES[half], 5).astype(np.float64)))
        save_npz(folder / f"Y.{short}.npz", csr_array(dense(LABELS[half], 4).astype(np.int64)))
        put(folder, f"X.{short}.txt", lines(TEXTS[half]), gz)
    put(folder, "output-items.txt", lines(NAMES), gz)


PUT = {"old": put_old, "old-splits": put_old_splits, "split": put_split, "renee": put_renee, "raw": put_raw,
       "text": put_text, "pecos": put_pecos}


def assert_canonical(matrix):
    assert isinstance(matrix, csr_array)
    assert matrix.dtype == np.float32 and matrix.indices.dtype == np.int32
    assert matrix.has_sorted_indices and matrix.has_canonical_format


# --- what good folders hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("key", PUT)
def test_every_format_comes_back_by_value(tmp_path, key, gz):
    PUT[key](tmp_path, gz)
    corpus = load_corpus(tmp_path)
    for half, split in (("train", corpus.train), ("test", corpus.test)):
        assert_canonical(split.labels)
        order = [0, 1, 2, 3]
        if key == "text":  # numbered as they first appear: 2, 0, 3, 1
            order = [2, 0, 3, 1]
        np.testing.assert_array_equal(split.labels.toarray(), dense(LABELS[half], 4)[:, order])
        if key in ("old", "old-splits", "split", "pecos"):
            assert_canonical(split.features)
            np.testing.assert_array_equal(split.features.toarray(), dense(FEATURES[half], 5))
        else:
            assert split.features is None
        if key in ("renee", "text", "pecos"):
            assert split.texts == TEXTS[half]
        elif key == "raw":
            assert split.texts == [t[:3] + " " + t[3:] if t else "" for t in TEXTS[half]]
        else:
            assert split.texts is None
        assert split.excluded is None
    if key == "text":
        assert corpus.label_names == ["label\u00a02", "label\u00a00", "label\u00a03", "label\u00a01"]
    else:
        assert corpus.label_names == (NAMES if key in ("renee", "raw", "pecos") else ["0", "1", "2", "3"])
    used = {"renee": "split"}.get(key, key)
    assert f"format '{used}'" in corpus.source and corpus.name == tmp_path.name


rows_of = st.lists(st.tuples(st.lists(st.integers(0, 8), unique=True),
                             st.dictionaries(st.integers(0, 11), st.floats(width=32, allow_nan=False,
                                                                           allow_infinity=False))),
                   min_size=1, max_size=6).filter(lambda rows: any(y for y, _ in rows))


@settings(max_examples=40, deadline=None)
@given(train=rows_of, test=rows_of)
def test_any_matrix_survives_the_trip_through_each_sparse_format(train, test):
    labels = {"train": [y for y, _ in train], "test": [y for y, _ in test]}
    features = {"train": [x for _, x in train], "test": [x for _, x in test]}
    for write in (put_old, put_split):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), labels=labels, features=features, shape=(12, 9))
            corpus = read_repository(folder)
        for half, split in (("train", corpus.train), ("test", corpus.test)):
            assert_canonical(split.labels)
            np.testing.assert_array_equal(split.labels.toarray(), dense(labels[half], 9))
            np.testing.assert_array_equal(split.features.toarray(), dense(features[half], 12))


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(min_size=3), min_size=1, max_size=5))
def test_any_text_survives_the_trip_through_json(texts):
    half = [[0]] + [[]] * (len(texts) - 1)
    with tempfile.TemporaryDirectory() as folder:
        put_raw(Path(folder), labels={"train": half, "test": half}, texts={"train": texts, "test": texts}, names=None)
        corpus = read_repository(folder)
    assert corpus.train.texts == [t[:3] + " " + t[3:] if t[3:] else t for t in texts]
    assert corpus.label_names == ["0"]


@pytest.mark.parametrize("names", [("train.txt", "test.txt"), ("trn.txt", "tst.txt"),
                                   ("eurlex_train.txt", "eurlex_test.txt"), ("Train.TXT", "Test.TXT")])
def test_the_names_the_old_format_goes_by(tmp_path, names):
    put_old(tmp_path, names=names)
    assert read_repository(tmp_path).n_features == 5


def test_numbers_in_all_their_spellings(tmp_path):
    put(tmp_path, "train.txt", b"\xef\xbb\xbf2 6 2\r\n1,0\t5:-.5  0:+1e-2 2:3. \r\n 1:00.250E1 3:7\r\n\r\n")
    put(tmp_path, "test.txt", "1 6 2\n0")  # no newline at the end
    corpus = read_repository(tmp_path)
    np.testing.assert_array_equal(corpus.train.features.toarray(),
                                  np.float32([[1e-2, 0, 3, 0, 0, -0.5], [0, 2.5, 0, 7, 0, 0]]))
    np.testing.assert_array_equal(corpus.train.labels.toarray(), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(corpus.test.labels.toarray(), [[1, 0]])


def test_a_label_of_any_weight_is_a_one(tmp_path):
    put_split(tmp_path)
    put(tmp_path, "trn_X_Y.txt", "3 4\n0:0.25 2:7\n\n1:1\n")
    np.testing.assert_array_equal(read_repository(tmp_path).train.labels.toarray(), dense([[0, 2], [], [1]], 4))


def test_the_columns_of_old_split_files_are_splits(tmp_path):
    put_old_splits(tmp_path)
    corpus = load_corpus(tmp_path, split=1)
    everything = dense(LABELS["train"] + LABELS["test"], 4)
    np.testing.assert_array_equal(corpus.train.labels.toarray(), everything[[4, 3, 0]])
    np.testing.assert_array_equal(corpus.test.labels.toarray(), everything[[2, 1]])
    assert_canonical(corpus.train.labels)
    with pytest.raises(CorpusError, match="2 columns.*split=2 must be from 0 to 1"):
        load_corpus(tmp_path, split=2)


def test_split_is_refused_where_there_is_one_only(tmp_path):
    put_old(tmp_path)
    with pytest.raises(CorpusError, match="split=1.*'old'"):
        read_repository(tmp_path, split=1)


def test_texts_and_features_in_the_split_format(tmp_path):
    put_renee(tmp_path)
    put_split(tmp_path)
    corpus = read_repository(tmp_path)
    assert corpus.train.texts == TEXTS["train"] and corpus.n_features == 5 and corpus.label_names == NAMES


def test_pecos_without_features_or_without_texts(tmp_path):
    put_pecos(tmp_path)
    for short in SHORT.values():
        (tmp_path / f"X.{short}.npz").unlink()
    assert read_repository(tmp_path).n_features is None
    put_pecos(tmp_path)
    for short in SHORT.values():
        (tmp_path / f"X.{short}.txt").unlink()
    assert read_repository(tmp_path).train.texts is None


def test_raw_label_names(tmp_path):
    put_raw(tmp_path, names=["zero", "", "two", "three", "never used"])
    assert read_repository(tmp_path).label_names == ["zero", "1", "two", "three", "never used"]


def test_raw_needs_only_title_and_targets(tmp_path):
    for short in SHORT.values():
        put(tmp_path, f"{short}.json", '{"title": "a", "target_ind": [1]}\n'
                                       '{"title": "b", "content": null, "target_ind": []}\n')
    corpus = read_repository(tmp_path)
    assert corpus.train.texts == ["a", "b"] and corpus.label_names == ["0", "1"]


def test_filters_become_excluded_pairs(tmp_path):
    put_raw(tmp_path)
    put(tmp_path, "filter_labels_train.txt", "0 1\n2 3\n2 3\n")
    put(tmp_path, "filter_labels_test.txt", "1 0\n", gz=True)
    corpus = read_repository(tmp_path)
    for split, rows in ((corpus.train, [[1], [], [3]]), (corpus.test, [[], [0]])):
        assert_canonical(split.excluded)
        np.testing.assert_array_equal(split.excluded.toarray(), dense(rows, 4))
    assert "filter_labels_train.txt, filter_labels_test.txt.gz" in corpus.source


@pytest.mark.parametrize("name, expected", [("LF-WikiSeeAlso-320K", (0.5, 0.4)), ("wikipedia500k", (0.5, 0.4)),
                                            ("Amazon-670K", (0.6, 2.6)), ("EURLex-4K", (0.55, 1.5))])
def test_propensity_by_name(tmp_path, name, expected):
    folder = tmp_path / name
    folder.mkdir()
    put_old(folder)
    corpus = read_repository(folder)
    assert corpus.name == name and corpus.propensity == expected
    assert f"propensity A={expected[0]}, B={expected[1]}" in corpus.source


def test_propensity_and_name_as_given(tmp_path):
    put_old(tmp_path)
    corpus = read_repository(tmp_path, propensity=(0.7, 2.0), name="mine")
    assert (corpus.name, corpus.propensity) == ("mine", (0.7, 2.0)) and "as given" in corpus.source
    assert read_repository(tmp_path, name="Wiki10-31K").propensity == (0.5, 0.4)
    for wrong in ((0.5,), (0.5, -1), (float("nan"), 1)):
        with pytest.raises(CorpusError, match="two positive numbers"):
            read_repository(tmp_path, propensity=wrong)


# --- which format ---------------------------------------------------------------------------------------------------


def test_texts_come_before_bags_of_words_and_format_overrules(tmp_path):
    order = ["raw", "text", "split", "pecos", "old", "old-splits"]
    for key in order:
        PUT[key](tmp_path)
    for key in order:
        assert f"format {key!r}" in read_repository(tmp_path, format=key).source
    assert "format 'raw'" in read_repository(tmp_path).source
    with pytest.raises(CorpusError, match="format='csv' is none of raw, text, split, pecos, old, old-splits"):
        read_repository(tmp_path, format="csv")


def test_unpacked_comes_before_gzip(tmp_path):
    put_old(tmp_path)
    put(tmp_path, "train.txt", b"not even gzip", gz=False)
    put_old(tmp_path, gz=True)
    with pytest.raises(CorpusError, match=r"train\.txt, line 1"):
        read_repository(tmp_path)


def test_a_folder_in_no_format_says_what_there_is_and_what_each_format_needs(tmp_path):
    (tmp_path / "Xf").mkdir()
    put(tmp_path, "readme.md", "hello")
    with pytest.raises(CorpusError) as caught:
        read_repository(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and "found: Xf/, readme.md" in message
    for need in ("raw needs trn.json, tst.json", "text needs train_raw_texts.txt or train_texts.txt, train_lab",
                 "split needs trn_X_Y.txt, trn_X_Xf.txt or trn_X.txt, tst_X_Y.txt, tst_X_Xf.txt or tst_X.txt",
                 "pecos needs Y.trn.npz", "old needs train.txt or trn.txt or *_train.txt", "old-splits needs *_dat"):
        assert need in message
    assert "missing" not in message


@pytest.mark.parametrize("key, gone", [("old", "test.txt"), ("split", "tst_X_Y.txt"), ("raw", "tst.json.gz"),
                                       ("text", "train_labels.txt"), ("pecos", "Y.tst.npz"),
                                       ("old-splits", "small_tstSplit.txt")])
def test_a_missing_half_is_named(tmp_path, key, gone):
    PUT[key](tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(CorpusError, match=rf"{key} needs .*; missing: .*{gone.removesuffix('.gz').split('_')[-1]}"):
        read_repository(tmp_path)


def test_two_candidates_for_one_file(tmp_path):
    put_old(tmp_path, names=("a_train.txt", "a_test.txt"))
    put_old(tmp_path, names=("b_train.txt", "b_test.txt"))
    with pytest.raises(CorpusError, match=r"a_train\.txt and b_train\.txt"):
        read_repository(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(CorpusError, match="nowhere: no such folder"):
        read_repository(tmp_path / "nowhere")


# --- what is wrong, and where ---------------------------------------------------------------------------------------

WRONG = {
    # key of the folder, file, its content, then what the message must hold
    "old header too short": ("old", "train.txt", "3 5\n0 1:1\n", ["train.txt, line 1", "'3 5'", "documents features"]),
    "old header in words": ("old", "test.txt", "N D L\n", ["test.txt, line 1", "'N D L'"]),
    "header of a half number": ("old", "train.txt", "1.5 5 4\n", ["train.txt, line 1", "'1.5 5 4'"]),
    "header of a mile": ("old", "train.txt", "1" * 5000 + " 5 4\n", ["train.txt, line 1", "documents features"]),
    "header without documents": ("old", "train.txt", "0 5 4\n", ["train.txt, line 1", "above 0", "'0 5 4'"]),
    "header too long": ("split", "trn_X_Y.txt", "3 5 4\n", ["trn_X_Y.txt, line 1", "'rows columns'"]),
    "fewer rows than promised": ("old", "train.txt", "3 5 4\n0 1:1\n1 \n", ["train.txt, line 1", "3 rows", "has 2"]),
    "more rows than promised": ("split", "trn_X_Xf.txt", "3 5\n\n\n0:1\n\n1:1\n", ["trn_X_Xf.txt, line 6", "3 rows"]),
    "label out of range": ("old", "train.txt", "2 5 4\n0 1:1\n1,4 1:1\n", ["train.txt, line 3", "label 4", "0 to 3"]),
    "huge label": ("old", "train.txt", "1 5 4\n99999999999999999999 1:1\n", ["train.txt, line 2", "label 100000"]),
    "negative label": ("old", "train.txt", "1 5 4\n-1 1:1\n", ["train.txt, line 2", "label -1"]),
    "feature out of range": ("old", "train.txt", "2 5 4\n0 0:1\n0 1:1 5:1\n", ["line 3", "index 5", "0 to 4"]),
    "negative feature": ("split", "tst_X_Xf.txt", "2 5\n\n-2:1\n", ["tst_X_Xf.txt, line 3", "index -2"]),
    "label twice": ("old", "train.txt", "2 5 4\n0 1:1\n3,1,3 1:1\n", ["train.txt, line 3", "3 stands there twice"]),
    "feature twice": ("split", "trn_X_Xf.txt", "3 5\n\n4:1 4:1\n\n", ["trn_X_Xf.txt, line 3", "4 stands there twice"]),
    "no number": ("old", "train.txt", "2 5 4\n0 1:1\n0 1:1 2:abc 3:1\n", ["train.txt, line 3", "'2:abc'"]),
    "value nan": ("split", "trn_X_Xf.txt", "3 5\n\n\n0:1 1:nan\n", ["trn_X_Xf.txt, line 4", "'1:nan'", "finite"]),
    "value inf": ("old", "train.txt", "1 5 4\n0 1:-inf\n", ["train.txt, line 2", "'1:-inf'", "finite"]),
    "value too large": ("old", "train.txt", "2 5 4\n0 1:1\n0 1:1 2:1e39\n", ["train.txt, line 3", "index 2", "inf"]),
    "value missing": ("split", "trn_X_Y.txt", "3 4\n0\n\n\n", ["trn_X_Y.txt, line 2", "'0'", "index:value"]),
    "two colons": ("split", "trn_X_Xf.txt", "3 5\n\n1:2:3\n\n", ["trn_X_Xf.txt, line 3", "'1:2:3'"]),
    "numbers run together": ("split", "trn_X_Xf.txt", "3 5\n1:2-3:4\n\n\n", ["trn_X_Xf.txt, line 2", "'1:2-3:4'"]),
    "fractional index": ("split", "trn_X_Xf.txt", "3 5\n1.5:2\n\n\n", ["trn_X_Xf.txt, line 2", "'1.5:2'"]),
    "features where labels belong": ("old", "train.txt", "1 5 4\n1:1 2:1\n", ["train.txt, line 2", "'1:1'", "a blank"]),
    "label in words": ("old", "train.txt", "1 5 4\n0,x 2:1\n", ["train.txt, line 2", "'0,x'"]),
    "label of value 0": ("split", "trn_X_Y.txt", "3 4\n1:1\n0:1 2:0\n\n", ["trn_X_Y.txt, line 3", "index 2", "above"]),
    "not text at all": ("old", "train.txt", "1 5 4\n0 1:1 \xff\xfe\n", ["train.txt, line 2"]),
    "fewer features than labels": ("split", "trn_X_Xf.txt", "2 5\n\n\n", ["trn_X_Xf.txt: 2 documents", "Y.txt has 3"]),
    "halves of different width": ("split", "tst_X_Y.txt", "2 3\n1:1\n2:1\n", ["4 columns of labels", "3 in test"]),
    "halves of different features": ("old", "test.txt", "1 6 4\n1 1:1\n", ["5 columns of features", "6 in test"]),
    "no label anywhere": ("old", "test.txt", "1 5 4\n 1:1\n", ["no document of test has a label"]),
    "empty file": ("old", "train.txt", "", ["train.txt", "empty"]),
    "empty texts": ("text", "train_raw_texts.txt", "", ["train_raw_texts.txt", "empty"]),
    "gzip that is not": ("raw", "trn.json.gz", "plain", ["trn.json.gz, line 1", "gzip", "fetch"]),
    "broken JSON": ("raw", "trn.json", '{"title": "a", "target_ind": []}\n{"title":\n', ["trn.json, line 2", "JSON"]),
    "two objects on a line": ("raw", "trn.json", '{"title": "a", "target_ind": []} {}', ["trn.json, line 1", "JSON"]),
    "a blank line of JSON": ("raw", "trn.json", '\n{"title": "a", "target_ind": []}\n', ["trn.json, line 1", "JSON"]),
    "no object": ("raw", "trn.json", "[1, 2]\n", ["trn.json, line 1", "[1, 2]", "object"]),
    "nested too deep": ("raw", "trn.json", "[" * 100_000, ["trn.json, line 1", "JSON"]),
    "no title": ("raw", "trn.json", '{"target_ind": [], "x": 1}', ["trn.json, line 1", "'title'", "target_ind, x"]),
    "no targets": ("raw", "tst.json", '{"title": "a"}', ["tst.json, line 1", "'target_ind'"]),
    "title is a number": ("raw", "trn.json", '{"title": 5, "target_ind": []}', ["trn.json, line 1", "title is 5"]),
    "content is a list": ("raw", "trn.json", '{"title": "", "content": [], "target_ind": []}', ["content is []"]),
    "targets are text": ("raw", "trn.json", '{"title": "", "target_ind": "1"}', ["trn.json, line 1", "whole numbers"]),
    "target is a float": ("raw", "trn.json", '{"title": "", "target_ind": [1.0]}', ["trn.json, line 1", "[1.0]"]),
    "target is true": ("raw", "trn.json", '{"title": "", "target_ind": [true]}', ["trn.json, line 1", "[True]"]),
    "target out of range": ("raw", "trn.json", '{"title": "", "target_ind": [0, 4]}', ["trn.json, line 1", "has 4"]),
    "target negative": ("raw", "trn.json", '{"title": "", "target_ind": [-1]}', ["trn.json, line 1", "has -1"]),
    "target twice": ("raw", "trn.json", '{"title": "", "target_ind": [2, 2]}', ["trn.json, line 1", "2 stands"]),
    "relevance too short": ("raw", "trn.json", '{"title": "", "target_ind": [1], "target_rel": []}', ["line 1", "[]"]),
    "relevance nan": ("raw", "trn.json", '{"title": "", "target_ind": [1], "target_rel": [NaN]}', ["line 1", "[nan]"]),
    "label without title": ("raw", "lbl.json", '{"title": "a"}\n{"uid": "1"}\n', ["lbl.json, line 2", "'title'"]),
    "text is not UTF-8": ("text", "train_raw_texts.txt", b"fine\nna\xefve\nfine\n", ["train_raw_texts.txt, line 2",
                                                                                    "byte 3", "0xef", "UTF-8"]),
    "text is UTF-16": ("renee", "trn_X.txt", "abc\n".encode("utf-16"), ["trn_X.txt, line 1", "byte 1", "UTF-8"]),
    "label is not UTF-8": ("text", "test_labels.txt", b"a\nb\xff\n", ["test_labels.txt, line 2", "byte 2", "0xff"]),
    "JSON is not UTF-8": ("raw", "trn.json", b'{"title": "\xe9", "target_ind": []}', ["trn.json, line 1", "0xe9"]),
    "fewer texts than labels": ("text", "train_raw_texts.txt", "a\nb\n", ["raw_texts.txt: 2", "labels.txt has 3"]),
    "more texts than labels": ("renee", "tst_X.txt", "a\nb\nc\n", ["tst_X.txt: 3 documents", "tst_X_Y.txt has 2"]),
    "label text twice": ("text", "train_labels.txt", "a\nb c b\nd\n", ["train_labels.txt, line 2", "'b'", "twice"]),
    "too few label names": ("renee", "Y.txt", "a\nb\n", ["Y.txt: 2 label names for 4 labels"]),
    "filter of one number": ("raw", "filter_labels_test.txt", "1\n0\n", ["filter_labels_test.txt, line 1", "row col"]),
    "filter with a third": ("raw", "filter_labels_test.txt", "1 0\n1 0 1\n", ["test.txt, line 2", "3 numbers"]),
    "filter row out of range": ("raw", "filter_labels_test.txt", "1 0\n2 0\n", ["line 2", "document 2", "0 to 1"]),
    "filter label out of range": ("old", "filter_labels_train.txt", "1 4\n", ["line 1", "label 4", "0 to 3"]),
    "filter with a huge label": ("old", "filter_labels_train.txt", "1 99999999999999999999\n", ["label 100000"]),
    "filter in words": ("old", "filter_labels_train.txt", "1 0\n1 x\n", ["filter_labels_train.txt, line 2", "'x'"]),
    "filter with a blank line": ("old", "filter_labels_train.txt", "1 0\n\n1 1\n", ["filter_labels_train.txt, line 2"]),
    "row number 0": ("old-splits", "small_trSplit.txt", "1\n0\n", ["small_trSplit.txt, line 2", "row 0", "1 to 5"]),
    "row number too large": ("old-splits", "small_tstSplit.txt", "4\n6\n", ["small_tstSplit.txt, line 2", "row 6"]),
    "row in both halves": ("old-splits", "small_tstSplit.txt", "4\n1\n", ["tstSplit.txt, line 2", "row 1 is taken"]),
    "huge row number": ("old-splits", "small_trSplit.txt", "1\n99999999999999999999\n", ["line 2", "row 100000"]),
    "ragged split file": ("old-splits", "small_trSplit.txt", "1 2\n3\n", ["small_trSplit.txt, line 2", "1 numbers"]),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_named_with_its_line(tmp_path, case):
    key, file, content, expected = case
    PUT[key](tmp_path)
    put(tmp_path, file, content)
    with pytest.raises(CorpusError) as caught:
        read_repository(tmp_path, format={"renee": "split"}.get(key, key))
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize("key, file", [("raw", "trn.json"), ("old", "train.txt"), ("text", "train_raw_texts.txt")])
def test_gzip_cut_short_names_the_line_it_ends_in(tmp_path, key, file):
    PUT[key](tmp_path, gz=True)
    path = tmp_path / f"{file}.gz"
    rng = np.random.default_rng(0)
    content = lines(rng.bytes(300).hex() for _ in range(200)).encode()
    path.write_bytes(gzip.compress(content)[:-20_000])
    whole_lines = gzip_lines(path)
    assert whole_lines > 50
    with pytest.raises(CorpusError) as caught:
        list(repository._blocks(path))
    assert f"{file}.gz, line {whole_lines + 1}: the gzip data is cut short" in str(caught.value)
    with pytest.raises(CorpusError, match=rf"{file}\.gz, line"):
        read_repository(tmp_path, format=key)


def gzip_lines(path: Path) -> int:
    """Whole lines that can be got out of a gzip file cut short."""
    import zlib

    return zlib.decompressobj(31).decompress(path.read_bytes()).count(b"\n")


def test_line_numbers_hold_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "_BLOCK", 64)
    rows = [f"{i % 4} {i % 5}:{i}" for i in range(300)]
    put(tmp_path, "train.txt", lines(["300 5 4", *rows]))
    put(tmp_path, "test.txt", lines(["300 5 4", *rows]), gz=True)
    assert len(list(repository._blocks(tmp_path / "train.txt"))) > 20
    corpus = read_repository(tmp_path)
    for split in (corpus.train, corpus.test):
        np.testing.assert_array_equal(split.features.toarray(), dense([{i % 5: i} for i in range(300)], 5))
        np.testing.assert_array_equal(split.labels.toarray(), dense([[i % 4] for i in range(300)], 4))
    for wrong, said in (("0 1:x", "'1:x'"), ("0 5:1", "index 5"), ("4 1:1", "label 4"), ("0,0 1:1", "twice"),
                        ("0 1:1e60", "inf")):
        put(tmp_path, "train.txt", lines(["300 5 4", *rows[:235], wrong, *rows[236:]]))
        with pytest.raises(CorpusError, match="line 237") as caught:
            read_repository(tmp_path)
        assert said in str(caught.value)
    put(tmp_path, "train.txt", lines(["235 5 4", *rows]))
    with pytest.raises(CorpusError, match="line 237: the header promises 235"):
        read_repository(tmp_path)


def test_a_line_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "_BLOCK", 64)
    put_old(tmp_path)
    put(tmp_path, "train.txt", lines(["2 5000 4", "0 " + pairs({i: float(i) for i in range(5000)}), "1 "]))
    put(tmp_path, "test.txt", "1 5000 4\n0 7:1\n")
    features = read_repository(tmp_path).train.features
    np.testing.assert_array_equal(features.toarray()[0], np.arange(5000))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_but_never_crashes(data):
    key = data.draw(st.sampled_from(list(PUT)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        PUT[key](folder)
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(content)))
            content[at:at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        path.write_bytes(content)
        try:
            corpus = read_repository(folder)
        except CorpusError as error:
            assert path.name in str(error) or name in str(error) or "corpus" in str(error)
        else:
            for split in (corpus.train, corpus.test):
                assert split.labels.shape == (len(split), corpus.n_labels)
                assert_canonical(split.labels)


# --- npz ------------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_an_npz_never_runs(tmp_path):
    put_pecos(tmp_path)
    went_off = tmp_path / "went off"
    bomb = np.array([Bomb(went_off)], dtype=object)
    np.savez(tmp_path / "Y.trn.npz", data=bomb, indices=[0], indptr=[0, 1], shape=[1, 4], format=b"csr")
    with pytest.raises(CorpusError, match=r"Y\.trn\.npz: not a scipy CSR matrix.*allow_pickle=False"):
        read_repository(tmp_path)
    assert not went_off.exists()
    np.load(tmp_path / "Y.trn.npz", allow_pickle=True)["data"]
    assert went_off.exists()  # it would have


def npz(**changes):
    parts = dict(data=[1.0, 1, 1, 1, 1], indices=[0, 2, 0, 1, 3], indptr=[0, 2, 2, 5], shape=[3, 4], format=b"csr")
    return {k: v for k, v in {**parts, **changes}.items() if v is not None}


WRONG_NPZ = {
    "missing key": (npz(indptr=None), ["indptr"]),
    "no format": (npz(format=None), ["not a scipy CSR matrix"]),
    "index out of range": (npz(indices=[0, 2, 0, 1, 4]), ["not a scipy CSR matrix"]),
    "negative index": (npz(indices=[0, 2, 0, 1, -1]), ["not a scipy CSR matrix"]),
    "indptr goes down": (npz(indptr=[0, 2, 1, 5]), ["not a scipy CSR matrix"]),
    "indptr past the end": (npz(indptr=[0, 2, 2, 9]), ["not a scipy CSR matrix"]),
    "texts as values": (npz(data=list("abcde")), ["matrix of"]),
    "twice": (npz(indices=[0, 2, 1, 1, 3]), ["row 2 counted from 0", "1 stands there twice"]),
    "value 0": (npz(data=[1.0, 1, 1, 0, 1]), ["row 2 counted from 0", "index 1", "value 0"]),
    "value nan": (npz(data=[1.0, np.nan, 1, 1, 1]), ["row 0 counted from 0", "index 2", "value nan"]),
    "one axis": (npz(indptr=[0, 3], indices=[0, 1, 2], data=[1, 1, 1], shape=[4]), ["not a scipy CSR matrix"]),
    "no rows": (npz(data=[], indices=np.zeros(0, int), indptr=[0], shape=[0, 4]), ["no document"]),
    "fewer rows": (npz(indptr=[0, 5], indices=[0, 2, 1, 3, 4], shape=[1, 5]), ["X.trn.txt: 3 documents", "has 1"]),
    "more columns": (npz(shape=[3, 6]), ["6 columns of labels in train, 4 in test"]),
}


@pytest.mark.parametrize("case", WRONG_NPZ.values(), ids=WRONG_NPZ)
def test_a_wrong_npz(tmp_path, case):
    parts, expected = case
    put_pecos(tmp_path)
    np.savez(tmp_path / "Y.trn.npz", **parts)
    with pytest.raises(CorpusError) as caught:
        read_repository(tmp_path)
    for part in ["Y.trn.npz", *expected]:
        assert part in str(caught.value)


def test_other_things_under_the_name_of_an_npz(tmp_path):
    put_pecos(tmp_path)
    path = tmp_path / "X.tst.npz"
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", np.ones((2, 5)))
    for content in (b"", b"hello", whole[:-30], (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"X\.tst\.npz: not a scipy CSR matrix of numbers"):
            read_repository(tmp_path)
    save_npz(path, coo_array(dense(FEATURES["test"], 5)))
    with pytest.raises(CorpusError, match=r"X\.tst\.npz: .*it holds a coo matrix.*tocsr"):
        read_repository(tmp_path)


def test_texts_in_one_half_only(tmp_path):
    put_pecos(tmp_path)
    (tmp_path / "X.tst.txt").unlink()
    with pytest.raises(CorpusError, match="only one half has texts"):
        read_repository(tmp_path)


# --- manners --------------------------------------------------------------------------------------------------------


def test_a_progress_bar_for_large_files_only(tmp_path, monkeypatch, capfd):
    put_old(tmp_path, gz=True)
    read_repository(tmp_path)
    assert capfd.readouterr() == ("", "")
    bars = []
    size = (tmp_path / "train.txt.gz").stat().st_size
    assert size > (tmp_path / "test.txt.gz").stat().st_size
    monkeypatch.setattr(repository, "_BAR_FROM", size)
    monkeypatch.setattr(repository, "tqdm", lambda **options: bars.append((options, tqdm(**options))) or bars[-1][1])
    read_repository(tmp_path)
    assert [(options["disable"], bar.n) for options, bar in bars] == [(False, size), (True, 0)]
    shown = capfd.readouterr().err
    assert "train.txt" in shown and "test.txt" not in shown


def test_reading_needs_no_jupyter_and_no_plotly():
    code = ("import sys, xmc_explore.corpora.repository; "
            "print(sorted({'IPython', 'ipywidgets', 'plotly', 'ipykernel'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

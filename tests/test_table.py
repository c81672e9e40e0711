"""A student's own table of texts and tags as a corpus: what is read, how it is split, what is refused."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import xmc_explore as xe
from xmc_explore.corpora import CorpusError
from xmc_explore.corpora.table import corpus_from_table

ROWS = [(f"document {i} about {word}", f"{word}; part {i % 3}") for i in range(60) for word in ("trees", "heaps")]
TABLE = pd.DataFrame(ROWS, columns=["text", "tags"])


def as_pairs(corpus) -> set[tuple[str, str]]:
    return {(text, corpus.label_names[label]) for split in (corpus.train, corpus.test)
            for row, text in enumerate(split.texts) for label in split.labels[[row]].indices}


def test_every_pair_of_the_table_is_in_the_corpus_and_no_other():
    corpus = xe.corpus_from_table(TABLE)
    assert as_pairs(corpus) == {(text, tag.strip()) for text, tags in ROWS for tag in tags.split(";")}
    assert corpus.label_names == ["heaps", "part 0", "part 1", "part 2", "trees"]
    assert corpus.train.labels.dtype == np.float32 and set(corpus.train.labels.data) == {1.0}
    assert 0.05 < len(corpus.test) / len(TABLE) < 0.3


def test_lists_strings_and_a_csv_file_give_the_same_corpus(tmp_path):
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    lists = TABLE.assign(tags=[tags.split("; ") for tags in TABLE["tags"]])
    commas = TABLE.rename(columns={"text": "title", "tags": "subjects"}).replace("; ", ", ", regex=True)
    corpora = [corpus_from_table(TABLE), corpus_from_table(lists), corpus_from_table(tmp_path / "mine.csv"),
               corpus_from_table(commas, text="title", tags="subjects", separator=",")]
    assert len({corpus.fingerprint for corpus in corpora}) == 1
    assert corpora[2].name == "mine" and "mine.csv" in corpora[2].source


def test_the_split_is_a_matter_of_the_text_alone():
    whole, half = corpus_from_table(TABLE), corpus_from_table(TABLE.iloc[::-2])
    assert set(half.test.texts) <= set(whole.test.texts) and set(half.train.texts) <= set(whole.train.texts)
    twice = pd.concat([TABLE, TABLE.assign(text="  " + TABLE["text"].str.upper())])
    both = corpus_from_table(twice)
    assert {t.strip().lower() for t in both.test.texts} == set(whole.test.texts)


def test_a_column_may_say_what_is_for_testing():
    said = TABLE.assign(part=["test" if i % 4 == 0 else "train" for i in range(len(TABLE))])
    corpus = corpus_from_table(said, split="part")
    assert corpus.test.texts == list(TABLE["text"][::4])
    with pytest.raises(CorpusError, match="row 3: part is 'dev'; it must be 'train' or 'test'"):
        corpus_from_table(said.assign(part=["train", "test", "train", "dev"] + ["train"] * 116), split="part")


def test_rare_tags_go_and_so_do_documents_without_any():
    rare = pd.concat([TABLE, pd.DataFrame([("alone", "odd"), ("untagged", "")], columns=TABLE.columns)])
    corpus = corpus_from_table(rare, min_uses=2)
    assert as_pairs(corpus) == as_pairs(corpus_from_table(TABLE))
    assert "2 rows left without a tag were dropped" in corpus.source


def test_the_cells_of_a_csv_file_stay_words(tmp_path):
    (tmp_path / "t.csv").write_text("text,tags,split\n12,007;NA,train\nNone,007,test\n", encoding="utf-8-sig")
    corpus = corpus_from_table(tmp_path / "t.csv", split="split")
    assert corpus.label_names == ["007", "NA"] and corpus.train.texts == ["12"] and corpus.test.texts == ["None"]


def test_line_ends_a_mark_in_front_and_empty_lines_do_not_count(tmp_path):
    plain = TABLE.to_csv(index=False)
    kinds = (plain, plain.replace("\n", "\r\n"), "\ufeff" + plain, plain.replace("\n", "\n\n"))
    for i, text in enumerate(kinds):
        (tmp_path / f"ü{i}.csv").write_bytes(text.encode())
    assert len({corpus_from_table(tmp_path / f"ü{i}.csv").fingerprint for i in range(len(kinds))}) == 1


def test_a_tag_is_one_however_unicode_composes_it():
    corpus = corpus_from_table(TABLE.assign(tags=["caf\u00e9", "cafe\u0301"] * 60))
    assert corpus.label_names == ["caf\u00e9"]


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(CorpusError, match="a table is one CSV file"):
        corpus_from_table(tmp_path)


def test_a_run_learns_from_a_table():
    recipe = xe.Recipe(hidden=64, fan_in=4, aux_weight=0.0, batch_size=16, encoder_lr=5e-3, output_lr=5e-2)
    trace = xe.train(corpus_from_table(TABLE), recipe, steps=60, progress=False)
    assert trace.metrics("test")["P@1"] > 80  # each text names one of its tags; one answer for all is right for half


@pytest.mark.parametrize(("table", "options", "words"), [
    (TABLE.rename(columns={"text": "title"}), {}, "no column 'text'; it has 'title', 'tags'. Name yours: .*text=..."),
    (TABLE, {"tags": "labels"}, "no column 'labels'.*tags=..."),
    (TABLE, {"split": "fold"}, "no column 'fold'.*split=..."),
    (TABLE[:0], {}, "has no row"),
    (TABLE.assign(text=[7] + ["x"] * 119), {}, "row 0: text is 7, not a text; drop such rows first"),
    (TABLE.assign(text=["a", "  "] + ["x"] * 118), {}, "row 1: text is '  '"),
    (TABLE.assign(tags=["a", float("nan")] + ["x"] * 118), {}, "row 1: tags is nan, neither a list nor a string"),
    (TABLE.assign(tags=[["a", 3]] * 120), {}, "row 0: tags has 3, which is no string"),
    (TABLE.replace(";", ",", regex=True), {}, r"no cell of tags has a ';' and 120 have a ','.*separator=','"),
    (TABLE, {"separator": ""}, "separator is a string that is not empty; got ''"),
    (TABLE, {"separator": 3}, "separator is a string that is not empty; got 3"),
    (TABLE, {"text": None}, "no column None"),
    (TABLE, {"test_share": "0.1"}, "between 0 and 1; got '0.1'"),
    (TABLE, {"min_uses": None}, "1 or more; got None"),
    (TABLE, {"propensity": (0.5,)}, r"propensity=\(0.5,\) must be two positive numbers"),
    (TABLE, {"propensity": None}, "propensity=None must be two positive numbers"),
    (TABLE.assign(tags=range(120)), {}, r"row 0: tags is 0, neither .*\.astype\(str\)"),
    (pd.concat([TABLE, TABLE["tags"]], axis=1), {}, "2 columns called 'tags'; rename all but one"),
    ([("a", "b")], {}, "a table is a pandas DataFrame or the path of a CSV file; got list"),
    (None, {}, "got NoneType"),
    (TABLE[:2], {"test_share": 1e-9}, "of 2 rows none is for testing; change test_share=1e-09"),
    (TABLE, {"test_share": 1.5}, "between 0 and 1; got 1.5"),
    (TABLE, {"min_uses": 0}, "1 or more; got 0"),
    (TABLE, {"min_uses": 500}, "no tag is carried by 500 documents or more; lower min_uses"),
])
def test_a_table_that_cannot_be_used_is_refused_in_words(table, options, words):
    with pytest.raises(CorpusError, match=words):
        corpus_from_table(table, **options)


@pytest.mark.parametrize(("content", "words"), [
    (None, "no such file"), (b"", "is no CSV file"), (b"text,tags\n\xff\xfe,a\n", "not UTF-8"),
    (b'text,tags\n"a,b\n', "is no CSV file"), (b"title,tags\na,b\n", "no column 'text'; it has 'title', 'tags'"),
    (b"text;tags\na;b\n", "no column 'text'; it has 'text;tags'. Read it with .*sep=';'"),
    (b"text,tags\ncats, dogs,b\n", "Expected 2 fields in line 2, saw 3.*needs quotes"),
    (b"text;tags\ncats, dogs;b\n", "of other separators is read with"),
    (b"text,tags,tags\na,b,c\n", "2 columns called 'tags'"), (b"text,tags\n", "has no row")])
def test_a_file_that_cannot_be_used_is_refused_in_words(tmp_path, content, words):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=f"{re.escape(str(tmp_path / 't.csv'))}.*{words}"):
        corpus_from_table(tmp_path / "t.csv")

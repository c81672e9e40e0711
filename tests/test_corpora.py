"""Corpora: splits, bins, the cache, and the two built-in ones, `calls` and `planted`."""

from __future__ import annotations

import ast
import collections
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from xmc_explore.corpora import BIN_NAMES, Corpus, CorpusError, Split, cache, calls, label_bins, load_corpus, planted
from xmc_explore.corpora.calls import load_calls
from xmc_explore.corpora.planted import make_planted

ROOT = Path(__file__).resolve().parents[1]


def rows(matrix: csr_array) -> list[list[int]]:
    return [matrix.indices[a:b].tolist() for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]


def labels_by_text(corpus: Corpus) -> dict[str, set[str]]:
    return {text: {corpus.label_names[i] for i in row} for split in (corpus.train, corpus.test)
            for text, row in zip(split.texts, rows(split.labels), strict=True)}


# --- bins and the Corpus itself ---


def test_bins_cut_at_shares_of_the_assignments():
    bins = label_bins(np.array([0, 30, 50, 20, 0]))
    assert bins.of_label.tolist() == [2, 1, 0, 2, 2]  # 50 of 100 are the head, the next 30 the torso, unseen is tail
    assert bins.labels("torso").tolist() == [1]
    assert label_bins(np.array([0, 30, 50, 20, 0]), (0.6, 0.9)).of_label.tolist() == [2, 0, 0, 1, 2]
    assert "head 1 labels (used 50\N{EN DASH}50 times)" in bins.describe()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any), st.integers(1, 98), st.integers(1, 98))
def test_head_is_the_shortest_prefix_that_holds_its_share(frequency, a, b):
    low, high = sorted((a, b))
    if low == high:
        high += 1
    frequency = np.array(frequency)
    bins = label_bins(frequency, (low / 100, high / 100))
    prefix = 0
    for i, edge in enumerate((low, high)):
        members = frequency[bins.of_label <= i]
        assert 100 * members.sum() >= edge * frequency.sum()
        if len(members) > prefix:  # an empty torso adds nothing that could be left out
            assert 100 * (members.sum() - members.min()) < edge * frequency.sum()
        prefix = len(members)
    # Bins follow the frequency: no torso label is more frequent than a head label, and so on.
    for i in range(2):
        if (bins.of_label == i).any() and (bins.of_label > i).any():
            assert frequency[bins.of_label == i].min() >= frequency[bins.of_label > i].max()
    assert sorted(np.concatenate([bins.labels(name) for name in BIN_NAMES])) == list(range(len(frequency)))


@pytest.mark.parametrize("edges", [(0.0, 0.5), (0.8, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_bins_refuse_edges_that_are_no_shares(edges):
    with pytest.raises(ValueError, match="bin edges"):
        label_bins(np.array([3, 2, 1]), edges)


@pytest.fixture
def tiny() -> Corpus:
    train = Split(csr_array(np.array([[1, 0, 1], [0, 1, 0]], np.float32)), ["one", "two"])
    test = Split(csr_array(np.array([[0, 0, 1]], np.float32)), ["three"])
    return Corpus("tiny", train, test, ["a", "b", "c"], "by hand")


def test_corpus_counts_training_uses_only(tiny):
    assert tiny.n_labels == 3 and tiny.n_features is None and len(tiny.train) == 2
    assert tiny.label_frequency.tolist() == [1, 1, 1]
    assert "2 training and 1 test texts, 3 labels" in repr(tiny)


def test_fingerprint_follows_the_data(tiny):
    same = Corpus("other name", replace(tiny.train, texts=["one", "two"]), tiny.test, ["a", "b", "c"])
    assert same.fingerprint == tiny.fingerprint
    moved = replace(tiny.test, labels=csr_array(np.array([[0, 1, 0]], np.float32)))
    others = [replace(tiny, train=replace(tiny.train, texts=["one", "2"])), replace(tiny, label_names=["a", "b", "d"]),
              replace(tiny, test=moved), replace(tiny, test=replace(tiny.test, features=csr_array((1, 4))),
                                                 train=replace(tiny.train, features=csr_array((2, 4))))]
    assert len({c.fingerprint for c in [tiny, *others]}) == 5


@pytest.mark.parametrize(("change", "says"), [
    (lambda c: {"label_names": ["a", "b"]}, "train has 3 label columns, but there are 2 label names"),
    (lambda c: {"train": replace(c.train, texts=["one"])}, "train has 1 texts for 2 rows of labels"),
    (lambda c: {"test": replace(c.test, texts=None)}, "test has neither texts nor features"),
    (lambda c: {"test": Split(csr_array((0, 3)), [])}, "the test split has no document"),
    (lambda c: {"test": replace(c.test, labels=csr_array((1, 3)))}, "no document of test has a label"),
    (lambda c: {"train": replace(c.train, features=csr_array((2, 4)))}, "only one of train and test has features"),
    (lambda c: {"train": replace(c.train, features=csr_array((5, 4)))}, "train has 5 rows of features for 2 rows"),
])
def test_corpus_refuses_parts_that_do_not_fit(tiny, change, says):
    with pytest.raises(CorpusError, match=says):
        replace(tiny, **change(tiny))


def test_load_corpus_passes_options_and_names_the_choices(tmp_path):
    assert load_corpus("planted", n_labels=20, n_train=50, n_test=10).n_labels == 20
    with pytest.raises(CorpusError, match='"calls", "calls-small" and "planted"'):
        load_corpus(tmp_path / "nowhere")


# --- the cache ---


def test_cache_dir_is_the_variable_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XMC_EXPLORE_CACHE", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"
    monkeypatch.setenv("XMC_EXPLORE_CACHE", "~/here")
    assert cache.cache_dir() == Path.home() / "here"
    monkeypatch.delenv("XMC_EXPLORE_CACHE")
    assert "xmc_explore" in cache.cache_dir().parts


def test_entry_path_changes_with_every_fact(tmp_path):
    paths = [cache.entry_path("kind", facts, tmp_path)
             for facts in ({"version": "1", "n": 2}, {"version": "1", "n": 3}, {"version": "2", "n": 2})]
    assert len(set(paths)) == 3
    assert cache.entry_path("kind", {"n": 2, "version": "1"}, tmp_path) == paths[0]  # not with their order
    assert cache.entry_path("a/../b", {}, tmp_path).parent == tmp_path


def test_arrays_and_strings_come_back(tmp_path):
    path = tmp_path / "deep" / "x.npz"
    texts = ["", "naïve \0 text", "half a pair \ud800", "ünï\ncode"]
    assert cache.save_arrays(path, ids=np.arange(6, dtype=np.int32).reshape(2, 3), texts=texts, none=[])
    loaded = cache.load_arrays(path, expected=("ids", "texts", "none"))
    assert loaded["texts"] == texts and loaded["none"] == []
    assert loaded["ids"].dtype == np.int32 and loaded["ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cache.load_arrays(tmp_path / "absent.npz") is None


def test_an_entry_that_lacks_something_is_not_used(tmp_path):
    cache.save_arrays(tmp_path / "x.npz", ids=np.arange(3))
    with pytest.warns(UserWarning, match="it lacks texts"):
        assert cache.load_arrays(tmp_path / "x.npz", expected=("ids", "texts")) is None


def test_no_damage_goes_unnoticed(tmp_path):
    path = tmp_path / "x.npz"
    cache.save_arrays(path, ids=np.arange(40), texts=["one", "two"])
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(300):
        damaged = bytearray(whole)
        if i % 2:
            del damaged[rng.integers(len(whole)):]
        else:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            loaded = cache.load_arrays(path, expected=("ids", "texts"))
        if loaded is None:
            refused += 1
            assert "it is made again" in str(notes[-1].message)
        else:  # a bit that carries nothing, a date say
            assert loaded["ids"].tolist() == list(range(40)) and loaded["texts"] == ["one", "two"]
    assert refused >= 250


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.array([{"an": "object"}], dtype=object))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert cache.load_arrays(path) is None


def test_a_write_that_fails_leaves_the_old_entry_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    cache.save_arrays(path, ids=np.arange(3))

    def disk_full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(cache.np, "savez", disk_full)
    with pytest.warns(UserWarning, match="No space left.*XMC_EXPLORE_CACHE"):
        assert not cache.save_arrays(path, ids=np.arange(4))
    assert cache.load_arrays(path)["ids"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["x.npz"]


# --- calls: the parsing rules, on a made-up package ---

RULES = '''
import os

class Reader:
    """A class docstring is no document."""

    @register("reader")
    def loadHTMLPage(self, path, default=make_default()):
        """Load one page
        from disk.

        A second paragraph.
        """
        page = os.path.join(path)
        self.decode(page)(1)
        def inner():
            return flush(page)
        self.loadHTMLPage(path)
        return [table[0](x) for x in inner()]

    async def _fetch_all(self):
        "Fetch everything."
        if True:
            try:
                def nested(x):
                    """A nested one."""
                    return sorted(x)
            finally:
                await gather()

def undocumented():
    return forgotten()

def silent():
    """Calls nothing at all."""

def blank():
    """   """
    return forgotten()
'''
FILLER = "\n".join(f'''
def filler_{word}():
    """The {word} {word}s a {word} alone."""
    return common(), rare_{i // 3}()
''' for i, word in enumerate(["apple", "bear", "cloud", "door", "elm", "fish", "goat", "hill", "ink", "jar", "kite",
                              "lamp", "moon", "nail", "oak", "pear", "quill", "rain", "sand", "tree"]))


@pytest.fixture
def site(tmp_path) -> dict[str, Path]:
    return {"fake": write(tmp_path / "site", {"rules.py": RULES, "sub/filler.py": FILLER})}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def build(site, tmp_path):
    """load_calls on the made-up package, with its own cache folder."""
    def build(min_uses=1, **options) -> Corpus:
        return load_calls(**{"roots": site, "cache": tmp_path / "cache", "progress": False, "min_uses": min_uses}
                          | options)
    return build


def test_text_is_name_and_first_paragraph_and_labels_are_the_names_called(build):
    documents = labels_by_text(build())
    # Not `register` and `make_default`, which run when the function is defined, nor its own name.
    assert documents["load html page: Load one page from disk."] == {"join", "decode", "flush", "inner"}
    assert documents["fetch all: Fetch everything."] == {"gather", "sorted"}
    assert documents["nested: A nested one."] == {"sorted"}
    assert documents["filler apple: The apple apples a apple alone."] == {"common", "rare_0"}
    assert len(documents) == 3 + 20
    assert "forgotten" not in build().label_names


def test_rare_labels_and_then_documents_without_labels_are_dropped(build):
    corpus = build(min_uses=3)
    assert corpus.label_names == ["common", *(f"rare_{i}" for i in range(6))]  # rare_6 has only two users
    documents = labels_by_text(corpus)
    assert len(documents) == 20 and documents["filler tree: The tree trees a tree alone."] == {"common"}
    assert build(min_uses=20).label_names == ["common"]
    with pytest.raises(CorpusError, match="lower min_uses"):
        build(min_uses=21)


def test_copies_are_one_document_with_the_labels_of_half_of_them(site, build):
    body = 'def same():\n    """The same."""\n    return shared(), '
    write(site["fake"], {f"copy{i}.py": body + call for i, call in enumerate(["a()", "a()", "b()", "c()"])})
    write(site["fake"], {f"pair{x}.py": f'def pair():\n    """Two of it."""\n    {x}()' for x in "de"})
    write(site["fake"], {f"odd{i}.py": f'def odd():\n    """Anything."""\n    odd_{i}()' for i in range(3)})
    documents = labels_by_text(build())
    assert documents["same: The same."] == {"shared", "a"}
    assert documents["pair: Two of it."] == {"d", "e"}
    assert "odd: Anything." not in documents  # its text tells nothing of what is called


def test_tests_and_generated_files_are_skipped_and_broken_files_counted(site, build):
    function = 'def extra():\n    """Extra."""\n    return common()\n'
    write(site["fake"], {"tests/test_x.py": function, "sub/test/y.py": function, "notes.txt": function,
                         "copy.py": "# This file was\n#   Automatically generated from modular_copy.py.\n" + function,
                         "python2.py": function + "print 'hello'\n", "null.py": function.encode() + b"\0",
                         "latin.py": b"# coding: latin-1\ndef cafe():\n    '''Caf\xe9.'''\n    common()\n"})
    (site["fake"] / "broken_link.py").symlink_to("nowhere.py")
    corpus = build()
    assert "extra: Extra." not in labels_by_text(corpus)
    assert "cafe: Café." in labels_by_text(corpus)
    assert "6 files, 2 of them left out because they do not parse" in corpus.source


TRICKY = {
    "a string indented less than the code around it": '''
def outer():
    """Documented."""
    text = """
not indented
"""
    def inner():
        return deep()
    return inner()
''',
    "an f-string that looks like code": '''
def outer():
    """Documented."""
    return f"""
def inner():
    return {deep()}
"""
''',
    "a signature on several lines, decorators, comments at the margin": '''
@first
@second(
    1)
def bare(
    a,
    b,
) -> int:
# a comment
    return 1

class C:
    @property
    def bare(self): return 1

    @property
    def documented(self) -> dict[str, int]:  # a comment
        # another
        r"""Documented."""
        return deep()
def last(): "Documented."; deep()
''',
    "brackets that close left of the code": '''
def bare():
    x = [
1, 2
    ]
    return x
def documented():
    """Documented."""
    y = [
1, deep()
]
    def inner(): return deeper()
''',
    "windows line ends":
        'def bare():\r\n    a()\r\n\r\n    b()\r\n\r\ndef documented():\r\n    """Documented."""\r\n    deep()',
}


@pytest.mark.parametrize("source", TRICKY.values(), ids=TRICKY)
def test_cutting_undocumented_functions_changes_nothing(source):
    def found(functions):
        return [(f.name, ast.get_docstring(f), sorted(calls._called(f))) for f in functions]

    quick = found(calls._documented(source.encode()))
    assert quick == found(calls._with_docstring(ast.parse(source)))
    assert any("deep" in called for _, _, called in quick)


def test_result_depends_neither_on_the_folder_nor_on_file_order(site, build, tmp_path, monkeypatch):
    first = build()
    files = sorted(p.relative_to(site["fake"]) for p in site["fake"].rglob("*.py"))
    other = write(tmp_path / "elsewhere" / "deeper",
                  {str(f): (site["fake"] / f).read_bytes() for f in reversed(files)})
    real_walk = os.walk
    monkeypatch.setattr(calls.os, "walk", lambda top: ((d, s, n[::-1]) for d, s, n in real_walk(top)))
    second = build(roots={"fake": other}, cache=tmp_path / "cache 2")
    assert second.fingerprint == first.fingerprint and second.source == first.source
    assert first.train.texts == sorted(first.train.texts)


def test_split_keeps_near_copies_together():
    paragraph = "Return the mean of the values along the given axis of the array, ignoring missing ones."
    copies = [paragraph.replace("mean", word) for word in ("mean", "median", "sum", "product", "minimum", "maximum")]
    assert collections.Counter(map(calls._share, copies)).most_common(1)[0][1] >= 4
    assert calls._share(paragraph.upper() + "  ") == calls._share(paragraph)
    shares = np.array([calls._share(f"Entirely other words {i * 'x'}y{i * 'z'} stand here") for i in range(400)])
    assert 0 <= shares.min() and shares.max() < 1


def no_parsing(*args):
    raise AssertionError("parsed again")


def test_second_load_reads_the_cache_and_options_need_no_new_parse(build, monkeypatch):
    first = build()
    monkeypatch.setattr(calls, "_parse_all", no_parsing)
    assert build().fingerprint == first.fingerprint
    assert build(min_uses=3).n_labels == 7
    assert build(name="calls-small").fingerprint == first.fingerprint


def test_changed_source_is_parsed_again(site, build):
    before = build()
    (site["fake"] / "rules.py").write_text(RULES.replace("Fetch everything", "Fetch all of it"))
    after = build()
    assert after.fingerprint != before.fingerprint and "fetch all: Fetch all of it." in labels_by_text(after)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_damaged_cache_is_noted_and_rebuilt(build, tmp_path, damage):
    first = build()
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1:]
    entry.write_bytes({"cut": whole[:middle], "flip": flipped, "empty": b"", "text": b"not an archive"}[damage])
    with pytest.warns(UserWarning, match=f"{entry.name} cannot be used .* made again"):
        assert build().fingerprint == first.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build().fingerprint == first.fingerprint
    assert entry.read_bytes() == whole


def test_unwritable_cache_still_gives_the_corpus(build, tmp_path):
    first = build()
    (tmp_path / "a file").write_text("in the way")
    with pytest.warns(UserWarning, match="Set the environment variable XMC_EXPLORE_CACHE to a folder") as notes:
        assert build(cache=tmp_path / "a file" / "cache").fingerprint == first.fingerprint
    assert len(notes) == 1


def test_worker_processes_give_the_same_and_do_not_rerun_the_script(site, build, tmp_path):
    script = tmp_path / "script.py"  # no `if __name__ == "__main__"`, as in a notebook
    script.write_text(f"""
import sys
print("started")
from pathlib import Path
from xmc_explore.corpora import calls
calls._FILES_PER_BATCH, calls.cores = 1, lambda: 2
corpus = calls.load_calls(roots={{"fake": {str(site["fake"])!r}}}, cache=Path("other"), min_uses=1)
print(corpus.fingerprint, [m for m in ("torch", "IPython", "ipywidgets", "plotly") if m in sys.modules])
""")
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", script], capture_output=True,
                          cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    printed, bar = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, bar
    assert printed.splitlines() == ["started", f"{build().fingerprint} []"]
    assert "100%" in bar.split("\r")[-1] and bar.rstrip(os.linesep).count("\n") == 0  # one bar, finished


def test_two_processes_that_build_at_once_do_not_harm_each_other(site, build, tmp_path):
    program = ("import sys, pathlib; from xmc_explore.corpora.calls import load_calls; "
               "corpus = load_calls(roots={'fake': sys.argv[1]}, cache=pathlib.Path(sys.argv[2]), min_uses=1); "
               "print(corpus.fingerprint)")
    running = [subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", program, str(site["fake"]),
                                 str(tmp_path / "cache")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT)}) for _ in range(3)]
    results = [process.communicate(timeout=120) for process in running]
    assert {out.strip() for out, _ in results} == {build().fingerprint}, results
    assert len(os.listdir(tmp_path / "cache")) == 1


@pytest.mark.parametrize("error", [BrokenProcessPool("died"), OSError("no semaphores"),
                                   AssertionError("daemonic processes are not allowed to have children")])
def test_without_worker_processes_one_process_does_it_all(build, monkeypatch, tmp_path, error):
    first = build()

    def failing(work, jobs, processes):
        key = next(iter(jobs))
        yield key, lambda: work(*jobs[key])  # one batch arrives before it fails
        raise error

    monkeypatch.setattr(calls, "_FILES_PER_BATCH", 1)
    monkeypatch.setattr(calls, "cores", lambda: 2)
    monkeypatch.setattr(calls, "side_by_side", failing)
    with pytest.warns(UserWarning, match="no worker processes here"):
        assert build(cache=tmp_path / "other").fingerprint == first.fingerprint


def test_calls_errors_name_the_value(tmp_path):
    with pytest.raises(CorpusError, match="'calls-huge'.*'calls', 'calls-small'"):
        load_calls("calls-huge")
    with pytest.raises(CorpusError, match="min_uses.*got 0"):
        load_calls(min_uses=0)
    with pytest.raises(CorpusError, match="roots names no folder"):
        load_calls(roots={})
    with pytest.raises(CorpusError, match=f"no name is called by 5 documents or more in {tmp_path}"):
        load_calls(roots={"empty": tmp_path}, cache=tmp_path)
    with pytest.raises(CorpusError, match="nowhere: no such folder .*'mine'"):
        load_calls(roots={"mine": tmp_path / "nowhere"})


def test_packages_that_are_not_installed_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(calls.SIZES, "calls", ("networkx", "not_there"))
    monkeypatch.setitem(calls.PACKAGES, "not_there", "not-there")
    corpus = load_calls(cache=tmp_path, progress=False)
    assert corpus.source.startswith("functions of networkx ") and corpus.source.endswith("not installed: not_there")


# --- calls: the real corpus ---


@pytest.fixture(scope="module", params=["calls", "calls-small"])
def real(request) -> Corpus:
    return load_calls(request.param)  # from the user's cache where it is there: the first build takes a while


def test_real_corpus_has_the_promised_size(real):
    documents = len(real.train) + len(real.test)
    assignments = real.train.labels.nnz + real.test.labels.nnz
    if real.name == "calls":
        assert documents > 30_000 and 3_500 < real.n_labels < 6_000
        assert "torch" in real.source and "not installed" not in real.source
    else:
        assert 10_000 < documents < 14_000 and 1_500 < real.n_labels < 2_500
        assert "torch" not in real.source
    assert 4 < assignments / documents < 7
    assert 0.1 < len(real.test) / documents < 0.2
    head, torso, tail = np.bincount(real.bins().of_label, minlength=3)
    assert 30 < head < 120 and 3 * head < torso < tail / 3


def test_real_labels_follow_a_power_law(real):
    frequency = np.sort(real.label_frequency[real.label_frequency > 0])[::-1]
    x, y = np.log(np.arange(1, len(frequency) + 1)), np.log(frequency)
    assert -1.3 < np.polyfit(x, y, 1)[0] < -0.8
    assert np.corrcoef(x, y)[0, 1] ** 2 > 0.95


def test_real_documents_are_distinct_and_no_paragraph_is_on_both_sides(real):
    assert len(set(real.train.texts) | set(real.test.texts)) == len(real.train) + len(real.test)
    paragraphs = [{text.split(": ", 1)[1] for text in split.texts} for split in (real.train, real.test)]
    assert not paragraphs[0] & paragraphs[1]


def test_real_labels_are_used_as_often_as_asked(real):
    uses = real.label_frequency + np.bincount(real.test.labels.indices, minlength=real.n_labels)
    assert uses.min() >= 5
    for split in (real.train, real.test):
        assert np.diff(split.labels.indptr).min() >= 1 and set(split.labels.data) == {1.0}


def test_real_documents_carry_what_the_function_calls(real):
    paragraph = " ".join(json.dumps.__doc__.split("\n\n")[0].split())
    assert "encode" in labels_by_text(real)[f"dumps: {paragraph}"]


def test_cached_packages_are_what_parsing_them_now_gives(tmp_path):
    """Fails when the builder changed and its version did not: raise `calls._BUILDER`."""
    sources, _ = calls._installed(("networkx",))
    (cached,), (fresh,) = calls._parsed(sources, None, False), calls._parsed(sources, tmp_path, False)
    assert cached["texts"] == fresh["texts"] and cached["names"] == fresh["names"]
    for part in ("share", "indptr", "indices", "counts"):
        np.testing.assert_array_equal(cached[part], fresh[part])


# --- planted ---


@pytest.fixture(scope="module")
def seeded() -> Corpus:
    return make_planted()


def test_planted_has_the_shape_asked_for(seeded):
    assert (len(seeded.train), len(seeded.test), seeded.n_labels, seeded.n_features) == (8000, 2000, 1000, 256)
    assert seeded.support.shape == (1000, 8)
    assert (np.diff(seeded.support, axis=1) > 0).all() and 0 <= seeded.support.min() <= seeded.support.max() < 256
    assert np.bincount(seeded.support.ravel(), minlength=256).min() > 8  # all features matter; to 31 labels on average
    assert seeded.train.features.dtype == np.float32 and set(seeded.train.labels.data) == {1.0}


def test_planted_is_its_seed(seeded, monkeypatch):
    assert make_planted(seed=1).fingerprint != seeded.fingerprint
    monkeypatch.setattr(planted, "_SCORES_AT_ONCE", 50_000)  # chunks are about memory, not about the result
    assert make_planted().fingerprint == seeded.fingerprint


@pytest.mark.parametrize(("zipf", "labels_per_document"), [(0.0, 3.0), (1.0, 3.0), (1.5, 2.0)])
def test_planted_frequencies_follow_zipf(zipf, labels_per_document):
    corpus = make_planted(zipf=zipf, labels_per_document=labels_per_document)
    share = np.arange(1, 1001) ** -zipf
    share = np.minimum(0.5, share * labels_per_document / share.sum())
    if share.sum() < labels_per_document - 1e-9:  # the cap took some: what is left goes to the other labels
        share[1:] *= (labels_per_document - 0.5) / share[1:].sum()
    expected = 8000 * share
    # Six standard deviations of a count, and a tenth for the documents that would have no label and get the closest.
    assert (np.abs(corpus.label_frequency - expected) < 6 * np.sqrt(expected) + 0.1 * expected).all()
    for split in (corpus.train, corpus.test):
        assert np.diff(split.labels.indptr).min() >= 1
        assert split.labels.nnz / len(split) == pytest.approx(labels_per_document, rel=0.08)


def test_planted_support_is_what_decides_a_label(seeded):
    x, y = seeded.train.features.toarray(), seeded.train.labels
    frequency = seeded.label_frequency
    # Given the label, the mean of a feature leaves 0 on the label's support and nowhere else.
    shift = np.abs((y.T @ x) / np.maximum(frequency, 1)[:, None])
    top = np.argsort(-shift, axis=1)[:, :8]
    found = np.array([len(set(a) & set(b)) / 8 for a, b in zip(top, seeded.support, strict=True)])
    assert found[frequency > 250].mean() == 1.0
    by_bin = [found[seeded.bins().labels(name)].mean() for name in BIN_NAMES]
    assert by_bin[0] > by_bin[1] > by_bin[2] and by_bin[2] < 0.6  # the tail is hard: that is what it is for


def test_planted_support_is_found_by_logistic_regression(seeded):
    from sklearn.linear_model import LogisticRegression

    label = 4
    model = LogisticRegression().fit(seeded.train.features.toarray(), seeded.train.labels[:, [label]].toarray().ravel())
    assert set(np.argsort(-np.abs(model.coef_[0]))[:8]) == set(seeded.support[label])


def precision_at_1(corpus: Corpus, mask: np.ndarray | None = None) -> float:
    """P@1 of least squares on all features, or, label by label, on those that `mask` [L, K] names."""
    x, y = corpus.train.features.toarray(), corpus.train.labels.toarray()
    gram, moment = x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (y - y.mean(0))
    if mask is None:
        weight = np.linalg.solve(gram, moment)
    else:
        weight = np.zeros_like(moment)
        label = np.arange(len(mask))[:, None]
        part = np.linalg.solve(gram[mask[:, :, None], mask[:, None, :]], moment[mask, label, None])
        weight[mask, label] = part[..., 0]
    best = (corpus.test.features @ weight + y.mean(0)).argmax(1)
    return float(corpus.test.labels.toarray()[np.arange(len(best)), best].mean())


def test_planted_is_learnable_but_not_trivial(seeded):
    prior = float(seeded.test.labels[:, [int(seeded.label_frequency.argmax())]].toarray().mean())
    dense, true = precision_at_1(seeded), precision_at_1(seeded, seeded.support)
    elsewhere = np.random.default_rng(0).permuted(np.tile(np.arange(256), (1000, 1)), axis=1)[:, :8]
    random = precision_at_1(seeded, elsewhere)
    assert prior + 0.15 < dense < 0.9
    assert true > dense  # the right eight features lose nothing and overfit less
    assert random < prior + 0.05
    assert precision_at_1(make_planted(noise=0.5)) < dense - 0.1


@pytest.mark.parametrize(("options", "says"), [
    ({"support": 300}, "support=300 distinct features out of n_features=256"),
    ({"support": 0}, "support must be 1 or more, a whole number; got 0"),
    ({"n_test": 0}, "n_test must be 1 or more, a whole number; got 0"), ({"n_test": 2.5}, "whole number; got 2.5"),
        ({"zipf": "1"}, "zipf must be a number; got '1'"), ({"noise": None}, "noise must be a number; got None"),
    ({"zipf": -0.1}, "zipf must be from 0 .* got -0.1"),
    ({"zipf": float("nan")}, "zipf must be from 0 .* got nan"),
    ({"noise": 1.0}, "noise .* got 1.0"),
    ({"noise": -0.1}, "noise .* got -0.1"),
    ({"labels_per_document": 0.5}, "labels_per_document .* got 0.5"),
    ({"n_labels": 10, "labels_per_document": 6}, "half of n_labels=10, that is 5; got 6"),
])
def test_planted_refuses_what_no_corpus_can_have(options, says):
    with pytest.raises(CorpusError, match=says):
        make_planted(**options)


@pytest.mark.parametrize("options", [{"zipf": 10.0}, {"n_labels": 6, "labels_per_document": 3.0}, {"support": 256},
                                     {"n_labels": 2, "labels_per_document": 1.0}, {"noise": 0.0, "n_features": 8}])
def test_planted_works_at_its_limits(options):
    corpus = make_planted(n_train=300, n_test=50, **{"n_labels": 40} | options)
    assert np.diff(corpus.train.labels.indptr).min() >= 1


@pytest.mark.parametrize("name", [None, 3])
def test_a_corpus_is_asked_for_by_name_or_folder(name):
    with pytest.raises(CorpusError, match=f"by its name or its folder; got {name}"):
        load_corpus(name)


@pytest.mark.parametrize("edges", [None, (0.5,), "ab", (0.8, 0.5), (float("nan"), 0.8)])
def test_edges_that_cannot_be(edges):
    with pytest.raises(ValueError, match="0 < head < torso < 1; got"):
        label_bins(np.array([3, 2, 1]), edges)

"""A file is the old one or the new one, whole, whatever happens to whoever writes it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from xmc_explore.files import replacing


def everything(folder):
    """Each file under a folder by its path, with its text."""
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("before", [{}, {"a.json": "old"}], ids=["new", "replaced"])
def test_a_file_takes_its_place_when_it_is_whole(tmp_path, before):
    path = tmp_path / "a.json"
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with replacing(str(path)) as beside:
        assert beside.name == path.name and not beside.exists()
        assert os.stat(beside.parent).st_dev == os.stat(tmp_path).st_dev  # or it could not be renamed
        beside.write_text("half")
        assert {k: v for k, v in everything(tmp_path).items() if k in before} == before
        beside.write_text("new")
    assert everything(tmp_path) == {"a.json": "new"} and os.listdir(tmp_path) == ["a.json"]


def test_others_may_read_a_file_that_took_its_place(tmp_path):
    (tmp_path / "plain").write_text("x")
    with replacing(tmp_path / "a") as beside:
        beside.write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_a_crash_in_the_middle_leaves_the_old_one_and_no_litter(tmp_path, error):
    (tmp_path / "a").write_text("old")
    with pytest.raises(type(error)):
        with replacing(tmp_path / "a") as beside:
            beside.write_text("half")
            beside.with_name("more of it").mkdir()
            raise error
    assert everything(tmp_path) == {"a": "old"} and os.listdir(tmp_path) == ["a"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError):
        with replacing(tmp_path / "a"):
            pass
    assert everything(tmp_path) == {"a": "old"} and os.listdir(tmp_path) == ["a"]
    with pytest.raises(FileNotFoundError, match="missing"):
        with replacing(tmp_path / "missing" / "a"):
            raise AssertionError("never here")


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replacing("a") as beside:
        beside.write_text("new")
    assert os.listdir() == ["a"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for generation in ("old", "new"):
        with replacing(tmp_path / "a") as beside:
            (beside / "deep").mkdir(parents=True)
            (beside / "deep" / generation).write_text(generation)
    assert everything(tmp_path) == {os.path.join("a", "deep", "new"): "new"} and os.listdir(tmp_path) == ["a"]
    with pytest.raises(ZeroDivisionError):
        with replacing(tmp_path / "a") as beside:
            beside.mkdir()
            raise ZeroDivisionError
    with pytest.raises(FileNotFoundError):
        with replacing(tmp_path / "a"):
            pass
    assert everything(tmp_path) == {os.path.join("a", "deep", "new"): "new"} and os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no signal here that cannot be caught")
def test_a_killed_process_leaves_the_old_one_and_a_hidden_folder(tmp_path):
    (tmp_path / "a.npz").write_text("old")
    code = ("import os, signal, sys\nfrom xmc_explore.files import replacing\n"
            "with replacing(sys.argv[1]) as beside:\n    beside.write_text('half')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npz")], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a.npz").read_text() == "old"
    (left,) = set(os.listdir(tmp_path)) - {"a.npz"}
    assert left.startswith(".a.npz.") and [p.name for p in tmp_path.glob("*.npz")] == ["a.npz"]
    with replacing(tmp_path / "a.npz") as beside:  # and is in nobody's way
        beside.write_text("new")
    assert (tmp_path / "a.npz").read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows puts nothing in the place of a file that is being read")
def test_writers_at_the_same_time_leave_one_whole_file_and_readers_see_no_other(tmp_path):
    path, errors, seen = tmp_path / "a", [], set()
    path.write_text("0" * 20_000)
    gate = threading.Barrier(5)

    def write(letter):
        try:
            gate.wait(30)
            for _ in range(20):
                with replacing(path) as beside, open(beside, "w") as file:
                    for _ in range(20):
                        file.write(letter * 1000)
                        file.flush()
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    gate.wait(30)
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_text())
    assert errors == []
    assert all(len(text) == 20_000 and len(set(text)) == 1 for text in seen | {path.read_text()})
    assert os.listdir(tmp_path) == ["a"]

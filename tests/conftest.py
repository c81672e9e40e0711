"""What every test stands on: no model hub, no GPU needed, fixed seeds, and a browser for those that ask."""

from __future__ import annotations

import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is: a spinning thread starves the browser tests

import numpy as np
import pytest
import torch
from hypothesis import settings

from xmc_explore.doctor import find_browser

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

# A shared machine is slow at times, and that is no finding; in CI a failure must come back on the next run.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def seeds():
    """The same global random state for each test, in whatever order they run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    for item in items:
        if _device(item) == "cuda":
            item.add_marker(pytest.mark.gpu)


def _device(item) -> str:
    """Where a test of one backend runs."""
    if not hasattr(item, "callspec") or "backend" not in item.callspec.params:
        return "cpu"
    from dense_for_tests import DEVICES

    return DEVICES.get(item.callspec.params["backend"], "cpu")


@pytest.fixture(autouse=True)
def device_of_the_backend(request):
    """Tensors of a test with a parameter `backend` are made where that backend runs."""
    if _device(request.node) == "cpu":
        yield
        return
    torch.set_default_device(_device(request.node))
    yield
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The Chromium or Chrome to drive; skips without one, except in CI, where that is a failure."""
    if path := find_browser():
        return path
    message = "no Chromium or Chrome found: install one, or set XMC_EXPLORE_CHROMIUM to the program"
    pytest.fail(message) if "CI" in os.environ else pytest.skip(message)


@pytest.fixture(scope="module")  # not session: while Playwright runs, no other event loop can, so no notebook either
def browser(browser_path):
    """A running headless browser (a `playwright.sync_api.Browser`), shared by the tests of a module."""
    from playwright.sync_api import sync_playwright

    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # where Chromium refuses to run inside its sandbox
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"] if as_root else [])
        yield running
        running.close()

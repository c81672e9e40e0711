"""`State`: a run between two steps, with all that decides how it goes on; kept in memory or in a safetensors file.

A checkpoint is one file, tensors and JSON in its header, written beside its place and renamed: whole or not there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import replacing

if TYPE_CHECKING:
    from .training import Run


@dataclass(frozen=True)
class State:
    """A run after `step` steps: tensors by name, and `values` that go to JSON. A few times the size of the model."""

    step: int
    tensors: dict[str, Tensor] = field(repr=False)
    values: dict[str, Any] = field(repr=False)


def take(run: Run) -> State:
    """The state of a run, in copies: model, moments and step counts of the optimizers, random generators, rewirer."""
    tensors = {f"model/{name}": t for name, t in run.model.state_dict().items()}
    numbers = {}
    for i, optimizer in enumerate(run.optimizers):
        for j, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                if torch.is_tensor(value):
                    tensors[f"optimizer/{i}/{j}/{name}"] = value
                elif value is not None:
                    numbers[f"{i}/{j}/{name}"] = value
    tensors |= {f"generator/{name}": module.generator.get_state() for name, module in run.model.named_modules()
                if isinstance(getattr(module, "generator", None), torch.Generator)}
    rewirer = {} if run.rewirer is None else run.rewirer.state_dict()
    if rewirer:
        tensors["generator/rewirer"] = rewirer.pop("generator")
    values = {"recipe": json.loads(run.recipe.to_json()), "steps": run.steps, "numbers": numbers, "rewirer": rewirer,
              "metrics": {k: float(v) for k, v in run.last_metrics.items()},
              "changes": len(run.trace.events["change"])}
    return State(run.step_number, {k: t.detach().clone() for k, t in tensors.items()}, values)


def put(run: Run, state: State) -> None:
    """Bring a new run of the same corpus and recipe to a state. Raises ValueError if it is not of this run."""
    if run.step_number:
        raise ValueError(f"a state goes into a run that has taken no step; this one has taken {run.step_number}")
    model = {k.removeprefix("model/"): t for k, t in state.tensors.items() if k.startswith("model/")}
    if any(k.startswith("auxiliary.") for k in model) and run.model.auxiliary is None:
        run.add_auxiliary()
    try:
        run.model.load_state_dict(model)
    except RuntimeError as error:
        raise ValueError(f"the state is of another model: {error}") from None
    for i, optimizer in enumerate(run.optimizers):
        found: dict[int, dict[str, Any]] = {}
        for name, value in [*state.tensors.items(), *((f"optimizer/{k}", v) for k, v in
                                                      state.values["numbers"].items())]:
            if name.startswith(f"optimizer/{i}/"):
                _, _, parameter, moment = name.split("/")
                value = value.clone() if torch.is_tensor(value) else value  # torch would take it without a copy
                found.setdefault(int(parameter), {})[moment] = value
        optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    run.step_number, run.steps, run.last_metrics = state.step, state.values["steps"], dict(state.values["metrics"])
    run.recipe = run.recipe.replace(**state.values["recipe"])
    run.apply_live_rewiring()
    if run.rewirer is not None:
        run.rewirer.load_state_dict(state.values["rewirer"] | {"generator": state.tensors["generator/rewirer"]})
    for name, module in run.model.named_modules():
        if f"generator/{name}" in state.tensors:
            module.generator = torch.Generator(run.device)
            module.generator.set_state(state.tensors[f"generator/{name}"])


def write(path: Path, state: State) -> None:
    """Leave a state as a file."""
    tensors = {k: t.contiguous() for k, t in state.tensors.items()}
    with replacing(path) as beside:
        save_file(tensors, beside, {"step": str(state.step), "values": json.dumps(state.values)})


def read(path: Path) -> State:
    """The state that `write` wrote. Raises ValueError, naming the file, for anything else."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            return State(int(about["step"]), {k: file.get_tensor(k) for k in file.keys()}, json.loads(about["values"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a checkpoint, or cut short ({error!r}); delete it, and an earlier one is used"
                         ) from None

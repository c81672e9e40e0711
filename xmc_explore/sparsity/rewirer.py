"""`Rewirer`: every so many steps, drop the lowest connections and grow as many of the highest candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..layers import FixedFanIn, GroupedFixedFanIn
from ..layers.fixed_fan_in import SCORE_ELEMENTS
from .scores import DROP_SCORES, GROW_SCORES, Candidates, DropScore, GrowScore


@dataclass(frozen=True)
class RewireEvent:
    """What one rewire did: at `step`, the slots at flat positions `slots` of [L, K] moved from `old` to `new`.

    In a layer whose labels share indices they are those of its groups, [n_groups, K].
    """

    step: int
    slots: Tensor
    old: Tensor
    new: Tensor
    churn: float  # share of all slots that were replaced


class Rewirer:
    """Dynamic sparse training of one sparse layer; call `step()` after each optimizer step.

    Every `interval` steps, up to and including step `end` (None: for ever), it drops slots by the lowest `drop` score
    and grows as many in the same rows by the highest `grow` score among the features that the row does not read.
    `mode="fraction"` drops that share of all slots, lowest first over the whole layer; `mode="threshold"` drops every
    slot whose score is below `threshold` (both as in the code of SPARTEX). `schedule="cosine"` scales the share, or the
    threshold, by (1 + cos(pi t / end)) / 2 (RigL, section 3), "constant" leaves it.
    Grown weights start at zero (`init="uniform"`: like new ones), and the optimizer's moments of replaced slots are set
    to zero unless `reset_moments=False` (the official code keeps them).
    `drop` and `grow` are names ("magnitude"; "random" is SET, "gradient" is RigL) or functions, see `scores`.
    In a `GroupedFixedFanIn` a group drops and grows as one: by the mean of its labels' drop scores (as HASTE's code
    does) and the sum of their grow scores; weights and moments are set to zero for all of its labels.
    Attributes `interval`, `fraction`, `threshold`, `mode`, `grow`, `end`, `reset_moments` may be changed between steps;
    `requested = True` makes the next step rewire whatever the interval says.
    Raises ValueError for an option that cannot be or an optimizer of other weights, TypeError for another layer,
    RuntimeError if RigL is asked to rewire before it saw a batch.
    """

    def __init__(self, layer: FixedFanIn | GroupedFixedFanIn, optimizer: torch.optim.Optimizer | None = None, *,
                 drop: str | DropScore = "magnitude", grow: str | GrowScore = "random", interval: int = 100,
                 fraction: float = 0.3, threshold: float = 0.01, mode: str = "fraction", schedule: str = "cosine",
                 end: int | None = None, init: str = "zero", reset_moments: bool = True, seed: int = 0):
        if not isinstance(layer, (FixedFanIn, GroupedFixedFanIn)):
            raise TypeError(f"a Rewirer is for a FixedFanIn or a GroupedFixedFanIn; got {type(layer).__name__}")
        groups = [] if optimizer is None else getattr(optimizer, "param_groups", [])
        if optimizer is not None and not any(p is layer.weight for g in groups for p in g["params"]):
            raise ValueError("this optimizer does not train the layer's weight, so its moments cannot be reset: give "
                             "the one that does, or None")
        for name, value, kind in (("interval", interval, Integral), ("end", 0 if end is None else end, Integral),
                                  ("seed", seed, Integral), ("fraction", fraction, Real),
                                  ("threshold", threshold, Real)):
            if not isinstance(value, kind) or math.isnan(value):
                raise ValueError(f"{name} must be a {'whole ' if kind is Integral else ''}number; got {value!r}")
        if schedule == "cosine" and end is None:
            raise ValueError("schedule='cosine' needs end=, the step at which rewiring stops; or use 'constant'")
        for name, value, allowed in (("mode", mode, ("fraction", "threshold")), ("init", init, ("zero", "uniform")),
                                     ("schedule", schedule, ("cosine", "constant"))):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}; choose one of {allowed}")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is a share of the slots, 0 to 1; got {fraction}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1 step; got {interval}")
        self.layer, self.optimizer = layer, optimizer
        self.drop = _named(drop, DROP_SCORES, "drop")
        self.grow = grow
        self.interval, self.fraction, self.threshold = interval, fraction, threshold
        self.mode, self.schedule, self.end, self.init, self.reset_moments = mode, schedule, end, init, reset_moments
        self.steps = 0
        self.requested = False
        self.generator = torch.Generator(device=layer.weight.device).manual_seed(seed)
        self._x: Tensor | None = None
        self._grad: Callable[[Tensor], Tensor] | None = None  # from labels [n] to [B, n]
        self._hook = layer.register_forward_hook(self._look)

    @property
    def grow(self) -> GrowScore:
        return self._grow

    @grow.setter
    def grow(self, score: str | GrowScore) -> None:
        self._grow = _named(score, GROW_SCORES, "grow")

    def is_due(self, step: int) -> bool:
        """Will the layer be rewired after this step? Steps count from 1."""
        if self.requested and step == self.steps + 1:
            return True
        return step % self.interval == 0 and (self.end is None or step <= self.end)

    def step(self) -> RewireEvent | None:
        """Count one training step and rewire if it is time; returns what changed, or None."""
        due = self.is_due(self.steps + 1)
        self.steps, self.requested = self.steps + 1, False
        return self.rewire() if due else None

    def anneal(self) -> float:
        """The factor that the schedule puts on the fraction or threshold now."""
        if self.schedule == "constant" or self.end is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(self.steps / max(self.end, 1), 1)))

    @torch.no_grad()
    def rewire(self) -> RewireEvent:
        """Rewire now, whatever the interval says."""
        layer, indices = self.layer, self.layer.indices
        dropped = self._choose()
        slots = dropped.flatten().nonzero().squeeze(1)
        old = indices.flatten()[slots]
        churn = len(slots) / dropped.numel()
        rows = dropped.any(1).nonzero().squeeze(1)
        size = getattr(layer, "group_size", 1) * layer.in_features
        for chunk in rows.split(max(1, SCORE_ELEMENTS // size)) if len(rows) else ():
            indices[chunk] = self._regrow(chunk, dropped[chunk])
        if self._group is not None:
            dropped = dropped[self._group]  # [L, K], as the weights are
        weight = layer.weight.float() if layer.weight.element_size() < 4 else layer.weight  # float8 cannot be masked
        if self.init == "zero":
            layer.weight.copy_(weight.masked_fill_(dropped, 0))
        else:
            bound = 1 / math.sqrt(layer.fan_in)
            fresh = torch.empty_like(weight).uniform_(-bound, bound, generator=self.generator)
            layer.weight.copy_(torch.where(dropped, fresh, weight))
        if self.reset_moments and self.optimizer is not None:
            for moment in self.optimizer.state.get(layer.weight, {}).values():
                if torch.is_tensor(moment) and moment.shape == layer.weight.shape:
                    moment.masked_fill_(dropped, 0)
        self._x = self._grad = None
        return RewireEvent(self.steps, slots, old, indices.flatten()[slots], churn)

    def _choose(self) -> Tensor:
        """The slots to drop, as a mask of the shape of the indices."""
        score = self.drop(self.layer)
        if score.shape != self.layer.weight.shape or score.isnan().any():
            raise ValueError(f"a drop score must be numbers of shape [L, K] = {list(self.layer.weight.shape)}; got "
                             f"{list(score.shape)} with {int(score.isnan().sum())} NaN")
        if self._group is not None:
            total = score.new_zeros(self.layer.indices.shape).index_add_(0, self._group, score)
            score = total / torch.bincount(self._group, minlength=len(total)).unsqueeze(1)
        if self.mode == "threshold":
            dropped = score < self.threshold * self.anneal()
        else:
            count = int(self.fraction * self.anneal() * score.numel())
            dropped = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
            dropped[score.flatten().topk(count, largest=False, sorted=False).indices] = True
            dropped = dropped.view_as(score)
        unread = self.layer.in_features - self.layer.fan_in
        if unread < self.layer.fan_in:  # a row cannot grow more features than it does not read: keep its strongest
            rank = score.argsort(1).argsort(1)
            dropped &= rank < unread
        return dropped

    def _regrow(self, rows: Tensor, dropped: Tensor) -> Tensor:
        """New indices [n, K] of `rows`: dropped slots take the best candidates, best first; the others stay."""
        present = self.layer.indices[rows]
        if hasattr(self.grow, "draw") and 4 * self.layer.fan_in <= self.layer.in_features:
            return self.grow.draw(present, dropped, self.layer.in_features, self.generator)
        present = present.long()
        if getattr(self.grow, "needs_batch", False) and self._grad is None:
            raise RuntimeError("this grow score looks at a batch, and none was seen: rewire through step(), or run a "
                               "forward and backward pass on the step that is due")
        labels, of_row = (rows, None) if self._group is None else self.layer.labels_of(rows)
        grad = None if self._grad is None else self._grad(labels)
        score = self.grow(Candidates(self.layer, labels, self.generator, self._x, grad))
        if score.shape != (len(labels), self.layer.in_features) or not score.isfinite().all():
            raise ValueError(f"a grow score must be finite numbers of shape [n, D] = "
                             f"{[len(labels), self.layer.in_features]}; got {list(score.shape)} with "
                             f"{int((~score.isfinite()).sum())} that are not finite")
        if of_row is not None:
            score = score.new_zeros(len(rows), score.shape[1]).index_add_(0, of_row, score)
        score.scatter_(1, present, -torch.inf)  # neither what is there nor what was just dropped can be grown
        best = score.topk(int(dropped.sum(1).max()), dim=1).indices
        place = (dropped.cumsum(1) - 1).clamp_min(0)  # the first dropped slot takes the best candidate, and so on
        return torch.where(dropped, best.gather(1, place), present).to(self.layer.indices.dtype)

    @property
    def _group(self) -> Tensor | None:
        """The row [L] of the indices that each label reads, where it is not a row of its own."""
        group = getattr(self.layer, "group_of_label", None)
        return None if group is None else group.long()

    @property
    def wants_batch(self) -> bool:
        """Will the next `step()` rewire by a score that looks at the batch?"""
        return getattr(self.grow, "needs_batch", False) and self.is_due(self.steps + 1)

    def watch(self, x: Tensor, gradient: Callable[[Tensor], Tensor]) -> None:
        """Give the batch of this step, x [B, D], where the layer's own forward pass does not run (`logit_free`).

        `gradient(labels)` gives the gradient of the loss with respect to the outputs of labels [n], as [B, n]; it is
        called at the rewire, chunk by chunk.
        """
        self._x, self._grad = x.detach(), gradient

    def _look(self, layer: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep x and the gradient of y for a score that needs them, on the steps that rewire and no others."""
        if self.wants_batch and layer.training and output.requires_grad:
            self._x = inputs[0].detach().reshape(-1, layer.in_features)
            output.register_hook(self._keep_gradient)

    def _keep_gradient(self, grad: Tensor) -> None:
        grad = grad.detach().reshape(-1, self.layer.out_features)
        self._grad = lambda labels: grad[:, labels]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what the next rewires do, given the layer and the optimizer."""
        return {"steps": self.steps, "requested": self.requested, "interval": self.interval, "fraction": self.fraction,
                "threshold": self.threshold, "end": self.end, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` left off."""
        self.generator.set_state(state["generator"])
        for name in ("steps", "requested", "interval", "fraction", "threshold", "end"):
            setattr(self, name, state[name])


def _named(score, known: dict, what: str):
    if callable(score):
        return score
    if score not in known:
        raise ValueError(f"{what}={score!r}; choose one of {tuple(known)} or pass a function")
    return known[score]

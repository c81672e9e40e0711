"""The training step of an output layer without its logits: label by label, never a tensor of shape [B, L].

The gradient of a loss with respect to a logit is known in closed form (see `losses`), and so the labels can go by in
chunks: score, gradient of the logits, gradients of weights and bias, a share of the gradient of x. What was [B, L] is
[B, chunk], and the loss itself need not be computed at all (Renee, MLSys 2023, section 3). Two ways to use it:

    loss_by_chunks(layer, x, rows, columns).backward()            gradients are handed over; any torch optimizer
    step_in_place(layer, optimizer, x, rows, columns) -> dx       weights change chunk by chunk; no gradient buffer

Both give the numbers of the plain path up to the order of sums. `layer` is a `FixedFanIn` or `GroupedFixedFanIn` with
any backend, an `nn.Linear`, a `HeadTail` of dense and sparse, or any other with the methods of `Part`. Documents carry
labels at the pairs (rows, columns).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .layers import GroupedFixedFanIn, HeadTail
from .layers.backends import pick
from .layers.fixed_fan_in import FanIn
from .layers.grouped import kernels
from .layers.op import check_tensors
from .losses import LOGIT_GRADIENTS, LOSSES
from .metrics import NotFiniteError
from .rounding import round_to

CHUNK_ELEMENTS = 1 << 20  # at most, of the logits [B, chunk] and of the weights [chunk, D] in hand: 4 MiB in float32

Needs = tuple[bool, bool, bool]  # of the gradients of x, weight and bias, as the backends take it
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
ALL = (True, True, True)


class Part(Protocol):
    """What a layer must offer to be gone through by parts: `labels` is a slice, or a tensor of labels [n].

    Neither knows autograd. x [B, D] has the dtype of the computation, float32 for weights of fewer bits.
    """

    def part_scores(self, x: Tensor, labels: slice | Tensor) -> Tensor: ...  # [B, n]

    def part_gradients(self, grad: Tensor, x: Tensor, labels: slice | Tensor, needs: Needs = ALL) -> Gradients:
        ...  # dx [B, D], and of weight[labels] and bias[labels], from grad [B, n]; None where it is not needed


class _Dense:
    """An `nn.Linear` by parts; under autocast its matrix products run in autocast's type, as they do in its forward."""

    def __init__(self, layer: nn.Linear):
        self.layer = layer
        device = layer.weight.device.type
        self.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def part_scores(self, x: Tensor, labels: slice | Tensor) -> Tensor:
        weight, bias = self.layer.weight[labels], self.layer.bias
        dtype = self.dtype or x.dtype
        z = x.to(dtype) @ weight.to(dtype).t()
        return z.to(x.dtype) if bias is None else z.to(x.dtype).add_(bias[labels].to(x.dtype))

    def part_gradients(self, grad: Tensor, x: Tensor, labels: slice | Tensor, needs: Needs = ALL) -> Gradients:
        dtype = self.dtype or x.dtype
        g = grad.to(dtype)
        return ((g @ self.layer.weight[labels].to(dtype)).to(x.dtype) if needs[0] else None,
                (g.t() @ x.to(dtype)).to(x.dtype) if needs[1] else None, grad.sum(0) if needs[2] else None)


def part_of(layer: nn.Module) -> Part:
    """The layer as something to go through by parts. Raises TypeError if it cannot be."""
    if isinstance(layer, nn.Linear):
        return _Dense(layer)
    if hasattr(layer, "part_scores"):
        return layer
    raise TypeError(f"{type(layer).__name__} cannot be gone through label by label; give a FixedFanIn, an nn.Linear, "
                    f"or a layer with the methods part_scores and part_gradients")


# --- labels in chunks ---------------------------------------------------------------------------------------------


class Pairs:
    """Positive pairs sorted by label, then document: those of a range of labels are a slice.

    Raises ValueError for a pair outside of `n_documents` x `n_labels`.
    """

    def __init__(self, rows: Tensor, columns: Tensor, n_documents: int, n_labels: int):
        outside = (rows < 0) | (rows >= n_documents) | (columns < 0) | (columns >= n_labels)
        if outside.any():  # a compiled kernel would write there
            at = int(outside.nonzero()[0])
            raise ValueError(f"a positive pair names document {int(rows[at])} and label {int(columns[at])}; there are "
                             f"{n_documents} documents and {n_labels} labels")
        order = (columns * max(n_documents, 1) + rows).argsort()
        self.rows, self.columns, self.n_labels = rows[order], columns[order], n_labels

    def int32(self) -> tuple[Tensor, Tensor]:
        """(labels, rows), as the compiled kernel takes them."""
        return self.columns.int(), self.rows.int()

    def by_chunks(self, size: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(labels, rows, columns) of every `size` labels on end, their columns counted from the first of them."""
        starts = range(0, self.n_labels, size := max(size, 1))
        at = torch.tensor(starts, dtype=self.columns.dtype, device=self.columns.device)
        bounds = torch.searchsorted(self.columns, at).tolist() + [len(self.columns)]
        for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
            labels = slice(start, min(start + size, self.n_labels))
            yield labels, self.rows[low:high], self.columns[low:high] - start

    def of_labels(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs whose label is among `labels` [n], with its position there."""
        ordered, order = labels.sort()
        at = torch.searchsorted(ordered, self.columns).clamp_(max=max(len(labels) - 1, 0))
        found = ordered[at] == self.columns if len(labels) else torch.zeros_like(at, dtype=torch.bool)
        return self.rows[found], order[at[found]]


def chunk_size(batch: int, width: int = 1) -> int:
    """How many labels go by at once where a batch and `width` numbers a label are in hand."""
    return CHUNK_ELEMENTS // max(batch, width)


def _go_through(layer: nn.Module, x: Tensor, pairs: Pairs, loss: str, scale: float, want_loss: bool,
                chunk: int | None, use: Callable[[slice, Tensor, Tensor], None] | None) -> tuple[Tensor, Tensor | None]:
    """The step over chunks of labels: dx [B, D], and the loss if wanted; `use(labels, dweight, dbias)` takes the rest.

    Without `use` it is the loss alone. Everything is a mean over documents, times `scale`.
    """
    part, dx = part_of(layer), torch.zeros_like(x)
    total = torch.zeros((), dtype=torch.float64, device=x.device) if want_loss else None
    for labels, rows, columns in pairs.by_chunks(chunk or chunk_size(len(x), layer.weight.shape[1])):
        z = part.part_scores(x, labels)
        if want_loss:
            total += LOSSES[loss](z, rows, columns)
        if use is not None:
            grad = LOGIT_GRADIENTS[loss](z, rows, columns).mul_(scale / max(len(x), 1))
            here, dweight, dbias = part.part_gradients(grad, x, labels)
            dx += here
            use(labels, dweight, dbias)
    return dx, None if total is None else total.mul_(scale)


# --- gradients handed over ----------------------------------------------------------------------------------------


def loss_by_chunks(layer: nn.Module, x: Tensor, rows: Tensor, columns: Tensor, *, loss: str = "bce",
                   want_loss: bool = True, chunk: int | None = None) -> Tensor:
    """The loss of `losses.LOSSES`, summed over labels, mean over documents, as a scalar to call `backward` on.

    x [B, D]; (rows, columns) [P] are the positive pairs. All gradients (of x, and of the layer's weight and bias) are
    computed here, in the one pass over the labels, and handed out by `backward`, which can run once. Without
    `want_loss` the value is NaN and its computation is saved; the gradients are the same. `chunk` is how many labels
    are in hand at once. Raises TypeError for what is no tensor, ValueError for shapes, devices or a loss that do not
    fit. A value that is not finite is returned as it is, as torch's losses do; `xe.train` looks at it.
    """
    x = _checked(layer, x, rows, columns, loss)
    if isinstance(layer, HeadTail):
        return sum(loss_by_chunks(part, x, *pairs, loss=loss, want_loss=want_loss, chunk=chunk)
                   for part, *pairs in layer.split(rows, columns))
    parameters = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return _Loss.apply(x, layer, Pairs(rows, columns, len(x), layer.out_features), loss, want_loss, chunk, *parameters)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer, pairs, loss, want_loss, chunk, weight, bias=None):
        ctx.gradients, use = None, None
        if any(ctx.needs_input_grad):
            dweight, dbias = torch.empty_like(weight), None if bias is None else torch.empty_like(bias)

            def use(labels: slice, of_weight: Tensor, of_bias: Tensor) -> None:
                dweight[labels] = of_weight
                if dbias is not None:
                    dbias[labels] = of_bias

        module = _fused(layer, x) if use is not None else None
        if module is not None:
            update = module.Update("none", state=(dweight, dbias))
            dx, value = module.fused_step(x, weight, layer.indices, bias, pairs.int32(), loss=loss,
                                          scale=1 / max(len(x), 1), update=update, want_loss=want_loss,
                                          **_groups(layer))
            value = None if value is None else x.new_tensor(value)
        else:
            dx, value = _go_through(layer, x, pairs, loss, 1.0, want_loss, chunk, use)
        if use is not None:
            ctx.gradients = [dx, dweight] if dbias is None else [dx, dweight, dbias]
        return x.new_full((), math.nan) if value is None else value.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a step without logits were handed out already; backward runs once")
        # In place, and let go of: they become the parameters' .grad without a copy.
        found, ctx.gradients = [g.mul_(grad.to(g.dtype)) for g in ctx.gradients], None
        found = [g if needed else None for g, needed in zip(
            found, (ctx.needs_input_grad[0], *ctx.needs_input_grad[6:]), strict=True)]
        return found[0], None, None, None, None, None, *found[1:]


def _checked(layer: nn.Module, x: Tensor, rows: Tensor, columns: Tensor, loss: str) -> Tensor:
    """x in the dtype of the computation, if everything fits together."""
    if loss not in LOGIT_GRADIENTS:
        raise ValueError(f"loss={loss!r}: the gradient of its logits is not known in closed form; choose one of "
                         f"{tuple(LOGIT_GRADIENTS)}")
    part_of(layer)
    check_tensors(x=x, rows=rows, columns=columns)
    if len({t.device for t in (x, rows, columns, layer.weight)}) > 1:
        raise ValueError(f"x, rows, columns and the layer must be on one device; got {x.device}, {rows.device}, "
                         f"{columns.device} and {layer.weight.device}")
    if any(t.is_floating_point() or t.dtype == torch.bool for t in (rows, columns)):
        raise TypeError(f"rows and columns must be whole numbers; got {rows.dtype} and {columns.dtype}")
    if x.dim() != 2 or x.shape[1] != layer.in_features:
        raise ValueError(f"x must be [B, {layer.in_features}]; got {list(x.shape)}")
    if rows.shape != columns.shape or rows.dim() != 1:
        raise ValueError(f"rows and columns of the positive pairs must be [P]; got {list(rows.shape)} and "
                         f"{list(columns.shape)}")
    if hasattr(layer, "check"):
        layer.check()
    return x.to(compute_dtype(layer))


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """What a layer computes in: the dtype of its weights, float32 if these have fewer bits."""
    return layer.weight.dtype if layer.weight.element_size() >= 4 else torch.float32


def _fused(layer: nn.Module, x: Tensor):
    """The compiled kernels that do it all in one loop over labels or groups, where there are some for this layer."""
    if not isinstance(layer, FanIn) or layer.bias is None or not x.dtype == layer.weight.dtype == torch.float32:
        return None
    grouped = isinstance(layer, GroupedFixedFanIn)
    module = kernels(layer.backend, x) if grouped else pick(layer.backend, x.device).module
    return module if hasattr(module, "fused_step") else None


def _groups(layer: FanIn) -> dict[str, tuple]:
    """What the compiled kernels of groups want to know besides."""
    groups = isinstance(layer, GroupedFixedFanIn)
    return {"groups": (layer.order, layer.group_of_label, layer.group_size)} if groups else {}


# --- updates in place ---------------------------------------------------------------------------------------------


class InPlace(NamedTuple):
    """What a step in place gives: `dx` [B, D], the gradient of x to go on with, and the loss, None if not wanted."""

    dx: Tensor
    loss: Tensor | None


@torch.no_grad()
def step_in_place(layer: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, rows: Tensor, columns: Tensor, *,
                  loss: str = "bce", scale: float = 1.0, want_loss: bool = True,
                  rounding: torch.Generator | None = None, chunk: int | None = None) -> InPlace:
    """What `loss_by_chunks(...).backward()` and `optimizer.step()` do to a layer, with no gradient of it ever kept.

    `optimizer` is the `torch.optim.SGD`, `Adam` or `AdamW` that has the layer's parameters: its learning rate and
    other options are read, its moments are kept in its own state, so checkpoints and schedules work as ever. It must
    not step these parameters itself (it skips those without a gradient). `scale` multiplies the loss, its gradients
    and the value returned. Weights in bfloat16 or float8 take plain SGD, computed in float32 and rounded: by chance
    with the generator `rounding`, to the nearest without. Raises ValueError for an optimizer that does something else,
    and as `loss_by_chunks` does.
    """
    x = _checked(layer, x, rows, columns, loss).detach()
    if isinstance(layer, HeadTail):
        done = [step_in_place(part, optimizer, x, *pairs, loss=loss, scale=scale, want_loss=want_loss,
                              rounding=rounding, chunk=chunk) for part, *pairs in layer.split(rows, columns)]
        return InPlace(done[0].dx + done[1].dx, done[0].loss + done[1].loss if want_loss else None)
    pairs = Pairs(rows, columns, len(x), layer.out_features)
    module, update = _fused(layer, x), None
    if module is not None:
        update = _update(module, layer, optimizer)
    if update is not None:
        dx, value = module.fused_step(x, layer.weight, layer.indices, layer.bias, pairs.int32(), loss=loss,
                                      scale=scale / max(len(x), 1), update=update, want_loss=want_loss,
                                      **_groups(layer))
        return InPlace(dx, None if value is None else x.new_tensor(value))
    rules = [_Rule(p, optimizer, rounding) for p in (layer.weight, layer.bias) if p is not None]

    def use(labels: slice, *gradients: Tensor) -> None:
        for rule, gradient in zip(rules, gradients, strict=False):
            rule(labels, gradient)

    dx, value = _go_through(layer, x, pairs, loss, scale, want_loss, chunk, use)
    return InPlace(dx, None if value is None else value.to(x.dtype))


class _Rule:
    """One step of SGD, Adam or AdamW on a range of one parameter; the arithmetic is that of torch.optim."""

    def __init__(self, parameter: nn.Parameter, optimizer: torch.optim.Optimizer, rounding: torch.Generator | None):
        self.parameter, self.rounding = parameter, rounding
        group = group_of(optimizer, parameter)
        self.lr, self.weight_decay = float(group["lr"]), group["weight_decay"]
        self.momentum, self.adam = group.get("momentum", 0), "betas" in group
        low = parameter.element_size() < 4
        if low and (self.adam or self.momentum):
            raise ValueError(f"weights in {parameter.dtype} take plain SGD in place: their moments would need more "
                             f"memory than the weights; use SGD with momentum=0, or float32 weights")
        self.moments = moments_of(optimizer, parameter)
        if self.adam:
            self.betas, self.eps = group["betas"], group["eps"]
            self.decoupled = isinstance(optimizer, torch.optim.AdamW)
            optimizer.state[parameter]["step"] += 1
            self.step = float(optimizer.state[parameter]["step"])

    def __call__(self, labels: slice, gradient: Tensor) -> None:
        held = self.parameter[labels]
        weight = held.float() if held.element_size() < 4 else held
        moments = [m[labels] for m in self.moments]
        if self.adam:
            self._adam(weight, gradient, *moments)
        else:
            self._sgd(weight, gradient, *moments)
        if weight is not held:
            held.copy_(round_to(weight, held.dtype, self.rounding))

    def _sgd(self, weight: Tensor, gradient: Tensor, momentum: Tensor | None = None) -> None:
        if self.weight_decay:
            gradient = gradient.add(weight, alpha=self.weight_decay)
        if momentum is not None:
            gradient = momentum.mul_(self.momentum).add_(gradient)
        weight.sub_(gradient, alpha=self.lr)

    def _adam(self, weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> None:
        if self.decoupled:
            weight.mul_(1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient.add(weight, alpha=self.weight_decay)
        beta1, beta2 = self.betas
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = second.sqrt().div_(math.sqrt(1 - beta2**self.step)).add_(self.eps)
        weight.addcdiv_(first, size, value=-self.lr / (1 - beta1**self.step))


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict:
    """The parameter group that holds a parameter. Raises ValueError if none does, or it asks for more."""
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)):
        raise ValueError(f"an update in place follows SGD, Adam or AdamW; got {type(optimizer).__name__}")
    group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)
    if group is None:
        raise ValueError(f"the optimizer does not have the layer's parameter of shape {list(parameter.shape)}; make it "
                         f"from layer.parameters()")
    for name in ("nesterov", "maximize", "amsgrad", "dampening"):
        if group.get(name):
            raise ValueError(f"an update in place does not know {name}={group[name]}; leave it at its default")
    return group


def moments_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[Tensor, ...]:
    """The moments that an optimizer keeps of a parameter, made (of zeros, as torch does) where there are none yet."""
    group, state = group_of(optimizer, parameter), optimizer.state
    names = ("exp_avg", "exp_avg_sq") if "betas" in group else ("momentum_buffer",) if group["momentum"] else ()
    if names and not state[parameter]:
        if "betas" in group:
            place = parameter.device if group["fused"] or group["capturable"] else "cpu"
            state[parameter]["step"] = torch.zeros((), device=place)
        state[parameter].update({name: torch.zeros_like(parameter, requires_grad=False) for name in names})
    return tuple(state[parameter][name] for name in names)


def _update(module, layer: FanIn, optimizer: torch.optim.Optimizer):
    """The step of this optimizer as the compiled kernel takes it; None if it cannot do that one."""
    group = group_of(optimizer, layer.weight)
    adam = "betas" in group
    coupled = adam and group["weight_decay"] and not isinstance(optimizer, torch.optim.AdamW)
    if group is not group_of(optimizer, layer.bias) or coupled:
        return None
    state = [m for p in (layer.weight, layer.bias) for m in moments_of(optimizer, p)]
    options = {"lr": float(group["lr"]), "weight_decay": group["weight_decay"], "state": tuple(state)}
    if not adam:
        return module.Update("sgd", momentum=group["momentum"], **options)
    for p in (layer.weight, layer.bias):
        optimizer.state[p]["step"] += 1
    step = int(optimizer.state[layer.weight]["step"])
    return module.Update("adam", betas=group["betas"], eps=group["eps"], step=step, **options)


# --- what else needs scores ---------------------------------------------------------------------------------------


@torch.no_grad()
def logit_gradient(layer: nn.Module, x: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, *,
                   loss: str = "bce") -> Tensor:
    """Gradient [B, n] of the loss with respect to the logits of `labels` [n] alone: what RigL's grow score asks for.

    It is that at the weights of now, so after the step in question, as RigL defines it (Evci et al., 2020, algorithm 1:
    drop and grow look at the same weights); the plain path keeps that of the step itself.
    """
    x = _checked(layer, x, rows, columns, loss)
    pairs = Pairs(rows, columns, len(x), layer.out_features)
    z = part_of(layer).part_scores(x, labels)
    return LOGIT_GRADIENTS[loss](z, *pairs.of_labels(labels)).div_(max(len(x), 1))


@torch.no_grad()
def top_labels(layer: nn.Module, x: Tensor, k: int, *, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """The k highest scores of each document and their labels, best first, both [B, k], chunk of labels by chunk.

    Raises ValueError if k is not in 1..L, and for scores that are NaN or infinite.
    """
    n_labels = layer.out_features
    if not 1 <= k <= n_labels:
        raise ValueError(f"k must be in 1..{n_labels}, the number of labels; got {k}")
    none = torch.empty(0, dtype=torch.int64, device=layer.weight.device)
    x, part = _checked(layer, x, none, none, "bce"), part_of(layer)
    scores = x.new_empty((len(x), 0))
    found = torch.empty((len(x), 0), dtype=torch.int64, device=x.device)
    size = chunk or chunk_size(len(x), layer.weight.shape[1])
    for labels, *_ in Pairs(none, none, len(x), n_labels).by_chunks(size):
        z = part.part_scores(x, labels)
        here, at = z.topk(min(k, z.shape[1]))
        scores, found = torch.cat([scores, here], 1), torch.cat([found, at + labels.start], 1)
        scores, best = scores.topk(min(k, scores.shape[1]))
        found = found.gather(1, best)
    if not scores.isfinite().all():  # NaN counts as the highest, so none is missed
        raise NotFiniteError(f"{int((~scores.isfinite()).sum())} of the {scores.numel()} highest scores are NaN or "
                             f"infinite")
    return scores, found

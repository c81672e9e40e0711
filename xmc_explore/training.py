"""One step, and a run: `train` drives a `Run` to its end, the laboratory drives one from its controls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import checkpoints, memory
from .auxiliary import label_clusters
from .checkpoints import State
from .corpora import Corpus
from .encoders import Documents
from .layers import HeadTail
from .layers.backends import usable_device
from .logit_free import compute_dtype, logit_gradient, loss_by_chunks, step_in_place, top_labels
from .losses import LOSSES
from .metrics import Evaluator, NotFiniteError
from .model import Classifier
from .probes import ConnectionProbe, GradientProbes, gradient_norms
from .recipe import LIVE, Recipe
from .sparsity import Rewirer
from .trace import Trace, TraceWriter

SCORE_ELEMENTS = 1 << 25  # scores held at once during an evaluation: 128 MiB in float32


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says at which step, why, and what to change."""


def train(corpus: Corpus, recipe: Recipe | None = None, *, steps: int | None = None, out: str | Path | None = None,
          device: str | torch.device | None = None, progress: bool = True) -> Trace:
    """Train a classifier and return its trace.

    `steps` defaults to the recipe's epochs. `out` is the folder of the trace; without one it is a temporary folder that
    lives as long as the returned trace. `device` defaults to CUDA where there is one, else the CPU.
    An interrupt (Ctrl-C, or the kernel's stop button) ends the run early; the trace is returned with status
    "interrupted" and loads like any other. Raises TrainingError if the loss or the scores are not finite, TypeError for
    what is no corpus or no recipe, and ValueError for steps or a device that cannot be.
    """
    return Run(corpus, Recipe() if recipe is None else recipe, steps=steps, out=out, device=device).finish(progress)


def _summary(record: dict[str, float], metrics: dict[str, float]) -> dict[str, str]:
    """Few words: they stand behind the bar, and leave it what they do not take of the width."""
    shown = {} if record["loss"] is None else {"loss": f"{record['loss']:.2f}"}
    return shown | {k: f"{metrics[k]:.1f}" for k in ("P@1", "recall@5/tail") if k in metrics}


class Run:
    """A model in training on a corpus: call `step()` until `finished`; `change()` turns live knobs in between.

    Everything random comes from the recipe's seed through generators of its own: the same recipe on the same machine
    gives the same run, and leaves the random state of the process alone.
    """

    def __new__(cls, *_: Any, **__: Any) -> Run:
        # The first optimizer of a process loads this. Its import leaves a cycle of frames that would reach __init__'s,
        # and hold the run, its model and its temporary folder until the next collection of cycles.
        import_module("torch._dynamo")

        return super().__new__(cls)

    def __init__(self, corpus: Corpus, recipe: Recipe, *, steps: int | None = None, out: str | Path | None = None,
                 device: str | torch.device | None = None, branched_from: dict[str, Any] | None = None):
        if not isinstance(corpus, Corpus) or not isinstance(recipe, Recipe):
            raise TypeError(f"a run takes a corpus (of xe.load_corpus, say) and a recipe (xe.Recipe(...)); got "
                            f"{type(corpus).__name__} and {type(recipe).__name__}")
        if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1):
            raise ValueError(f"steps must be at least 1, a whole number; got {steps!r}")
        self.corpus, self.recipe = corpus, recipe
        self.device = usable_device(device)
        self.batch_size = min(recipe.batch_size, len(corpus.train))
        self.batches_per_epoch = math.ceil(len(corpus.train) / self.batch_size)
        self.steps = recipe.epochs * self.batches_per_epoch if steps is None else int(steps)
        self.model = Classifier(corpus, recipe).to(self.device)
        self.documents: dict[str, Documents] = {
            "train": self.model.encoder.documents(corpus.train), "test": self.model.encoder.documents(corpus.test)}
        self.evaluator = Evaluator.for_corpus(corpus)
        self.optimizers = _optimizers(self.model, recipe)
        self._base_lr = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))  # of the documents, in the epoch given first
        self._cluster_labels: csr_array | None = None  # [N, C], made when the auxiliary objective first needs it
        self.rewirer = None if self.model.sparse_layer is None else self._new_rewirer()
        self.step_number = 0
        self.last_metrics: dict[str, float] = {}
        self.meanwhile: Callable[[], object] = lambda: None  # called between the batches of an evaluation
        self.trace = TraceWriter(out, corpus, recipe, self.steps, self.model.width, device=self.device.type,
                                 threads=torch.get_num_threads(), branched_from=branched_from)
        self.probes = self._probes()
        if self.rewirer is not None:
            first, rows = self.model.sparse_layer.indices.cpu().numpy().copy(), self.model.rows_of_labels()
            shared = {} if rows is None else {"groups": rows.cpu().numpy().astype(np.int32)}
            self._record_connectivity(0, indices=first, **shared)
            direct = recipe.encoder == "features" and not recipe.intermediate  # the layer reads the corpus's features
            self.connections = ConnectionProbe(first, self.model.width, corpus.bins().of_label,
                                               corpus.support if direct else None, shared.get("groups"))

    # --- one step

    def step(self) -> dict[str, Any]:
        """Train on one batch, rewire if it is due, evaluate if it is due; returns what was recorded of the step."""
        started = time.perf_counter()
        recipe, number = self.recipe, self.step_number + 1
        weight = self.auxiliary_weight(number)
        if weight > 0 and self.model.auxiliary is None:
            self.add_auxiliary()
        self._set_learning_rates(number)
        self.model.train()
        rows = self.batch_rows(number)
        batch = self.documents["train"].batch(rows, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.autocast == "bfloat16"):
            x, clusters = self.model.features(batch, with_clusters=weight > 0)
            positives = self._positives(self.corpus.train.labels, rows)
            of_clusters = self._positives(self._cluster_labels, rows) if weight > 0 else None
            if self.probes is not None:
                self._probe(number, x, positives, of_clusters, weight)
            main, roots = self._main_loss(x, *positives, 1 - weight, number)
        total, auxiliary = main, None
        if weight > 0:
            loss = LOSSES[recipe.loss](_at_least_float32(clusters), *of_clusters)
            roots.append((weight * loss, None))
            auxiliary = float(loss.detach())
            total = None if main is None else (1 - weight) * main + weight * auxiliary
        self._check_finite("loss", total, number)
        if roots:
            torch.autograd.backward(*zip(*roots, strict=True))
        norms = gradient_norms(self.model.encoder)
        self._check_finite("gradient of the encoder", norms["all"], number)
        for optimizer in self.optimizers:
            optimizer.step()
        output_bytes = memory.measured(self.model.output, self.optimizers) if number == 1 else None
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step_number = number
        record = {"step": number, "loss": total, "main": main, "auxiliary": auxiliary, "aux_weight": weight,
                  "lr": self.learning_rate_factor(number), "grad": norms.pop("all"),
                  **{f"grad/{name}": norm for name, norm in norms.items()},
                  "seconds": time.perf_counter() - started}
        if output_bytes is not None:
            record["output_bytes"] = output_bytes
        self.trace.log("step", **record)
        if self.rewirer is not None:
            self._rewire()
        if self._evaluation_due():
            self.evaluate()
        if self.recipe.checkpoint_interval and number % self.recipe.checkpoint_interval == 0:
            self.trace.log_checkpoint(self.state())
        return record

    def _main_loss(self, x: Tensor, rows: Tensor, columns: Tensor, share: float, number: int
                   ) -> tuple[float | None, list[tuple[Tensor, Tensor | None]]]:
        """The loss of the labels, and where `backward` starts: tensors, each with its gradient if it is no scalar.

        `share` is what this loss counts in the total. None stands for a loss that is not computed at this step.
        """
        recipe, layer = self.recipe, self.model.label_layer
        if not recipe.chunked:
            logits = layer(x)
            with torch.autocast(self.device.type, enabled=False):
                main = LOSSES[recipe.loss](_at_least_float32(logits), rows, columns)
            return float(main.detach()), [(share * main, None)]
        if self.rewirer is not None and self.rewirer.wants_batch:
            seen = x.detach().to(compute_dtype(layer))
            part = layer.split(rows, columns)[1] if isinstance(layer, HeadTail) else (layer, rows, columns)
            self.rewirer.watch(seen, partial(logit_gradient, part[0], seen, rows=part[1], columns=part[2],
                                             loss=recipe.loss))
        wanted = number % recipe.loss_interval == 0 or number in (1, self.steps)
        if recipe.output_update == "optimizer":
            main = loss_by_chunks(layer, x, rows, columns, loss=recipe.loss, want_loss=wanted)
            return float(main.detach()) if wanted else None, [(share * main, None)]
        done = step_in_place(layer, self._output_optimizer, x, rows, columns, loss=recipe.loss, scale=share,
                             want_loss=wanted, rounding=self._rounding(number))
        main = float(done.loss) / share if wanted and share else None
        return main, [(x, done.dx.to(x.dtype))] if x.requires_grad else []

    def _rounding(self, number: int) -> torch.Generator | None:
        """Chance for the weights of fewer bits: a function of seed and step, so that a branch needs no state of it."""
        if self.recipe.rounding == "nearest":
            return None
        seed = np.random.SeedSequence([self.recipe.seed, 11, number]).generate_state(1)[0]
        return torch.Generator(self.device).manual_seed(int(seed))

    @property
    def _output_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that has the weights of the labels."""
        return next(o for o in self.optimizers if any(p is self.model.label_layer.weight for g in o.param_groups
                                                      for p in g["params"]))

    def _check_finite(self, what: str, value: float | None, number: int) -> None:
        if value is not None and not math.isfinite(value):
            raise self._diverged(f"the {what} is {value} at step {number}")

    def _diverged(self, what: str) -> TrainingError:
        r = self.recipe
        return TrainingError(f"{what}: the run has diverged; lower the learning rates (output_lr={r.output_lr}, "
                             f"encoder_lr={r.encoder_lr}, lr_factor={r.lr_factor}) or lengthen the warm-up "
                             f"(warmup={r.warmup})")

    def _rewire(self) -> None:
        event = self.rewirer.step()
        if event is not None:
            slots, new = event.slots.cpu().numpy().astype(np.int32), event.new.cpu().numpy()
            frame = self._record_connectivity(event.step, slots=slots, new=new)
            self.trace.log("rewire", step=event.step, frame=frame, churn=event.churn,
                           **self.connections.rewired(event.step, slots, new))

    def _record_connectivity(self, step: int, **arrays: np.ndarray) -> int:
        weight = self.model.sparse_layer.weight.detach()
        if not self.trace.wants_weights(step, weight.numel()):
            return self.trace.log_connectivity(step, **arrays)
        weight = weight.float().cpu().numpy()
        if isinstance(self.model.output, HeadTail):  # labels of the head have no slots: their weights are given as 0
            of_tail, weight = weight, np.zeros((self.corpus.n_labels, weight.shape[1]), np.float32)
            weight[self.model.output.labels()[1].cpu().numpy()] = of_tail
        return self.trace.log_connectivity(step, weight=weight, **arrays)

    def batch_rows(self, number: int) -> np.ndarray:
        """The training documents of a step: a function of the seed alone, whatever else the recipe says."""
        epoch, batch = divmod(number - 1, self.batches_per_epoch)
        if self._order[0] != epoch:  # shuffled once an epoch: for millions of documents that takes longer than a step
            rng = np.random.default_rng([self.recipe.seed, epoch])
            self._order = epoch, rng.permutation(len(self.corpus.train))
        return np.sort(self._order[1][batch * self.batch_size:(batch + 1) * self.batch_size])

    def _positives(self, labels: csr_array, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(row in the batch, column) of every positive pair."""
        part = labels[rows]
        row = np.repeat(np.arange(len(rows)), np.diff(part.indptr))
        return torch.from_numpy(row).to(self.device), torch.from_numpy(part.indices.astype(np.int64)).to(self.device)

    @property
    def finished(self) -> bool:
        return self.step_number >= self.steps

    # --- schedules

    def learning_rate_factor(self, number: int) -> float:
        """What multiplies every learning rate at a step: linear warm-up, then a cosine to zero, times `lr_factor`."""
        warmup = min(self.recipe.warmup, self.steps // 2)
        factor = self.recipe.lr_factor
        if number <= warmup:
            return factor * number / warmup
        if self.recipe.lr_schedule == "constant":
            return factor
        return factor * 0.5 * (1 + math.cos(math.pi * (number - warmup) / (self.steps - warmup + 1)))

    def auxiliary_weight(self, number: int) -> float:
        """w of total = (1 - w) main + w aux: a cosine from `aux_weight` to 0 at the cut-off (SPARTEX, section 3)."""
        cutoff = self.recipe.aux_cutoff * self.steps
        if number > cutoff:
            return 0.0
        return self.recipe.aux_weight * 0.5 * (1 + math.cos(math.pi * (number - 1) / cutoff))

    def _set_learning_rates(self, number: int) -> None:
        factor = self.learning_rate_factor(number)
        for optimizer, base in zip(self.optimizers, self._base_lr, strict=True):
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * factor

    # --- live changes

    def change(self, *, rewire_now: bool = False, steps: int | None = None, **options: Any) -> None:
        """Turn live knobs: the options take effect with the next step and are recorded in the trace.

        `rewire_now=True` makes the next step rewire, whatever the interval says; `steps` is a new length of the whole
        run, and with it of every schedule.
        Raises ValueError for an option that needs a new model (reset for that), or a value that cannot be.
        """
        self.check_change(rewire_now=rewire_now, steps=steps, **options)
        self.recipe = self.recipe.replace(**options)
        if steps is not None:
            self.steps = options["steps"] = steps
            self.trace.lengthened(steps)
        self.apply_live_rewiring()
        if rewire_now:
            self.rewirer.requested = options["rewire_now"] = True
        self.trace.log("change", step=self.step_number, options=options)

    def check_change(self, *, rewire_now: bool = False, steps: int | None = None, **options: Any) -> None:
        """Raise the ValueError that `change` would raise."""
        if rewire_now and self.rewirer is None:
            raise ValueError(f"there is nothing to rewire: output={self.recipe.output!r} is not sparse")
        fixed = [name for name in options if name not in LIVE]
        if fixed:
            raise ValueError(f"{', '.join(fixed)} cannot change during a run; live options are {', '.join(LIVE)}")
        if steps is not None and steps <= self.step_number:
            raise ValueError(f"steps={steps} is no more than the {self.step_number} steps that the run has taken")
        self.recipe.replace(**options)

    # --- states

    def state(self) -> State:
        """This run between two steps, in copies: what `restore` of another run takes. A few times the model's size."""
        return checkpoints.take(self)

    def restore(self, state: State, trace: Trace | None = None) -> None:
        """Continue as the run did that `state` was taken of; this one is new, of the same corpus and recipe.

        A state holds no record: this run's begins with what `trace` recorded up to there, or is empty without one.
        Raises ValueError for a state that does not fit.
        """
        checkpoints.put(self, state)
        if trace is not None:
            for frame in self.trace.adopt(trace, state.step, state.values["changes"]):
                self.connections.rewired(frame["step"], frame["slots"], frame["new"])

    # --- parts: probes, rewirer, auxiliary head

    def _probe(self, number: int, *step: Any) -> None:
        """Show the probes a step before it changes anything."""
        if seen := self.probes(number, self.recipe, *step, self.learning_rate_factor(number)):
            self.trace.log("probe", step=number, **seen)

    def _probes(self) -> GradientProbes | None:
        """The probes of the encoder's gradient, if the recipe asks for them and the encoder has parameters."""
        learns = any(p.requires_grad for p in self.model.encoder.parameters())
        if not (self.recipe.probe_interval and learns):
            return None
        return GradientProbes(self.model, self.recipe, self.corpus.bins().of_label,
                              _optimizer(self.recipe.output_optimizer, self.recipe))

    def _new_rewirer(self) -> Rewirer:
        r = self.recipe
        return Rewirer(self.model.sparse_layer, self._output_optimizer, schedule=r.rewire_schedule, init=r.init_mode,
                       seed=r.seed, **self._live_rewiring())

    def _live_rewiring(self) -> dict[str, Any]:
        """What the recipe says of the rewirer's options that may change during a run."""
        r = self.recipe
        return {"grow": r.growth_mode, "mode": r.prune_mode, "interval": r.rewire_interval or self.steps + 1,
                "fraction": r.rewire_fraction, "threshold": r.rewire_threshold, "end": int(r.rewire_end * self.steps),
                "reset_moments": r.reset_moments}

    def apply_live_rewiring(self) -> None:
        """Let the rewirer do as the recipe says by now."""
        if self.rewirer is not None:
            for name, value in self._live_rewiring().items():
                setattr(self.rewirer, name, value)

    def add_auxiliary(self) -> None:
        clusters = label_clusters(self.corpus, self.recipe)
        n, c = self.corpus.n_labels, self.recipe.aux_clusters
        member = csr_array((np.ones(n, np.float32), (np.arange(n), clusters)), shape=(n, c))
        self._cluster_labels = (self.corpus.train.labels @ member).tocsr()
        self.model.add_auxiliary(c).to(self.device)
        optimizer = _optimizer(self.recipe.encoder_optimizer, self.recipe)
        self.optimizers.append(optimizer([{"params": list(self.model.auxiliary.parameters())}], lr=self.recipe.aux_lr))
        self._base_lr.append([self.recipe.aux_lr])

    # --- evaluation

    def _evaluation_due(self) -> bool:
        every = self.recipe.eval_interval or max(1, self.steps // 10)
        return self.step_number % every == 0 and not self.finished

    @torch.no_grad()
    def evaluate(self, final: bool = False) -> dict[str, float]:
        """Metrics on the test split, recorded in the trace: on `eval_documents` of them, on all if `final`."""
        n, limit = len(self.corpus.test), self.recipe.eval_documents
        chosen = np.arange(n)
        if limit and not final and limit < n:
            chosen = np.sort(np.random.default_rng([self.recipe.seed, 7]).permutation(n)[:limit])
        self.model.eval()
        self.evaluator.reset(per_label=True)
        split = self.corpus.test
        size = 256 if self.recipe.chunked else max(1, min(256, SCORE_ELEMENTS // self.corpus.n_labels))
        for start in range(0, len(chosen), size):
            if not final:
                self.meanwhile()
            rows = chosen[start:start + size]
            x, _ = self.model.features(self.documents["test"].batch(rows, self.device))
            excluded = None if split.excluded is None else split.excluded[rows]
            try:
                if self.recipe.chunked:
                    _, best = top_labels(self.model.label_layer, x, self.evaluator.depth(excluded))
                    self.evaluator.update_topk(best, split.labels[rows], excluded)
                else:
                    self.evaluator.update(self.model.label_layer(x), split.labels[rows], excluded)
            except NotFiniteError:
                raise self._diverged(f"scores of test documents are NaN or infinite after step {self.step_number}"
                                     ) from None
        self.last_metrics = self.evaluator.compute()
        self.trace.log("eval", step=self.step_number, split="test", final=final, metrics=self.last_metrics)
        self.trace.log_labels({k: self.evaluator.of_labels(k) for k in self.evaluator.ks})
        return self.last_metrics

    def finish(self, progress: bool = True) -> Trace:
        """Take the steps that are left, evaluate on all test documents, and return the trace; see `train`."""
        bar = tqdm(total=self.steps, initial=self.step_number, desc="training", unit="step", disable=not progress)
        record = {"loss": None}  # of a run that has no step left
        with bar:
            try:
                while not self.finished:
                    record = self.step()
                    bar.update()
                    if self.step_number % 10 == 0 or self.finished:
                        bar.set_postfix(_summary(record, self.last_metrics), refresh=False)
                self.evaluate(final=True)
                bar.set_postfix(_summary(record, self.last_metrics))
                self.close("finished")
            except KeyboardInterrupt:
                self.close("interrupted")
            except BaseException as error:
                self.close("failed", error=str(error))
                raise
        return Trace.of(self.trace)

    def close(self, status: str, **fields: Any) -> None:
        """End the record of this run."""
        self.trace.close(status, step=self.step_number, **fields)


def _at_least_float32(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _optimizer(name: str, recipe: Recipe):
    """A torch optimizer by name, as a function of its parameter groups."""
    if name == "sgd":
        return lambda groups, **options: torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    cls = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return lambda groups, **options: cls(groups, fused=True, **options)


def _optimizers(model: Classifier, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One optimizer for each part of the model; an embedding table with row gradients takes SparseAdam."""
    table = getattr(model.encoder, "embedding", None)
    table = [table.weight] if isinstance(table, nn.EmbeddingBag) else []
    encoder = [p for p in model.encoder.parameters() if not any(p is t for t in table)]
    found = []
    if table:
        found.append(torch.optim.SparseAdam(table, lr=recipe.encoder_lr))
    if encoder:
        found.append(_optimizer(recipe.encoder_optimizer, recipe)(
            encoder, lr=recipe.encoder_lr, weight_decay=recipe.encoder_weight_decay))
    if model.intermediate is not None:
        found.append(_optimizer(recipe.encoder_optimizer, recipe)(
            model.intermediate.parameters(), lr=recipe.intermediate_lr, weight_decay=recipe.encoder_weight_decay))
    found.append(_optimizer(recipe.output_optimizer, recipe)(
        model.output.parameters(), lr=recipe.output_lr, weight_decay=recipe.output_weight_decay))
    return found

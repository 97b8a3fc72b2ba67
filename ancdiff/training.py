"""One training loop: AdamW or Muon, warm-up and cosine decay, EMA, gradient clipping, checkpoint and resume, progress.

The loop takes a loss and knows nothing of what it means. All randomness comes from one generator whose state is part of
the checkpoint, so a run that is killed and started again ends with the weights of an unbroken one (same machine, same
number of threads).
"""

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ancdiff.artifacts import write_atomically
from ancdiff.errors import StageError
from ancdiff.muon import Muon

Network = TypeVar("Network", bound=nn.Module)

_NARROW = 8  # inputs or outputs below which a weight is not orthogonalised

LossPart = Callable[[Network], tuple[Tensor, Mapping[str, float]]]
"""A summand of the loss, and the numbers to log. Draws nothing: what is random was drawn when the part was made."""

LossOfStep = Callable[[torch.Generator], Sequence[LossPart[Network]]]
"""The loss of one step, as parts that are worked out side by side. Draws from the generator and from nothing else."""


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    gradient_clip: float
    ema_halflife_steps: float
    checkpoint_every_seconds: float
    warmup_steps: int = 0
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    final_learning_rate_fraction: float = 0.01

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a half cosine down to a fraction of the peak."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        low = self.final_learning_rate_fraction
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@dataclass
class _State(Generic[Network]):
    """Everything that a checkpoint must hold."""

    model: Network
    ema: Network
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float | int]] = field(default_factory=list)
    best: Network | None = None  # the average at the lowest validation loss, where training may stop early

    def validations_since_best(self) -> int:
        """How many validations have passed since the lowest one."""
        losses = [row["validation_loss"] for row in self.rows if not math.isnan(row["validation_loss"])]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def train(
    model: Network,
    loss_of_step: LossOfStep[Network],
    plan: TrainingPlan,
    *,
    generator: torch.Generator,
    work: Path,
    title: str,
    validate: Callable[[Network], float] | None = None,
    validate_every_steps: int = 0,
    patience: int | None = None,
) -> tuple[Network, pd.DataFrame]:
    """Train ``model`` and return its exponential moving average and one row of metrics per step.

    With ``patience`` the average with the lowest validation loss is returned, and training stops after so many
    validations without a lower one.

    Checkpoints live in ``work``, a folder that belongs to exactly this training (settings, code and data in its name);
    a checkpoint found there is continued. ``work`` is locked against a second process.

    Raises:
        StageError: the loss became non-finite, or another process trains in ``work``.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    state = _State(
        model=model,
        ema=deepcopy(model).requires_grad_(False),
        optimizers=_optimizers(model, plan),
        generator=generator,
    )
    checkpoint = work / "checkpoint.safetensors"
    with _locked(work):
        if checkpoint.is_file():
            _restore(state, checkpoint)
        started = time.monotonic() - state.seconds
        saved = time.monotonic()
        with (
            tqdm(total=plan.steps, initial=state.step, desc=title, unit="step", mininterval=2.0) as bar,
            ThreadPoolExecutor() as pool,
        ):
            while state.step < plan.steps and not (patience and state.validations_since_best() >= patience):
                row = _step(state, parameters, loss_of_step, plan, title, pool)
                row["validation_loss"] = math.nan
                if validate and (state.step % validate_every_steps == 0 or state.step == plan.steps):
                    row["validation_loss"] = validate(state.ema)
                state.seconds = row["seconds"] = time.monotonic() - started
                state.rows.append(row)
                if patience and not math.isnan(row["validation_loss"]) and state.validations_since_best() == 0:
                    state.best = deepcopy(state.ema)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.4g}", refresh=False)
                if time.monotonic() - saved > plan.checkpoint_every_seconds:
                    _save(state, checkpoint)
                    saved = time.monotonic()
    return state.best or state.ema, pd.DataFrame(state.rows)


def _optimizers(model: nn.Module, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """What makes the plan's steps: AdamW for all parameters; or Muon for the matrices, and AdamW for the others.

    Matrices are the weights of linear layers; tables of embeddings and narrow ends of the network are not.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    of_linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) >= _NARROW}
    matrices = [p for p in parameters if plan.optimizer == "muon" and id(p) in of_linear]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    rate, decay = plan.learning_rate, plan.weight_decay
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=rate, weight_decay=decay))
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=rate, weight_decay=decay, fused=True))
    return optimizers


def _step(
    state: _State[Network],
    parameters: Sequence[Tensor],
    loss_of_step: LossOfStep[Network],
    plan: TrainingPlan,
    title: str,
    pool: ThreadPoolExecutor,
) -> dict[str, float | int]:
    """One optimiser step; returns its row of metrics."""
    learning_rate = plan.learning_rate_at(state.step)
    for group in (group for optimizer in state.optimizers for group in optimizer.param_groups):
        group["lr"] = learning_rate
    loss, logged = gradients(state.model, parameters, loss_of_step(state.generator), pool)
    norm = torch.nn.utils.clip_grad_norm_(parameters, plan.gradient_clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise StageError(
            f"the loss became {loss.item():.3g} (gradient norm {norm.item():.3g}) at step {state.step + 1}",
            where=title,
            fix="lower the learning_rate or gradient_clip of this stage; the last checkpoint is kept",
        )
    for optimizer in state.optimizers:
        optimizer.step()
    state.step += 1
    # Early on the average forgets its random start sooner than its half-life says.
    decay = min(0.5 ** (1.0 / plan.ema_halflife_steps), (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for averaged, current in zip(state.ema.parameters(), state.model.parameters(), strict=True):
            averaged.lerp_(current, 1.0 - decay)
    return {
        "step": state.step,
        "loss": loss.item(),
        "learning_rate": learning_rate,
        "gradient_norm": norm.item(),
        **logged,
    }


def gradients(
    model: Network, parameters: Sequence[Tensor], parts: Sequence[LossPart[Network]], pool: ThreadPoolExecutor
) -> tuple[Tensor, dict[str, float]]:
    """The loss and what it logs; leaves the gradient in the parameters. Adds up in the order of the parts.

    Operations of a small network are too short to share among threads; whole parts are not, and torch lets go of the
    interpreter while it works.
    """

    def one(part: LossPart[Network]) -> tuple[Tensor, Mapping[str, float], tuple[Tensor | None, ...]]:
        loss, logged = part(model)
        return loss.detach(), logged, torch.autograd.grad(loss, parameters, allow_unused=True)

    done = list(pool.map(one, parts)) if len(parts) > 1 else [one(part) for part in parts]
    for parameter, *gradients in zip(parameters, *(gradient for *_, gradient in done), strict=True):
        given = [g for g in gradients if g is not None]
        parameter.grad = sum(given[1:], start=given[0]) if given else None
    logged = {name: value for _, numbers, _ in done for name, value in numbers.items()}
    return torch.stack([loss for loss, *_ in done]).sum(), logged


def _save(state: _State[Any], path: Path) -> None:
    """One file, written atomically: tensors, and the table of metrics as JSON in the header."""
    tensors = {f"model.{name}": t for name, t in state.model.state_dict().items()}
    tensors |= {f"ema.{name}": t for name, t in state.ema.state_dict().items()}
    if state.best is not None:
        tensors |= {f"best.{name}": t for name, t in state.best.state_dict().items()}
    for number, optimizer in enumerate(state.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": torch.as_tensor(t) for name, t in moments.items()}
    tensors["generator"] = state.generator.get_state()
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {"step": str(state.step), "seconds": str(state.seconds), "rows": json.dumps(state.rows)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def _restore(state: _State[Any], path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    modules = [("model.", state.model), ("ema.", state.ema)]
    if any(name.startswith("best.") for name in tensors):
        state.best = deepcopy(state.ema)
        modules.append(("best.", state.best))
    for prefix, module in modules:
        module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    for number, optimizer in enumerate(state.optimizers):
        start = f"optimizer.{number}."
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(start):
                index, key = name.removeprefix(start).split(".")
                moments.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    state.generator.set_state(tensors["generator"])
    state.step, state.seconds = int(header["step"]), float(header["seconds"])
    state.rows = json.loads(header["rows"])


def work_key(record: Mapping[str, Any]) -> str:
    """Name of a work folder: a hash of the settings, code, seed and parents that a training belongs to."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold an advisory lock on a work folder; the kernel drops it when the process ends, however it ends."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StageError(
                "another process is training here", where=str(work), fix="wait for it, or stop it, and start again"
            ) from error
        yield

"""What the mini's training stages share: a time budget that survives interruptions, and atomic state."""

import json
import math
import os
import time
from pathlib import Path

import torch

from genprop_core.errors import GenPropError
from genprop_core.files import load_tensors, save_tensors
from trainer.logs import drop_later, read_log


class Stage:
    """A training run of `minutes` minutes in all, counted over every resume; or of `steps`, to compare runs fairly.

    `progress` goes from 0 to 1 with the time or the steps used; `learning_rate(peak)` warms up over the first 100 steps
    and decays by a cosine. State (weights, EMA, Adam moments, step, time used) lives in one safetensors file. The log
    is of the state's run: rows of steps that are done again are dropped, and where there is no state, it is set aside.

    started_from: the digest of the weights that it goes on from, None for fresh ones; the log has it. start: where they
    are. Raises GenPropError where the run of this folder began from others.
    """

    def __init__(self, folder, name, minutes, modules, optimizer, ema=None, steps=None, started_from=None, start=None):
        self.folder, self.name, self.steps = Path(folder), name, steps
        self.minutes, self.modules, self.optimizer, self.ema = minutes, modules, optimizer, ema
        self.step, self.used = 0, 0.0
        self.path, self.rows = self.folder / f"{name}.state.safetensors", self.folder / f"{name}.jsonl"
        self._mark = time.monotonic()
        if self.path.exists():
            self._check_began_from(started_from, start)
            self._load()
        if self.rows.exists():
            if self.path.exists():
                drop_later(self.rows, self.step)
            else:  # of a run that was killed before it was saved, or whose state was removed
                os.replace(self.rows, self.rows.with_name(f"{name}.before.jsonl"))
        if started_from is not None and not self.path.exists():
            self.log(started_from=started_from)

    @property
    def elapsed(self):
        return self.used + time.monotonic() - self._mark

    @property
    def progress(self):
        return min(1.0, self.step / self.steps if self.steps else self.elapsed / (60 * self.minutes))

    def learning_rate(self, peak, floor=0.02):
        p = self.progress
        rate = peak * (min(1.0, self.step / 100) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * p))))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        return rate

    def descend(self, loss) -> torch.Tensor:
        """One optimiser step down `loss`, with gradients clipped to norm 1. Their norm before that."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step)
        return norm

    def log(self, **values):
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 2), **values}
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.rows, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(" ".join(f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)

    def _check_began_from(self, digest: str | None, start) -> None:
        rows = read_log(self.rows)
        begun = next((row["started_from"] for row in reversed(rows) if "started_from" in row), None)
        if rows and begun != digest:
            wanted = "fresh weights" if digest is None else f"{start} ({digest})"
            raise GenPropError(
                f"Expected to go on with a run that began from {wanted}, but that in {self.folder} began from "
                f"{begun or 'fresh weights'}. Remove the files {self.name}.* there to begin anew."
            )

    def save(self):
        tensors = {}
        for prefix, module in self.modules.items():
            tensors |= {f"{prefix}.{k}": v for k, v in module.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema.{i}": v for i, v in enumerate(self.ema.shadow)}
        for i, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{i}.{key}"] = value
        meta = {"step": str(self.step), "used": str(self.elapsed)}
        save_tensors(self.path, {k: v.clone() for k, v in tensors.items()}, meta)

    def _parameters(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _load(self):
        tensors, meta = load_tensors(self.path)
        self.step, self.used = int(meta["step"]), float(meta["used"])
        for prefix, module in self.modules.items():
            own = {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + ".")}
            module.load_state_dict(own)
        if self.ema is not None:
            for i, shadow in enumerate(self.ema.shadow):
                shadow.copy_(tensors[f"ema.{i}"])
        for i, parameter in enumerate(self._parameters()):
            keys = [k for k in tensors if k.startswith(f"adam.{i}.")]
            if keys:
                state = {k.rsplit(".", 1)[1]: tensors[k] for k in keys}
                # Adam's moments go where the weights are; its step count stays on the CPU
                self.optimizer.state[parameter] = {
                    k: v if k == "step" else v.to(parameter.device) for k, v in state.items()
                }


class EMA:
    """Exponential moving average of parameters, with the usual warm-up min(decay, (1+step)/(10+step)).

    In fp32, whatever the parameters are in: half precision would round a thousandth of a change away.
    """

    def __init__(self, parameters, decay):
        self.parameters, self.decay = list(parameters), decay
        self.shadow = [p.detach().to(torch.float32, copy=True) for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach().float() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters=None):
        for parameter, shadow in zip(parameters or self.parameters, self.shadow):
            parameter.copy_(shadow)

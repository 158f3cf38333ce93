"""What a training run consists of, as tensors to save: gathered from the objects of a run, and put back into them."""

import torch

from genprop_core.errors import GenPropError


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the CPU; of one that is spread over processes (FSDP) all of it, so every process must call this."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().to("cpu", copy=True)


def _like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`value` placed like `tensor` (device, and spread over processes where that is)."""
    if not hasattr(tensor, "full_tensor"):
        return value.to(tensor.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)


def collect(parameters: dict[str, torch.Tensor], ema, optimizer, scaler=None) -> dict[str, torch.Tensor]:
    """All tensors of a run's state. parameters: the trainable ones by name, in the EMA's order.

    optimizer: None leaves its moments out. Where tensors are spread over processes, every process must call this.
    """
    tensors = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for (name, parameter), shadow in zip(parameters.items(), ema.shadow, strict=True):
        tensors[f"model.{name}"], tensors[f"ema.{name}"] = whole(parameter), whole(shadow)
        for key, value in (optimizer.state.get(parameter, {}) if optimizer is not None else {}).items():
            tensors[f"optimizer.{name}.{key}"] = whole(torch.as_tensor(value))
    for key, value in (scaler.state_dict() if scaler is not None else {}).items():
        tensors[f"scaler.{key}"] = torch.tensor(value, dtype=torch.float64)
    return tensors


def refresh_masters(optimizer) -> None:
    """After `restore`, where DeepSpeed has copies of the weights in fp32 of its own: they would be put back by its next
    step. Raises GenPropError where it has no way to do that."""
    refresh = getattr(optimizer, "refresh_fp32_params", None)
    if refresh is None:
        raise GenPropError(
            f"Expected a DeepSpeed optimizer that takes weights in, but {type(optimizer).__name__} does not. "
            "Resume with ZeRO stage 1 or 2, or without DeepSpeed."
        )
    refresh()


@torch.no_grad()
def restore(tensors: dict[str, torch.Tensor], parameters: dict, ema, optimizer, scaler=None, only_weights=False):
    """The inverse of `collect`, in place. only_weights starts a new run from the EMA weights: nothing else is taken."""
    for (name, parameter), shadow in zip(parameters.items(), ema.shadow, strict=True):
        shadow.copy_(_like(tensors[f"ema.{name}"], shadow))
        parameter.copy_(_like(tensors[f"{'ema' if only_weights else 'model'}.{name}"], parameter))
    if only_weights:
        return
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    for name, parameter in parameters.items() if optimizer is not None else ():
        prefix = f"optimizer.{name}."
        moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if moments:  # AdamW keeps its step count as a float tensor on the CPU
            optimizer.state[parameter] = {k: v if v.ndim == 0 else _like(v, parameter) for k, v in moments.items()}
    scaling = {k.removeprefix("scaler."): v.item() for k, v in tensors.items() if k.startswith("scaler.")}
    if scaler is not None and scaling:
        scaler.load_state_dict(
            {k: int(v) if k.startswith(("growth_interval", "_growth")) else v for k, v in scaling.items()}
        )

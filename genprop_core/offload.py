"""Where the parts of a model are: on the device all the time, or only while they work."""

from contextlib import contextmanager

import torch

from .errors import GenPropError


class Placement:
    """The device that parts run on. With offload, idle parts wait in the CPU's memory; without, they stay there."""

    def __init__(self, device, offload: bool = False):
        """device: a torch device or its name. Raises GenPropError when this machine does not have it."""
        try:
            self.device = torch.device(device)
            torch.empty(1, device=self.device).item()
        except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without that kind
            reason = (str(error).splitlines() or ["it is not there"])[0]
            raise GenPropError(
                f"Expected a device that torch can use here, got {device} ({reason}). Use --device cpu or another."
            ) from None
        self.offload = offload
        self.rest = torch.device("cpu") if offload else self.device

    def settle(self, *modules: torch.nn.Module) -> None:
        """Moves modules to where they are when idle."""
        for module in modules:
            module.to(self.rest)

    @contextmanager
    def use(self, *modules: torch.nn.Module):
        """Within, the modules are on the device; afterwards, also after an error, they are back where they are idle."""
        if not self.offload:
            yield
            return
        try:
            for module in modules:
                module.to(self.device)
            yield
        finally:
            self.settle(*modules)

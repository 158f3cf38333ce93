"""What a run of windows has made of a clip so far."""

from dataclasses import dataclass, field

import torch

from .frames import as_bytes, as_float


@dataclass
class Made:
    """What is made of a clip, at the working size. Frames are uint8, or float32 where the caller wants them exact.

    frames [T,3,H,W]; mask: probability [T,1,h,w] (zeros without adapters); confidence, own (the confidence but for what
    earlier windows handed on) and change (outside the mask, in 1/255) [T]; windows: (first frame, last frame) in
    running order; seams: frames at which one window hands over to the next; has_mask: whether any window came with a
    mask. outline: bool [T,1,h,w], the removed thing where it was followed ahead of the windows, at that size; or None.
    companions: the same of what else moves, with what is hidden of it and was put behind the thing; shades: uint8
    [T,1,h,w], how much of the light their shadows take, of 255.
    """

    frames: torch.Tensor
    mask: torch.Tensor
    confidence: torch.Tensor
    own: torch.Tensor
    change: torch.Tensor
    windows: list = field(default_factory=list)
    seams: set = field(default_factory=set)
    has_mask: bool = False
    outline: torch.Tensor | None = None
    companions: torch.Tensor | None = None
    shades: torch.Tensor | None = None

    @classmethod
    def empty(cls, count: int, height: int, width: int, dtype=torch.uint8) -> "Made":
        return cls(
            torch.zeros(count, 3, height, width, dtype=dtype),
            torch.zeros(count, 1, height // 8, width // 8),
            torch.ones(count),
            torch.ones(count),
            torch.zeros(count),
        )

    def draw(self, at: int, outline: torch.Tensor, companions: torch.Tensor, shade: torch.Tensor) -> None:
        """Puts the outline, the companions and their shadows [1,h,w] of one frame into place `at`."""
        if self.outline is None:
            shape = (len(self.frames), *outline.shape)
            self.outline, self.companions = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
            self.shades = torch.zeros(shape, dtype=torch.uint8)
        self.outline[at], self.companions[at], self.shades[at] = outline, companions, shade

    def put(self, at: int, weight: float, frame, mask, confidence: float, own: float, change: float, share=None):
        """Blends one frame into place `at`; weight 1 replaces what is there, 0 leaves it. share: [1,H,W], the weight of
        the frame's pixels, where that is not everywhere the same."""
        pairs = ((self.mask, mask), (self.confidence, confidence), (self.own, own), (self.change, change))
        for there, new in pairs:
            there[at] = new if weight == 1 else there[at] * (1 - weight) + new * weight
        if share is not None:
            frame = torch.lerp(as_float(self.frames[at]), frame, share)
        elif weight != 1:
            frame = torch.lerp(as_float(self.frames[at]), frame, weight)
        self.frames[at] = as_bytes(frame) if self.frames.dtype == torch.uint8 else frame

"""Synthetic clips with a known answer: smooth drifting backgrounds, turning two-coloured shapes, soft shadows.

Each clip is drawn twice from the same scene, with and without one of its shapes, so the pair (source, target) and the
mask of what the edit changes are exact. A clip depends on its seed and length alone: any machine draws the same one.

The difficulty is fixed (`DRIFT`, `CONTRAST`, `RADIUS`); `describe` measures it on drawn clips.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

SIZE = 128
FRAMES = 8
DRIFT = (1.0, 4.0)  # background motion, pixels per frame
RADIUS = (12.0, 22.0)  # shape radius, pixels
CONTRAST = 40 / 255  # least mean difference between the removed shape's colours and what is behind it
SHADOW_EDGE = 6.0  # softness of the shadow, pixels
MASK_LEVEL = 0.25  # a pixel is in the mask where the shape or a quarter of its shadow's strength covers it

# Seeds below this are for training. The bundled sample and every evaluation use seeds above it.
FIRST_HELD_OUT_SEED = 1_000_000_000
SAMPLE_SEED = 1_500_000_003


@dataclass(frozen=True)
class Clip:
    """source, target: float32 [T,3,H,W] in [0,1]; mask: float32 [T,1,H,W], 1 where the edit changes the picture."""

    source: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor


@dataclass
class _Shape:
    kind: int
    radius: float
    aspect: float
    colours: torch.Tensor  # [2,3]
    centre: torch.Tensor  # [2] x, y at frame 0
    velocity: torch.Tensor  # [2] pixels per frame
    angle: float
    turn: float  # radians per frame
    bend: float  # the path's curvature, radians per frame


def _uniform(g, low, high, size=()):
    return low + (high - low) * torch.rand(size, generator=g)


def _background(g, frames, size):
    """[T,3,H,W] in [0.1,0.9]: a sum of plane waves (40 to 200 px) that drifts at constant speed."""
    speed, heading = _uniform(g, *DRIFT).item(), _uniform(g, 0, 2 * math.pi).item()
    dx, dy = speed * math.cos(heading), speed * math.sin(heading)
    t = torch.arange(frames, dtype=torch.float32)
    y, x = torch.meshgrid(
        torch.arange(size, dtype=torch.float32), torch.arange(size, dtype=torch.float32), indexing="ij"
    )
    x = x[None] + dx * t[:, None, None]
    y = y[None] + dy * t[:, None, None]
    out = torch.zeros(frames, 3, size, size)
    waves = 5
    length = torch.exp(_uniform(g, math.log(40.0), math.log(200.0), (waves,)))
    direction = _uniform(g, 0, 2 * math.pi, (waves,))
    phase = _uniform(g, 0, 2 * math.pi, (waves,))
    colour = torch.randn(waves, 3, generator=g) * (length / 200.0).sqrt()[:, None]
    for k in range(waves):
        wave = 2 * math.pi / length[k] * (x * torch.cos(direction[k]) + y * torch.sin(direction[k])) + phase[k]
        out += torch.sin(wave)[:, None] * colour[k][None, :, None, None]
    base = _uniform(g, 0.3, 0.7, (3,))[None, :, None, None]
    return (base + 0.13 * out).clamp(0.1, 0.9)


def _shape(g, frames, size):
    margin = 20.0
    middle = _uniform(g, margin, size - margin, (2,))  # where the shape is halfway through the clip
    speed, heading = _uniform(g, 0.5, 4.0).item(), _uniform(g, 0, 2 * math.pi).item()
    velocity = torch.tensor([speed * math.cos(heading), speed * math.sin(heading)])
    colours = torch.rand(2, 3, generator=g)
    return _Shape(
        kind=int(torch.randint(0, 4, (), generator=g)),
        radius=_uniform(g, *RADIUS).item(),
        aspect=_uniform(g, 0.65, 1.0).item(),
        colours=colours,
        centre=middle - velocity * (min(frames, FRAMES) - 1) / 2,
        velocity=velocity,
        angle=_uniform(g, 0, 2 * math.pi).item(),
        turn=_uniform(g, -0.2, 0.2).item(),
        bend=_uniform(g, -0.03, 0.03).item(),
    )


def _bounce(position, size, margin=14.0):
    """Reflects positions into [margin, size - margin], so that a shape stays in the picture of a long clip."""
    span = size - 2 * margin
    folded = (position - margin) % (2 * span)
    return margin + torch.where(folded > span, 2 * span - folded, folded)


def _track(shape, frames, size):
    """[T,2] centre of the shape in every frame."""
    t = torch.arange(frames, dtype=torch.float32)
    heading = torch.atan2(shape.velocity[1], shape.velocity[0]) + shape.bend * t
    speed = shape.velocity.norm()
    step = torch.stack([torch.cos(heading), torch.sin(heading)], -1) * speed
    path = shape.centre[None] + torch.cumsum(step, 0) - step
    return _bounce(path, size)


def _distance(shape, centre, angle, size, edge):
    """Coverage [T,H,W] of the shape in [0,1] with an edge `edge` pixels wide, and local x for the two colours."""
    y, x = torch.meshgrid(
        torch.arange(size, dtype=torch.float32), torch.arange(size, dtype=torch.float32), indexing="ij"
    )
    x = x[None] - centre[:, 0, None, None]
    y = y[None] - centre[:, 1, None, None]
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    u, v = (c * x + s * y), (-s * x + c * y) / shape.aspect
    r = shape.radius
    if shape.kind == 0:  # ellipse
        d = (u.square() + v.square()).sqrt() - r
    elif shape.kind == 1:  # rounded rectangle
        q = torch.stack([u.abs(), v.abs()]) - (0.85 * r - 4.0)
        d = q.clamp(min=0).norm(dim=0) + q.amax(0).clamp(max=0) - 4.0
    elif shape.kind == 2:  # triangle
        corners = [math.pi / 2 + k * 2 * math.pi / 3 for k in range(3)]
        d = torch.stack([u * math.cos(a) + v * math.sin(a) for a in corners]).amax(0) - 0.62 * r
    else:  # five petals
        d = (u.square() + v.square()).sqrt() - r * (0.85 + 0.15 * torch.cos(5 * torch.atan2(v, u)))
    return torch.sigmoid(-d * 4.0 / edge), u


def _render(background, shapes, tracks, light, removed=None):
    """Draws the shapes over the background; also the coverage of shape `removed` where it is visible, [T,1,H,W]."""
    frames, _, size, _ = background.shape
    picture, seen = background.clone(), torch.zeros(frames, 1, size, size)
    t = torch.arange(frames, dtype=torch.float32)
    for index, (shape, track) in enumerate(zip(shapes, tracks)):
        angle = shape.angle + shape.turn * t
        shadow, _ = _distance(shape, track + light[None, :2], angle, size, SHADOW_EDGE)
        body, u = _distance(shape, track, angle, size, 1.5)
        side = torch.sigmoid(u / 0.8)[:, None]
        colour = shape.colours[0].view(1, 3, 1, 1) * (1 - side) + shape.colours[1].view(1, 3, 1, 1) * side
        shadow, body = shadow[:, None], body[:, None]
        picture = picture * (1 - light[2] * shadow)
        picture = picture * (1 - body) + colour * body
        seen = torch.maximum(shadow, body) if index == removed else seen * (1 - body)
    return picture, seen


def make_clip(seed: int, frames: int = FRAMES, size: int = SIZE) -> Clip:
    """The clip of this seed. The first frames of a longer one may show another scene: all its frames are asked for
    contrast."""
    g = torch.Generator().manual_seed(seed)
    background = _background(g, frames, size)
    count = int(torch.randint(1, 4, (), generator=g))
    offset, direction = _uniform(g, 6.0, 10.0).item(), _uniform(g, 0, 2 * math.pi).item()
    light = torch.tensor([offset * math.cos(direction), offset * math.sin(direction), _uniform(g, 0.4, 0.65).item()])
    removed = int(torch.randint(0, count, (), generator=g))
    for _ in range(100):
        shapes = [_shape(g, frames, size) for _ in range(count)]
        tracks = [_track(s, frames, size) for s in shapes]
        others = [k for k in range(count) if k != removed]
        target, _ = _render(background, [shapes[k] for k in others], [tracks[k] for k in others], light)
        source, seen = _render(background, shapes, tracks, light, removed)
        mask = (seen > MASK_LEVEL).float()
        body = (source - target).abs().mean(1, keepdim=True)
        # shapes have the same size in pixels in a larger picture, so this is a share of the mini's
        area = mask.mean(dim=(1, 2, 3)) * (size / SIZE) ** 2
        # visible in every frame of the base's window, and different enough from what is behind it
        if area[:FRAMES].min() > 0.025 and (body * mask).sum() / mask.sum() >= CONTRAST:
            return Clip(source.contiguous(), target.contiguous(), mask)
    raise RuntimeError(f"Clip {seed}: no scene with enough contrast in 100 draws. Use another seed.")


def describe(clips: list[Clip]) -> dict:
    """The measured difficulty of these clips: contrast and area of what is removed, motion of the picture."""
    contrast = [((c.source - c.target).abs().mean(1, keepdim=True) * c.mask).sum() / c.mask.sum() * 255 for c in clips]
    area = [c.mask.mean() for c in clips]
    change = [F.l1_loss(c.source[1:], c.source[:-1]) * 255 for c in clips]
    return {
        "clips": len(clips),
        "drift_px_per_frame": list(DRIFT),
        "shape_radius_px": list(RADIUS),
        "contrast_min": float(min(contrast)),
        "contrast_mean": float(sum(contrast) / len(contrast)),
        "mask_area_mean": float(sum(area) / len(area)),
        "frame_change_mean": float(sum(change) / len(change)),
    }

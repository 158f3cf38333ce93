"""GenProp on Stable Video Diffusion: carries an edit of one frame through a whole clip.

from genprop_core import GenProp
result = GenProp.from_files("mini").propagate(frames, keyframe)  # frames [T,3,H,W], keyframe [3,H,W]
"""

__all__ = ["GenProp", "PropagateSettings", "SamplerSettings", "GenPropError"]


def __getattr__(name):  # importing the package alone loads nothing heavy
    if name in ("GenProp", "PropagateSettings"):
        from . import pipeline as home
    elif name == "SamplerSettings":
        from . import sampler as home
    elif name == "GenPropError":
        from . import errors as home
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(home, name)

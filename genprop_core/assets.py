"""Where the files that ship with GenProp are."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
MINI_BASE = ASSETS / "mini" / "base.safetensors"
MINI_ADAPTERS = ASSETS / "mini" / "adapters.safetensors"
SAMPLE = ASSETS / "sample"  # source.mp4, keyframe.png, truth.mp4, mask.mp4

"""What GenProp costs in ComfyUI: the sampling loop of plain SVD, of GenProp Apply, and of GenProp Sampler, on the mini.

All three run in turn in one process of a real ComfyUI, with the same noise, steps and guidance. Run it with a Python
that has ComfyUI's requirements and ours; COMFYUI_PATH names the checkout.
"""

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

import torch

from .common import clock, facts, medians, parser, show
from .timing import interleave, ratio

ROOT = Path(__file__).resolve().parent.parent
SEED, CFG = 0, 3.0


def start(checkout: Path, folder: Path):
    """ComfyUI's module `nodes`, with this pack loaded by ComfyUI's own loader. Its files go to `folder`."""
    # our nodes/ would hide ComfyUI's nodes.py
    sys.path[:] = [str(checkout)] + [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    sys.argv = ["main.py", "--base-directory", str(folder)]
    if not torch.accelerator.is_available():
        sys.argv.append("--cpu")
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        raise SystemExit(f"ComfyUI at {checkout} could not load {ROOT}; its log says why.")
    return nodes


class Routes:
    """The three ways to the same latents, ready to run."""

    def __init__(self, nodes, steps: int):
        self.nodes, self.steps = nodes, steps
        from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

        model, clip_vision, vae, adapters = self.run("GenPropLoadMini")
        source, keyframe = self.run("GenPropSampleClip")[:2]
        encode = {"adapters": adapters, "clip_vision": clip_vision, "vae": vae, "source": source, "keyframe": keyframe}
        self.encode = lambda: self.run("GenPropEncodeCondition", **encode)[0]
        self.model, self.condition = model, self.encode()
        patched, positive, negative, self.latent = self.run("GenPropApply", model=model, condition=self.condition)
        guided = VideoLinearCFGGuidance()
        self.plain_model, self.applied_model = (guided.patch(m, 1.0)[0] for m in (model, patched))
        self.applied = positive, negative
        self.bare = [[[c, {k: v for k, v in d.items() if not k.startswith("control")}] for c, d in side]
                     for side in (positive, negative)]  # fmt: skip

    def run(self, node_id, **inputs):
        """A node of ours, with its defaults for what is not given."""
        node = self.nodes.NODE_CLASS_MAPPINGS[node_id]
        defaults = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default") and not i.optional}
        return node.execute(**{**defaults, **inputs}).args

    def _ksampler(self, model, positive, negative):
        return self.nodes.KSampler().sample(model, SEED, self.steps, CFG, "euler", "karras", positive, negative,
                                            self.latent)[0]["samples"]  # fmt: skip

    def plain(self):
        return self._ksampler(self.plain_model, *self.bare)

    def apply(self):
        return self._ksampler(self.applied_model, *self.applied)

    def sampler(self):
        return self.run("GenPropSampler", model=self.model, condition=self.condition, seed=SEED, steps=self.steps,
                        max_guidance=CFG)[0]["samples"]  # fmt: skip


def measure(checkout: Path, steps: int, rounds: int) -> dict:
    """Seconds and ratios; the two GenProp routes are checked to give the same latents, and plain SVD others."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        routes = Routes(start(checkout, Path(folder)), steps)
        same, other = routes.sampler(), routes.plain()
        if not torch.equal(routes.apply(), same) or torch.equal(other, same):
            raise SystemExit("Expected both GenProp routes to agree, and to differ from plain SVD.")
        variants = {name: getattr(routes, name) for name in ("plain", "apply", "sampler", "encode")}
        seconds = interleave(variants, rounds, clock())
    return facts() | {
        "comfyui": importlib.import_module("comfyui_version").__version__,
        "steps": steps,
        "rounds": rounds,
        "seconds": medians(seconds),
        "ratios": {f"{name}_over_plain": ratio(seconds, name, "plain") for name in ("apply", "sampler")},
    }


def main(argv=None) -> int:
    arguments = parser("comfyui", __doc__)
    arguments.add_argument("--checkout", type=Path, help="ComfyUI's folder (default: $COMFYUI_PATH, ~/comfy/ComfyUI)")
    arguments.add_argument("--steps", type=int, default=25)
    given = arguments.parse_args(argv)
    checkout = given.checkout or _found()
    if checkout is None:
        arguments.error("Expected a ComfyUI checkout, but there is none. Give --checkout FOLDER or set COMFYUI_PATH.")
    steps, rounds = (2, 1) if given.quick else (given.steps, given.rounds)
    return show(measure(checkout.resolve(), steps, rounds), given.json and given.json.resolve())


def _found() -> Path | None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import environment
    finally:
        sys.path.pop(0)
    return environment.find_comfyui()


if __name__ == "__main__":
    sys.exit(main())

"""What GenProp costs in ComfyUI: the sampling loop of plain SVD, of GenProp Apply, and of GenProp Sampler, on the mini.

All three run in turn in one process of a real ComfyUI, with the same noise, steps and guidance. Beside each ratio is
the one that counted FLOPs predict; encoding and decoding are timed apart. Run it with a Python that has ComfyUI's needs
and ours; COMFYUI_PATH names the checkout.
"""

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path

import torch

from genprop_core.device import accelerator

from .common import clock, facts, flops_of_steps, medians, parser, show
from .timing import interleave, ratio

ROOT = Path(__file__).resolve().parent.parent
SEED, CFG = 0, 3.0
LOOPS = ("plain", "apply", "sampler")


def start(checkout: Path, folder: Path):
    """ComfyUI's module `nodes`, with this pack loaded by ComfyUI's own loader. Its files go to `folder`."""
    # our nodes/ would hide ComfyUI's nodes.py
    sys.path[:] = [str(checkout)] + [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    sys.argv = ["main.py", "--base-directory", str(folder)]
    if accelerator() is None:
        sys.argv.append("--cpu")
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    if not asyncio.run(nodes.load_custom_node(str(ROOT))):
        raise SystemExit(f"ComfyUI at {checkout} could not load {ROOT}; its log says why.")
    return nodes


class Routes:
    """The three ways to the same latents as functions of the number of steps, and what comes before and after them."""

    def __init__(self, nodes):
        self.nodes = nodes
        from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

        model, clip_vision, vae, adapters = self.run("GenPropLoadMini")
        self.vae = vae
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

    def _ksampler(self, model, positive, negative, steps):
        return self.nodes.KSampler().sample(model, SEED, steps, CFG, "euler", "karras", positive, negative,
                                            self.latent)[0]["samples"]  # fmt: skip

    def plain(self, steps):
        return self._ksampler(self.plain_model, *self.bare, steps)

    def apply(self, steps):
        return self._ksampler(self.applied_model, *self.applied, steps)

    def sampler(self, steps):
        return self.run("GenPropSampler", model=self.model, condition=self.condition, seed=SEED, steps=steps,
                        max_guidance=CFG)[0]["samples"]  # fmt: skip

    def decode(self, latents):
        return self.nodes.VAEDecode().decode(self.vae, {"samples": latents})[0]


def timed(routes, steps: int, rounds: int) -> dict:
    """Seconds, counted FLOPs and ratios; the two GenProp routes are checked to give the same latents, and plain SVD
    others. routes: a `Routes`, or what has its methods."""
    same, other = routes.sampler(steps), routes.plain(steps)
    if not torch.equal(routes.apply(steps), same) or torch.equal(other, same):
        raise SystemExit("Expected both GenProp routes to agree, and to differ from plain SVD.")
    loops = {name: getattr(routes, name) for name in LOOPS}
    counted = {name: flops_of_steps(loop, steps) for name, loop in loops.items()}
    variants = {name: (lambda loop=loop: loop(steps)) for name, loop in loops.items()}
    seconds = interleave(variants | {"encode": routes.encode, "decode": lambda: routes.decode(same)}, rounds, clock())
    pairs = {f"{name}_over_plain": (name, "plain") for name in LOOPS if name != "plain"}
    return facts() | {
        "steps": steps,
        "rounds": rounds,
        "seconds": medians(seconds),
        "tera_flops": {name: value / 1e12 for name, value in counted.items()},
        "ratios": {name: ratio(seconds, *pair) for name, pair in pairs.items()},
        "predicted": {name: counted[a] / counted[b] for name, (a, b) in pairs.items()},
    }


def measure(checkout: Path, steps: int, rounds: int) -> dict:
    """The numbers of `timed` in this ComfyUI, with its version."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        report = timed(Routes(start(checkout, Path(folder))), steps, rounds)
    return {"comfyui": importlib.import_module("comfyui_version").__version__} | report


def main(argv=None) -> int:
    arguments = parser("comfyui", __doc__)
    arguments.add_argument("--checkout", type=Path, help="ComfyUI's folder (default: $COMFYUI_PATH, ~/comfy/ComfyUI)")
    arguments.add_argument("--steps", type=int, default=25)
    given = arguments.parse_args(argv)
    checkout = given.checkout or _found()
    if checkout is None:
        arguments.error("Expected a ComfyUI checkout, but there is none. Give --checkout FOLDER or set COMFYUI_PATH.")
    steps, rounds = (2, 1) if given.quick else (given.steps, given.rounds)
    json = given.json and given.json.resolve()  # ComfyUI may change the folder that it runs in
    return show(measure(checkout.resolve(), steps, rounds), json, given.quick)


def _found() -> Path | None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import environment
    finally:
        sys.path.pop(0)
    return environment.find_comfyui()


if __name__ == "__main__":
    sys.exit(main())

"""Runs the checks of every comfy_*_checks.py in a process where `comfy` and `nodes` are ComfyUI's.

python comfy_worker.py CHECKOUT REPOSITORY FOLDER RESULTS [NAME ...]

A check gets a Pack and raises when it fails. FOLDER holds the mini's files (see random_mini.py); RESULTS becomes
{check: None, or the traceback of its failure}.
"""
import asyncio
import importlib
import json
import sys
import traceback
from pathlib import Path


class Pack:
    """ComfyUI with the pack loaded by ComfyUI's own loader. `run(id, **inputs)` executes a node as the server would."""

    def __init__(self, checkout, repository, folder):
        here = Path(__file__).resolve().parent
        sys.path[:] = [str(checkout)] + [p for p in sys.path if Path(p or ".").resolve() != here]
        sys.argv = ["main.py", "--cpu", "--base-directory", str(folder)]
        import comfy.options

        comfy.options.enable_args_parsing()
        import nodes

        self.nodes, self.folder, self.checkout = nodes, Path(folder), Path(checkout)
        self.before = snapshot()
        assert asyncio.run(nodes.load_custom_node(str(repository)))
        self.name = str(repository).replace(".", "_x_")
        assets = self.core("assets")
        assets.MINI_BASE, assets.MINI_ADAPTERS = self.folder / "base.safetensors", self.folder / "adapters.safetensors"
        assets.SAMPLE = self.folder / "sample"

    def core(self, name):
        return importlib.import_module(f"{self.name}.genprop_core.{name}")

    def own(self, name):
        return importlib.import_module(f"{self.name}.nodes.{name}")

    def run(self, node_id, **inputs):
        """The node's outputs as a tuple. V3 nodes get their defaults for inputs that are not given."""
        import torch

        node = self.nodes.NODE_CLASS_MAPPINGS[node_id]
        with torch.inference_mode():
            if not hasattr(node, "GET_SCHEMA"):
                return getattr(node(), node.FUNCTION)(**inputs)
            for item in node.define_schema().inputs:
                if not item.optional and item.id not in inputs:
                    inputs[item.id] = item.default
            output = node.execute(**inputs)
        return output.args

    def core_node(self, module, name, *args, **kwargs):
        """Runs a node class of comfy_extras."""
        import torch

        node = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        with torch.inference_mode():
            if hasattr(node, "GET_SCHEMA"):
                return node.execute(*args, **kwargs).args
            return getattr(node(), node.FUNCTION)(*args, **kwargs)


def snapshot():
    """Every attribute of ComfyUI's modules and of their classes, by identity."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name == "comfy" or name.startswith(("comfy.", "comfy_extras.", "comfy_execution.")) or name in (
            "nodes", "execution", "folder_paths", "latent_preview", "server",
        ):  # fmt: skip
            for key, value in list(vars(module).items()):
                if key.startswith("__"):
                    continue
                found[f"{name}.{key}"] = value
                if isinstance(value, type) and value.__module__ == name:
                    found |= {f"{name}.{key}.{k}": v for k, v in vars(value).items() if not k.startswith("__")}
    return found


def main(checkout, repository, folder, results, *names):
    import torch

    torch.set_num_threads(1)
    pack = Pack(Path(checkout).resolve(), Path(repository).resolve(), Path(folder).resolve())
    here = Path(__file__).resolve().parent
    sys.path.append(str(here))
    found = {}
    for file in sorted(here.glob("comfy_*_checks.py")):
        for name, check in vars(importlib.import_module(file.stem)).items():
            if name.startswith("check_") and (not names or name in names):
                try:
                    check(pack)
                    found[name] = None
                except Exception:
                    found[name] = traceback.format_exc()
    Path(results).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

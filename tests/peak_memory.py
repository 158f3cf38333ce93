"""Anonymous memory of a process that loads a base: what it takes beyond the files the system may drop at any time.

python peak_memory.py PATH DTYPE prints, in bytes, the memory `before` loading, the `peak` while loading, and the size
of the `weights` loaded. Linux only (/proc/self/status).
"""
import json
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def peak_memory(path, dtype) -> dict:
    """Runs this file on a single file or a diffusers folder in a process of its own."""
    done = subprocess.run([sys.executable, __file__, str(path), dtype], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


class Watch:
    """Within, `peak` follows this process's anonymous memory; `before` is what it had on entry. Bytes."""

    def __enter__(self):
        self.before = self.peak = anonymous()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self):
        while not self.done.wait(0.005):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, anonymous())


def main(path, dtype):
    sys.path.append(str(ROOT))
    import diffusers  # its lazy imports, and transformers', belong to `before`
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from genprop_core.diffusers_folder import load_diffusers_folder
    from genprop_core.single_file import load_single_file

    with torch.device("meta"):
        diffusers.UNetSpatioTemporalConditionModel(), diffusers.AutoencoderKLTemporalDecoder()
        CLIPVisionModelWithProjection(CLIPVisionConfig())
    load = load_diffusers_folder if Path(path).is_dir() else load_single_file
    with Watch() as memory:
        base = load(path, getattr(torch, dtype))
    tensors = [p for m in (base.unet, base.vae, base.image_encoder) for p in m.parameters()]
    weights = sum(p.numel() * p.element_size() for p in tensors)
    print(json.dumps({"before": memory.before, "peak": memory.peak, "weights": weights}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The pack in a real ComfyUI server: what the editor is told, and the workflows queued as the editor queues them."""
import json
import re
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.append(str(HERE))
import random_mini  # noqa: E402
from comfy_checkouts import checkouts, python_of, server_module  # noqa: E402

pytestmark = pytest.mark.comfyui
WORKFLOWS = sorted(p.stem for p in (ROOT / "workflows").glob("*.json"))
NODES = sorted(p.stem for p in (ROOT / "web" / "docs").glob("*.md"))
STEPS = 3


@pytest.fixture(scope="module", params=checkouts(), ids=lambda path: path.name)
def server(request, tmp_path_factory):
    """A running server with a copy of the pack whose assets are there (random ones, where none are trained)."""
    base = tmp_path_factory.mktemp("base")
    prepare(base)
    options = "--cpu", "--cache-classic"  # newer ones keep results only as long as much memory is free
    with server_module().Server(request.param, base, *options, python=python_of(request.param)) as running:
        yield running


def prepare(base):
    """Everything a server needs in `base`: the pack, its assets, and a user's clip and keyframe in input/."""
    from genprop_core.video_io import read_video, write_image, write_video

    assets = server_module().install_pack(base) / "genprop_core" / "assets"
    (assets / "mini").mkdir(parents=True, exist_ok=True)
    if not (assets / "mini" / "adapters.safetensors").is_file():
        random_mini.write_mini(assets / "mini")
    if not (assets / "sample").is_dir():
        random_mini.write_sample(assets / "sample")
    (base / "input").mkdir(exist_ok=True)
    frames = read_video(assets / "sample" / "source.mp4").frames
    write_video(base / "input" / "clip.mp4", frames, 8)
    write_image(base / "input" / "keyframe.png", frames[0])


def prompt_of(server, name, seed=1, steps=STEPS):
    """A workflow as an API prompt. Where it wants SVD, which tests do not have, the mini takes its place."""
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = server_module().to_prompt(workflow, server.get("/object_info"))
    for key, node in list(prompt.items()):
        inputs = node["inputs"]
        if node["class_type"] == "ImageOnlyCheckpointLoader":
            prompt[key] = {"class_type": "GenPropLoadMini", "inputs": {}}
        elif node["class_type"] == "GenPropLoadAdapters":
            inputs["adapters_name"] = "mini (bundled)"
        elif node["class_type"] == "GenPropEncodeCondition":
            inputs |= {"width": 0, "height": 0}
        elif node["class_type"] == "GenPropPropagate":
            inputs |= {"width": 0, "height": 0, "window": 6, "seed": seed, "steps": steps}
        elif node["class_type"] in ("GenPropSampler", "KSampler"):
            inputs |= {"seed": seed, "steps": steps}
    return prompt


def run(server, prompt):
    entry = server.wait(server.queue(prompt))
    message = server_module().failure(entry)
    assert message is None, message
    return entry


def ran(entry):
    """Ids of the nodes that were executed, not taken from the cache."""
    cached = next(d["nodes"] for k, d in entry["status"]["messages"] if k == "execution_cached")
    return set(entry["prompt"][2]) - set(cached)


def test_it_loads_without_a_warning(server):
    log = server.log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in log.splitlines() if "genprop" in line.lower()]
    assert lines and not [line for line in lines if re.search("warn|error|fail|skip|traceback", line, re.IGNORECASE)]
    assert "IMPORT FAILED" not in log


def test_every_node_is_described_and_has_its_help_page(server):
    described = {k: v for k, v in server.get("/object_info").items() if k.startswith("GenProp")}
    assert sorted(described) == NODES
    for name, node in described.items():
        assert node["description"] and node["category"] == "GenProp"
        for group in ("required", "optional"):
            assert all(settings[0].get("tooltip") for _, *settings in node["input"].get(group, {}).values()), name
        page = server.read(f"/extensions/{server_module().NAME}/docs/{name}.md").decode()
        assert page == (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        inputs = [n for g in ("required", "optional") for n in node["input"].get(g, {})]
        assert not [i for i in inputs if f"**{i}**" not in page], name
        assert not [o for o in node["output_name"] if f"**{o}**" not in page], name


def test_the_workflows_are_templates_with_thumbnails(server):
    assert sorted(server.get("/workflow_templates")[server_module().NAME]) == WORKFLOWS
    for name in WORKFLOWS:
        path = f"/api/workflow_templates/{server_module().NAME}/{name}"
        assert server.get(path + ".json")["version"] == 0.4
        if (ROOT / "workflows" / f"{name}.jpg").is_file():
            assert server.read(path + ".jpg")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_with_a_new_seed_and_again_unchanged(server, name):
    from genprop_core.video_io import read_video

    first = run(server, prompt_of(server, name, seed=1))
    files = server_module().saved_files(first, server.base)
    assert files and all(read_video(f).frames.shape == (8, 128, 128, 3) for f in files)
    again = run(server, prompt_of(server, name, seed=1))
    other = run(server, prompt_of(server, name, seed=2))
    prompt = prompt_of(server, name)
    assert not ran(again)
    classes = {prompt[i]["class_type"] for i in ran(other)}
    assert "GenPropEncodeCondition" not in classes and classes & {"GenPropSampler", "KSampler", "GenPropPropagate"}


@pytest.mark.parametrize("name", ["object_removal_mini", "two_keyframes"])
def test_cancel_in_mid_sampling_and_the_next_run_is_right(server, name):
    from genprop_core.video_io import read_video

    def result(entry):
        return read_video(server_module().saved_files(entry, server.base)[0]).frames

    wanted = result(run(server, prompt_of(server, name, seed=3)))
    before = len(server.log.read_text(errors="replace"))
    running = server.queue(prompt_of(server, name, seed=3, steps=500))
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if re.search(r" [1-9]\d*/500 ", server.log.read_text(errors="replace")[before:]):
            break
        time.sleep(0.3)
    server.get("/interrupt", {})
    assert server_module().failure(server.wait(running)) == "interrupted"
    fresh = prompt_of(server, name, seed=3)
    server.get("/free", {"unload_models": True, "free_memory": True})  # so that nothing comes from the cache
    time.sleep(2)
    assert (result(run(server, fresh)).int() - wanted.int()).abs().max() <= 1


def test_a_wrong_input_is_one_line_on_its_node(server):
    prompt = prompt_of(server, "object_removal_mini")
    clip = next(k for k, n in prompt.items() if n["class_type"] == "GenPropSampleClip")
    encode = next(n for n in prompt.values() if n["class_type"] == "GenPropEncodeCondition")
    prompt["cut"] = {"class_type": "ImageFromBatch", "inputs": {"image": [clip, 0], "batch_index": 0, "length": 1}}
    encode["inputs"]["source"] = ["cut", 0]
    entry = server.wait(server.queue(prompt))
    data = next(d for k, d in entry["status"]["messages"] if k == "execution_error")
    assert data["node_type"] == "GenPropEncodeCondition"
    message = "Expected a source of at least 2 frames, got 1. Connect the whole clip."
    assert data["exception_message"].strip() == message


def test_a_video_of_other_proportions_is_refused(server):
    prompt = prompt_of(server, "object_removal_svd")
    encode = next(n for n in prompt.values() if n["class_type"] == "GenPropEncodeCondition")
    encode["inputs"] |= {"width": 100}
    assert re.fullmatch(r"Expected a width that is a multiple of 32 .* got 100\. Use 96, .*\s*",
                        server_module().failure(server.wait(server.queue(prompt))))  # fmt: skip


PROBE = '''
import ctypes
import gc
import sys

import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


@PromptServer.instance.routes.get("/memory_probe")
async def memory(request):
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform == "linux" else None
    in_use = None
    if mallinfo is not None:  # glibc's own count of what is allocated
        mallinfo.restype = Info
        info = mallinfo()
        in_use = info.uordblks + info.hblkhd
    return web.json_response({"tensors": sum(storages.values()), "in_use": in_use})
'''


@pytest.mark.parametrize("checkout", checkouts()[:1], ids=lambda path: path.name)
def test_memory_stays_flat_over_many_runs(checkout, tmp_path):
    """Nothing cached, a new seed each time: whatever a run leaves behind would add up.

    Counted inside the server: the bytes of living tensors, and where the allocator tells, of everything allocated. The
    process's size alone says little: with both the same, the allocator lets it go up and down by far more than a run.
    """
    import psutil

    prepare(tmp_path)
    probe = tmp_path / "custom_nodes" / "memory_probe"
    probe.mkdir()
    (probe / "__init__.py").write_text(PROBE, encoding="utf-8")
    with server_module().Server(checkout, tmp_path, "--cpu", "--cache-none", python=python_of(checkout)) as running:
        process = psutil.Process(running.process.pid)
        for name, warm_up, runs in (("object_removal_mini", 2, 10), ("long_clip", 2, 10)):
            told = []
            for seed in range(warm_up + runs):
                run(running, prompt_of(running, name, seed=seed, steps=1))
                told.append(running.get("/memory_probe") | {"size": process.memory_info().rss})
            first, later = told[warm_up - 1], told[warm_up:]
            assert {t["tensors"] for t in later} == {first["tensors"]}, (name, told)
            if first["in_use"] is not None:
                # ComfyUI's history of prompts grows a little with each run; the latents of one have 32 KB
                assert max(t["in_use"] for t in later) < first["in_use"] + runs * 24_000, (name, told)
            assert max(t["size"] for t in later) < 1.2 * max(t["size"] for t in told[:warm_up]), (name, told)

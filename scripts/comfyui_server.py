"""A ComfyUI server of our own, in a folder of its own, for the demo and the tests. Standard library only."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from processes import SetupError, child_environment

ROOT = Path(os.path.abspath(__file__)).parent.parent
NAME = "comfyui-genprop"
MARK = ".copied-for-the-demo"  # in a copy of the pack that may be removed
PARTS = ("__init__.py", "pyproject.toml", "nodes", "genprop_core", "web", "workflows")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
NOTES = ("MarkdownNote", "Note")


def install_pack(base):
    """Copies what belongs to the pack into BASE/custom_nodes, afresh, and returns the copy's folder.

    Raises SetupError where the pack itself, or one that this did not put there, would be removed for it.
    """
    target = Path(base) / "custom_nodes" / NAME
    there, root = target.resolve(), ROOT.resolve()
    others = target.exists() and not (target / MARK).is_file()
    if others or there == root or there in root.parents:
        raise SetupError(f"Expected a folder of the server's own, but {target} holds a pack. Choose another --out.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / MARK).touch()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    return target


class Server:
    """`with Server(checkout, base) as server`: started on a free port, stopped at the end. Its log: BASE/server.log.

    Raises SetupError when it does not start.
    """

    def __init__(self, checkout, base, *options, python=sys.executable, patience=600):
        self.checkout, self.base, self.options = Path(checkout), Path(base), options
        self.python, self.patience = str(python), patience
        self.log = self.base / "server.log"

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [self.python, "main.py", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch",
                   "--disable-api-nodes", "--base-directory", str(self.base), *self.options]  # fmt: skip
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=self.checkout, stdout=log, stderr=subprocess.STDOUT,
                                            env=child_environment())  # fmt: skip
        until = time.monotonic() + self.patience
        while True:
            try:
                self.get("/system_stats")
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.__exit__()
                    raise SetupError(f"ComfyUI did not start; the end of {self.log} says why.") from None
                time.sleep(0.3)
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def read(self, path, data=None) -> bytes:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"} if body else {})
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not by the user's proxy
        with direct.open(request, timeout=120) as reply:
            return reply.read()

    def get(self, path, data=None):
        reply = self.read(path, data)
        return json.loads(reply) if reply else None

    def queue(self, prompt) -> str:
        """Queues a prompt in API format. Raises SetupError with ComfyUI's own words when it is refused."""
        try:
            return self.get("/prompt", {"prompt": prompt})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise SetupError(f"ComfyUI refused the workflow: {error.read().decode(errors='replace')[:2000]}") from None

    def wait(self, prompt_id, patience=600, tick=None) -> dict:
        """The history entry of a queued prompt once it is over, however it ended. tick(seconds) is called meanwhile."""
        start = time.monotonic()
        while True:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None and entry["status"]["status_str"] in ("success", "error"):
                return entry
            if self.process.poll() is not None:
                raise SetupError(f"ComfyUI ended in mid-run; the end of {self.log} says why.")
            if time.monotonic() - start > patience:
                raise SetupError(f"ComfyUI was not done after {patience} s; see {self.log}.")
            if tick is not None:
                tick(time.monotonic() - start)
            time.sleep(0.2)


def failure(entry) -> str | None:
    """The message on the node of a run that failed, as ComfyUI gives it; None for one that went through."""
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return data["exception_message"]
        if kind == "execution_interrupted":
            return "interrupted"
    return None


def saved_files(entry, base) -> list[Path]:
    """Paths of the files that a run's output nodes wrote, in the order of the nodes' numbers."""
    found = []
    for _, output in sorted(entry["outputs"].items(), key=lambda item: int(item[0])):
        for results in output.values():
            for result in results if isinstance(results, list) else []:
                if isinstance(result, dict) and result.get("type") == "output":
                    found.append(Path(base) / "output" / result["subfolder"] / result["filename"])
    return found


def to_prompt(workflow, object_info) -> dict:
    """A workflow as the editor saves it, in the API's format. object_info: the server's description of its nodes."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        if node["type"] not in object_info:
            raise SetupError(f"This ComfyUI has no node {node['type']}. Update ComfyUI.")
        values, inputs = iter(node["widgets_values"]), {}
        for group in ("required", "optional"):
            for name, (kind, *settings) in object_info[node["type"]]["input"].get(group, {}).items():
                settings = settings[0] if settings else {}
                if isinstance(kind, list) or kind in WIDGETS:
                    value = next(values, None)
                    if value is not None:
                        inputs[name] = value
                    legacy = kind == "INT" and name in ("seed", "noise_seed")
                    if settings.get("control_after_generate", legacy):
                        next(values, None)
                    if settings.get("image_upload") or settings.get("video_upload"):
                        next(values, None)
        inputs |= {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt

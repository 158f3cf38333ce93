"""Carries an edit through a sample clip with the mini, in its own virtual environment, which the first run makes.

Further arguments go on to `python -m genprop_core propagate`, for example --steps 10 or --source and --keyframe.
"""
import os
import sys

if sys.version_info < (3, 10):
    sys.exit("Error: Expected Python 3.10 to 3.13, this is " + sys.version.split()[0] + ". Get one at python.org.")

# a Python that runs isolated, like that of ComfyUI's portable edition, does not look beside the script
if os.path.dirname(os.path.abspath(__file__)) not in sys.path:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import json
from pathlib import Path

from environment import ROOT, find_comfyui, plain, prepare, with_comfyui
from processes import SetupError, main, run, say

SAMPLE = ROOT / "genprop_core" / "assets" / "sample"
COMFYUI_DEMO = ROOT / "scripts" / "comfyui_demo.py"
COLUMNS = (  # key in metrics.json, heading, format
    ("psnr", "PSNR", "{:.2f}"),
    ("ssim", "SSIM", "{:.3f}"),
    ("psnr_outside", "outside", "{:.2f}"),
    ("psnr_inside", "inside", "{:.2f}"),
    ("mask_iou", "mask IoU", "{:.2f}"),
    ("removed", "removed", "{:.0%}"),
)
FLOORS = (
    ("copy_source", "source, unedited"),
    ("repeat_keyframe", "keyframe, repeated"),
    ("plain_svd", "plain SVD, no adapters"),
    ("vae_round_trip", "the VAE's ceiling"),
)
HELP = """usage: python scripts/demo.py [{}arguments for propagate]

The first run makes a virtual environment (minutes; the sizes are printed), later ones start at once. The result goes
to output/demo/ unless --out says otherwise.

{}  for example      python scripts/demo.py --steps 10
                   python scripts/demo.py --source clip.mp4 --keyframe edited.png --out result"""
COMFYUI_HELP = """\
  --comfyui        run the sample workflow through a real ComfyUI instead ($COMFYUI_PATH says which); takes --seed,
                   --steps and --out (output/comfyui-demo/ unless you say otherwise)
"""


def given(arguments, name):
    """The value of the option `name` in `arguments`, or None; the last one counts, as in argparse."""
    value = None
    for argument, following in zip(arguments, arguments[1:] + [None]):
        if argument == name:
            value = following
        elif argument.startswith(name + "="):
            value = argument[len(name) + 1 :]
    return value


def command(arguments):
    """Arguments for `propagate`: the sample's files, unless the user brings clips, and then what the user gave."""
    ours = [] if given(arguments, "--base") else ["--base", "mini"]
    if not given(arguments, "--out"):
        ours += ["--out", str(ROOT / "output" / "demo")]
    if not given(arguments, "--source") and not given(arguments, "--manifest"):
        ours += ["--source", str(SAMPLE / "source.mp4")]
        if not given(arguments, "--keyframe"):  # the truth belongs to the sample's own edit
            ours += ["--keyframe", str(SAMPLE / "keyframe.png")]
            ours += ["--truth", str(SAMPLE / "truth.mp4"), "--truth-mask", str(SAMPLE / "mask.mp4")]
        if not given(arguments, "--clean-plate"):  # the picture is to show what the model makes, as the table scores it
            ours += ["--clean-plate", "off"]
    return ours + arguments


def table(metrics):
    """The result beside the floors as lines of text; a number that was not measured is a dash."""
    rows = [("GenProp", metrics["result"])]
    rows += [(name, metrics["floors"][key]) for key, name in FLOORS if key in metrics.get("floors", {})]
    yield " " * 24 + "".join(heading.rjust(10) for _, heading, _ in COLUMNS)
    for name, values in rows:
        cells = ["-" if values.get(key) is None else form.format(values[key]) for key, _, form in COLUMNS]
        yield name.ljust(24) + "".join(cell.rjust(10) for cell in cells)


def body(arguments):
    has_comfyui_demo = COMFYUI_DEMO.is_file()
    if {"-h", "--help"} & set(arguments):
        say(HELP.format("--comfyui | " if has_comfyui_demo else "", COMFYUI_HELP if has_comfyui_demo else ""))
        return 0
    if has_comfyui_demo and "--comfyui" in arguments:
        return comfyui_demo([argument for argument in arguments if argument != "--comfyui"])
    python = prepare(*plain())
    passed_on = command(arguments)
    out = Path(given(passed_on, "--out"))
    many = given(arguments, "--manifest") is not None
    if not many:
        say("Carrying the edit through the clip (the sample takes about half a minute on an idle CPU) ...")
    # In the user's own folder, so that paths in the arguments mean what they say; PYTHONPATH finds genprop_core.
    quiet = {"TRANSFORMERS_VERBOSITY": "error"}  # it tells of parts that are not used here
    code = run([python, "-m", "genprop_core", "propagate"] + passed_on, PYTHONPATH=ROOT, **quiet)
    if code or many:  # every clip of a manifest has its scores and its picture in its own folder
        return code
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    if any(metrics["result"].get(key) is not None for key, *_ in COLUMNS):
        say("")
        for line in table(metrics):
            say(line)
        say("\nPSNR in dB, also outside and inside the edited region; higher is better everywhere.")
    else:
        say("No scores: they need --truth and --truth-mask, which belong to the sample clip's own edit.")
    say("The picture: {}".format(out.absolute() / "comparison.png"))
    return 0


def comfyui_demo(arguments):
    """Runs comfyui_demo.py where ComfyUI can be imported; COMFYUI_PATH tells it which checkout that is."""
    checkout = find_comfyui()
    if checkout is None:
        raise SetupError(
            "Expected a ComfyUI checkout in $COMFYUI_PATH, around this repository (in custom_nodes/) or in "
            "~/comfy/ComfyUI, but there is none. Set COMFYUI_PATH to yours."
        )
    return run([prepare(*with_comfyui(checkout)), COMFYUI_DEMO] + arguments, COMFYUI_PATH=checkout)


if __name__ == "__main__":
    main(body)

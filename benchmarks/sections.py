"""The parts of docs/results.md: one function per benchmark, from its JSON to Markdown."""

from trainer.evaluate import command
from trainer.score_table import METRICS, shown, variants

WORDS = {
    "plain_over_diffusers": "plain SVD in our loop / in diffusers' pipeline",
    "static_over_plain": "static SCE / plain SVD",
    "static_over_fused": "static SCE / fused SCE",
    "fused_over_static": "fused SCE / static SCE",
    "static_over_per_step": "static SCE / SCE and VAE at every step",
    "per_step_over_static": "SCE and VAE at every step / static SCE",
    "apply_over_plain": "KSampler with GenProp Apply / plain KSampler",
    "sampler_over_plain": "GenProp Sampler / plain KSampler",
    "cached_over_uncached": "steps per second, cached / encoded at every step",
    "static_over_fused_steps": "steps per second, static SCE / fused SCE",
    "checkpointed_over_cached": "steps per second, with gradient checkpointing / without",
    "memory_cached_over_checkpointed": "memory, without gradient checkpointing / with",
    "seconds_per_frame_longest_over_middle": "time a frame, longest clip / middle one",
    "memory_middle_over_shortest": "memory beside the frames, middle clip / shortest",
    "memory_longest_over_shortest": "memory beside the frames, longest clip / shortest",
}
SPEEDUPS = {
    "long_way": "the model as diffusers computes it, {0} Euler steps",
    "short_attention": "cross-attention over one token without query and key (always on)",
    "short_ways": "that, convolutions over time as two-dimensional ones, channels last in TAESD (always on)",
    "parts": "and feed-forward layers in parts (always on)",
    "guidance_range": "guidance at noise levels {1} to {2} only",
    "fewer_steps": "DPM-Solver++(2M), {steps} steps",
    "both": "DPM-Solver++(2M), {steps} steps, and the guidance range",
    "own_settings": "the mini's own settings: few Euler steps, the last at more noise, no guidance",
    "bfloat16": "bfloat16",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in [head, ["---"] * len(head), *rows])


def made_on(report: dict) -> str:
    """Machine, threads, clock, versions, date and checkpoint, as far as the report has them."""
    versions = ", ".join(f"{k} {report[k]}" for k in ("python", "torch", "diffusers", "comfyui") if k in report)
    threads = {None: None, 1: "one thread"}.get(report.get("threads"), f"{report.get('threads')} threads")
    parts = [report.get("machine"), threads, report.get("clock"), versions, report.get("date")]
    made = f", checkpoint `{report['checkpoint']}`" if "checkpoint" in report else ""
    return ", ".join(p for p in parts if p) + made


def footing(name: str, report: dict) -> str:
    """Where and when a benchmark's numbers were made, and by which command."""
    count = report["rounds"]
    rounds = f"median of {count} interleaved rounds" if count > 1 else "one interleaved round"
    if name == "profile":  # whose variants are the parts of one run, so nothing is interleaved
        rounds = f"mean of {count} runs" if count > 1 else "one run"
    rough = " **A quick run: small, rough, to be made again.**" if report.get("quick") else ""
    return f"`python -m benchmarks.{name}`: {rounds}; {made_on(report)}.{rough}"


def scores_footing(report: dict) -> str:
    """The same of the evaluation: the command with the settings that were used, and what it took."""
    said = f"`{command(report['settings'])} --json docs/mini.json`"
    if "wall_seconds" not in report:  # a report of before these were kept
        return f"{said}; where and when was not kept."
    shared = f"{report['workers']} processes" if report["workers"] > 1 else "one process"
    return (f"{said}: {report['wall_seconds'] / 60:.0f} minutes for {report['wall_clips']} clips by {shared}; "
            f"{made_on(report)}.")  # fmt: skip


def ratios(report: dict) -> str:
    predicted = report.get("predicted", {})
    rows = [[WORDS.get(n, n.replace("_", " ")), f"{v:.3f}", *([f"{predicted[n]:.3f}"] if n in predicted else [])]
            for n, v in report["ratios"].items()]  # fmt: skip
    return table(["ratio", "measured", *(["FLOPs predict"] if predicted else [])], rows)


def sampling(report: dict) -> str:
    counted, seconds = report["tera_flops"], report["seconds"]
    added, took = (values["per_step"] - values["static"] for values in (counted, seconds))
    faster = added / took / (counted["static"] / seconds["static"])
    rows = [[n.replace("_", " "), f"{v:.2f} s", f"{counted[n]:.3f}" if n in counted else "–"]
            for n, v in report["seconds"].items()]  # fmt: skip
    return "\n\n".join([
        f"## Sampling\n\nThe loop of {report['steps']} steps over one window of the mini (8 frames of 128x128, "
        "guidance on); encode and decode apart.", table(["what", "time", "TFLOP"], rows), ratios(report),
        "![measured and predicted ratios](results/sampling.png)",
        "FLOPs predict ratios of like with like. The work that the per-step design adds, most of it the VAE's, "
        f"runs at {faster:.1f} times as many FLOPs per second as the static loop (differences of the rows above), so "
        "it costs less time than they predict on the mini.",
        f"Plain SVD in our loop and in diffusers' differ by {report['difference_from_diffusers']:.1e} of the largest "
        "latent after two steps."])  # fmt: skip


def comfyui(report: dict) -> str:
    counted = report["tera_flops"]
    rows = [[n, f"{v:.2f} s", f"{counted[n]:.3f}" if n in counted else "–"] for n, v in report["seconds"].items()]
    return "\n\n".join([f"## Sampling in ComfyUI {report['comfyui']}\n\nThe same {report['steps']} steps by core's "
                        "KSampler and by our nodes; encode and decode apart.", table(["what", "time", "TFLOP"], rows),
                        ratios(report)])  # fmt: skip


def training(report: dict) -> str:
    rows = [[n, f"{report['steps_per_second'][n]:.2f}", f"{report['activations_mib'][n]:.0f} MiB"]
            for n in report["seconds"]]  # fmt: skip
    return "\n\n".join(["## Training\n\nOne optimiser step on one window of the mini. `cached` is the default: static "
                        "SCE, latents from the cache; each other row changes one thing.",
                        table(["variant", "steps per second", "kept for the backward pass"], rows),
                        ratios(report)])  # fmt: skip


def scaling(report: dict) -> str:
    blocks = [f"## Scaling\n\nOne run of {report['steps']} sampling steps, windows of {report['window']} frames."]
    for kind, head in (("frames", "frames at 128x128"), ("pixels", "pixels of 8 frames")):
        peaks = report["peak_mib_by"].get(kind, {})
        blocks.append(table([head, "time", "peak memory"], [
            [x, f"{v:.2f} s", f"{peaks[x]:.0f} MiB" if x in peaks else "–"]
            for x, v in report["seconds_by"][kind].items()]))  # fmt: skip
    fitted = report["ratios"]
    blocks.append(
        f"Time grows with the frames to the power of {fitted['exponent_frames']:.2f} (fitted without the clip of one "
        f"window) and with the pixels to the power of {fitted['exponent_pixels']:.2f}."
    )
    return "\n\n".join([*blocks, "![time and memory](results/scaling.png)"])


def long_clips(report: dict) -> str:
    rows = [[r["frames"], r["windows"], f"{seconds:.1f} s", f"{r['peak_mib']:.0f} MiB", f"{r['frames_mib']:.0f} MiB"]
            for r, seconds in zip(report["rows"], report["seconds"].values())]  # fmt: skip
    return "\n\n".join([f"## Long clips\n\nWindow after window, {report['steps']} steps each, every clip in a process "
                        "of its own.", table(["frames", "windows", "time", "peak memory", "the frames themselves"],
                        rows), ratios(report)])  # fmt: skip


def profile(report: dict) -> str:
    rows = [[name, f"{value:.1%}"] for name, value in report["shares"].items()]
    top = ", ".join(f"{n} {v:.0%}" for n, v in list(report["operators"].items())[:6])
    return "\n\n".join([
        f"## Where the time goes\n\nOne run of {report['steps']} steps on the sample clip. UNet, SCE, VAE and CLIP "
        f"apart, {report['ratios']['outside_the_models']:.1%} is left.", table(["part", "share"], rows),
        f"By operator: {top}."])  # fmt: skip


def speedups(report: dict) -> str:
    took = {"long_way": 1.0} | {n: report["ratios"][f"{n}_over_long_way"] for n in report["seconds"] if n != "long_way"}
    low, high = report["guidance_range"]
    words = {n: text.format(report["steps"], low, high, steps=report["fewer_steps"]) for n, text in SPEEDUPS.items()}
    rows = [[words[n], f"{v:.2f} s", f"{1 / took[n]:.2f}", f"{report['psnr'][n]:.2f} dB",
             f"{report['psnr_change'][n]:+.2f} dB"] for n, v in report["seconds"].items()]  # fmt: skip
    return "\n\n".join([f"## Speed-ups\n\nA whole run (encode, loop, decode), before and after in one go; PSNR against "
                        f"the truth on {report['clips']} held-out clips.",
                        table(["what", "time", "times as fast", "PSNR", "change"], rows)])  # fmt: skip


def scores(report: dict) -> str:
    keys = shown(report)
    rows = [[name.replace("_", " "), *("–" if v.get(k) is None else f"{v[k]:.{METRICS[k].digits}f}" for k in keys)]
            for name, v in variants(report).items()]  # fmt: skip
    interval = report["result"]["spread"]
    cells = ["" if not interval[k].get("interval") else "{:.{d}f} to {:.{d}f}".format(
        *interval[k]["interval"], d=METRICS[k].digits) for k in keys]  # fmt: skip
    rows.insert(1, ["95% interval", *cells])
    gone = "\n".join(f"- {METRICS[k].label}: {why}" for k, why in report.get("missing", {}).items())
    by = report.get("sampler")
    steps = f"{by['steps']} {by['solver']} steps, guidance {by['min_cfg']:g} to {by['max_cfg']:g}, " if by else ""
    steps += f"noise down to {by['sigma_min']:g}, " if by and "sigma_min" in by else ""
    drop = report["controls"].get("shuffled_source_drop")
    change = report["controls"].get("other_keyframe_change_inside")
    said = "" if drop is None or change is None else (
        f"Controls on {report['controls']['clips']} clips: another clip's source costs {drop:.1f} dB outside the mask; "
        f"the unedited keyframe changes its inside by {change:.0f}/255."
    )  # fmt: skip
    head = (
        f"## Scores of the mini\n\n{report['clips']} held-out clips of {report['frames']} frames, without compositing, "
        f"{steps}mean over clips, beside floors and baselines. Checkpoint `{report['checkpoint']}`, "
        f"seed {report['seed']}."
    )
    read = (
        "*Removed* counts a clip whose masked region is nearer to the truth than to the source in every frame. Plain "
        "SVD passes as well, since it never saw the object: read it beside *PSNR inside*. Telea and latent blending "
        "are given the true masks of all frames; GenProp is given none."
    )
    parts = [head, table(["", *(METRICS[k].label for k in keys)], rows), said, read]
    return "\n\n".join(p for p in [*parts, f"Not measured:\n\n{gone}" if gone else "", scores_footing(report)] if p)


def headlines(reports: dict, evaluation: dict | None) -> str:
    """Two or three lines for the README: scores, what the adapters cost, what the trainer's cache brings."""

    def made(name):
        return "; a quick run, to be made again" if reports[name].get("quick") else ""

    out = []
    if evaluation is not None:
        own, plain, vae = evaluation["result"], *(evaluation["floors"].get(n) for n in ("plain_svd", "vae_round_trip"))
        beside = [
            f"{name} {there['psnr_outside']:.1f} and {there['psnr_inside']:.1f}"
            for name, there in (("plain SVD", plain), ("the VAE alone", vae))
            if there is not None
        ]
        beside = f" ({'; '.join(beside)})" if beside else ""
        out.append(
            f"- The mini on {evaluation['clips']} held-out clips: PSNR {own['psnr_outside']:.1f} dB outside the edit "
            f"and {own['psnr_inside']:.1f} dB inside it{beside}, mask IoU {own['mask_iou']:.2f}."
        )
    if "sampling" in reports:
        took = reports["sampling"]["ratios"]
        out.append(
            f"- With adapters sampling takes {took['static_over_plain']:.2f} of plain SVD's time, and "
            f"{took['static_over_per_step']:.2f} of what encoding the source at every step would (on the mini"
            f"{made('sampling')})."
        )
    if "training" in reports:
        took = reports["training"]["ratios"]
        out.append(
            f"- From cached latents the trainer makes {took['cached_over_uncached']:.1f} times as many steps a second; "
            f"gradient checkpointing keeps {took['memory_cached_over_checkpointed']:.1f} times less for the backward "
            f"pass (on the mini{made('training')})."
        )
    return "\n".join(out) or "Not measured yet: `python -m benchmarks.results --run`."

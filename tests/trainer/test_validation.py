"""Validation by itself: what it samples with, and what its sheet shows."""

import pytest
from accelerate import Accelerator

from genprop_core.adapters import GenPropAdapters
from genprop_core.base import load_base
from genprop_core.report import comparison, frame_indices
from genprop_core.video_io import read_image, read_video
from trainer import arguments, validation
from trainer.dataset import find_triples


@pytest.fixture
def validator(words, data, base_file):
    def make(**settings):
        args = arguments.parse(words(**settings))
        return validation.Validator(args, find_triples(data / "val"), load_base(base_file), Accelerator(cpu=True))

    return make


@pytest.mark.parametrize("steps,fast,expected", [(2, True, 2), (25, True, 8), (25, False, 25)])
def test_a_fast_one_takes_no_more_steps_than_are_asked_for(validator, steps, fast, expected):
    made = validator(num_inference_steps=steps, fast_validation=fast or None, val_num_frames=2)
    assert made.settings(0, (64, 64)).sampler.steps == expected


def test_the_sheet_shows_some_frames_and_no_others_go_from_process_to_process(validator, tmp_path, monkeypatch):
    sent, gather = [], validation.gather_object
    monkeypatch.setattr(validation, "gather_object", lambda rows: sent.extend(rows) or gather(rows))
    monkeypatch.setattr(validation, "SHEET_FRAMES", 3)
    monkeypatch.setattr(validation, "SHEET_CLIPS", 1)
    made = validator(num_inference_steps=1, val_num_frames=6)
    made.run(GenPropAdapters.from_unet(made.base.unet), "one", 1)
    at = frame_indices(6, 3)
    shown, none = (row["shown"] for row in sent)
    assert none is None and set(shown) == {"source", "result", "truth", "mask"}
    whole = read_video(made.triples[0].source).frames
    assert shown["source"].equal(whole[at]) and all(len(frames) == 3 for frames in shown.values())
    comparison({f"0 {part}": frames for part, frames in shown.items()}, tmp_path / "expected.png", numbers=at)
    assert read_image(tmp_path / "val" / "one" / "sheet.png").equal(read_image(tmp_path / "expected.png"))

"""`python -m genprop_core frame`: the picture that a user edits."""

import torch
from video_clips import clip, encode

from genprop_core.cli import main
from genprop_core.video_io import read_image, read_video


def test_a_frame_is_the_one_that_a_clip_is_read_with(tmp_path, capsys):
    source = encode(tmp_path / "clip.mp4", "libx264", "yuv420p", clip(5))
    frames = read_video(source).frames
    for index in (0, 4):
        assert main(["frame", str(source), str(index), str(tmp_path / "f.png")]) == 0
        assert torch.equal(read_image(tmp_path / "f.png"), frames[index])
    assert "written: " in capsys.readouterr().out
    for index in ("5", "-1"):
        assert main(["frame", str(source), index, str(tmp_path / "none.png")]) == 2
        assert f"Expected a frame from 0 to 4, the last of {source}, got {index}." in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()

"""Every benchmark measured at the smallest size: its report has what the results page and the tables need."""

import json

import pytest

from benchmarks import long_clips, results


def test_long_clips_are_compared_round_by_round(tmp_path, monkeypatch, capsys):
    pytest.importorskip("resource")
    row = long_clips.one(8, 1)
    assert row["frames"] == 8 and row["windows"] == 1 and row["peak"] > row["frames_bytes"] > 8 * 128 * 128 * 3

    def apart(frames, steps):  # the second round is on a busy machine
        busy = 1 + len(asked) // 3
        asked.append(frames)
        return {"windows": frames // 6, "seconds": frames * busy / 10, "peak": 2**30 + frames * 2**20,
                "frames_bytes": frames * 2**20}  # fmt: skip

    asked = []
    monkeypatch.setattr(long_clips, "apart", apart)
    assert long_clips.main(["--rounds", "2", "--json", str(tmp_path / "results" / "long_clips.json")]) == 0
    assert asked == [*long_clips.LENGTHS] * 2
    report = json.loads((tmp_path / "results" / "long_clips.json").read_text())
    assert report["ratios"] == {"seconds_per_frame_longest_over_middle": 1.0, "memory_middle_over_shortest": 1.0,
                                "memory_longest_over_shortest": 1.0}  # fmt: skip
    assert report["seconds"]["200 frames"] == 30 and report["machine"] and report["date"] and report["rounds"] == 2
    assert "time a frame, longest clip / middle one | 1.000" in results.markdown({"long_clips": report}, None)
    assert "## Long clips\n\nNot measured yet: `python -m benchmarks.long_clips`" in results.markdown({}, None)
    capsys.readouterr()

"""The latent cache is worth its disk: on the mini, at least three times the steps per second, and the same losses."""

import json

from benchmarks import latent_cache


def test_three_times_the_steps_per_second_of_encoding_in_the_loop(tmp_path, capsys):
    assert latent_cache.main(["--steps", "3", "--json", str(tmp_path / "cache.json")]) == 0
    found = json.loads((tmp_path / "cache.json").read_text())
    assert found["ratios"]["cached_over_encoded"] >= 3, found
    assert found["difference"] < 1e-5, found
    assert found["machine"] and found["date"] and found["steps"] == 3
    assert "times as many" in capsys.readouterr().out

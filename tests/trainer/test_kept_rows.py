"""Rows of finished clips, kept beside a report for a run that is stopped."""

from trainer.kept_rows import KeptRows


def test_what_a_report_does_not_hold_stays_kept(tmp_path):
    rows, others = KeptRows(tmp_path / "s.json", "key"), KeptRows(tmp_path / "s.json", "other")
    for number in range(3):
        rows.add({"clip": number})
        others.add({"clip": number})
    rows.remove(lambda row: row["clip"] < 2)
    assert [row["clip"] for row in rows.read()] == [2] and len(others.read()) == 3
    rows.remove()
    assert rows.read() == [] and len(others.read()) == 3
    others.remove()
    assert not rows.path.exists()


def test_a_row_that_was_cut_off_costs_only_itself(tmp_path):
    """Killed while it wrote, twice: each time it goes on from the rows that are whole."""
    rows = KeptRows(tmp_path / "s.json", "key")
    for number in range(3):
        rows.add({"clip": number})
        with open(rows.path, "a") as file:
            file.write('{"key": "key", "cl')
        assert [row["clip"] for row in rows.read()] == list(range(number + 1))
    KeptRows(tmp_path / "s.json", "another").add({"clip": 9})
    assert [row["clip"] for row in rows.read()] == [0, 1, 2]

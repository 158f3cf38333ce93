"""Rows of an evaluation that are kept beside its report until it is written, so that a stopped run goes on."""

import json
import os
from pathlib import Path

from genprop_core.files import atomic


class KeptRows:
    """report: the file to come; None keeps nothing. key: of weights and settings; rows with another are left out."""

    def __init__(self, report: Path | None, key: str):
        self.path, self.key = report and report.with_suffix(".partial.jsonl"), key

    def read(self) -> list[dict]:
        """Rows of a run that was stopped; a last line that was cut off is left out."""
        if self.path is None or not self.path.exists():
            return []
        rows = map(_row, self.path.read_text(encoding="utf-8").splitlines())
        return [row for row in rows if row is not None and row.pop("key", None) == self.key]

    def add(self, row: dict):
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a line that was cut off stays one of its own
                        file.write(b"\n")
                file.write((json.dumps({"key": self.key, **row}) + "\n").encode())

    def remove(self, reported=lambda row: True):
        """The report is written: rows of this key that are in it, as reported(row) says, are not needed any more."""
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        rows = [(line, _row(line)) for line in lines]
        left = [line for line, row in rows if row is not None and (row.get("key") != self.key or not reported(row))]
        if left:
            with atomic(self.path) as temporary:
                temporary.write_text("\n".join(left) + "\n", encoding="utf-8")
        else:
            self.path.unlink()


def _row(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:
        return None

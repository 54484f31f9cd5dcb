"""The process that the other library runs in, from this side."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path

from errata.data.case import Case
from speeds.measure import Row
from speeds.pairs import Refused


class Peer:
    """The other process: a line of JSON to it, a line back.

    Attributes:
        file: the matrices its last edit changed. hello: what it said of itself.
    """

    def __init__(self, python: str, task: Path) -> None:
        self.file, self._log = task.with_name("edit.safetensors"), task.with_suffix(".log")
        script = str(Path(__file__).with_name("peer.py"))
        pipes: Row = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": task.parent}
        try:
            with self._log.open("w") as log:  # -B: nothing is written into the checkout
                self._process = subprocess.Popen([python, "-B", script, str(task)], stderr=log, **pipes)
        except OSError as error:
            raise Refused(
                f"--python {python} does not start ({error.strerror}); give the Python EasyEdit runs in."
            ) from error
        self.hello = self._answer()

    def edit(self, case: Case, flops: bool = False) -> Row:
        """Have one fact written; the matrices that changed are then in `file`."""
        assert self._process.stdin is not None
        asked = {"prompt": case.prompt, "target": case.target, "subject": case.subject}
        asked |= {"truth": case.truth or "<|endoftext|>", "file": str(self.file)}
        with suppress(OSError):  # it is gone; then there is no answer either
            self._process.stdin.write(json.dumps({**asked, "flops": flops}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        last = (self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        found: Row = json.loads(line) if line else {"error": last}
        if "error" in found:
            self.close()
            raise Refused(f"EasyEdit did not get through ({found['error']}).")
        return found

    def close(self) -> None:
        """End it: it stops when nothing more is asked."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        self._process.wait()

"""Progress of a download: a bar on a terminal, a line now and then in a log."""

import sys
import time

from errors import size


class Progress:
    """Counts bytes against a total that was stated before the download began."""

    LOG_SECONDS = 10

    def __init__(self, total, stream=None):
        self.total = max(total, 1)
        self.done = 0
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.began = time.monotonic()
        self.shown = 0.0
        self.label = ""

    def start(self, label):
        """Names the file that comes next."""
        self.label = label
        self._show(force=True)

    def add(self, count):
        """`count` more bytes have arrived; negative when some have to be fetched again."""
        self.done += count
        self._show(force=False)

    def finish(self):
        """Ends the bar."""
        self._show(force=True)
        if self.terminal:
            self.stream.write("\n")

    def _show(self, force):
        now = time.monotonic()
        if not force and now - self.shown < (0.1 if self.terminal else self.LOG_SECONDS):
            return
        self.shown = now
        share = min(self.done / self.total, 1.0)
        rate = self.done / max(now - self.began, 1e-3)
        text = f"{size(self.done)} of {size(self.total)} ({share:.0%}, {size(int(rate))}/s) {self.label}"
        if self.terminal:
            filled = int(30 * share)
            self.stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] {text}")
        else:
            self.stream.write(f"set-up: {text}\n")
        self.stream.flush()

"""Lets img2dataset, and `blip2 data fetch` after it, download pictures from a web server on loopback; some cannot be had.

    run_img2dataset.py OUT BLIP2

Leaves OUT/parquet, OUT/webdataset (img2dataset's output formats), OUT/ours and OUT/expected.json: the rows, and by URL the
captions of those that succeed. Every picture's fate is known from its number; see `answer`. Touches no other network.
"""

import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# albumentations would ask the package index for newer versions of itself.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

import pyarrow as pa
import pyarrow.parquet as pq
from img2dataset import download
from PIL import Image

PICTURES = 300
ROWS_PER_SHARD = 120
WEB_PAGE = b"<!doctype html><title>This picture has moved</title>"


def picture(number, kind):
    """A picture of its own size and colours."""
    image = Image.linear_gradient("L").resize((40 + number % 50, 90 - number % 50))
    image = Image.merge("RGB", (image, image.rotate(180), Image.new("L", image.size, number % 256)))
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def answer(number):
    """Status, MIME type and body; None for the body of a picture that cannot be had."""
    if number % 10 == 3:
        return 404, "text/html", None
    if number % 15 == 4:
        return 200, "image/jpeg", None
    if number % 25 == 6:
        # A picture under a wrong name and type is a picture.
        return 200, "text/plain", picture(number, "PNG")
    return 200, "image/jpeg", picture(number, "JPEG")


class Handler(BaseHTTPRequestHandler):
    """Serves /N.jpg."""

    def do_GET(self):
        if self.path == "/robots.txt":
            self.send_error(404)
            return
        status, mime, body = answer(int(self.path.strip("/").split(".")[0]))
        body = WEB_PAGE if body is None else body
        self.send_response(status)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""


def main():
    """Serves, downloads twice, writes what is expected."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.INFO)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{number}.jpg" for number in range(PICTURES)]
    captions = [f"Picture number {number}, with \u201cquotes\u201d" for number in range(PICTURES)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), out / "urls.parquet")
    for output_format in ("parquet", "webdataset"):
        download(
            url_list=str(out / "urls.parquet"), input_format="parquet", url_col="url", caption_col="caption",
            output_folder=str(out / output_format), output_format=output_format, image_size=64,
            resize_mode="keep_ratio", number_sample_per_shard=ROWS_PER_SHARD, processes_count=1, thread_count=8,
        )
    subprocess.run(
        [sys.argv[2], "data", "fetch", out / "urls.parquet", "--out", out / "ours", "--image-size", "64",
         "--resize-mode", "keep_ratio", "--shard-rows", "100", "--part-rows", "100", "--allow-private-addresses",
         "--host-delay-ms", "0"],
        check=True,
    )
    server.shutdown()
    good = [number for number in range(PICTURES) if answer(number)[2] is not None]
    expected = {"rows": PICTURES, "captions": {urls[number]: captions[number] for number in good}}
    (out / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()

"""Opens a folder of downloaded shards with what people read img2dataset's output with, and checks what they see.

    read_fetched.py FOLDER [ROWS SUCCESSES [OTHER]]

img2dataset's own Reader, pandas and Hugging Face datasets; the schema is that of img2dataset's `parquet` output. Prints
the counts as JSON; exit status 1 on the first difference. With OTHER, another download of the same URLs, what both know of
each URL must be the same. Touches no network.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from img2dataset.reader import Reader
from PIL import Image

# img2dataset 1.47, writer.py and downloader.py: what stands in front of these are columns that the user asked to keep.
COLUMNS = {
    "caption": pa.string(), "url": pa.string(), "key": pa.string(), "status": pa.string(),
    "error_message": pa.string(), "width": pa.int32(), "height": pa.int32(), "original_width": pa.int32(),
    "original_height": pa.int32(), "exif": pa.string(), "sha256": pa.string(), "jpg": pa.binary(),
}
STATUS = {"success", "failed_to_download", "failed_to_resize"}


def expect(found, expected, what):
    if found != expected:
        sys.exit(f"FAIL {what}: found {found!r}, expected {expected!r}")


def check_schema(path):
    """The columns of one shard, in their order, and its row groups of 100 rows."""
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    expect(names[-len(COLUMNS):], list(COLUMNS), f"{path}: columns")
    for name, kind in COLUMNS.items():
        expect(file.schema_arrow.field(name).type, kind, f"{path}: type of {name}")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    expect(set(rows[:-1]) - {100}, set(), f"{path}: rows per row group")


def check_rows(table, path):
    """Status, pictures and captions of one shard as pandas sees them."""
    expect(set(table["status"]) - STATUS, set(), f"{path}: status")
    good = table[table["status"] == "success"]
    expect(int(good["jpg"].isna().sum()), 0, f"{path}: rows of status success without a picture")
    expect(int(table["jpg"].notna().sum()), len(good), f"{path}: pictures")
    expect(int(good["error_message"].notna().sum()), 0, f"{path}: successes with an error message")
    expect(table["key"].is_unique, True, f"{path}: keys are unique")
    for row in good.itertuples():
        with Image.open(io.BytesIO(row.jpg)) as image:
            image.load()
            expect((image.size, image.format), ((row.width, row.height), "JPEG"), f"{path}: picture {row.key}")


def rows_of_reader(folder):
    """Rows that img2dataset would read as its input, in shards of 50."""
    with tempfile.TemporaryDirectory() as temporary:
        reader = Reader(str(folder), "parquet", "url", "caption", None, None, ["key"], 50, set(), temporary)
        rows = 0
        for _, shard in reader:
            with pa.ipc.open_file(shard) as file:
                rows += file.read_all().num_rows
    return rows


def rows_of_datasets(paths):
    """Rows that Hugging Face datasets loads."""
    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], cache_dir=cache)
        return loaded["train"].num_rows


def by_url(folder):
    """What a download knows of each URL, besides the picture as it was encoded."""
    table = pd.concat(pd.read_parquet(path) for path in sorted(Path(folder).glob("*.parquet")))
    # Ours keeps the hash of a download that is no picture, for blocklists; img2dataset does not.
    table.loc[table["status"] != "success", "sha256"] = None
    known = ["caption", "status", "width", "height", "original_width", "original_height", "sha256"]
    return table.set_index("url")[known].sort_index()


def main():
    folder = Path(sys.argv[1])
    paths = sorted(folder.glob("*.parquet"))
    expect(bool(paths), True, f"{folder}: shards")
    rows = successes = 0
    for path in paths:
        check_schema(path)
        table = pd.read_parquet(path)
        check_rows(table, path)
        rows += len(table)
        successes += int((table["status"] == "success").sum())
        stats = json.loads(path.with_name(path.stem + "_stats.json").read_text())
        expect((stats["count"], stats["successes"]), (len(table), int((table["status"] == "success").sum())),
               f"{path}: its _stats.json")
    expect(rows_of_reader(folder), rows, "rows that img2dataset's Reader reads")
    expect(rows_of_datasets(paths), rows, "rows that datasets loads")
    if sys.argv[2:]:
        expect([rows, successes], [int(word) for word in sys.argv[2:4]], "rows and successes")
    if sys.argv[4:]:
        pd.testing.assert_frame_equal(by_url(folder), by_url(sys.argv[4]))
    print(json.dumps({"shards": len(paths), "rows": rows, "successes": successes}))


if __name__ == "__main__":
    main()

"""Opens a synthetic corpus with pandas, pyarrow and Hugging Face datasets and checks what they see.

    python3 -m venv venv && venv/bin/pip install pandas pyarrow datasets pillow
    blip2 data synth --out CORPUS --scenes 20000
    venv/bin/python tests/peers/read_shards.py CORPUS [ROWS_TO_DECODE]

Checks row counts against corpus.json, the SHA-256 of every shard, column names and types, that every image decodes with
Pillow to the stated size, and that `datasets` loads all splits with the same rows. Exit status 1 on the first
difference. Touches no network.
"""

import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

COLUMNS = [
    "captions", "questions", "scene", "caption", "url", "key", "status", "error_message",
    "width", "height", "original_width", "original_height", "exif", "sha256", "jpg",
]
INT_COLUMNS = {"width", "height", "original_width", "original_height"}


def expect(found, expected, what):
    if found != expected:
        sys.exit(f"FAIL {what}: found {found!r}, expected {expected!r}")


def check_schema(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    expect(schema.names, COLUMNS, f"{path}: columns")
    for name in COLUMNS[2:-1]:
        expect(schema.field(name).type, pa.int32() if name in INT_COLUMNS else pa.string(), f"{path}: type of {name}")
    expect(schema.field("jpg").type, pa.binary(), f"{path}: type of jpg")
    expect(schema.field("captions").type.value_type, pa.string(), f"{path}: type of captions")
    questions = schema.field("questions").type.value_type
    expect([field.name for field in questions], ["question", "answer", "kind"], f"{path}: fields of questions")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    expect({group.num_rows for group in groups[:-1]} - {100}, set(), f"{path}: rows per row group")
    expect(groups[0].column(groups[0].num_columns - 1).compression, "UNCOMPRESSED", f"{path}: compression of jpg")


def check_rows(table, image_size, rows_to_decode, path):
    from PIL import Image

    expect(set(table["status"]), {"success"}, f"{path}: status")
    expect(table["key"].is_unique, True, f"{path}: unique keys")
    for row in table.head(rows_to_decode).itertuples():
        image = Image.open(io.BytesIO(row.jpg))
        image.load()
        expect((image.format, image.mode, image.size), ("JPEG", "RGB", (image_size, image_size)), f"{path} {row.key}")
        expect((row.width, row.height), image.size, f"{path} {row.key}: stated size")
        expect(hashlib.sha256(row.jpg).hexdigest(), row.sha256, f"{path} {row.key}: sha256")
        expect(row.captions[0], row.caption, f"{path} {row.key}: first caption")
        expect(len(json.loads(row.scene)["objects"]) in range(1, 5), True, f"{path} {row.key}: objects")
        expect(all(q["question"] and q["answer"] for q in row.questions), True, f"{path} {row.key}: questions")


def main():
    import pandas as pd

    root = Path(sys.argv[1])
    rows_to_decode = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    corpus = json.loads((root / "corpus.json").read_text())
    files = {}
    for split in corpus["splits"]:
        files[split["name"]] = [str(root / shard["name"]) for shard in split["shards"]]
        whole = pd.read_parquet(root / split["name"], columns=["caption"])
        expect(len(whole), split["scenes"], f"{split['name']}: rows of the whole folder")
        for shard in split["shards"]:
            path = root / shard["name"]
            expect(hashlib.sha256(path.read_bytes()).hexdigest(), shard["sha256"], f"{path}: sha256")
            check_schema(path)
            table = pd.read_parquet(path)
            expect(len(table), shard["rows"], f"{path}: rows")
            check_rows(table, corpus["options"]["image_size"], rows_to_decode, path)
    print(f"ok   pandas {pd.__version__}: {sum(map(len, files.values()))} shards")

    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
        for split in corpus["splits"]:
            part = loaded[split["name"]]
            expect(part.num_rows, split["scenes"], f"datasets: rows of {split['name']}")
            expect(part.column_names, COLUMNS, f"datasets: columns of {split['name']}")
        images = loaded["train"].select(range(min(10, loaded["train"].num_rows)))
        images = images.cast_column("jpg", datasets.Image())
        expect(images[0]["jpg"].size, (corpus["options"]["image_size"],) * 2, "datasets: size of a decoded image")
        print(f"ok   datasets {datasets.__version__}: {[(name, part.num_rows) for name, part in loaded.items()]}")


if __name__ == "__main__":
    main()

"""Races the data path against Python input pipelines on the same shards, in turn, and writes one JSON object.

    make bench                                            sets everything up and runs this
    .deps/python-bench/bin/python tests/peers/bench_data.py --pairs 5 --json docs/benchmarks/data-path.json

Two sets of shards: photo-like JPEGs of 256 pixels (loader_baseline.py --make) and scenes of 64 pixels (blip2 data
synth). Every pipeline does RandomResizedCrop(224, 0.5-1, bicubic), flip, float32, normalise, batches of 64, with one
worker or decode thread. Ours and a peer run in turn; the ratio is taken pair by pair. The number to compare on a
shared machine is images per CPU second (user + system, all threads and workers).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile

from racing import processor, run

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BLIP2 = os.path.join(TOP, "target/release/blip2")
# Our loader reads ahead past the last batch that is taken; several passes make that share small.
PASSES = 3
PEERS = [
    ("webdataset + PIL", "webdataset", "pil"),
    ("parquet + PIL", "parquet", "pil"),
    ("parquet + torchvision", "parquet", "torchvision"),
]


def ours(shards, images, resize):
    """Images per CPU second and per second of `blip2 bench data`."""
    command = [BLIP2, "bench", "data", shards, "--images", str(PASSES * images), "--threads", "1", "--resize", resize, "--json"]
    found = json.loads(run(command))
    return found["images_per_cpu_second"], found["images_per_second"], found["peak_resident_mib"]


def theirs(shards, kind, decode):
    """The same of a Python pipeline."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        run([sys.executable, os.path.join(HERE, "loader_baseline.py"), "--kind", kind, "--decode", decode, "--shards",
             shards, "--workers", "1", "--threads", "1", "--json", out.name])
        found = json.load(out)
    return found["images_per_cpu_second"], found["images_per_second"], None


def race(name, left, right, pairs):
    """Runs two pipelines in turn and compares them pair by pair."""
    left(), right()  # warm-up: the page cache holds the shards for both
    runs = [(left(), right()) for _ in range(pairs)]
    rows = []
    for index, unit in ((0, "images per CPU second"), (1, "images per second")):
        mine, peer = [a[index] for a, _ in runs], [b[index] for _, b in runs]
        ratios = sorted(a / b for a, b in zip(mine, peer))
        rows.append({
            "name": name[0], "peer_name": name[1], "unit": unit, "ours": statistics.median(mine),
            "peer": statistics.median(peer), "ratio_median": statistics.median(ratios),
            "ratio_interval": [ratios[0], ratios[-1]], "pairs": pairs,
            "peak_resident_mib": max(a[2] for a, _ in runs),
        })
        print(f"{name[0]:24} vs {name[1]:24} {rows[-1]['ours']:7.0f} / {rows[-1]['peer']:6.0f} {unit}, "
              f"ratio {rows[-1]['ratio_median']:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})", flush=True)
    return rows


def main():
    """Makes the shards, races, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photos, scenes = os.path.join(folder, "photos"), os.path.join(folder, "scenes")
        print("making shards", flush=True)
        run([sys.executable, os.path.join(HERE, "loader_baseline.py"), "--make", photos, "--count", str(options.images)])
        run([BLIP2, "data", "synth", "--out", scenes, "--scenes", str(options.images), "--test-scenes", "0",
             "--shard-rows", "500"])
        for peer, kind, decode in PEERS:
            rows += race(("256-px photos", peer), lambda: ours(photos, options.images, "fast"),
                         lambda kind=kind, decode=decode: theirs(photos, kind, decode), options.pairs)
        rows += race(("256-px photos, exact", PEERS[0][0]), lambda: ours(photos, options.images, "pillow_exact"),
                     lambda: theirs(photos, "webdataset", "pil"), options.pairs)
        train = os.path.join(scenes, "train")
        for peer, kind, decode in PEERS[1:2]:
            rows += race(("64-px scenes", peer), lambda: ours(train, options.images, "fast"),
                         lambda kind=kind, decode=decode: theirs(train, kind, decode), options.pairs)
    answer = {"schema_version": 1, "command": "make bench", "machine": processor(), "rows": rows}
    if options.json:
        with open(options.json + ".tmp", "w", encoding="utf-8") as file:
            json.dump(answer, file, indent=1)
            file.write("\n")
        os.replace(options.json + ".tmp", options.json)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Races `blip2 bench data` against Python input pipelines on the same shards, in turn, and writes one JSON object.

    make bench                                            sets everything up and runs this
    .deps/python-bench/bin/python tests/peers/bench_data.py --pairs 5 --json docs/benchmarks/data-path.json

Three sets of shards: photo-like JPEGs of 256 and of 768 pixels (loader_baseline.py --make) and scenes of 64 pixels
(blip2 data synth). Every pipeline does RandomResizedCrop(224, 0.5-1, bicubic), flip, float32, normalise, batches of
64, with one worker or decode thread unless the row says otherwise. Ours and a peer run in turn; the ratio is taken
pair by pair. The number to compare on a shared machine is images per CPU second (user + system, all threads and
workers).

Both sides count the images that were delivered and all processor time, also that of work that was begun and not
delivered. A peer's pipeline ends with its shards; our loader never ends and is stopped with up to five batches and
the row groups that fit its memory read ahead. So ours reads the shards several times (--passes), like an epoch of
more data, and its memory is set to little more than what the windows need (MEMORY_MB), so that little is read in vain. Ours opens the shards before its clock starts, a peer opens them after, which costs it a few
milliseconds.
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
BLIP2 = os.environ.get("BLIP2", os.path.join(TOP, "target/release/blip2"))
# The least that 8 lanes x 4 row groups, 8 reads and 5 batches may take, and some more.
MEMORY_MB = {"photos": 512, "large": 1024, "scenes": 512}
PEERS = [
    ("webdataset + PIL", "webdataset", "pil"),
    ("parquet + PIL", "parquet", "pil"),
    ("parquet + torchvision", "parquet", "torchvision"),
]


def ours(shards, images, memory, resize="fast", threads=1):
    """Images per CPU second and per second of `blip2 bench data`, and its largest resident size."""
    command = [BLIP2, "bench", "data", shards, "--images", str(images), "--threads", str(threads), "--resize", resize,
               "--memory-mb", str(memory), "--json"]
    found = json.loads(run(command))
    return found["images_per_cpu_second"], found["images_per_second"], found["peak_resident_mib"]


def theirs(shards, kind, decode):
    """The same of a Python pipeline."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        run([sys.executable, os.path.join(HERE, "loader_baseline.py"), "--kind", kind, "--decode", decode, "--shards",
             shards, "--workers", "1", "--threads", "1", "--json", out.name])
        found = json.load(out)
    return found["images_per_cpu_second"], found["images_per_second"], None


def race(name, memory, left, right, pairs):
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
            "ratio_interval": [ratios[0], ratios[-1]], "pairs": pairs, "memory_mb": memory,
            "peak_resident_mib": max(a[2] for a, _ in runs),
        })
        print(f"{name[0]:24} vs {name[1]:24} {rows[-1]['ours']:7.0f} / {rows[-1]['peer']:6.0f} {unit}, "
              f"ratio {rows[-1]['ratio_median']:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}), "
              f"at most {rows[-1]['peak_resident_mib']} MiB of {memory}", flush=True)
    return rows


def make(folder, options):
    """The shards by name."""
    shards = {name: os.path.join(folder, name) for name in ("photos", "large", "scenes")}
    baseline = [sys.executable, os.path.join(HERE, "loader_baseline.py")]
    run(baseline + ["--make", shards["photos"], "--count", str(options.images)])
    run(baseline + ["--make", shards["large"], "--count", str(options.large_images), "--short", "768", "--quality", "90"])
    run([BLIP2, "data", "synth", "--out", shards["scenes"], "--scenes", str(options.images), "--test-scenes", "0",
         "--shard-rows", "500"])
    shards["scenes"] = os.path.join(shards["scenes"], "train")
    return shards


def races():
    """What is raced: a name, the set of shards, how ours runs, and the peer."""
    peer = {name: (name, kind, decode) for name, kind, decode in PEERS}
    first = peer["webdataset + PIL"]
    for one in PEERS:
        yield "256-px photos", "photos", {}, one
    yield "256-px photos, exact", "photos", {"resize": "pillow_exact"}, first
    yield "768-px photos", "large", {}, first
    yield "768-px photos", "large", {}, peer["parquet + torchvision"]
    yield "768-px photos, scaled", "large", {"resize": "scaled"}, first
    yield "768-px photos, exact", "large", {"resize": "pillow_exact"}, first
    yield "64-px scenes", "scenes", {}, peer["parquet + PIL"]


def main():
    """Makes the shards, races, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--large-images", type=int, default=500)
    parser.add_argument("--passes", type=int, default=8, help="how often ours reads the shards in one run")
    parser.add_argument("--only", default="", help="only races whose names hold this text")
    parser.add_argument("--shards", metavar="DIR", help="shards of an earlier --keep; none are made")
    parser.add_argument("--keep", metavar="DIR", help="make the shards here and leave them")
    parser.add_argument("--json", metavar="OUT")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = options.shards or options.keep or folder
        if options.shards:
            shards = {name: os.path.join(folder, name) for name in ("photos", "large")}
            shards["scenes"] = os.path.join(folder, "scenes/train")
        else:
            print("making shards", flush=True)
            shards = make(folder, options)
        counts = {"photos": options.images, "large": options.large_images, "scenes": options.images}
        for name, set_name, how, (peer_name, kind, decode) in races():
            if options.only not in f"{name} vs {peer_name}":
                continue
            place, memory, images = shards[set_name], MEMORY_MB[set_name], counts[set_name] * options.passes
            rows += race((name, peer_name), memory, lambda: ours(place, images, memory, **how),
                         lambda: theirs(place, kind, decode), options.pairs)
        if options.only in "256-px photos, 2 threads vs ours, 1 thread":
            place, images, memory = shards["photos"], options.images * options.passes, MEMORY_MB["photos"]
            rows += race(("256-px photos, 2 threads", "ours, 1 thread"), memory,
                         lambda: ours(place, images, memory, threads=2), lambda: ours(place, images, memory),
                         options.pairs)
    answer = {"schema_version": 1, "command": "make bench", "machine": processor(), "rows": rows}
    if options.json:
        with open(options.json + ".tmp", "w", encoding="utf-8") as file:
            json.dump(answer, file, indent=1)
            file.write("\n")
        os.replace(options.json + ".tmp", options.json)


if __name__ == "__main__":
    main()

"""Races our training step against the PyTorch step of tests/peers/pytorch_step on the same sizes, in turn.

    make bench                                            sets everything up and runs this, too
    .deps/python-bench/bin/python tests/peers/bench_step.py --pairs 5 --json docs/benchmarks/step.json

Both have random weights and inputs of the `mid` sizes (tower 12 x 384, Q-Former 6 x 384, OPT 6 x 512, 224 pixels), the same
libtorch, float32, dropout 0.1 on both sides, and as many threads. A pair is one process of each; the ratio of their median
steps is taken pair by pair. "same work": captions of 32 tokens, every image's keys and values projected at each use, on both
sides; "projected once": the same, once on both sides. "as trained": captions of 6 to 32 tokens; ours pads to the longest of
the batch and projects keys and values once, the peer pads to 32 and projects them at each use, as the published code does.
Then the exact reduction against the library's all-reduce: two ranks over MPI that take every step both ways, in turn. Last,
not a race: bytes that ranks receive in worlds of 2, 4 and 8, and what the memory of a rank is made of.
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
PEER = os.path.join(HERE, "pytorch_step", "pytorch_step.py")

RACES = [
    # name, stage, our options, the peer's options
    ("stage 1, same work", 1, ["--fixed-text", "--project-each-use"], ["--caption-len", "fixed"]),
    ("stage 1, projected once", 1, ["--fixed-text"], ["--caption-len", "fixed", "--reuse-image-kv"]),
    ("stage 1, as trained", 1, [], ["--caption-len", "uniform"]),
    ("stage 2, same work", 2, ["--fixed-text"], ["--caption-len", "fixed"]),
    ("stage 2, as trained", 2, [], ["--caption-len", "uniform"]),
]


def ours(args, stage, options):
    """Median step and its processor time in seconds, and peak memory in bytes."""
    command = [BLIP2, "bench", "step", "--threads", str(args.threads), "--", "--stage", str(stage), "--batch", str(args.batch),
               "--steps", str(args.steps), "--warmup", str(args.warmup), "--attention", args.attention, *options]
    found = json.loads(run(command))
    side = found["sides"][0]
    return statistics.median(side["step_seconds"]), statistics.median(side["step_cpu_seconds"]), found["peak_memory_bytes"]


def theirs(args, stage, options):
    """The same of the peer."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        run([sys.executable, PEER, "--preset", "mid", "--stage", str(stage), "--batch", str(args.batch), "--steps", str(args.steps),
             "--warmup", str(args.warmup), "--threads", str(args.threads), "--peak-tflops", "1", "--json", out.name, *options])
        found = json.load(out)
    return found["median_step_seconds"], found["median_cpu_seconds"], found["peak_memory_bytes"]


def row(name, peer_name, mine, peer, batch):
    """Images per second of both, and the ratio pair by pair."""
    ratios = sorted(b / a for a, b in zip(mine, peer))
    found = {
        "name": name, "peer_name": peer_name, "unit": "images/s", "ours": batch / statistics.median(mine),
        "peer": batch / statistics.median(peer), "ratio_median": statistics.median(ratios),
        "ratio_interval": [ratios[0], ratios[-1]], "pairs": len(ratios),
    }
    print(f"{name:24} vs {peer_name:28} {found['ours']:6.2f} / {found['peer']:6.2f} images/s, "
          f"ratio {found['ratio_median']:.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}, {len(ratios)} pairs)", flush=True)
    return found


def reductions(args):
    """The exact reduction beside the library's all-reduce, step by step in the same processes."""
    found = json.loads(run([BLIP2, "bench", "step", "--ranks", "2", "--", "--batch", str(args.batch), "--steps",
                            str(args.reduction_steps), "--warmup", str(args.warmup), "--compare-reductions"]))
    exact, library = (side["step_seconds"] for side in found["sides"])
    costs = sorted(a / b - 1 for a, b in zip(exact, library))
    # The interval of the median that 95 % of samples of this size would hold: order statistics of a binomial.
    n = len(costs)
    half = 0.98 * n ** 0.5
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(n / 2 + half))
    result = {
        "name": "exact reduction", "peer_name": "MPI all-reduce", "unit": "share of a step",
        "ours": statistics.median(exact), "peer": statistics.median(library), "ratio_median": 1 + statistics.median(costs),
        "ratio_interval": [1 + costs[low], 1 + costs[high]], "pairs": n,
    }
    print(f"exact reduction costs {100 * statistics.median(costs):+.2f} % of a step against MPI's all-reduce "
          f"(95 % interval of the median {100 * costs[low]:+.2f} to {100 * costs[high]:+.2f} %, {n} pairs)", flush=True)
    return result


def traffic(args):
    """Bytes that a rank receives in one step, by the size of the world."""
    found = json.loads(run([BLIP2, "bench", "step", "--", "--count-traffic", "--batch", str(args.traffic_images)]))["rows"]
    print(f"received by a rank in one step, MB, {args.traffic_images} images on each:")
    print("ranks  drawn images  one slice  all images, were they gathered  gradients  features, texts and weights")
    for it in found:
        sizes = [it[name] / 1e6 for name in ("negatives_bytes", "bytes_of_one_slice", "gather_of_all_images_bytes",
                                             "gradients_bytes", "gathered_bytes")]
        print(f"{it['world_size']:5}  {sizes[0]:12.3f}  {sizes[1]:9.3f}  {sizes[2]:30.3f}  {sizes[3]:9.1f}  {sizes[4]:26.1f}", flush=True)
    return found


def memory(args):
    """What a rank's memory is made of, for both stages, in f32."""
    rows = []
    for stage in (1, 2):
        found = json.loads(run([BLIP2, "bench", "step", "--threads", str(args.threads), "--", "--stage", str(stage), "--batch",
                                str(args.batch), "--steps", "3", "--warmup", "1", "--fixed-text"]))["memory_bytes"]
        rows.append({"stage": stage, **found})
        print(f"stage {stage}, MiB: " + ", ".join(f"{name} {size / 2**20:.0f}" for name, size in found.items()), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--traffic-images", type=int, default=4, help="on each rank, for the count of bytes")
    parser.add_argument("--reduction-steps", type=int, default=30)
    parser.add_argument("--attention", default="math", choices=("math", "flash"), help="ours")
    parser.add_argument("--only", help="races whose name holds this")
    parser.add_argument("--json", metavar="OUT")
    args = parser.parse_args()
    rows = []
    for name, stage, mine, peers in RACES:
        if args.only and args.only not in name:
            continue
        pairs = [(ours(args, stage, mine), theirs(args, stage, peers)) for _ in range(args.pairs)]
        rows.append(row(name, "PyTorch", [a[0] for a, _ in pairs], [b[0] for _, b in pairs], args.batch))
        rows.append(row(name + ", processor time", "PyTorch", [a[1] for a, _ in pairs], [b[1] for _, b in pairs], args.batch))
        rows[-2]["peak_memory_bytes"] = {"ours": max(a[2] for a, _ in pairs), "peer": max(b[2] for _, b in pairs)}
    if not args.only or args.only in "exact reduction":
        rows.append(reductions(args))
    counted = {} if args.only else {"traffic": traffic(args), "memory": memory(args)}
    if args.json:
        report = {"schema_version": 1, "command": " ".join(["tests/peers/bench_step.py", *sys.argv[1:]]), "machine": processor(),
                  "settings": vars(args), "rows": rows, **counted}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()

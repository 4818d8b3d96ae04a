"""Trains a small run for thousands of steps over two MPI ranks and watches the memory of every rank.

    python3 tests/peers/soak.py --json docs/benchmarks/soak.json --svg docs/benchmarks/soak.svg

Needs `make build` and the standard library alone. Exits with 1 when memory grew: when the median of the last fifth of the samples
is more than 1 % above the median of the second fifth (the first one is warm-up). What is resident is watched from outside, for
every rank; what rank 0 holds of its heap stands in its metrics.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BLIP2 = os.path.join(TOP, "target/release/blip2")

SMALL = [
    "data.sources[0].scenes=2000", "data.sources[0].test_scenes=4", "data.sources[0].shard_rows=500", "data.lanes=4",
    "data.shuffle_window_row_groups=1", "model.image_encoder.width=32", "model.image_encoder.depth=2",
    "model.image_encoder.mlp_dim=64", "model.image_encoder.pretrain.steps=4", "model.image_encoder.pretrain.batch=4",
    "model.language_model.hidden_dim=32", "model.language_model.depth=1", "model.language_model.mlp_dim=64",
    "model.language_model.pretrain.steps=4", "model.language_model.pretrain.batch=4", "model.qformer.hidden_dim=32",
    "model.qformer.depth=2", "model.qformer.mlp_dim=64", "model.qformer.projection_dim=16", "model.qformer.dropout=0.1",
    "stages.representation.global_batch=8", "stages.representation.slices=4", "stages.generative.global_batch=8",
    "stages.generative.slices=4", "stages.generative.lr_schedule.warmup_steps=2", "checkpoint.every_steps=1000", "metrics.every_steps=100",
]


def resident_bytes(pid):
    """The resident size of a process; none when it has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None


def rank_pids(folder, ranks):
    """Process ids of the ranks, as they noted them."""
    pids = []
    for rank in range(ranks):
        try:
            with open(os.path.join(folder, f"launch/rank-{rank}.pid"), encoding="utf-8") as file:
                pids.append(json.load(file)["pid"])
        except (OSError, ValueError):
            return []
    return pids


def last_record(folder):
    """The last line of the metrics: its stage, its step, and the bytes that rank 0 holds of its heap."""
    record = None
    metrics = os.path.join(folder, "metrics")
    for name in sorted(os.listdir(metrics)) if os.path.isdir(metrics) else []:
        with open(os.path.join(metrics, name), "rb") as file:
            for line in file.read().splitlines()[-1:]:
                try:
                    found = json.loads(line)
                    record = (found.get("stage_index", 1), found.get("step", 0), found.get("heap_in_use_mib", 0) * 2**20)
                except ValueError:
                    pass
    return record


def grown(name, early, late):
    """A row of the result, which is printed, too."""
    grew = late > 1.01 * early
    print(f"{name}: {early / 2**20:.1f} MiB in the second fifth, {late / 2**20:.1f} MiB in the last"
          f"{': it GREW' if grew else ''}", flush=True)
    return {"name": name, "early_bytes": early, "late_bytes": late, "grew": grew}


def plot(samples, names):
    """The samples as an SVG picture, a line for each of the names."""
    width, height, left, bottom = 800, 320, 70, 40
    end = max(time for time, _ in samples) or 1
    top = max(max(sizes) for _, sizes in samples) * 1.15
    x = lambda t: left + t / end * (width - left - 20)
    y = lambda b: height - bottom - b / top * (height - bottom - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        size = top * share
        out.append(f'<line x1="{left}" x2="{width - 20}" y1="{y(size):.1f}" y2="{y(size):.1f}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(size) + 4:.1f}" text-anchor="end">{size / 2**20:.0f} MiB</text>')
        out.append(f'<text x="{x(end * share):.1f}" y="{height - bottom + 18}" text-anchor="middle">{end * share:.0f} s</text>')
    for place, (name, colour) in enumerate(zip(names, ("#1f77b4", "#d62728", "#2ca02c", "#9467bd"))):
        points = " ".join(f"{x(t):.1f},{y(sizes[place]):.1f}" for t, sizes in samples)
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
                   f'<text x="{left + 10 + 150 * place}" y="34" fill="{colour}">{name}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000, help="of stage 1")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--svg", metavar="OUT")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = os.path.join(folder, "run")
        sets = SMALL + [
            f"run.output={run}", f"data.sources[0].uri={folder}/shards", f"stages.representation.steps={args.steps}",
            "stages.generative.steps=10", f"model.image_encoder.weights.uri={folder}/image_encoder.safetensors",
            f"model.language_model.weights.uri={folder}/language_model.safetensors", f"cluster.ranks_per_node={args.ranks}",
        ]
        command = [BLIP2, "launch", "tiny"] + [word for text in sets for word in ("--set", text)]
        with open(os.path.join(folder, "log"), "w", encoding="utf-8") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log)
            samples, began = [], time.monotonic()
            while child.poll() is None:
                sizes = [resident_bytes(pid) for pid in rank_pids(run, args.ranks)]
                record = last_record(run)
                if sizes and None not in sizes and record and record[:2] != (1, 0):
                    samples.append((time.monotonic() - began, sizes + [record[2]]))
                    if sys.stderr.isatty():
                        print(f"\rstep {record[1]} of {args.steps}", end="", file=sys.stderr)
                time.sleep(args.every)
        if child.returncode != 0:
            with open(os.path.join(folder, "log"), encoding="utf-8") as log:
                sys.exit(f"{' '.join(command)} failed with {child.returncode}:\n{log.read()[-3000:]}")
    if len(samples) < 20:
        sys.exit(f"found {len(samples)} samples; expected at least 20: take more steps, or samples more often")
    fifth = len(samples) // 5
    names = [f"rank {rank}, resident" for rank in range(args.ranks)] + ["rank 0, heap in use"]
    median = lambda part, place: statistics.median(sizes[place] for _, sizes in part)
    rows = [grown(name, median(samples[fifth:2 * fifth], place), median(samples[-fifth:], place))
            for place, name in enumerate(names)]
    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as file:
            file.write(plot(samples, names))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "steps": args.steps, "ranks": args.ranks, "samples": len(samples), "rows": rows}, file,
                      indent=1)
            file.write("\n")
    sys.exit(1 if any(row["grew"] for row in rows) else 0)


if __name__ == "__main__":
    main()

"""Trains the demo's ablations with several seeds each, scores them and draws the table: docs/ablations.md.

    target/release/blip2 demo                     the towers and shards that all of them share
    python3 tests/peers/ablations.py --json docs/benchmarks/ablations.json --svg docs/benchmarks/ablations.svg

Needs `make build` and the standard library alone. A run that was trained and scored is not trained again, so the same command
continues after it was ended. Exits with 1 when a run or an evaluation fails.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from racing import processor

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BLIP2 = os.path.join(TOP, "target/release/blip2")
SHORT = ["stages.generative.steps=100", "stages.generative.lr_schedule.warmup_steps=10"]
# Name, what it is, the preset, and what is set besides; {runs} and {seed} are filled in.
ABLATIONS = {
    "tiny": ("all of it", "tiny", []),
    "ablation_without_itg": ("without ITG", "ablation_without_itg", []),
    "ablation_without_stage1": ("without stage 1", "ablation_without_stage1", []),
    "short": ("100 steps of stage 2, after stage 1", "ablation_without_stage1",
              [*SHORT, "model.start_from.uri={runs}/tiny-{seed}/stage1"]),
    "short_without_stage1": ("100 steps of stage 2 alone", "ablation_without_stage1", SHORT),
    "ablation_without_itc": ("without ITC", "ablation_without_itc", []),
    "ablation_without_itm": ("without ITM", "ablation_without_itm", []),
    "ablation_num_query_tokens_2": ("2 queries", "ablation_num_query_tokens_2", []),
    "ablation_num_query_tokens_16": ("16 queries", "ablation_num_query_tokens_16", []),
    "ablation_cross_attention_every_1": ("cross-attention in every layer", "ablation_cross_attention_every_1", []),
    "ablation_cross_attention_every_4": ("cross-attention in the first layer", "ablation_cross_attention_every_4", []),
}
# Name, and where it stands in the evaluations of a split; in percent but for CIDEr, which is out of 10 x 100.
COLUMNS = {
    "ITC R@1": lambda of: both_ways(of["retrieval"]["metrics"]["itc"]),
    "ITM R@1": lambda of: both_ways(of["retrieval"]["metrics"]["itm"]),
    "CIDEr": lambda of: 100 * of["caption"]["metrics"]["cider"],
    "pairs": lambda of: next(row["score"] for row in of["caption"]["rows"] if row["name"] == "pair, all objects"),
}


def both_ways(recalls):
    """Mean of R@1 of both directions."""
    return (recalls["image_to_text"]["r1"] + recalls["text_to_image"]["r1"]) / 2


def run(command, log):
    """The command's standard output; what it says on the way goes to the log."""
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, stderr=file, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}; see {log}")
    return done.stdout


def scored(folder, name, seed):
    """Evaluations of a run by split and task; trains it first when it is new."""
    _, preset, more = ABLATIONS[name]
    output = os.path.join(folder, f"{name}-{seed}")
    kept = output + ".json"
    if os.path.exists(kept):
        with open(kept, encoding="utf-8") as file:
            return json.load(file)
    log = output + ".log"
    sets = [f"run.seed={seed}", f"run.output={output}", *(text.format(runs=folder, seed=seed) for text in more)]
    run([BLIP2, "launch", f"preset:{preset}", *(word for text in sets for word in ("--set", text))], log)
    result = {}
    for split in ["test_seen", "test_unseen"]:
        result[split] = {}
        for task, stage in [("retrieval", "representation"), ("caption", "generative")]:
            if task == "retrieval" and preset == "ablation_without_stage1":
                continue
            more = ["--candidates", "16"] if task == "retrieval" else []
            answer = run([BLIP2, "eval", task, output, "--stage", stage, "--split", split, "--json", *more], log)
            answer = json.loads(answer)
            result[split][task] = {key: answer[key] for key in ["metrics", "rows", "weights_sha256"] if key in answer}
    with open(kept + ".part", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.replace(kept + ".part", kept)
    return result


def summary(name, by_seed):
    """Every column's value of each seed, by split."""
    rows = {}
    for split in ["test_seen", "test_unseen"]:
        rows[split] = {}
        for column, value in COLUMNS.items():
            task = "retrieval" if "R@1" in column else "caption"
            values = [value(of[split]) for of in by_seed.values() if task in of[split]]
            if values:
                rows[split][column] = [round(value, 2) for value in values]
    return {"name": name, "what": ABLATIONS[name][0], "seeds": list(by_seed), **rows}


def table(rows, split):
    """Medians with all values in brackets, as Markdown."""
    names = list(COLUMNS)
    lines = ["| | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for row in rows:
        cells = []
        for name in names:
            values = row[split].get(name)
            cells.append("-" if not values else f"{statistics.median(values):.1f} ({', '.join(f'{v:.1f}' for v in values)})")
        lines.append(f"| {row['what']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def drawing(rows):
    """One panel for each column, a dot for each seed, a line at the median, of scenes with seen pairs."""
    left, panel, height, top = 250, 190, 26, 40
    width, whole = left + panel * len(COLUMNS), top + height * len(rows) + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{whole}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{whole}" fill="white"/>']
    for place, row in enumerate(rows):
        y = top + height * place + height / 2
        out.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{row["what"]}</text>')
    for column, name in enumerate(COLUMNS):
        x = left + panel * column
        most = max((value for row in rows for value in row["test_seen"].get(name, [])), default=1.0) or 1.0
        out.append(f'<text x="{x + 10}" y="16" font-weight="bold">{name}</text>')
        out.append(f'<text x="{x + 10}" y="32" fill="#666">0</text>')
        out.append(f'<text x="{x + panel - 20}" y="32" text-anchor="end" fill="#666">{most:.0f}</text>')
        for place, row in enumerate(rows):
            y = top + height * place + height / 2
            at = lambda value: x + 10 + (panel - 30) * value / most
            out.append(f'<line x1="{x + 10}" x2="{x + panel - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>')
            values = row["test_seen"].get(name, [])
            for value in values:
                out.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="3.5" fill="#2a6fb0" fill-opacity="0.6"/>')
            if values:
                middle = at(statistics.median(values))
                out.append(f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="#b03a2a" stroke-width="2"/>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default=os.path.join(TOP, "runs/ablations"), metavar="DIR")
    parser.add_argument("--seeds", default="42,43,44", metavar="N,…")
    parser.add_argument("--only", default=",".join(ABLATIONS), metavar="NAME,…")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--svg", metavar="OUT")
    args = parser.parse_args()
    seeds, names = [int(seed) for seed in args.seeds.split(",")], args.only.split(",")
    unknown = [name for name in names if name not in ABLATIONS]
    if unknown:
        parser.error(f"no ablations: {', '.join(unknown)}; known: {', '.join(ABLATIONS)}")
    os.makedirs(args.runs, exist_ok=True)
    found = {name: {} for name in names}
    for seed in seeds:
        for name in names:
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            found[name][seed] = scored(args.runs, name, seed)
    rows = [summary(name, by_seed) for name, by_seed in found.items()]
    for split, title in [("test_seen", "Scenes with seen pairs"), ("test_unseen", "Scenes with unseen pairs")]:
        print(f"\n{title}\n\n{table(rows, split)}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            command = f"python3 tests/peers/ablations.py --seeds {args.seeds} --only {args.only}"
            json.dump({"schema_version": 1, "command": command, "machine": processor(), "rows": rows}, file, indent=1)
            file.write("\n")
    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as file:
            file.write(drawing(rows))


main()

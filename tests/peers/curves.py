"""Draws the losses of several runs of one config over their steps, and says where they began and ended: docs/healthy-curves.md.

    python3 tests/peers/curves.py runs/ablations/tiny-42 runs/ablations/tiny-43 runs/ablations/tiny-44 \\
        --json docs/benchmarks/curves.json --svg docs/benchmarks/curves.svg

Needs the standard library alone. The runs must have been trained; tests/peers/ablations.py trains these three. Exits with 1 when a
folder holds no metrics, or when the runs differ in their stages.
"""

import argparse
import json
import math
import os
import statistics
import sys

# What is drawn of each kind of stage, in this order.
TERMS = {"representation": ["itc", "itm", "itg", "grad_norm"], "generative": ["lm", "grad_norm"]}
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e"]
# Shares of a stage's steps at which values are told; each is the mean over a twentieth of the steps, but for the first.
PLACES = [("first report", 0.0), ("after 10 %", 0.1), ("after 50 %", 0.5), ("end", 1.0)]


def settings(text):
    """The scalars of a resolved config by their dotted paths; items of lists have their position."""
    found, path, counts = {}, [], {}
    for line in text.splitlines():
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        if body.startswith("- "):
            # A list stands as deep as its key; its items' keys stand deeper.
            path = [step for step in path if step[0] < indent or (step[0] == indent and not step[1].isdigit())]
            place = tuple(name for _, name in path)
            counts[place] = counts.get(place, -1) + 1
            path.append((indent, str(counts[place])))
            body, indent = body[2:], indent + 2
        else:
            path = [step for step in path if step[0] < indent]
        key, colon, value = body.partition(":")
        if not colon:
            continue
        path.append((indent, key))
        if value.strip():
            found[".".join(name for _, name in path)] = value.strip().strip("'\"")
    return found


def records(folder):
    """A run's reports, in order, without what a later launch made again."""
    metrics = os.path.join(folder, "metrics")
    kept = []
    for name in sorted(os.listdir(metrics)) if os.path.isdir(metrics) else []:
        with open(os.path.join(metrics, name), encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                start = record.get("session_start")
                if start:
                    place = (start["stage_index"], start["step"])
                    kept = [old for old in kept if (old["stage_index"], old["step"]) < place]
                else:
                    kept.append(record)
    return kept


def curves(folder):
    """Steps and values of each term of each stage: `{stage: {term: [(step, value), …]}}`."""
    found = {}
    for record in records(folder):
        values = {**record.get("losses", {}), "grad_norm": record.get("grad_norm")}
        for term, value in values.items():
            if value is not None and term != "total":
                found.setdefault(record["stage"], {}).setdefault(term, []).append((record["step"], value))
    if not found:
        sys.exit(f"{folder}: found no metrics/*.jsonl with reports; expected the output folder of a trained run")
    return found


def expected(config, stage):
    """Values that follow from the config: where a term begins, or what it cannot go below, with words for each."""
    prefix = next((key.rsplit(".", 1)[0] for key, value in config.items()
                   if key.startswith("stages.") and key.endswith(".name") and value == stage), None)
    if prefix is None:
        return "representation", {}
    kind = config.get(f"{prefix}.kind", stage)
    batch, words = int(config[f"{prefix}.global_batch"]), int(config["model.qformer.vocab_size"])
    smoothing = float(config.get(f"{prefix}.label_smoothing", 0))
    if kind != "representation":
        return kind, {}
    return kind, {
        "itc": [("ln batch", math.log(batch)), ("floor", floor(smoothing, batch))],
        "itm": [("ln 2", math.log(2)), ("one third", entropy([1 / 3, 2 / 3]))],
        "itg": [("ln words", math.log(words)), ("floor", floor(smoothing, words))],
    }


def entropy(shares):
    return -sum(share * math.log(share) for share in shares if share > 0)


def floor(smoothing, choices):
    """The least cross entropy with smoothed targets: their own entropy."""
    rest = smoothing / choices
    return -(1 - smoothing + rest) * math.log(1 - smoothing + rest) - (choices - 1) * (rest and rest * math.log(rest))


def told(points, share):
    """A curve's value at a share of its steps."""
    if share == 0:
        return points[0][1]
    end = points[-1][0]
    until = [(step, value) for step, value in points if step <= end * share] or points[:1]
    return statistics.fmean(value for step, value in until if step >= min(end * (share - 0.05), until[-1][0]))


def table(rows):
    """Medians with all values in brackets, as Markdown."""
    lines = ["| stage | term | " + " | ".join(name for name, _ in PLACES) + " |", "| --- " * (len(PLACES) + 2) + "|"]
    for row in rows:
        cells = [f"{statistics.median(row[name]):.3f} ({', '.join(f'{value:.3f}' for value in row[name])})" for name, _ in PLACES]
        lines.append(f"| {row['stage']} | {row['term']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def panel(x, y, width, height, title, lines, marks):
    """One picture of the sheet: a line for each run, a dashed one for each value that is expected."""
    values = [value for points in lines for _, value in points] + [value for _, value in marks]
    low, high = min(values), max(values)
    low, high = min(low, 0.0), high + 0.08 * (high - min(low, 0.0) or 1.0)
    end = max(step for points in lines for step, _ in points) or 1
    at_x = lambda step: x + 46 + step / end * (width - 60)
    at_y = lambda value: y + height - 26 - (value - low) / (high - low) * (height - 52)
    out = [f'<text x="{x + 46}" y="{y + 14}" font-weight="bold">{title}</text>']
    for share in (0, 0.5, 1):
        value = low + (high - low) * share
        out.append(f'<line x1="{x + 46}" x2="{x + width - 14}" y1="{at_y(value):.1f}" y2="{at_y(value):.1f}" stroke="#ddd"/>'
                   f'<text x="{x + 40}" y="{at_y(value) + 4:.1f}" text-anchor="end" fill="#666">{value:.3g}</text>')
        out.append(f'<text x="{at_x(end * share):.1f}" y="{y + height - 8}" text-anchor="middle" fill="#666">{end * share:.0f}</text>')
    for name, value in marks:
        out.append(f'<line x1="{x + 46}" x2="{x + width - 14}" y1="{at_y(value):.1f}" y2="{at_y(value):.1f}" stroke="#888" '
                   f'stroke-dasharray="4 3"/><text x="{x + width - 16}" y="{at_y(value) - 3:.1f}" text-anchor="end" '
                   f'fill="#666">{name} {value:.3f}</text>')
    for place, points in enumerate(lines):
        joined = " ".join(f"{at_x(step):.1f},{at_y(value):.1f}" for step, value in points)
        out.append(f'<polyline fill="none" stroke="{COLOURS[place % len(COLOURS)]}" stroke-opacity="0.8" points="{joined}"/>')
    return out


def drawing(names, runs, kinds, marks):
    """A row of panels for each stage."""
    across, width, height, top = 4, 280, 220, 34
    sheet = [panels for panels in ([(stage, term) for term in TERMS.get(kind, []) if term in runs[0][stage]]
                                   for stage, kind in kinds.items()) if panels]
    whole = (across * width, top + height * len(sheet))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole[0]}" height="{whole[1]}" font-family="sans-serif" '
           'font-size="11">',
           f'<rect width="{whole[0]}" height="{whole[1]}" fill="white"/>']
    for place, name in enumerate(names):
        out.append(f'<text x="{46 + 160 * place}" y="18" fill="{COLOURS[place % len(COLOURS)]}">{name}</text>')
    for row, panels in enumerate(sheet):
        for column, (stage, term) in enumerate(panels):
            lines = [run[stage][term] for run in runs]
            out += panel(column * width, top + row * height, width, height, f"{stage}: {term}", lines, marks[stage].get(term, []))
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folders of trained runs")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--svg", metavar="OUT")
    args = parser.parse_args()
    runs = [curves(folder) for folder in args.runs]
    names = [os.path.basename(os.path.normpath(folder)) for folder in args.runs]
    for name, run in zip(names, runs):
        if {stage: set(terms) for stage, terms in run.items()} != {stage: set(terms) for stage, terms in runs[0].items()}:
            sys.exit(f"{name} has other stages or losses than {names[0]}; expected runs of one config")
    with open(os.path.join(args.runs[0], "config.yaml"), encoding="utf-8") as file:
        config = settings(file.read())
    kinds, marks = {}, {}
    for stage in runs[0]:
        kinds[stage], marks[stage] = expected(config, stage)
    rows = []
    for stage, kind in kinds.items():
        for term in TERMS.get(kind, []):
            if term in runs[0][stage]:
                values = {name: [round(told(run[stage][term], share), 4) for run in runs] for name, share in PLACES}
                rows.append({"stage": stage, "term": term, "steps": runs[0][stage][term][-1][0], **values,
                             "expected": {name: round(value, 4) for name, value in marks[stage].get(term, [])}})
    print(table(rows))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "runs": names, "rows": rows}, file, indent=1)
            file.write("\n")
    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as file:
            file.write(drawing(names, runs, kinds, marks))


if __name__ == "__main__":
    main()

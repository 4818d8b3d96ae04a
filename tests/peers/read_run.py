"""Reads a run's folder with Python's safetensors and TensorBoard and checks what they see.

    python3 -m venv venv && venv/bin/pip install numpy safetensors tensorboard
    venv/bin/python tests/peers/read_run.py RUN [--example]

For every checkpoint that the log names and whose folder is there: sizes and SHA-256 against its manifest, names,
shapes and type of the weights through the index, moments as long as the segments. For TensorBoard: each stage's tags
and, step by step, the values of the JSON lines without those that a later launch did again. With --example, also the
numbers that trainer/examples/write_run.rs writes. Exit status 1 on the first difference. Touches no network.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

TAGS = {"loss/total", "lr"}


def expect(found, expected, what):
    if found != expected:
        sys.exit(f"FAIL {what}: found {found!r}, expected {expected!r}")


def commits(run):
    """The log's commits, oldest first, without those behind a newer take-over."""
    newest, found = 0, []
    for path in sorted((run / "log").glob("*.json")):
        entry = json.loads(path.read_text())
        if entry["kind"] == "take_over":
            newest = max(newest, entry["epoch"])
        elif entry["epoch"] >= newest:
            found.append(entry)
    return found


def check_checkpoint(run, commit, example):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    folder = run / commit["folder"]
    text = (folder / "manifest.json").read_bytes()
    expect(hashlib.sha256(text).hexdigest(), commit["manifest_sha256"], f"{folder}: sha256 of the manifest")
    manifest = json.loads(text)
    expect(manifest["format_version"], 2, f"{folder}: format_version")
    expect((manifest["stage_index"], manifest["step"]), (commit["stage_index"], commit["step"]), f"{folder}: place")
    expect(sorted(path.name for path in folder.iterdir()), sorted([*manifest["files"], "manifest.json"]), f"{folder}: files")
    for name, record in manifest["files"].items():
        data = (folder / name).read_bytes()
        parts = [data[at : at + record["part_bytes"]] for at in range(0, len(data), record["part_bytes"])]
        expect([hashlib.sha256(part).hexdigest() for part in parts], record["parts"], f"{folder}/{name}: parts")
        expect((len(data), hashlib.sha256(data).hexdigest()), (record["size"], record["sha256"]), f"{folder}/{name}")
    index = json.loads((folder / "trainable.safetensors.index.json").read_text())
    expect(sorted(index["weight_map"]), sorted(it["name"] for it in manifest["trainable"]), f"{folder}: names")
    total = 0
    for tensor in manifest["trainable"]:
        with safe_open(folder / index["weight_map"][tensor["name"]], framework="np") as weights:
            expect(weights.metadata(), {"format": "pt"}, f"{folder}: metadata")
            array = weights.get_tensor(tensor["name"])
        what = f"{folder}: {tensor['name']}"
        expect((array.dtype.name, list(array.shape)), ("float32", tensor["shape"]), what)
        total += array.nbytes
        if example:
            expect(array.reshape(-1).tolist(), [float(i + commit["step"]) for i in range(array.size)], what)
    expect(index["metadata"]["total_size"], total, f"{folder}: total_size")
    end = 0
    for record in sorted(manifest["moments"], key=lambda it: it["first"]):
        moments = load_file(folder / record["file"])
        expect(sorted(moments), ["exp_avg", "exp_avg_sq"], f"{folder}: moments")
        expect(record["first"], end, f"{folder}: {record['file']} begins where the one before ends")
        end += record["len"]
        for name, array in moments.items():
            expect((array.dtype.name, array.shape), ("float32", (record["len"],)), f"{folder}: {name}")
    expect(end, manifest["flat_len"], f"{folder}: moments of the flat space")
    ends = [it["offset"] + math.prod(it["shape"]) for it in manifest["segments"]]
    expect(max(ends, default=0) <= end, True, f"{folder}: the flat space covers the segments")


def curves(run):
    """{stage: {tag: [(step, value)]}} of the JSON lines, as one launch would have written them."""
    records = []
    for path in sorted((run / "metrics").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            start = record.get("session_start")
            if start is None:
                records.append(record)
            else:
                records = [it for it in records if (it["stage_index"], it["step"]) < (start["stage_index"], start["step"])]
    found = {}
    for record in records:
        values = {f"loss/{name}": value for name, value in record["losses"].items()}
        known = {"schema_version", "time", "stage_index", "stage", "step", "losses"}
        values.update((name, value) for name, value in record.items() if name not in known)
        for tag, value in values.items():
            found.setdefault(record["stage"], {}).setdefault(tag, []).append((record["step"], value))
    return found


def check_curves(run, example):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = curves(run)
    expect(sorted(path.name for path in (run / "tb").iterdir()), sorted(expected), "stages in tb/")
    points = 0
    for stage, tags in expected.items():
        events = EventAccumulator(str(run / "tb" / stage), size_guidance={"scalars": 0}).Reload()
        expect(set(events.Tags()["scalars"]), set(tags), f"{stage}: tags")
        expect(TAGS - set(tags), set(), f"{stage}: tags that every stage has")
        for tag, curve in tags.items():
            seen = events.Scalars(tag)
            expect([event.step for event in seen], [step for step, _ in curve], f"{stage} {tag}: steps")
            for event, (step, value) in zip(seen, curve):
                # TensorBoard keeps float32.
                same = math.isnan(event.value) if value is None else math.isclose(event.value, value, rel_tol=1e-6)
                expect(same, True, f"{stage} {tag} at step {step}: {event.value} against {value}")
                points += 1
    if example:
        totals = {stage: [value for _, value in tags["loss/total"]] for stage, tags in expected.items()}
        first = [100.0, 101.0, 102.0, 103.0, 104.5, 105.5, 106.5, 107.5]
        expect(totals, {"representation": first, "generative": [200.5, 201.5, 202.5, 203.5]}, "loss/total")
    return points


def main():
    import safetensors
    import tensorboard

    run, example = Path(sys.argv[1]), "--example" in sys.argv[2:]
    named = commits(run)
    here = [commit for commit in named if (run / commit["folder"]).exists()]
    expect(bool(here), True, f"{run}: a checkpoint")
    expect(here[-1], named[-1], f"{run}: the newest checkpoint is there")
    for commit in here:
        check_checkpoint(run, commit, example)
    print(f"ok   safetensors {safetensors.__version__}: {len(here)} of {len(named)} checkpoints are there")
    print(f"ok   tensorboard {tensorboard.__version__}: {check_curves(run, example)} points")


if __name__ == "__main__":
    main()

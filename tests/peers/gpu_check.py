#!/usr/bin/env python3
"""Everything that needs a GPU, on a machine with one: parity, exactness, NCCL, and training steps raced against PyTorch.

    make gpu-check                                             builds, runs everything, writes docs/benchmarks/<gpu>.{json,md}
    python3 tests/peers/gpu_check.py --bin DIR --tests DIR --python-torch    the same with programs that were built elsewhere, and
                                                               the libtorch of this Python: no network, no compiler

Parts: `parity` compares losses, gradients and texts with the fixtures of tests/fixtures, on the GPU, in f32. `exactness` trains
both stages on one rank and on 2 and 4 ranks that share the GPU, and through kills, and compares hashes. `nccl` runs the checks
of all back ends over NCCL on all GPUs. `bench` alternates our step with tests/peers/pytorch_step, eager and compiled, on the
published sizes with random weights. Exit code 0 when all parts passed.
"""

import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PEER = os.path.join(HERE, "pytorch_step", "pytorch_step.py")
PARITY = ["parity_stage1", "parity_stage2", "parity_towers", "parity_retrieval", "parity_generation"]
RACES = [
    # name, preset, stage, batches
    ("stage 1, ViT-g", "vitg_opt2.7b", 1, [32, 64, 128]),
    ("stage 2, ViT-g, OPT-2.7B", "vitg_opt2.7b", 2, [32, 64, 128]),
    ("stage 2, ViT-g, FlanT5-XL", "vitg_flant5xl", 2, [32, 64, 128]),
]


class Check:
    """Runs programs, keeps what they said."""

    def __init__(self, args):
        self.args = args
        self.env = dict(os.environ, BLIP2_TEST_DEVICE="cuda", BLIP2_FIXTURES=os.path.join(TOP, "tests", "fixtures"))
        if args.python_torch:
            import torch

            lib = os.path.join(os.path.dirname(torch.__file__), "lib")
            self.env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [lib, os.environ.get("LD_LIBRARY_PATH")]))
            self.env["LIBTORCH"] = os.path.dirname(torch.__file__)
        self.began = time.monotonic()
        self.found = {"schema_version": 1, "command": " ".join(["tests/peers/gpu_check.py", *sys.argv[1:]])}

    def save(self):
        """Writes what was found so far: a race that hangs or is ended costs nothing that was measured before."""
        folder = self.args.out or os.path.join(TOP, "docs", "benchmarks")
        name = re.sub(r"[^a-z0-9]+", "-", self.found["machine"]["gpus"][0].split(",")[0].lower()).strip("-")
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(self.found, file, indent=1)
            file.write("\n")
        with open(os.path.join(folder, name + ".md"), "w", encoding="utf-8") as file:
            file.write(markdown(self.found, self.found["command"]))

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def run(self, command, timeout=600, **kwargs):
        """Standard output; the error holds the end of both streams."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)
        if done.returncode:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-self.args.lines:])
            raise RuntimeError(f"{' '.join(command[:4])} … ended with {done.returncode}:\n{said}")
        return done.stdout

    def program(self, name):
        return os.path.join(self.args.bin, name)

    def test(self, name):
        """The newest test program of this name."""
        found = [path for path in glob.glob(os.path.join(self.args.tests, name + "-*")) if os.access(path, os.X_OK)]
        found = [path for path in found if re.fullmatch(name + r"-[0-9a-f]+", os.path.basename(path))]
        if not found:
            raise RuntimeError(f"no test program {name} in {self.args.tests}")
        return max(found, key=os.path.getmtime)

    # -------------------------------------------------------------------------------------------------- parts

    def machine(self):
        query = "name,driver_version,memory.total,clocks.max.sm"
        smi = self.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]).strip().splitlines()
        report = json.loads(self.run([self.program("blip2-rank"), "self-check", "--json"]))["ranks"][0]
        version = report["libtorch"]["version"]
        if version == "unknown" and self.args.python_torch:
            import torch

            version = torch.__version__
        return {"gpus": smi, "libtorch": version, "cuda_devices": report["cuda_devices"],
                "cuda_library": report["cuda_library"], "nccl": report["nccl"]}

    def parity(self):
        passed, failed = {}, []
        for name in PARITY:
            try:
                out = self.run([self.test(name), "--test-threads", "1"], cwd=os.path.join(TOP, "trainer"))
                passed[name] = int(re.search(r"test result: ok\. (\d+) passed", out).group(1))
            except RuntimeError as error:
                failed.append(str(error))
        if failed:
            raise RuntimeError("\n".join([*failed, f"the others passed: {json.dumps(passed)}"]))
        return passed

    def nccl(self):
        name = "nccl_conforms_on_the_gpus_of_this_machine"
        out = self.run([self.test("collectives"), "--exact", name, "--nocapture"], cwd=os.path.join(TOP, "tests"))
        if "SKIP" in out or "1 passed" not in out:
            raise RuntimeError(f"{name} did not run:\n{out}")
        return out.strip().splitlines()[-1]

    def exactness(self):
        out = self.run([self.program("blip2"), "verify", "exactness", "--set", "cluster.backend=nccl", "--ranks", "1",
                        "--threads", self.args.ranks, "--killed-ranks", "1,1,1", "--steps", str(self.args.exact_steps),
                        "--dtype", self.args.dtypes, "--json"])
        found = json.loads(out)
        if not found["equal"]:
            raise RuntimeError(f"hashes differ: {out}")
        return found["rows"]

    def ours(self, preset, stage, batch, phases=False):
        options = ["--preset", preset, "--stage", str(stage), "--batch", str(batch), "--slices", "1", "--device", "cuda",
                   "--dtype", "bf16", "--attention", self.args.attention, "--steps", str(self.args.steps),
                   "--warmup", str(self.args.warmup), "--threads", "4"]
        found = json.loads(self.run([self.program("blip2-rank"), "bench-step", *options, *(["--phases"] if phases else [])]))
        side = found["sides"][0]
        return {"seconds": statistics.median(side["step_seconds"]), "peak": found["peak_memory_bytes"], "losses": side["losses"][-1],
                "phases": {name: statistics.median(part) for name, part in zip(side["phase_names"], zip(*side["phase_seconds"]))}}

    def theirs(self, preset, stage, batch, mode, peak_tflops, timeout=600):
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            warmup = max(self.args.warmup, 8 if mode else 0)
            self.run([sys.executable, PEER, "--preset", preset, "--stage", str(stage), "--batch", str(batch), "--dtype", "bf16",
                      "--device", "cuda", "--steps", str(self.args.steps), "--warmup", str(warmup), "--peak-tflops",
                      str(peak_tflops), "--json", out.name, *(["--compile"] if mode else [])], timeout)
            found = json.load(out)
        return {"seconds": found["median_step_seconds"], "peak": found["peak_memory_bytes"], "losses": found["losses"][-1],
                "gflop": found["gflop_per_image"], "peak_tflops": found["peak_tflops"]}

    def bench(self):
        rows, peak = self.found.setdefault("bench", []), "auto"
        for name, preset, stage, batches in RACES:
            for batch in batches:
                if self.args.batches and batch not in self.args.batches or self.args.races and str(stage) + preset not in self.args.races:
                    continue
                try:
                    row = self.race(name, preset, stage, batch, peak)
                except RuntimeError as error:
                    self.say(f"{name}, batch {batch}: {error}")
                    rows.append({"name": name, "batch": batch, "error": str(error)})
                    continue
                peak = row["peak_tflops"]
                rows.append(row)
                self.save()
        return rows

    def race(self, name, preset, stage, batch, peak):
        mine, eager = [], []
        for _ in range(self.args.pairs):
            mine.append(self.ours(preset, stage, batch))
            eager.append(self.theirs(preset, stage, batch, None, peak))
            peak = eager[-1]["peak_tflops"]
        compiled = []
        if self.args.compile:
            try:
                compiled.append(self.theirs(preset, stage, batch, "compile", peak, self.args.compile_seconds))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                self.say(f"{name}, batch {batch}, compiled: {str(error)[-600:]}")
        phases = self.ours(preset, stage, batch, phases=True)["phases"]
        rate = lambda runs: batch / statistics.median(run["seconds"] for run in runs)
        gflop = eager[0]["gflop"]["total"]
        ratios = sorted(b["seconds"] / a["seconds"] for a, b in zip(mine, eager))
        row = {"name": name, "preset": preset, "stage": stage, "batch": batch, "unit": "images/s", "ours": rate(mine),
               "peer_name": "PyTorch eager", "peer": rate(eager), "ratio_median": statistics.median(ratios),
               "ratio_interval": [ratios[0], ratios[-1]], "pairs": len(ratios),
               "compiled": rate(compiled) if compiled else None, "gflop_per_image": eager[0]["gflop"], "peak_tflops": peak,
               "share_of_peak": rate(mine) * gflop / 1e3 / peak, "phase_seconds": phases,
               "peak_memory_bytes": {"ours": max(run["peak"] for run in mine), "eager": max(run["peak"] for run in eager)},
               "losses": {"ours": mine[-1]["losses"], "eager": eager[-1]["losses"]}}
        self.say(f"{name}, batch {batch}: ours {row['ours']:.1f}, eager {row['peer']:.1f} images/s, ratio {row['ratio_median']:.3f} "
                 f"({ratios[0]:.3f}-{ratios[-1]:.3f}), compiled {row['compiled'] and round(row['compiled'], 1)}, "
                 f"{100 * row['share_of_peak']:.1f} % of {peak:.0f} TFLOP/s, phases "
                 + ", ".join(f"{part} {1e3 * it:.1f} ms" for part, it in phases.items())
                 + f", GiB {row['peak_memory_bytes']['ours'] / 2**30:.1f} / {row['peak_memory_bytes']['eager'] / 2**30:.1f}")
        return row


def markdown(found, command):
    """The report, for people."""
    lines = [f"# {found['machine']['gpus'][0].split(',')[0]}", "", f"Written by `{command}` on {found['machine']['gpus'][0]}, "
             f"libtorch {found['machine']['libtorch']}.", "", "| part | result |", "| --- | --- |"]
    for part in ("parity", "nccl", "exactness"):
        if part in found:
            it = found[part]
            if isinstance(it, dict) and "error" in it:
                text = "FAILED: " + it["error"].splitlines()[0]
            elif part == "parity":
                text = f"{sum(it.values())} tests passed on the GPU in f32"
            elif part == "nccl":
                text = it
            else:
                hashes = {(row["stage"], row["dtype"]): row["sha256"][:8] for row in it}
                text = f"{len(it)} runs, one hash for each stage and format: " + ", ".join(
                    f"{stage} {dtype} {sha}" for (stage, dtype), sha in sorted(hashes.items()))
            lines.append(f"| {part} | {text} |")
    bench = found.get("bench", [])
    rows = [row for row in bench if "error" not in row] if isinstance(bench, list) else []
    if rows:
        lines += ["", "Training steps, bf16, random weights, captions of 6 to 32 tokens, dropout as published; images/s of whole "
                  "steps. The share is of the rate of a large bf16 matrix product, measured in the same run, by the FLOPs of "
                  "`pytorch_step.py --formula`.", "",
                  "| step | batch | ours | PyTorch eager | ratio | PyTorch compiled | share | encoder, gradient, update (ms) | GiB, ours / eager |",
                  "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
        for row in rows:
            phases = ", ".join(f"{1e3 * it:.1f}" for it in row["phase_seconds"].values())
            low, high = row["ratio_interval"]
            memory = [row["peak_memory_bytes"][side] / 2**30 for side in ("ours", "eager")]
            compiled = f"{row['compiled']:.1f}" if row["compiled"] else "not run"
            lines.append(f"| {row['name']} | {row['batch']} | {row['ours']:.1f} | {row['peer']:.1f} | {row['ratio_median']:.3f} "
                         f"({low:.3f}-{high:.3f}, {row['pairs']} pairs) | {compiled} | {100 * row['share_of_peak']:.1f} % of "
                         f"{row['peak_tflops']:.0f} TFLOP/s | {phases} | {memory[0]:.1f} / {memory[1]:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.path.join(TOP, "target/release"), help="where blip2 and blip2-rank are")
    parser.add_argument("--tests", default=os.path.join(TOP, "target/release/deps"), help="where the test programs are")
    parser.add_argument("--python-torch", action="store_true", help="take the libtorch of this Python")
    parser.add_argument("--parts", default="parity,nccl,exactness,bench", help="which, in this order")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--batches", type=lambda text: [int(it) for it in text.split(",")], help="only these")
    parser.add_argument("--races", type=lambda text: text.split(","), help="only these, as 1vitg_opt2.7b")
    parser.add_argument("--attention", default="flash", choices=("math", "flash"), help="ours")
    parser.add_argument("--compile", action="store_true", help="race torch.compile, too; it takes minutes to begin")
    parser.add_argument("--compile-seconds", type=float, default=900, help="limit of one compiled run of the peer")
    parser.add_argument("--ranks", default="1,2,4", help="ranks that share the GPU")
    parser.add_argument("--exact-steps", type=int, default=20)
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--lines", type=int, default=25, help="of a failed program that are shown")
    parser.add_argument("--out", help="folder of <gpu>.json and <gpu>.md (default: docs/benchmarks)")
    args = parser.parse_args()
    check, failed = Check(args), []
    found = check.found
    found["machine"] = check.machine()
    check.say(json.dumps(found["machine"]))
    for part in args.parts.split(","):
        check.say(part)
        try:
            found[part] = getattr(check, part)()
            check.say(f"{part}: passed" if part == "bench" else f"{part}: {json.dumps(found[part])[:300]}")
        except (RuntimeError, subprocess.TimeoutExpired, ValueError, AttributeError) as error:
            found[part] = {"error": str(error)}
            check.say(f"{part} FAILED: {error}")
            failed.append(part)
        check.save()
    if isinstance(found.get("bench"), list):
        failed += [row["name"] for row in found["bench"] if "error" in row]
    check.say("failed: " + ", ".join(failed) if failed else "all parts passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

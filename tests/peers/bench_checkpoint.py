"""Races our checkpoints against plain copies, puts and gets of the same bytes, in turn; `blip2 bench checkpoint` says how.

    make bench                                            sets everything up and runs this, too
    python3 tests/peers/bench_checkpoint.py --rounds 3 --json docs/benchmarks/checkpoint.json

188 M parameters of stage 1 (ViT-g), float32, with two moments: 2.26 GB. Training stands still for a copy in memory: the peer is
one `memcpy` of as many bytes. Written: from the step to the commit, through a server of the S3 protocol on loopback (moto), and
to the file system. Read: all values, verified.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

from racing import processor, run

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BLIP2 = os.path.join(TOP, "target/release/blip2")


def measure(uri, args, environment):
    command = [BLIP2, "bench", "checkpoint", uri, "--preset", args.preset, "--rounds", str(args.rounds), "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def through_s3(args):
    server = subprocess.Popen([args.moto, "-H", "127.0.0.1", "-p", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        found = None
        while found is None:
            line = server.stderr.readline()
            if not line:
                sys.exit(f"{args.moto} ended without an address")
            found = re.search(r"127\.0\.0\.1:\d+", line)
        address = found.group(0)
        # Read on, so that the server never waits for a reader.
        threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
        run([sys.executable, os.path.join(HERE, "make_bucket.py"), address])
        settings = {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        return measure("s3://bucket/bench", args, settings)
    finally:
        server.kill()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vitg_opt2.7b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--moto", default=os.path.join(TOP, ".deps/python-test/bin/moto_server"), help="the S3 server")
    parser.add_argument("--json", metavar="FILE", help="where the numbers go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.path.join(TOP, "target")) as folder:
        found = [("S3 server (moto)", through_s3(args)), ("file system", measure(os.path.join(folder, "bench"), args, {}))]
    rows = []
    for store, result in found:
        seconds = {key: [row[key] for row in result["rounds"]] for key in result["rounds"][0]}
        for name, ours, peer, peer_name in (
            ("stall", "stall", "memory_copy", "memcpy"),
            ("write", "write", "plain_write", "plain put"),
            ("read", "read", "plain_read", "plain get"),
        ):
            ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[peer]))
            rows.append({
                "name": f"{name}, {store}", "ours": sorted(seconds[ours])[len(ratios) // 2],
                "peer": sorted(seconds[peer])[len(ratios) // 2], "peer_name": peer_name,
                "ratio_median": ratios[len(ratios) // 2], "ratio_interval": [ratios[0], ratios[-1]], "unit": "s",
            })
            print(f"{rows[-1]['name']:<28} {rows[-1]['ours']:8.2f} s  {peer_name} {rows[-1]['peer']:8.2f} s  "
                  f"{rows[-1]['ratio_median']:.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}) of its speed")
    if args.json:
        report = {"command": " ".join(["tests/peers/bench_checkpoint.py", *sys.argv[1:]]), "machine": processor(),
                  "bytes": found[0][1]["bytes"], "parameters": found[0][1]["parameters"], "rows": rows}
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(report, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()

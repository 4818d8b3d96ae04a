"""Races our checkpoints against plain copies, puts and gets of the same bytes, in turn; `blip2 bench checkpoint` says how.

    make bench                                            sets everything up and runs this, too
    python3 tests/peers/bench_checkpoint.py --rounds 3 --json docs/benchmarks/checkpoint.json

188 M parameters of stage 1 (ViT-g), float32, with two moments: 2.26 GB. Training stands still for a copy in memory: the peer is
one `memcpy` of as many bytes. Written: from the step to the commit, through a server of the S3 protocol on loopback (s3s-fs), and
to the file system. Read: all values, verified.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

from racing import processor, run

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BLIP2 = os.path.join(TOP, "target/release/blip2")


def measure(uri, args, environment):
    command = [BLIP2, "bench", "checkpoint", uri, "--preset", args.preset, "--rounds", str(args.rounds), "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def through_s3(args, folder):
    """Through s3s-fs, a server in Rust that keeps objects in files. moto, which the tests use, copies a whole object for each range."""
    server = os.path.join(TOP, ".deps/s3s/bin/s3s-fs")
    if not os.path.exists(server):
        run(["cargo", "install", "s3s-fs", "--version", "0.14.1", "--features", "binary", "--root", os.path.join(TOP, ".deps/s3s")])
    os.makedirs(os.path.join(folder, "objects/bucket"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen(
        [server, "--host", "127.0.0.1", "--port", str(port), "--access-key", "test", "--secret-key", "test", os.path.join(folder, "objects")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        return measure("s3://bucket/bench", args, settings)
    finally:
        started.kill()
        started.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="vitg_opt2.7b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", metavar="DIR", help="where the server keeps its objects, such as a folder in memory; target/ else")
    parser.add_argument("--json", metavar="FILE", help="where the numbers go")
    args = parser.parse_args()
    disk = os.path.join(TOP, "target")
    with tempfile.TemporaryDirectory(dir=args.objects or disk) as objects, tempfile.TemporaryDirectory(dir=disk) as folder:
        found = [("S3 server (s3s-fs)", through_s3(args, objects)), ("file system", measure(os.path.join(folder, "bench"), args, {}))]
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

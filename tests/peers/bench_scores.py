"""Races our scores of captions against pycocoevalcap with its Java program: the same captions, in turn.

    make bench                                            sets everything up and runs this, too
    .deps/python-scores/bin/python tests/peers/bench_scores.py --json docs/benchmarks/scores.json

As many images as COCO's validation set of 2014 has, 40,504, with five references and one caption each, made up. From texts in memory
to BLEU, ROUGE-L and CIDEr of the set and of each image: tokens, then scores. Reading and writing JSON is not timed, Java's start is.
Both must give the same tokens, and scores within 1e-9, or the race fails.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time

import coco_scores
from caption_scores import TOLERANCE, ours
from made_captions import plain_items
from racing import processor

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(TOP, "target/release/examples/score_captions")


def theirs(items):
    """Scores of the set, captions' tokens, seconds of both steps."""
    began = time.perf_counter()
    references, captions = coco_scores.tokenize(items)
    tokenized = time.perf_counter()
    whole, _ = coco_scores.scores(references, captions)
    done = time.perf_counter()
    return whole, [captions[item["id"]][0] for item in items], tokenized - began, done - began


def check(answer, whole, tokens):
    found = answer["scores"]
    for mine, reference in zip([*found["bleu"], found["rouge_l"], found["cider"]], whole):
        if abs(mine - reference) > TOLERANCE * abs(reference):
            sys.exit(f"scores differ: {found}, pycocoevalcap gives {whole}")
    if [item["caption"] for item in answer["tokenized"]] != tokens:
        sys.exit("tokens differ; tests/peers/caption_scores.py shows where")


def row(name, mine, peer, images):
    ratios = sorted(b / a for a, b in zip(mine, peer))
    found = {"name": name, "peer_name": "pycocoevalcap", "unit": "s", "ours": statistics.median(mine), "peer": statistics.median(peer),
             "ratio_median": statistics.median(ratios), "ratio_interval": [ratios[0], ratios[-1]], "pairs": len(ratios), "images": images}
    print(f"{name:<18} {found['ours']:7.2f} s, pycocoevalcap {found['peer']:7.2f} s, ratio {found['ratio_median']:.1f} "
          f"({ratios[0]:.1f}-{ratios[-1]:.1f}, {len(ratios)} pairs)", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=40_504)
    parser.add_argument("--json", metavar="OUT")
    args = parser.parse_args()
    items = plain_items(random.Random(7), args.images)
    mine, peer = [], []
    for _ in range(args.pairs):
        answer = ours(PROGRAM, {"items": items})
        mine.append((answer["seconds_of_tokens"], answer["seconds"]))
        whole, tokens, tokenized, done = theirs(items)
        peer.append((tokenized, done))
        check(answer, whole, tokens)
    steps = [("tokens", 0), ("tokens and scores", 1)]
    rows = [row(name, [pair[at] for pair in mine], [pair[at] for pair in peer], args.images) for name, at in steps]
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "command": "tests/peers/bench_scores.py", "machine": processor(), "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()

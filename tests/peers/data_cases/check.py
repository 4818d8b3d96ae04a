"""python3 check.py BLIP2 CASES: runs the steps of CASES/expected.json and says which hold.

A step is {"do": …, "expect": …}. `do`: index (`plain`: as people read it, not as JSON), doctor (samples only), inspect,
bench, or fetch (no case asks any address). Expectations: rc; out, values of the JSON answer; says, regular expressions that
the messages match, names of the case's folder taken out; silent, those that they must not; texts, how many captions the
inspected samples have; columns, values of fetched columns; pairs, file and captions of every annotated sample; any, a list
of such dictionaries of which one must hold.
"""
import glob, json, os, re, shutil, subprocess, sys

import pyarrow.parquet as pq

BIN, CASES = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
ONLY = sys.argv[3:]


TINY = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../configs/tiny.yaml")).read()


def config(folder, source):
    start = re.search(r"^  sources:\n", TINY, re.M).start()
    end = re.search(r"^(?!  |\s*#|$)", TINY[start:], re.M)
    rows = "  sources:\n    - name: s\n      weight: 1.0\n" + "".join(
        f"      {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in source.items())
    yaml = TINY[:start] + rows + (TINY[start + end.start():] if end else "")
    path = folder + ".run.yaml"
    with open(path, "w") as file:
        file.write(re.sub(r"^  output: .*$", f"  output: {folder}.run", yaml, count=1, flags=re.M))
    return path


def run(folder, step):
    sub = lambda value: json.loads(json.dumps(value, ensure_ascii=False).replace("$D", folder))
    do = step["do"]
    if do in ("index", "doctor"):
        yaml = config(folder, sub(step["source"]))
        command = ["data", "index", yaml] + ([] if step.get("plain") else ["--json"])
        command = command if do == "index" else ["doctor", yaml, "--only", "samples", "--json"]
    elif do == "inspect":
        command = ["data", "inspect", sub(step.get("uri", "$D")), "--json", "--row-groups", "0",
                   "--samples", "100"]
    elif do == "bench":
        command = ["bench", "data", sub(step.get("uri", "$D")), "--json", "--threads", "1", "--image-size", "32",
                   *step.get("options", ["--images", "16", "--batch", "4"])]
    else:
        shutil.rmtree(folder + ".out", ignore_errors=True)
        command = ["data", "fetch", folder, "--out", folder + ".out", "--json", "--allow-private-addresses",
                   "--ignore-robots-txt", "--host-delay-ms", "0", "--tries", "1", *step.get("options", [])]
    done = subprocess.run([BIN, *command], capture_output=True, text=True, timeout=120)
    try:
        answer = json.loads(done.stdout)
        answer = (answer.get("sources") or [answer.get("inspection") or answer])[0]
    except (ValueError, AttributeError):
        answer = {}
    if do == "doctor":
        checks = [check for check in answer.get("checks", []) if check["name"].startswith("samples")]
        answer = checks[0] if checks else {}
    said = done.stderr + (done.stdout if step.get("plain") else json.dumps(answer, ensure_ascii=False))
    return done.returncode, answer, said.replace(os.path.basename(folder), "CASE")


def misses(expect, folder, got):
    rc, answer, messages = got
    found = []
    if "any" in expect:
        each = [misses(one, folder, got) for one in expect["any"]]
        return [] if any(not one for one in each) else ["none of: " + " | ".join("; ".join(one) for one in each)]
    if "rc" in expect and rc not in ([expect["rc"]] if isinstance(expect["rc"], int) else expect["rc"]):
        found.append(f"rc {rc}, not {expect['rc']}")
    for key, value in expect.get("out", {}).items():
        if answer.get(key) != value:
            found.append(f"{key}: {answer.get(key)!r}, not {value!r}")
    found += [f"says nothing like /{rule}/" for rule in expect.get("says", []) if not re.search(rule, messages)]
    found += [f"says /{rule}/" for rule in expect.get("silent", []) if re.search(rule, messages)]
    if "texts" in expect:
        there = sum(len(one["captions"]) for one in answer.get("samples", []))
        found += [f"{there} captions, not {expect['texts']}"] if there != expect["texts"] else []
    for name, values in expect.get("columns", {}).items():
        tables = [pq.read_table(shard).to_pydict() for shard in sorted(glob.glob(folder + ".out/*.parquet"))]
        there = [value for one in tables for value in one.get(name, [])]
        if there != values:
            found.append(f"column {name}: {there!r}, not {values!r}")
    if "pairs" in expect:
        catalog = pq.read_table(folder + ".run/catalog/s.parquet").to_pydict() if os.path.exists(folder + ".run/catalog") else {}
        there = sorted([one["file"], one["captions"]] for group in catalog.get("samples", []) for one in group)
        if there != sorted(expect["pairs"]):
            found.append(f"pairs: {there!r}")
    return found


bad = 0
for case in json.load(open(os.path.join(CASES, "expected.json"))):
    folder = os.path.join(CASES, case["name"])
    if ONLY and not any(part in case["name"] for part in ONLY):
        continue
    for leftover in (folder + ".run", folder + ".out"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = []
    for step in case["steps"]:
        got = run(folder, step)
        found += [f"{step['do']}: {miss}" for miss in misses(step["expect"], folder, got)]
    bad += bool(found)
    print("holds " if not found else "MISSES", f"{case['kind']:22} {case['name']:32}", "; ".join(found)[:300])
sys.exit(bad > 0)

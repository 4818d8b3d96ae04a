"""What the races against Python peers share."""

import os
import platform
import subprocess
import sys


def run(command):
    """The finished command's standard output; ends the benchmark when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def processor():
    """The processor's name, as Linux tells it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = {line.split(":", 1)[1].strip() for line in file if line.startswith("model name")}
    return f"{os.cpu_count()} x {', '.join(sorted(names))}, Linux {platform.release().split('-')[0]}"

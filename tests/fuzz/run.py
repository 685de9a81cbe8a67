"""Fuzz every target for its share of the time; `make fuzz` runs this.

What is found is left in build/fuzz, with the command that runs it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.fuzz_targets import TARGETS, Target, build, find_clang

OUTPUT = Path("build/fuzz")


def fuzz(target: Target, clang: str, seconds: int) -> bool:
    """Return whether nothing was found."""
    program = build(target, OUTPUT, clang)
    # New inputs are kept beside the program, so that the next run goes on from them.
    corpus = OUTPUT / f"{target.name}-corpus"
    corpus.mkdir(exist_ok=True)
    command = [
        *(str(program), str(corpus), str(target.seeds)),
        *(f"-max_total_time={seconds}", f"-max_len={target.max_length}", "-timeout=5"),
        *("-print_final_stats=1", f"-artifact_prefix={OUTPUT}/{target.name}-"),
    ]
    log = OUTPUT / f"{target.name}.log"
    with log.open("wb") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace").splitlines()
    runs = next((line.split()[-1] for line in text if "number_of_executed_units" in line), "0")
    print(f"{target.name}: {'no finding' if code == 0 else 'FINDING'} in {runs} runs", flush=True)
    if code != 0:
        print("\n".join(text[-40:]))
        print(f"run it again: {program} {OUTPUT}/{target.name}-*-*")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    arguments = parser.parse_args()
    clang = find_clang()
    if clang is None:
        print("make fuzz needs clang with libFuzzer; run: apt-get install clang", file=sys.stderr)
        return 1
    share = max(1, arguments.seconds // len(TARGETS))
    clean = [fuzz(target, clang, share) for target in TARGETS]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())

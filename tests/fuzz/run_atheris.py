"""Looks for bytes that break a target, guided by the branches they reach.

    python tests/fuzz/run_atheris.py TARGET [options of libFuzzer, such as -max_total_time=60]

What was found interesting stays in `.fuzz` for the next run. A finding ends the run with a
traceback and a file of its bytes; give that file as an option to see it again. Without a target it
lists them.
"""

import logging
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["poseidon_tf"]):
    import fuzz_lane
    from fuzz_seeds import SEEDS
    from fuzz_targets import CONNECTIONS, DECODERS, SERVICES

TARGETS = {**DECODERS, **SERVICES, **CONNECTIONS}
FOLDER = Path(__file__).parents[2] / ".fuzz"
NUM_NOISE, NOISE_BYTES = 50, 600


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit("targets: " + " ".join(TARGETS))
    name = sys.argv.pop(1)
    logging.disable()  # The coordinator warns of everyone that it loses.
    rng = random.Random(0)
    noise = [rng.randbytes(NOISE_BYTES) for _ in range(NUM_NOISE)]
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate({**SEEDS, **fuzz_lane.SEEDS}.get(name, noise)):
        (corpus / f"seed-{number}").write_bytes(seed)
    # Far more than any target needs, far less than what a message could say that it has.
    limits = ["-rss_limit_mb=1024", f"-artifact_prefix={FOLDER}/{name}-"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Where `faulty.py` stops, for the script and for who looks at how its job ended."""

BEFORE_ALL = "before the first step"
STEP = 5  # The step of the faults in the middle; counted from 0.
STEPS_PER_EPOCH, EPOCHS = 12, 2
# Where a worker comes whose peer has stopped; only the peer's reading thread stops in a pull.
WAITING_STEP = {"mid push": STEP, "mid pull": STEP + 1, "between steps": STEP + 1}
SERVER_LAYER = "/fc3/"  # Too narrow for factors.
LAYERS = ("fc1", "fc2", "fc3")
VARIABLES = [f"sequential/{layer}/{part}" for layer in LAYERS for part in ("kernel", "bias")]

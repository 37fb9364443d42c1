"""Loads what a job has written, without poseidon_tf. Arguments: rank 0's folder and the one
that all workers saved into by hand.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from report import result

chief, shared = Path(sys.argv[1]), Path(sys.argv[2])
random = np.random.default_rng(4)
x = random.normal(size=(36, 6)).astype("float32")


def digest(model: Any) -> str:
    joined = b"".join(np.asarray(weight).tobytes() for weight in model.get_weights())
    return hashlib.sha256(joined).hexdigest()


best = keras.models.load_model(chief / "best.keras")
result("steps-of-best", int(best.optimizer.iterations.numpy()))
weights_only = keras.models.clone_model(best)
weights_only.load_weights(chief / "2.weights.h5")
result("weights-of-best", [digest(best), digest(weights_only)])

model = keras.models.load_model(shared / "hand.keras")
steps = int(model.optimizer.iterations.numpy())
weights = keras.models.clone_model(model)
weights.load_weights(shared / "hand.weights.h5")
restored = keras.models.clone_model(model)
restored.compile(keras.optimizers.Adam(0.5), "mse")
restored.optimizer.build(restored.trainable_variables)
checkpoint = tf.train.Checkpoint(model=restored, optimizer=restored.optimizer)
checkpoint.read(str(shared / "hand")).assert_existing_objects_matched()
result("steps", [steps, int(restored.optimizer.iterations.numpy())])
result("weights", [digest(each) for each in (model, weights, restored)])
exported = tf.saved_model.load(str(shared / "exported"))
served = exported.serve(x[:4])
result("predicted", [model.predict(x[:4], verbose=0).tolist(), np.asarray(served).tolist()])
result("trains", bool(np.isfinite(model.fit(x, x[:, :1], verbose=0).history["loss"][0])))
result("without", "poseidon_tf" not in sys.modules)

"""A net with kernels for which different schemes pay."""

import keras


def three_kernels(name: str = "net") -> keras.Sequential:
    """The same in every process."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((256,)),
        keras.layers.Dense(512, name="wide"),
        keras.layers.Dense(64, name="narrow"),
        keras.layers.Dense(2, name="top"),
    ]
    return keras.Sequential(layers, name=name)

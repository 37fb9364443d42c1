"""Asks for a replica on a device that this process does not have."""

import poseidon_tf

poseidon_tf.PoseidonStrategy(devices=["CPU:0", "CPU:7"])

"""How a script of a test job makes several replicas of one machine's CPU."""

import tensorflow as tf


def logical_cpus(count: int) -> list[str]:
    """Split this process's CPU, before TensorFlow has used it, into so many logical devices."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )
    return [f"CPU:{index}" for index in range(count)]

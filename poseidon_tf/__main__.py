"""``python -m poseidon_tf`` is the ``poseidon-tf`` command."""

from poseidon_tf.launcher.cli import main

if __name__ == "__main__":
    main(prog_name="poseidon-tf")

"""Name, version, dependencies, entry point."""

from setuptools import find_packages, setup

setup(
    name="poseidon_tf",
    version="0.1.0",
    description="Wait-free, hybrid-communication data parallel training for TensorFlow and Keras",
    packages=find_packages(include=["poseidon_tf", "poseidon_tf.*"]),
    package_data={"poseidon_tf": ["py.typed"], "poseidon_tf.wire": ["*.pyi"]},
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.16",
        "keras>=3.10",
        # Older ones answer no keepalive while the process holds its interpreter.
        "grpcio>=1.80",
        "protobuf>=4.25",
        "numpy",
        "click>=8",
        "tabulate>=0.9",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "hypothesis",
            "cryptography>=42",
            "scikit-learn",
            "matplotlib",
            "psutil",
            "tensorboard",  # TensorFlow itself needs it in its older versions only.
        ],
        "fuzz": ["atheris"],
        "dev": ["ruff", "mypy", "types-tabulate"],
    },
    entry_points={"console_scripts": ["poseidon-tf = poseidon_tf.launch.cli:main"]},
)

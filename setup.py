"""Name, version, licence, dependencies, entry point."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="poseidon_tf",
    version="0.1.0",
    description="Wait-free, hybrid-communication data parallel training for TensorFlow and Keras",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The poseidon_tf developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "tensorflow",
        "keras",
        "distributed training",
        "data parallelism",
        "parameter server",
        "sufficient factor broadcasting",
        "gRPC",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["poseidon_tf", "poseidon_tf.*"]),
    package_data={"poseidon_tf": ["py.typed"], "poseidon_tf.wire": ["*.pyi"]},
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.16",
        "keras>=3.10",
        "h5py",  # What Keras writes weights with; a backup says in its file where the data was.
        # Older ones answer no keepalive while the process holds its interpreter.
        "grpcio>=1.80",
        "protobuf>=4.25",
        "numpy",
        "click>=8",
        "tabulate>=0.9",
        "psutil>=6",
        "rich>=13",  # Which Keras needs, too.
    ],
    extras_require={
        "metrics": ["prometheus_client>=0.20"],
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "cryptography>=42",
            "scikit-learn",
            "matplotlib",
            "tf-keras",  # Keras 2, whose models are refused.
            "pyyaml",
            "prometheus_client>=0.20",
            "tensorboard",  # TensorFlow itself needs it in its older versions only.
            "build",
            "setuptools>=64",  # What it builds with, where newer Pythons do not bring it.
            "wheel",
        ],
        "fuzz": ["atheris"],
        "dev": ["ruff", "mypy", "types-tabulate", "coverage>=7.17"],
    },
    entry_points={"console_scripts": ["poseidon-tf = poseidon_tf.launcher.cli:main"]},
)

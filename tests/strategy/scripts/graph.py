"""Trains one step and reports the products of the optimised graph that could be a kernel's.

Argument: which net.
"""

import sys
from typing import Any

import keras
import numpy as np
from report import result
from tensorflow.python.eager import context

import poseidon_tf

KERNEL_EQUATION = b"adc,abc->bd"
layers = keras.layers
NETS = {
    "plain": [
        keras.Input((24,)),
        layers.Dense(48, activation="relu", name="fc1"),
        layers.Dense(32, activation="relu", name="fc2"),
        layers.Dense(5, name="fc3"),
    ],
    "sequences": [
        keras.Input((4, 24)),
        layers.EinsumDense("abc,cd->abd", (4, 48), bias_axes="d", name="fc1"),
        layers.EinsumDense("abc,bd->adc", (6, 48), name="fc2"),
        layers.Flatten(),
        layers.Dense(5, name="fc3"),
    ],
}
strategy = poseidon_tf.PoseidonStrategy(schemes={"*/fc?/kernel": "sfb"})
with strategy.scope():
    model = keras.Sequential(NETS[sys.argv[1]])
    model.compile("adam", "mse")
x, y = np.ones((8, *model.input_shape[1:]), "float32"), np.ones((8, 5), "float32")
context.enable_graph_collection()
context.context().enable_run_metadata()
model.fit(x, y, batch_size=8, verbose=0)
graphs = context.context().export_run_metadata().function_graphs
products = []
for functions in graphs:
    nodes = {node.name: node for node in functions.post_optimization_graph.node}
    if not any(node.op == "QueueDequeueV2" for node in nodes.values()):
        continue

    def origin(name: str, nodes: Any = nodes) -> str:
        node = nodes[name.split(":")[0].lstrip("^")]
        while node.op in ("Identity", "EnsureShape", "Reshape"):
            node = nodes[node.input[0].split(":")[0]]
        return str(node.op)

    products.append(
        [
            [origin(name) for name in node.input[:2]]
            for node in nodes.values()
            if node.attr["transpose_a"].b
            or node.attr["adj_x"].b
            or (node.op == "Einsum" and node.attr["equation"].s == KERNEL_EQUATION)
        ]
    )
result("products", products)

"""Trains one step and reports the matrix products of the optimised graph that a kernel's are."""

import keras
import numpy as np
from report import result
from tensorflow.python.eager import context

import poseidon_tf

strategy = poseidon_tf.PoseidonStrategy(schemes={"*/fc?/kernel": "sfb"})
with strategy.scope():
    model = keras.Sequential(
        [
            keras.Input((24,)),
            keras.layers.Dense(48, activation="relu", name="fc1"),
            keras.layers.Dense(32, activation="relu", name="fc2"),
            keras.layers.Dense(5, name="fc3"),
        ]
    )
    model.compile("adam", "mse")
x, y = np.ones((8, 24), "float32"), np.ones((8, 5), "float32")
context.enable_graph_collection()
context.context().enable_run_metadata()
model.fit(x, y, batch_size=8, verbose=0)
graphs = context.context().export_run_metadata().function_graphs
products = []
for functions in graphs:
    nodes = {node.name: node for node in functions.post_optimization_graph.node}
    if not any(node.op == "QueueDequeueV2" for node in nodes.values()):
        continue

    def origin(name, nodes=nodes):
        node = nodes[name.split(":")[0].lstrip("^")]
        while node.op in ("Identity", "EnsureShape", "Reshape"):
            node = nodes[node.input[0].split(":")[0]]
        return node.op

    products.append(
        [
            [origin(name) for name in node.input[:2]]
            for node in nodes.values()
            if "MatMul" in node.op and node.attr["transpose_a"].b
        ]
    )
result("products", products)

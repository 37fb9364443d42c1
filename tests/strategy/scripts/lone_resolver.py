"""What a process that trains alone says of its cluster, beside what TensorFlow says."""

import os
from typing import Any

import tensorflow as tf
from report import result

import poseidon_tf


def said(resolver: Any) -> list[Any]:
    return [resolver.task_type, resolver.task_id, resolver.cluster_spec().as_dict()]


result("ours", said(poseidon_tf.PoseidonStrategy().cluster_resolver))
if os.environ.get("TF_CONFIG"):
    # TensorFlow's strategy would wait for the others, or refuse an evaluator.
    theirs = tf.distribute.cluster_resolver.TFConfigClusterResolver()
else:
    theirs = tf.distribute.MultiWorkerMirroredStrategy().cluster_resolver
result("tensorflow's", said(theirs))

"""The worker of rank 1 raises an exception, while the other waits for it."""

import poseidon_tf

with poseidon_tf.PoseidonStrategy() as strategy:
    if strategy.rank == 1:
        raise ArithmeticError("no more")
    strategy.barrier()

"""Decides, before training, how the gradient of every variable travels.

    specs     what a model and a cluster look like from here
    cost      what each scheme moves, in values (the paper's Table 1)
    choice    parameter server, sufficient factors or sparse rows, and why
    planner   a plan made of all of it
    schemes   what follows from a scheme, a file for each
    units     what is pushed as one
    sharding  which server holds what of it
    plan      the result: frozen, printable, the same on every worker
    simulate  the fastest step that a link allows under a plan

Pure: the standard library only. Nothing here knows TensorFlow, sockets or threads.
"""

from .plan import KVPair as KVPair
from .plan import Plan as Plan
from .plan import Scheme as Scheme
from .plan import Unit as Unit
from .plan import VariablePlan as VariablePlan
from .planner import DEFAULT_KV_PAIR_BYTES as DEFAULT_KV_PAIR_BYTES
from .planner import check_coalesce_bytes as check_coalesce_bytes
from .planner import check_kv_pair_bytes as check_kv_pair_bytes
from .planner import make_plan as make_plan
from .schemes.ps import DEFAULT_COALESCE_BYTES as DEFAULT_COALESCE_BYTES
from .sharding import place as place
from .simulate import gradient_times as gradient_times
from .simulate import speedup_bound as speedup_bound
from .specs import ClusterSpec as ClusterSpec
from .specs import Layout as Layout
from .specs import VariableSpec as VariableSpec
from .specs import first_difference as first_difference
from .specs import index_dtype as index_dtype
from .specs import kernel_position as kernel_position
from .specs import merged as merged

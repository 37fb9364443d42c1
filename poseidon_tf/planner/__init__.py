"""Decides, before training, how the gradient of every variable travels.

    specs     what a model and a cluster look like from here
    cost      what each scheme moves, in values (the paper's Table 1)
    patterns  what a user chooses for some variables
    fixed     what a plan that was made before chooses
    rounding  what float32 gradients are rounded to before they leave
    choice    parameter server, sufficient factors or sparse rows, and why
    planner   a plan made of all of it
    schemes   what follows from a scheme, a file for each
    units     what is pushed as one
    sharding  which server holds what of it
    plan      the result: frozen, printable, the same on every worker
    timeline  when a step reads each variable, and when each gradient exists
    machines  what links, hosts and devices can do
    measured  the same, as the workers of a job have measured it
    exchanges what a plan asks of them
    simulate  the model of a step: how long it takes (queueing: what one link does)
    hindsight the same of a step that was measured
    in_time   a plan by the model of a step, instead of by bytes
    anew      whether another one takes its place while a job trains
    description a model as a file, for all of it

Pure: the standard library only. Nothing here knows TensorFlow, sockets or threads.
"""

from .anew import PlanInTime as PlanInTime
from .anew import computation_s as computation_s
from .description import ModelDescription as ModelDescription
from .exchanges import Summing as Summing
from .fixed import Choices as Choices
from .fixed import choices_of as choices_of
from .fixed import read_plan as read_plan
from .hindsight import predicted_step as predicted_step
from .in_time import Outlook as Outlook
from .in_time import Sizes as Sizes
from .in_time import plan_in_time as plan_in_time
from .machines import Host as Host
from .machines import Link as Link
from .machines import Machines as Machines
from .measured import Measured as Measured
from .plan import KVPair as KVPair
from .plan import Plan as Plan
from .plan import Scheme as Scheme
from .plan import Unit as Unit
from .plan import VariablePlan as VariablePlan
from .planner import DEFAULT_KV_PAIR_BYTES as DEFAULT_KV_PAIR_BYTES
from .planner import check_coalesce_bytes as check_coalesce_bytes
from .planner import check_kv_pair_bytes as check_kv_pair_bytes
from .planner import make_plan as make_plan
from .rounding import WIRE_DTYPES as WIRE_DTYPES
from .rounding import WireDtype as WireDtype
from .rounding import check_wire_dtype as check_wire_dtype
from .schemes.ps import DEFAULT_COALESCE_BYTES as DEFAULT_COALESCE_BYTES
from .sharding import place as place
from .simulate import Prediction as Prediction
from .simulate import predict as predict
from .simulate import speedup_bound as speedup_bound
from .specs import ClusterSpec as ClusterSpec
from .specs import Layout as Layout
from .specs import VariableSpec as VariableSpec
from .specs import first_difference as first_difference
from .specs import index_dtype as index_dtype
from .specs import kernel_position as kernel_position
from .specs import merged as merged
from .timeline import Timeline as Timeline
from .timeline import gradient_times as gradient_times
from .timeline import read_times as read_times

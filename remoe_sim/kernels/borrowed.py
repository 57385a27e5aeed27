"""Arrays without an owner, to be handed to the verbs of a policy.

Compiled code counts references to the arrays that a function is given, unless it can see that this is of no use. Each
count is an atomic addition, and a few of them take longer than most verbs.
"""

from __future__ import annotations

from numba.core import cgutils
from numba.extending import intrinsic, overload


def borrowed(array):
    """The same array with its references not counted, for as long as `array` itself is in use."""
    return array


@intrinsic
def _without_owner(context, array):
    def generate(context, builder, signature, given):
        struct = cgutils.create_struct_proxy(array)(context, builder, given[0])
        struct.meminfo = cgutils.get_null_value(struct.meminfo.type)
        return struct._getvalue()

    return array(array), generate


@overload(borrowed)
def _compiled(array):
    return lambda array: _without_owner(array)

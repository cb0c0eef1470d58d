"""One model over several processes.

tensor_parallel  every layer split by groups and heads: parallelize
"""

from .tensor_parallel import parallelize

__all__ = ["parallelize"]

"""Curvature of looped models: the tied Hessian by the blocks of the untied Hessian.

For a module that is used T times, H_tied = E^T H_untied E = sum_ij H_ij; see `landscape.loops.untied`. A block H_ii is
the curvature of one use by itself. The blocks H_ij with i != j couple different uses ("cross-loop").
"""

from landscape.loops.blocks import BlockEstimates
from landscape.loops.compare import PROBES, LoopCurvature, TopShare, check_arguments, loop_curvature
from landscape.loops.share import Share

__all__ = ["PROBES", "BlockEstimates", "LoopCurvature", "Share", "TopShare", "check_arguments", "loop_curvature"]

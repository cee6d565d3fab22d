"""How the passes of a loop act together on curvature: the tied Hessian by the blocks of the untied one.

For a module that is used T times, H_tied = E^T H_untied E = sum_ij H_ij; see `landscape.loops.untied`. The blocks
H_ii are what each use has by itself, those with i != j are what the uses have together ("cross-loop").
"""

from landscape.loops.blocks import BlockEstimates
from landscape.loops.compare import PROBES, LoopCurvature, TopShare, check_arguments, loop_curvature
from landscape.loops.share import Share

__all__ = ["PROBES", "BlockEstimates", "LoopCurvature", "Share", "TopShare", "check_arguments", "loop_curvature"]

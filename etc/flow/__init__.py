"""Optical flow: estimators, flow files, the cache of computed flow, and the accuracy of an estimator.

May import: display, and what it may import.
"""

from etc.flow.estimators import FlowEstimator, build_flow

__all__ = ["FlowEstimator", "build_flow"]

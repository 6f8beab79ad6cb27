"""Optical flow."""

from etc.flow.estimators import FlowEstimator, build_flow

__all__ = ["FlowEstimator", "build_flow"]

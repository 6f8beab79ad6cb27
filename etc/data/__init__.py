"""Data: list files, frames and labels, transforms, the training data set, videos, and the synthetic world.

May import: config, motion, weights, and what these may import.
"""

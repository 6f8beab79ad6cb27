"""Pseudo labels for unlabelled video: which of a teacher's predictions to keep, and what they are worth.

May import: evaluate, predict, flow, and what these may import.
"""

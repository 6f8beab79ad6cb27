"""Scored runs side by side: figures and costs, paired differences, and one HTML report with videos.

May import: every other room of etc but study and benchmark.
"""

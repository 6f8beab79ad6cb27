"""Scored runs side by side: figures and costs, paired differences, and one HTML report with videos."""

"""Training criteria and small helpers that know nothing of the rest."""

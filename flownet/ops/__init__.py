"""The operators: ``torch.library`` custom ops with a torch and a cupy backend, and their modules."""

"""Output for people: label maps as pictures, mp4 video, text tables.

May import: data, networks, cli, and what these may import.
"""

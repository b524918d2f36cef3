"""Weight files of every kind: finding or downloading, reading, and loading into a network.

It imports networks (archs) and rooms below; losses, metrics, models and everything above may import it.
"""

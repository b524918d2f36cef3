"""Training with several ranks: how the process group starts, and what the ranks exchange.

It imports errors and utils only; all rooms from the networks (archs) upwards may import it.
"""

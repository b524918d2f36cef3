"""The signals by which a user, a terminal or a batch system asks a program to end."""

import signal

_NAMES = (
    *('SIGINT', 'SIGTERM', 'SIGQUIT'),
    *('SIGHUP', 'SIGBREAK'),  # the terminal was closed; SIGBREAK is that of Windows
    *('SIGUSR1', 'SIGUSR2', 'SIGXCPU'),  # batch systems send them some time before they kill
)
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))

IMPATIENT = tuple(number for number in STOP_SIGNALS if number.name in _NAMES[:3])
"""Those that mean "at once" when they come again; a terminal or a batch system may send the others several times."""

"""From photographs, or faces that are aligned already, to a paired data set."""

from gpen.preparation.run import prepare
from gpen.preparation.settings import Settings

__all__ = ['Settings', 'prepare']

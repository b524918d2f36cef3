"""GPEN: training and use of GAN Prior Embedded Networks for blind face restoration."""

__version__ = '0.1.0'

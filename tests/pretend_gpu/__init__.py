"""A pretend GPU: torch takes its path through CUDA on a machine without one, and tests see what the host asks for.

``runtime.c`` stands in for the CUDA runtime, cuBLAS and NCCL, and ``build.py`` compiles it.  Tests in ``check_*.py``
run on it, in a pytest of their own that ``tests/test_gpu_path.py`` starts; ``strict.py`` says where the host may wait.
Kernels do nothing, so these tests cannot say whether a value is right: those on the CPU do.
"""

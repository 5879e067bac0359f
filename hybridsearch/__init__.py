"""Search for hybrid linear/full-attention language models: recall against measured throughput."""

import os

__version__ = "0.1.0"

# The samplers' matrices are small, and threads of OpenBLAS that wait for a core which trains cost more than they give:
# a replayed search of 250 trials took 64 s beside one busy process on 2 cores, and 2.6 s with one thread. NumPy reads
# this once, when it is loaded; PyTorch has its own threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

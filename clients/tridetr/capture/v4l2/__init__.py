"""Video4Linux cameras: the kernel's calls, what a camera offers, and what we take of it."""

"""Video4Linux cameras: kernel calls, mode selection and streaming."""

"""The capture process: reads one camera and publishes its frames and packets in shared memory."""

"""The detector: names each camera's newest frame to Triton and publishes what comes back."""

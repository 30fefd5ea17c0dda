"""The one place that calls the native kernels."""

"""The registry server: speaks the Hugging Face Hub protocol; imports nothing from hubstate."""

__version__ = "0.1.0"

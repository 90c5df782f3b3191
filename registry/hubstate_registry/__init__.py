"""The registry server: speaks the Hugging Face Hub protocol; imports nothing from hubstate."""

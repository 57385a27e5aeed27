"""What a model weighs: its shape, attention, quantisation, GGUF files and configurations."""

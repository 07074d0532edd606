"""Several processes, started by torchrun or accelerate launch, that train one model."""

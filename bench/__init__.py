"""Measurements of fastinit against torch.nn.init and mmengine: fill, models and demo."""

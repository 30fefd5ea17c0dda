"""OpenMMLab's `init_cfg`: modules that initialise themselves by rules."""

"""Training: one loop for one process or many, resumed to the bit; import `tilth.trainer.loop` for `train`."""

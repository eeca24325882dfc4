"""compress check: whether a new model is slower, or less accurate, than an old one on a device."""

"""compress search: many recipes of one model on a device, and the front of what they reach."""

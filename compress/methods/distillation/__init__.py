"""What a student learns from: teachers, the weighted losses between the two, and what these read inside them."""

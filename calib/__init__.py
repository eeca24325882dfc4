"""What quantisation ranges are taken from: which samples, and which range from them. numpy only."""

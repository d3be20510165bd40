NAME = "lazy of twin_b"

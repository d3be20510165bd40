NAME = "lazy of twin_a"

NAME = "lazy of habits"

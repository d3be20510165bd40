def name():
    return "helper of twin_a"

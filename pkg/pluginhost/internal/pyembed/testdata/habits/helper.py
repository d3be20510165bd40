def name():
    return "helper of habits"

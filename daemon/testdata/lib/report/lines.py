def first(text):
    return text.splitlines()[0]
